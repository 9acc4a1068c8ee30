"""A float network in torch whose weights can be swapped, layer by layer, and differentiated.

What sensitivity, rounding and plans are judged on: every tensor of a batch is at hand, one layer
can be run again with other weights and only what depends on it is computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from edgeopt.core import activations
from edgeopt.core.errors import InputError
from edgeopt.core.network import Network, Op, Quant
from edgeopt.quant.accumulate import convolve
from edgeopt.quant.ranges import bounds
from edgeopt.quant.steps import mixes_batch, prepare

if TYPE_CHECKING:
    from torch import Tensor

    #: Weight as the network has it ([O,kh,kw,I/groups] or [O,I]) and bias [O].
    Weights = tuple[Tensor, Tensor]

Floats = npt.NDArray[np.float32]

#: Most bytes that the tensors of one batch may take together.
_BATCH_BYTES = 256 << 20


class TorchNetwork:
    """A float network made ready to run in parts.

    Args:
        network: in float, with its constants.

    Attributes:
        weights: of every convolution and linear layer, by the tensor it writes.

    Raises:
        InputError: the network has integers, or several inputs.
    """

    def __init__(self, network: Network) -> None:
        import torch

        if any(tensor.dtype in ("i8", "u8") for tensor in network.tensors.values()):
            raise InputError("the network is quantized already", where=network.name)
        if len(network.inputs) != 1:
            raise InputError(
                f"the network has {len(network.inputs)} inputs; calibration feeds one",
                where=network.name, hint="quantize a network with a single image input",
            )  # fmt: skip
        self.network = network
        self.weights: dict[str, Weights] = {}
        self._steps: dict[str, Callable[[list[Tensor]], Tensor]] = {}
        self._rough: dict[str, str] = {}  # ops without a gradient, by output -> what they are
        for op in network.ops:
            if op.kind in ("conv2d", "linear"):
                w = torch.from_numpy(np.array(op.constants["w"], np.float32))
                b = np.array(op.constants.get("b", np.zeros(len(w))), np.float32)
                self.weights[op.output] = (w, torch.from_numpy(b))
            else:
                self._steps[op.output] = self._prepared(op)
        self._after = _dependents(network)
        self._batches = not any(mixes_batch(op) for op in network.ops) and all(
            network.tensors[name].shape[:1] == (1,)
            for op in network.ops
            for name in (*op.inputs, op.output)
        )
        total = sum(tensor.size_bytes for tensor in network.tensors.values())
        #: Images that go through together.
        self.batch = int(np.clip(_BATCH_BYTES // max(total, 1), 1, 128)) if self._batches else 1

    def _prepared(self, op: Op) -> Callable[[list[Tensor]], Tensor]:
        if op.kind == "activation":
            function = cast(str, op.attrs["function"])
            smooth = _smooth(function, op.attrs)
            if smooth is not None:
                return lambda x: smooth(x[0])
            self._rough[op.output] = f"activation {function!r}"
        elif op.kind not in _DIFFERENTIABLE:
            self._rough[op.output] = f"operator {op.kind!r}"
        return prepare(op, self.network)

    def step(self, op: Op, x: list[Tensor], weights: Mapping[str, Weights]) -> Tensor:
        """One operator, with these weights where they name it."""
        if op.output not in self.weights:
            return self._steps[op.output](x)
        w, b = weights.get(op.output) or self.weights[op.output]
        if op.kind == "linear":
            return x[0] @ w.t() + b
        return convolve(x[0], w.permute(0, 3, 1, 2), op.attrs) + b

    def values(
        self,
        x: Tensor,
        weights: Mapping[str, Weights] | None = None,
        quants: Mapping[str, Quant] | None = None,
        *,
        bits: Mapping[str, int] | None = None,
        keep: bool = True,
    ) -> dict[str, Tensor]:
        """Every tensor for a batch [N, ...]; without ``keep`` only the outputs.

        Args:
            x: the input, as the network stores it.
            weights: of layers that are to have others.
            quants: tensors that are rounded to integers once computed, and how.
            bits: of those that have fewer than eight.
            keep: whether tensors stay after their last reader.
        """

        def stored(name: str, y: Tensor) -> Tensor:
            quant = (quants or {}).get(name)
            return y if quant is None else _rounded(y, quant, (bits or {}).get(name, 8))

        found = {self.network.inputs[0]: stored(self.network.inputs[0], x)}
        last = {name: i for i, op in enumerate(self.network.ops) for name in op.inputs}
        for index, op in enumerate(self.network.ops):
            y = self.step(op, [found[name] for name in op.inputs], weights or {})
            found[op.output] = stored(op.output, y)
            if not keep:
                for name in op.inputs:
                    if last[name] == index and name not in self.network.outputs:
                        found.pop(name, None)
        return found

    def output(self, x: Tensor, weights: Mapping[str, Weights] | None = None) -> Tensor:
        """The first output for a batch."""
        return self.values(x, weights, keep=False)[self.network.outputs[0]]

    def again(self, values: Mapping[str, Tensor], layer: str, weights: Weights) -> Tensor:
        """The first output with other weights in one layer.

        Args:
            values: what `values` gave for this batch.
            layer: the tensor that the layer writes.
            weights: its weights.
        """
        changed: dict[str, Tensor] = {}
        for op in self._after[layer]:
            x = [changed.get(name, values[name]) for name in op.inputs]
            changed[op.output] = self.step(op, x, {layer: weights})
        name = self.network.outputs[0]
        return changed.get(name, values[name])

    def batches(self, images: Floats) -> Iterator[Tensor]:
        """Images [N, ...] as the network stores them, in batches."""
        import torch

        for start in range(0, len(images), self.batch):
            yield torch.from_numpy(np.ascontiguousarray(images[start : start + self.batch]))

    def check_gradient(self) -> None:
        """Refuse networks with an operator that has no gradient here.

        Raises:
            InputError: names the first.
        """
        for op in self.network.ops:
            if op.output in self._rough:
                raise InputError(
                    f"{self._rough[op.output]} has no second derivative here",
                    where=f"op {op.name!r}",
                    hint="take the measured loss as sensitivity: --sensitivity loss",
                )


def _dependents(network: Network) -> dict[str, tuple[Op, ...]]:
    """For each tensor a layer writes: the layer, and the operators that depend on it, in order."""
    found: dict[str, tuple[Op, ...]] = {}
    for index, op in enumerate(network.ops):
        if op.kind not in ("conv2d", "linear"):
            continue
        reached, mine = {op.output}, [op]
        for later in network.ops[index + 1 :]:
            if not reached.isdisjoint(later.inputs):
                reached.add(later.output)
                mine.append(later)
        found[op.output] = tuple(mine)
    return found


def _rounded(x: Tensor, quant: Quant, bits: int) -> Tensor:
    low, high = bounds(bits)
    steps = (x / quant.scale).round_().add_(quant.zero_point).clamp_(low, high)
    return steps.sub_(quant.zero_point).mul_(quant.scale)


#: Kinds of `edgeopt.quant.steps` that torch differentiates twice.
_DIFFERENTIABLE = frozenset(
    {"add", "mul", "avgpool", "global_avgpool", "maxpool", "concat", "reshape", "transpose",
     "softmax"}
)  # fmt: skip


def _smooth(function: str, attrs: Mapping[str, object]) -> Callable[[Tensor], Tensor] | None:
    """An activation in torch; None if it has no form there."""
    import torch
    import torch.nn.functional as F

    def number(name: str, default: float) -> float:
        return float(cast(Any, attrs.get(name, default)))

    if function in activations.CLAMPS:
        low, high = activations.bounds(function, attrs)
        return lambda x: x.clamp(low, high)
    alpha, beta = number("alpha", 0.2), number("beta", 0.5)
    approximate = "tanh" if attrs.get("approximate") == "tanh" else "none"
    known: Mapping[str, Callable[[Tensor], Tensor]] = {
        "hardswish": lambda x: x * (x / 6 + 0.5).clamp(0, 1),
        "hardsigmoid": lambda x: (x * alpha + beta).clamp(0, 1),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "leakyrelu": lambda x: F.leaky_relu(x, number("alpha", 0.01)),
        "silu": lambda x: x * torch.sigmoid(x),
        "elu": lambda x: F.elu(x, number("alpha", 1.0)),
        "gelu": lambda x: F.gelu(x, approximate=approximate),
        "erf": torch.erf,
        "abs": torch.abs,
        "mish": F.mish,
    }
    return known.get(function)

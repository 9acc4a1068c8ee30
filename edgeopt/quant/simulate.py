"""Integer networks in torch, bit for bit as `core.affine` defines them, many images at once.

Integer tensors are float32 holding whole numbers, feature maps NHWC as in the network. Operators
that stay in float are computed in float32 as well, so that any network runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.network import Network, Tensor
from edgeopt.quant.steps import NUMPY, mixes_batch, prepare

if TYPE_CHECKING:
    import torch

Numbers = npt.NDArray[Any]


class Simulator:
    """A network made ready to run: weights as torch tensors, tables computed.

    Args:
        network: float, integer or mixed, with its constants.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._steps = [(op, prepare(op, network)) for op in network.ops]
        self._last = {name: i for i, op in enumerate(network.ops) for name in op.inputs}
        #: Whether several images can go through together: the batch is every tensor's first axis.
        self.batches = all(
            network.tensors[name].shape[:1] == (1,)
            for op in network.ops
            for name in (*op.inputs, op.output)
        ) and not any(mixes_batch(op) for op in network.ops)

    def run(
        self, inputs: Mapping[str, Numbers], *, keep: Sequence[str] = (), batch: int = 128
    ) -> dict[str, Numbers]:
        """Outputs, and the tensors named in ``keep``, for N images.

        Args:
            inputs: for each network input, N of them stacked along the first axis, stored as the
                network stores them (float32, or int8 where the input is quantized).
            keep: tensors to return besides the outputs.
            batch: images at a time.

        Raises:
            InputError: an input is missing or of another shape or type.
        """
        import torch

        arrays = _checked(self.network, inputs)
        count = len(next(iter(arrays.values())))
        step = batch if self.batches else 1
        wanted = tuple(dict.fromkeys((*self.network.outputs, *keep)))
        parts: dict[str, list[Numbers]] = {name: [] for name in wanted}
        with torch.inference_mode():
            for start in range(0, count, step):
                values = {
                    name: _enter(array[start : start + step], self.network.tensors[name])
                    for name, array in arrays.items()
                }
                self._forward(values, frozenset(wanted))
                for name in wanted:
                    kind = NUMPY[self.network.tensors[name].dtype]
                    parts[name].append(values[name].numpy().astype(kind))
        return {name: np.concatenate(found) for name, found in parts.items()}

    def _forward(self, values: dict[str, torch.Tensor], wanted: frozenset[str]) -> None:
        for index, (op, step) in enumerate(self._steps):
            values[op.output] = step([values[name] for name in op.inputs])
            for name in op.inputs:
                if self._last[name] == index and name not in wanted:
                    values.pop(name, None)


def simulate(
    network: Network, images: Numbers, *, channels_first: bool = False, batch: int = 128
) -> Numbers:
    """The first output of a network with one input, for N images.

    Args:
        network: see `Simulator`.
        images: [N,H,W,C] (or as the network's input is shaped), float32 or as stored.
        channels_first: images are [N,C,H,W].
        batch: images at a time.
    """
    array = images.transpose(0, 2, 3, 1) if channels_first else images
    found = Simulator(network).run({network.inputs[0]: array}, batch=batch)
    return found[network.outputs[0]]


def _checked(network: Network, inputs: Mapping[str, Numbers]) -> dict[str, Numbers]:
    arrays: dict[str, Numbers] = {}
    for name in network.inputs:
        tensor = network.tensors[name]
        if name not in inputs:
            raise InputError(f"input {name!r} is missing", hint=f"give {list(network.inputs)}")
        array = np.asarray(inputs[name])
        if array.shape[1:] != tensor.shape[1:] or array.dtype != NUMPY[tensor.dtype]:
            wanted = "x".join(str(d) for d in tensor.shape[1:])
            raise InputError(
                f"images are {array.dtype} {'x'.join(str(d) for d in array.shape)}, not "
                f"{NUMPY[tensor.dtype].__name__} Nx{wanted}",
                where=f"input {name!r}",
                hint="channels come last in a network; channels_first=True takes Nx3xHxW",
            )
        if len(array) == 0:
            raise InputError("there are no images", where=f"input {name!r}")
        arrays[name] = array
    if len({len(array) for array in arrays.values()}) > 1:
        raise InputError("inputs have different numbers of images", where=network.name)
    return arrays


def _enter(array: Numbers, tensor: Tensor) -> torch.Tensor:
    import torch

    kind = np.float32 if tensor.dtype in ("i8", "u8") else array.dtype
    return torch.from_numpy(np.ascontiguousarray(array, kind))

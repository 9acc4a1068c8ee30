"""One pass through a network that rounds every layer, each knowing what those before it did.

Two versions run side by side on the calibration images: the float one, and the one whose earlier
layers are rounded already. Each layer's weights are first moved to where they give the float
outputs on the inputs that they will see (`rounding.matched`), then rounded with compensation, and
its bias takes up what is left of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from edgeopt.core.network import Op
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.quant import rounding, scales
from edgeopt.quant.torchnet import TorchNetwork
from edgeopt.quant.weights import StoredWeights

if TYPE_CHECKING:
    from torch import Tensor

    from edgeopt.quant.ptq import Prepared, PtqLayer

Doubles = npt.NDArray[np.float64]

#: Most bytes of patches that are gathered at a time.
_PATCH_BYTES = 64 << 20
#: Most bytes that one tensor of all images may take.
_TENSOR_BYTES = 256 << 20


class Moments:
    """Sums over the rows that a layer multiplies its weights with, float and rounded network.

    Attributes:
        gram: Y^T Y of the rounded network's rows [G, n, n], around their mean.
        cross: X^T Y, X being the float network's.
        mean_x, mean_y: [G, n].
    """

    def __init__(self, op: Op, x: Tensor, y: Tensor) -> None:
        import torch

        groups = int(np.asarray(op.attrs.get("groups", 1)).item())
        total_x = total_y = gram = cross = torch.zeros(())
        count = 0
        step = max(1, _PATCH_BYTES // max(_row_bytes(op, x), 1))
        for start in range(0, len(x), step):
            rows_x = _rows(op, x[start : start + step], groups)
            rows_y = rows_x if y is x else _rows(op, y[start : start + step], groups)
            gram = gram + rows_y.transpose(1, 2) @ rows_y
            cross = cross + rows_x.transpose(1, 2) @ rows_y
            total_x, total_y = total_x + rows_x.sum(1), total_y + rows_y.sum(1)
            count += rows_x.shape[1]
        self.mean_x: Doubles = (total_x / count).double().numpy()
        self.mean_y: Doubles = (total_y / count).double().numpy()
        self.gram: Doubles = (gram / count).double().numpy() - _outer(self.mean_y, self.mean_y)
        self.cross: Doubles = (cross / count).double().numpy() - _outer(self.mean_x, self.mean_y)


def _outer(a: Doubles, b: Doubles) -> Doubles:
    found: Doubles = a[:, :, None] * b[:, None, :]
    return found


def _row_bytes(op: Op, x: Tensor) -> int:
    """Bytes of one image's patches."""
    kernel = op.attrs.get("kernel", (1, 1))
    assert isinstance(kernel, tuple)
    return int(x[0].numel()) * int(np.prod(kernel)) * 4


def _rows(op: Op, x: Tensor, groups: int) -> Tensor:
    """What each output is a product with: [G, positions, n], n ordered as in the weights."""
    import torch.nn.functional as F

    if op.kind == "linear":
        return x.reshape(1, -1, x.shape[-1])
    attrs = cast(Mapping[str, Any], op.attrs)
    kernel, strides = tuple(attrs["kernel"]), tuple(attrs["strides"])
    top, left, bottom, right = attrs["pads"]
    if kernel == (1, 1) and not any((top, left, bottom, right)):
        x = x[:, :: strides[0], :: strides[1]]
        return x.reshape(-1, groups, x.shape[-1] // groups).transpose(0, 1)
    image = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    channels = image.shape[1] // groups
    patches = F.unfold(image, kernel, attrs["dilations"], 0, strides)  # [N, C*kh*kw, positions]
    split = patches.reshape(len(x), groups, channels, kernel[0] * kernel[1], -1)
    # Weights are [O, kh, kw, I].
    return split.permute(1, 0, 4, 3, 2).reshape(groups, -1, channels * kernel[0] * kernel[1])


def compensated_layers(
    prepared: Prepared, plan: PrecisionPlan, say: Callable[[str], None]
) -> dict[str, StoredWeights]:
    """Integers of every layer, by node name."""
    import torch

    net = prepared.torch
    layers = {layer.key: layer for layer in prepared.layers.values()}
    images = prepared.images[: _count(net, prepared.recipe.rounding_images)]
    ops = net.network.ops
    last = {name: i for i, op in enumerate(ops) for name in op.inputs}
    x = torch.from_numpy(np.ascontiguousarray(images))
    exact, changed = {net.network.inputs[0]: x}, {net.network.inputs[0]: x}
    found: dict[str, StoredWeights] = {}
    with torch.no_grad():
        for index, op in enumerate(ops):
            layer = layers.get(op.output)
            ins, outs = [exact[n] for n in op.inputs], [changed[n] for n in op.inputs]
            weights = {}
            if layer is not None:
                bits = plan.of(layer.name).weight_bits
                stored, real, bias = _round(prepared, layer, bits, ins[0], outs[0])
                found[layer.name] = stored
                weights = {op.output: (real, bias)}
                say(f"{len(found)} of {len(layers)} layers rounded")
            exact[op.output] = _run(net, op, ins, {})
            changed[op.output] = _run(net, op, outs, weights)
            for name in op.inputs:
                if last[name] == index:
                    exact.pop(name, None)
                    changed.pop(name, None)
    return {name: found[name] for name in prepared.layers}


def _count(net: TorchNetwork, wanted: int) -> int:
    """So many images that no tensor of all of them becomes too large."""
    largest_bytes = max(tensor.size_bytes for tensor in net.network.tensors.values())
    return int(np.clip(_TENSOR_BYTES // largest_bytes, 8, wanted))


def _run(
    net: TorchNetwork, op: Op, x: list[Tensor], weights: dict[str, tuple[Tensor, Tensor]]
) -> Tensor:
    import torch

    step = net.batch
    if len(x[0]) <= step:
        return net.step(op, x, weights)
    parts = [
        net.step(op, [value[start : start + step] for value in x], weights)
        for start in range(0, len(x[0]), step)
    ]
    return torch.cat(parts)


def _round(
    prepared: Prepared, layer: PtqLayer, bits: int, x: Tensor, y: Tensor
) -> tuple[StoredWeights, Tensor, Tensor]:
    """A layer's integers in ONNX's layout, and what they stand for in the network's."""
    import torch

    weight, bias = (value.double().numpy() for value in prepared.torch.weights[layer.key])
    groups = layer.site.groups
    flat = weight.reshape(groups, len(weight) // groups, -1)
    moments = Moments(layer.op, x, y)
    target = rounding.matched(flat, moments.cross, moments.gram)
    importance = np.einsum("gii->gi", moments.gram)[:, None, :]
    spread = np.broadcast_to(importance, flat.shape).reshape(len(weight), -1)
    rows = target.reshape(len(weight), -1)
    grid = scales.fit(rows, LayerPrecision(bits), prepared.recipe.scales, spread)
    first = grid.scale.reshape(groups, -1, 1)
    if bits == 8:  # finer than what compensation could gain
        steps, scale = rounding.nearest(target, first, bits), first
    else:
        steps, scale = rounding.fitted(target, moments.gram, first, bits)
    real = steps * scale
    mean = np.einsum("goi,gi->go", flat, moments.mean_x) - np.einsum(
        "goi,gi->go", real, moments.mean_y
    )
    if prepared.recipe.bias_correction:
        bias = bias + mean.reshape(-1)
    stored = layer.to_onnx(steps.reshape(weight.shape).astype(np.int8))
    channel = scale.reshape(-1).astype(np.float32)
    made = StoredWeights(stored.astype(np.int8), channel, bits, bias.astype(np.float32))
    return (
        made,
        torch.from_numpy(real.reshape(weight.shape).astype(np.float32)),
        torch.from_numpy(bias.astype(np.float32)),
    )

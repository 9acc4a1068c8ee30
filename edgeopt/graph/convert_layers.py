"""Convolutions and fully connected layers, in float and in int8."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import PACKED_BITS, fits
from edgeopt.core.network import Array
from edgeopt.graph import qdq
from edgeopt.graph.importer import Importer, Tail
from edgeopt.graph.ir import Node
from edgeopt.graph.layout import Layout, plain, to_physical


@dataclass(frozen=True, slots=True)
class Weights:
    """A layer's constants [O, ...]; ``scale`` and an int32 bias where they are integers.

    ``bits`` is 2 or 4 where the weights are integers that fit so many.
    """

    w: Array
    b: Array
    scale: Array | None = None
    bits: int = 0

    @property
    def constants(self) -> dict[str, Array]:
        """As `core.network` names them."""
        found = {"w": self.w, "b": self.b}
        return found if self.scale is None else {**found, "w_scale": self.scale}


def window(
    imp: Importer, node: Node, shape: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, pads (begins, then ends) and dilations of a convolution or pool.

    Raises:
        InputError: attributes of the wrong length or sign.
    """
    rank = len(kernel)
    strides = node.ints("strides", (1,) * rank)
    dilations = node.ints("dilations", (1,) * rank)
    pads = node.ints("pads", (0,) * (2 * rank))
    if not (len(strides) == len(dilations) == rank and len(pads) == 2 * rank):
        raise InputError(
            f"strides, dilations or pads do not fit a kernel of {rank} dimensions",
            where=imp.where(node),
            hint="check the model with onnx.checker",
        )
    if min((*strides, *dilations, *kernel), default=1) < 1 or min(pads, default=0) < 0:
        raise InputError(
            "kernel, strides and dilations must be positive, pads not negative",
            where=imp.where(node),
            hint="the file is damaged, or was not written by an exporter",
        )
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, k, s, d in zip(shape, kernel, strides, dilations, strict=True):
            total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
            small, large = total // 2, total - total // 2
            begins.append(small if auto == "SAME_UPPER" else large)
            ends.append(large if auto == "SAME_UPPER" else small)
        pads = (*begins, *ends)
    elif auto == "VALID":
        pads = (0,) * (2 * rank)
    return strides, pads, dilations


def _two(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    """Height and width; a 1-D window has height ``fill``."""
    return (fill, values[0]) if len(values) == 1 else (values[0], values[1])


def four(pads: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right."""
    if len(pads) == 2:
        return (0, pads[0], 0, pads[1])
    return (pads[0], pads[1], pads[2], pads[3])


def map_layout(shape: tuple[int, ...]) -> tuple[Layout, tuple[int, ...]]:
    """Channels last for [1,C,H,W] and [1,C,L], and the shape [1,H,W,C] that memory has then."""
    if len(shape) == 3:
        return Layout(shape, (0, 2, 1)), (1, 1, shape[2], shape[1])
    return Layout(shape, (0, 2, 3, 1)), (1, shape[2], shape[3], shape[1])


def conv(imp: Importer, node: Node) -> bool:
    """A convolution over a map or a line with constant weights."""
    shape = imp.shape(node.inputs[0])
    if len(shape) not in (3, 4) or imp.is_constant(node.inputs[0]):
        return False
    if len(imp.shape(node.inputs[1])) != len(shape):
        raise InputError(
            f"weights {list(imp.shape(node.inputs[1]))} do not fit an input {list(shape)}",
            where=imp.where(node),
            hint="check the model with onnx.checker",
        )
    kernel = imp.shape(node.inputs[1])[2:]
    outputs = imp.shape(node.inputs[1])[0]
    groups = int(node.attrs.get("group", 1))
    channels = imp.shape(node.inputs[1])[1]
    if groups < 1 or channels * groups != shape[1] or outputs % groups:
        raise InputError(
            f"{groups} groups and weights {list(imp.shape(node.inputs[1]))} "
            f"do not fit {shape[1]} channels",
            where=imp.where(node),
            hint="check the model with onnx.checker",
        )
    strides, pads, dilations = window(imp, node, shape[2:], kernel)
    attrs = {
        "kernel": _two(kernel, 1),
        "strides": _two(strides, 1),
        "dilations": _two(dilations, 1),
        "pads": four(pads),
        "groups": groups,
    }
    layout, memory = map_layout(shape)
    out_layout, out_memory = map_layout(imp.shape(node.outputs[0]))
    _agrees(imp, node, shape[2:], kernel, (strides, pads, dilations))

    def arranged(w: Array) -> Array:
        wide = w.reshape(outputs, channels, *_two(kernel, 1))
        return np.ascontiguousarray(wide.transpose(0, 2, 3, 1))

    found = layer_weights(imp, node, outputs, 0)
    if found is None:
        return False
    weights, tail = found
    weights = replace(weights, w=arranged(weights.w))
    name = node.inputs[0]
    x = imp.builder.require(
        imp.integers[name] if tail is not None else imp.value(name), layout, memory
    )
    _emit(imp, node, "conv2d", x, weights, tail, out_memory, out_layout, attrs)
    return True


def _agrees(
    imp: Importer, node: Node, sizes: tuple[int, ...], kernel: tuple[int, ...],
    geometry: tuple[tuple[int, ...], ...],
) -> None:  # fmt: skip
    """Shape inference looks at attributes alone: they must say what the weights do."""
    strides, pads, dilations = geometry
    if node.ints("kernel_shape", kernel) != kernel:
        raise InputError(
            f"kernel_shape {list(node.ints('kernel_shape'))} is not that of the weights, "
            f"{list(kernel)}",
            where=imp.where(node),
            hint="the file is damaged, or was not written by an exporter",
        )
    rank = len(kernel)
    out = tuple(
        (sizes[i] + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    )
    if out != imp.shape(node.outputs[0])[2:]:
        raise InputError(
            f"its result is {list(out)}, shape inference says "
            f"{list(imp.shape(node.outputs[0])[2:])}",
            where=imp.where(node),
            hint="the file is damaged, or was not written by an exporter",
        )


def _emit(
    imp: Importer, node: Node, kind: str, x: str, weights: Weights, tail: Tail | None,
    memory: tuple[int, ...], layout: Layout, attrs: dict[str, object],
) -> None:  # fmt: skip
    result = node.outputs[0]
    if weights.bits:
        attrs = {**attrs, "weight_bits": weights.bits}
    if tail is None:
        y = imp.declare(result, memory)
        imp.builder.emit(kind, node.name, (x,), y, attrs, weights.constants)
        imp.bind(result, y, layout)
        return
    y = imp.declare(imp.head(tail, result), memory, tail.quant)
    imp.builder.emit(kind, node.name, (x,), y, attrs, weights.constants)
    imp.finish_tail(tail, y, layout)


def layer_weights(
    imp: Importer, node: Node, outputs: int, axis: int, *, bias: float = 1.0, integer: bool = True
) -> tuple[Weights, Tail | None] | None:
    """Weights in ONNX order and bias [O]; with a `Tail` where the layer runs in int8.

    ``axis`` is that of the outputs in the weights, ``bias`` multiplies the bias. None if weights
    or bias are not constant.
    """
    if not imp.is_constant(node.inputs[1]):
        return None
    if node.input(2) and not imp.is_constant(node.input(2)):
        return None
    real = np.zeros(outputs, np.float64)
    if node.input(2):
        constant = imp.constant(node.input(2))
        assert constant is not None
        if constant.size not in (1, outputs):
            return None
        real = np.broadcast_to(constant.reshape(-1).astype(np.float64), (outputs,)) * bias
    if integer:
        found = _integer_weights(imp, node, axis, real, own_bias=bias == 1.0)
        if found is not None:
            return found
    w = imp.constant(node.inputs[1])
    assert w is not None
    if w.dtype != np.float32:
        return None
    finite(imp, node, w, real)
    why = _half_there(imp, node, axis)
    if why:
        imp.notes.append(f"{imp.where(node)} computes in float32: {why}")
    return Weights(w, real.astype(np.float32)), None


def _integer_weights(
    imp: Importer, node: Node, axis: int, real: qdq.Wide, *, own_bias: bool
) -> tuple[Weights, Tail] | None:
    stored = imp.stored.get(node.inputs[1])
    if stored is None or node.inputs[0] not in imp.integers:
        return None
    parts = stored.weights(axis)
    tail = imp.tail(node.outputs[0])
    if parts is None or tail is None:
        return None
    w, scale = parts
    scale_x = imp.quant(imp.integers[node.inputs[0]]).scale
    b = _own_bias(imp, node.input(2), scale_x, scale) if own_bias else None
    if b is None:
        b = qdq.bias_int32(real, scale_x, scale, tail.quant.scale)
    return None if b is None else (Weights(w, b, scale, _packed_bits(w, stored.bits)), tail)


def _packed_bits(w: Array, bits: int) -> int:
    """How many bits the weights may be packed in; 0 where they stay int8.

    Zero points are subtracted already: they may have moved weights out of the range of their type.
    Weights of two bits are odd (`core.lowbits`); others of INT2 take four.
    """
    if bits not in PACKED_BITS:
        return 0
    return next((width for width in PACKED_BITS if fits(w, width)), 0)


def _half_there(imp: Importer, node: Node, axis: int) -> str:
    """What a layer lacks to compute in integers, if some of it is quantized."""
    stored = imp.stored.get(node.inputs[1])
    reads = node.inputs[0] in imp.integers
    if stored is None:
        tail = imp.tail(node.outputs[0]) if reads else None
        return "its input and output are quantized, its weights are not" if tail else ""
    if not reads:
        return "its weights are quantized, its input is not"
    obstacle = stored.obstacle(axis)
    if obstacle:
        return obstacle
    if imp.tail(node.outputs[0]) is None:
        return "its input and weights are quantized, its output is not"
    return "its bias or scaling has no exact form in steps of the accumulator"


def _own_bias(imp: Importer, name: str, scale_x: float, scale_w: Array) -> Array | None:
    """The bias's own integers, if they already are steps of the accumulator."""
    stored = imp.stored.get(name)
    if stored is None or stored.stored.dtype != np.int32 or stored.zero.any():
        return None
    if stored.stored.size != scale_w.size:
        return None
    step = np.float32(scale_x) * scale_w.astype(np.float32)
    close = np.allclose(stored.scale, step, rtol=1e-5, atol=0)
    return stored.stored.reshape(-1).astype(np.int32) if close else None


def finite(imp: Importer, node: Node, *arrays: Array) -> None:
    """Refuse weights that are not finite.

    Raises:
        InputError: there is a NaN or an infinity.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(
            "a weight is NaN or infinite",
            where=imp.where(node),
            hint="the training diverged, or the file is damaged",
        )


def gemm(imp: Importer, node: Node) -> bool:
    """A product with a constant matrix, alpha * x @ W + beta * b."""
    shape = imp.shape(node.inputs[0])
    if imp.is_constant(node.inputs[0]) or not imp.is_constant(node.inputs[1]):
        return False
    flipped = bool(node.attrs.get("transB", 0))
    if node.attrs.get("transA", 0):
        shape = shape[::-1]
    if len(shape) != 2 or shape[0] != 1:
        return False
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    axis = 0 if flipped else 1
    outputs = imp.shape(node.inputs[1])[axis]
    found = layer_weights(imp, node, outputs, axis, bias=beta, integer=alpha == 1.0)
    if found is None:
        return False
    weights, tail = found
    w = weights.w if flipped else weights.w.T
    w = w if alpha == 1.0 else (w.astype(np.float64) * alpha).astype(np.float32)
    _linear(imp, node, replace(weights, w=w), tail)
    return True


def _linear(imp: Importer, node: Node, weights: Weights, tail: Tail | None) -> None:
    """One row of inputs; the weights follow the order in which the row lies in memory."""
    name = node.inputs[0]
    value = imp.integers[name] if tail is not None else imp.value(name)
    w = weights.w
    width = w.shape[1]
    if not value.layout.is_plain:
        order = to_physical(np.arange(width), value.layout).reshape(-1)
        w = w[:, order]
    x = imp.builder.reshape(value.tensor, (1, width))
    weights = replace(weights, w=w)
    shape = imp.shape(node.outputs[0] if tail is None else tail.nodes[-1].outputs[0])
    _emit(imp, node, "linear", x, weights, tail, (1, w.shape[0]), plain(shape), {})


def matmul(imp: Importer, node: Node) -> bool:
    """A product with a constant matrix: a linear layer, or a 1x1 convolution over rows."""
    shape, matrix = imp.shape(node.inputs[0]), imp.shape(node.inputs[1])
    if imp.is_constant(node.inputs[0]) or len(matrix) != 2 or len(shape) < 1:
        return False
    outputs = matrix[1]
    found = layer_weights(imp, node, outputs, 1)
    if found is None:
        return False
    weights, tail = found
    turned = replace(weights, w=np.ascontiguousarray(weights.w.T))
    rows = math.prod(shape[:-1])
    if rows == 1:
        _linear(imp, node, turned, tail)
        return True
    name = node.inputs[0]
    value = imp.integers[name] if tail is not None else imp.value(name)
    x = imp.builder.require(value, plain(shape), (1, 1, rows, shape[-1]))
    kernel = replace(turned, w=turned.w.reshape(outputs, 1, 1, shape[-1]))
    attrs: dict[str, object] = {
        "kernel": (1, 1),
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
        "groups": 1,
    }
    out_shape = imp.shape(node.outputs[0])
    memory = (1, 1, rows, outputs)
    _emit(imp, node, "conv2d", x, kernel, tail, memory, plain(out_shape), attrs)
    return True

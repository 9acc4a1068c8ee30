"""Pools and means over maps."""

from __future__ import annotations

import math

import numpy as np

from edgeopt.graph.builder import Value
from edgeopt.graph.convert_layers import four, map_layout, window
from edgeopt.graph.importer import Importer, Tail
from edgeopt.graph.ir import Node
from edgeopt.graph.layout import Layout


def _source(imp: Importer, name: str, tail: Tail | None) -> Value:
    return imp.integers[name] if tail is not None else imp.value(name)


def _pool_attrs(
    imp: Importer, node: Node, shape: tuple[int, ...], out: tuple[int, ...]
) -> dict[str, object] | None:
    kernel = node.ints("kernel_shape")
    strides, pads, dilations = window(imp, node, shape[2:], kernel)
    if any(d != 1 for d in dilations):
        return None
    rank = len(kernel)
    ends = [  # rounding up lets the last window hang over the edge: that is padding too
        max(pads[rank + i], (out[2 + i] - 1) * strides[i] + kernel[i] - pads[i] - shape[2 + i])
        for i in range(rank)
    ]
    grown = (*pads[:rank], *ends)
    if grown != pads and node.attrs.get("count_include_pad", 0):
        return None
    if any(p >= k for p, k in zip(grown, kernel * 2, strict=True)):
        return None
    flat = (1,) if rank == 1 else ()
    return {"kernel": (*flat, *kernel), "strides": (*flat, *strides), "pads": four(grown)}


def max_pool(imp: Importer, node: Node) -> bool:
    """Maximum over windows or the whole map; integers keep their quantization."""
    name, result = node.inputs[0], node.outputs[0]
    shape, out = imp.shape(name), imp.shape(result)
    if len(shape) not in (3, 4) or imp.is_constant(name) or any(node.outputs[1:]):
        return False
    if node.op == "GlobalMaxPool":
        height = shape[2] if len(shape) == 4 else 1
        size = (height, shape[-1])
        attrs: dict[str, object] | None = {"kernel": size, "strides": size, "pads": (0, 0, 0, 0)}
    else:
        attrs = _pool_attrs(imp, node, shape, out)
    if attrs is None:
        return False
    stored = name in imp.integers
    value = imp.integers[name] if stored else imp.value(name)
    quant = imp.builder.tensors[value.tensor].quant
    if not stored and imp.graph.types[result].dtype != np.float32 and quant is None:
        return False
    layout, memory = map_layout(shape)
    x = imp.builder.require(value, layout, memory)
    out_layout, out_memory = map_layout(out)
    y = imp.declare(result, out_memory, quant)
    imp.builder.emit("maxpool", node.name, (x,), y, attrs)
    if stored:  # the maximum of dequantized values is the dequantized maximum
        imp.integers[result] = Value(y, out_layout, out)
    else:
        imp.bind(result, y, out_layout)
    return True


def average_pool(imp: Importer, node: Node) -> bool:
    """Average over windows."""
    name, result = node.inputs[0], node.outputs[0]
    shape, out = imp.shape(name), imp.shape(result)
    if len(shape) not in (3, 4) or imp.is_constant(name):
        return False
    attrs = _pool_attrs(imp, node, shape, out)
    if attrs is None:
        return False
    if all(d == 1 for d in out[2:]) and _covers(attrs, shape):
        return global_average(imp, node)
    attrs["count_include_pad"] = bool(node.attrs.get("count_include_pad", 0))
    tail = imp.tail(result) if name in imp.integers else None
    layout, memory = map_layout(shape)
    x = imp.builder.require(_source(imp, name, tail), layout, memory)
    out_layout, out_memory = map_layout(out)
    _emit(imp, node, "avgpool", x, tail, out_memory, out_layout, attrs)
    return True


def _covers(attrs: dict[str, object], shape: tuple[int, ...]) -> bool:
    height = shape[2] if len(shape) == 4 else 1
    return attrs["kernel"] == (height, shape[-1]) and attrs["pads"] == (0, 0, 0, 0)


def _emit(
    imp: Importer, node: Node, kind: str, x: str, tail: Tail | None, memory: tuple[int, ...],
    layout: Layout, attrs: dict[str, object],
) -> None:  # fmt: skip
    result = node.outputs[0]
    if tail is None:
        y = imp.declare(result, memory)
        imp.builder.emit(kind, node.name, (x,), y, attrs)
        imp.bind(result, y, layout)
        return
    y = imp.declare(imp.head(tail, result), memory, tail.quant)
    imp.builder.emit(kind, node.name, (x,), y, attrs)
    imp.finish_tail(tail, y, layout)


def global_average(imp: Importer, node: Node) -> bool:
    """The mean over all axes behind the channels."""
    rank = len(imp.shape(node.inputs[0]))
    return rank >= 3 and _mean(imp, node, tuple(range(2, rank)))


def reduce_mean(imp: Importer, node: Node) -> bool:
    """A mean over some axes, as the mean over a map whose channels are all the others."""
    axes = _axes(imp, node)
    return axes is not None and _mean(imp, node, axes)


def _axes(imp: Importer, node: Node) -> tuple[int, ...] | None:
    """The axes that a reduction takes together."""
    listed = imp.constant(node.input(1)) if node.input(1) else None
    if node.input(1) and listed is None:
        return None
    axes = node.ints("axes") if listed is None else tuple(int(v) for v in listed.reshape(-1))
    rank = len(imp.shape(node.inputs[0]))
    if not axes:
        if node.attrs.get("noop_with_empty_axes", 0):
            return None
        axes = tuple(range(rank))
    return tuple(sorted({axis % rank for axis in axes}))


def reduce(imp: Importer, node: Node) -> bool:
    """A sum, maximum or minimum over some axes; the extremes of integers stay integers."""
    name, result = node.inputs[0], node.outputs[0]
    axes = _axes(imp, node)
    if axes is None or imp.is_constant(name) or imp.graph.types[result].dtype != np.float32:
        return False
    how = node.op.removeprefix("Reduce").lower()
    stored = name in imp.integers
    tail = imp.tail(result) if stored and how == "sum" else None
    value = imp.integers[name] if stored and (how != "sum" or tail) else imp.value(name)
    layout, memory, channels, after = _flattened(imp, node, axes)
    x = imp.builder.require(value, layout, memory)
    attrs: dict[str, object] = {"how": how}
    if how == "sum" or not stored:
        _emit(imp, node, "reduce", x, tail, (1, 1, 1, channels), after, attrs)
        return True
    y = imp.declare(result, (1, 1, 1, channels), imp.builder.tensors[x].quant)
    imp.builder.emit("reduce", node.name, (x,), y, attrs)
    imp.integers[result] = Value(y, after, imp.shape(result))
    return True


def _flattened(
    imp: Importer, node: Node, axes: tuple[int, ...]
) -> tuple[Layout, tuple[int, ...], int, Layout]:
    """A map whose pixels are the elements of some axes, its shape, and where the results lie."""
    shape, out = imp.shape(node.inputs[0]), imp.shape(node.outputs[0])
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    channels = math.prod(shape[axis] for axis in kept)
    ones = [axis for axis in kept if shape[axis] == 1]
    others = [axis for axis in kept if shape[axis] != 1]
    layout = Layout(shape, (*ones, *axes, *others))
    spatial = [shape[axis] for axis in axes]
    size = (spatial[0], spatial[1]) if len(spatial) == 2 else (1, math.prod(spatial))
    rest = [axis for axis in range(len(out)) if out[axis] != 1]
    empty = [axis for axis in range(len(out)) if out[axis] == 1]
    return layout, (1, *size, channels), channels, Layout(out, (*empty, *rest))


def _mean(imp: Importer, node: Node, axes: tuple[int, ...]) -> bool:
    name, result = node.inputs[0], node.outputs[0]
    if imp.is_constant(name) or imp.graph.types[result].dtype != np.float32:
        return False
    layout, memory, channels, after = _flattened(imp, node, axes)
    tail = imp.tail(result) if name in imp.integers else None
    x = imp.builder.require(_source(imp, name, tail), layout, memory)
    _emit(imp, node, "global_avgpool", x, tail, (1, 1, 1, channels), after, {})
    return True

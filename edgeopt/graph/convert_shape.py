"""Operators that move or rename elements, and the two conversions between float and int8."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.graph import qdq
from edgeopt.graph.builder import Value
from edgeopt.graph.convert_pointwise import requantize
from edgeopt.graph.importer import Importer
from edgeopt.graph.ir import Node
from edgeopt.graph.layout import Layout, channels_last, plain


def _either(imp: Importer, name: str) -> tuple[Value, bool]:
    """The integers behind a value, or the value; moving elements is the same for both."""
    if name in imp.integers:
        return imp.integers[name], True
    return imp.value(name), False


def _rename(imp: Importer, name: str, value: Value, stored: bool) -> None:
    (imp.integers if stored else imp.values)[name] = value


def identity(imp: Importer, node: Node) -> bool:
    """Nothing."""
    if node.op == "Dropout" and len(node.outputs) > 1 and node.outputs[1]:
        return False
    if imp.is_constant(node.inputs[0]):
        return False
    value, stored = _either(imp, node.inputs[0])
    _rename(imp, node.outputs[0], value, stored)
    return True


def reshape(imp: Importer, node: Node) -> bool:
    """Another shape for the same elements: nothing moves until someone needs it to."""
    if imp.is_constant(node.inputs[0]):
        return False
    value, stored = _either(imp, node.inputs[0])
    shape = imp.shape(node.outputs[0])
    if math.prod(shape) != math.prod(value.shape):
        raise InputError(
            f"shape {list(value.shape)} cannot become {list(shape)}",
            where=imp.where(node),
            hint="the file is damaged, or was made for another input shape",
        )
    _rename(imp, node.outputs[0], Value(value.tensor, value.layout, shape), stored)
    return True


def transpose(imp: Importer, node: Node) -> bool:
    """Another order of the axes: nothing moves until someone needs it to."""
    if node.inputs[0] in imp.stored:
        stored_constant = imp.stored[node.inputs[0]]
        perm = node.ints("perm", reversed(range(stored_constant.stored.ndim)))
        imp.stored[node.outputs[0]] = replace(
            stored_constant,
            stored=stored_constant.stored.transpose(perm),
            axis=perm.index(stored_constant.axis) if stored_constant.scale.size > 1 else 0,
            scale=stored_constant.scale.transpose(perm)
            if stored_constant.block
            else stored_constant.scale,
            zero=stored_constant.zero.transpose(perm)
            if stored_constant.block
            else stored_constant.zero,
        )  # fmt: skip
        return True
    if imp.is_constant(node.inputs[0]):
        return False
    value, stored = _either(imp, node.inputs[0])
    shape = imp.shape(node.inputs[0])
    perm = node.ints("perm", reversed(range(len(shape))))
    layout = value.layout.transposed(shape, perm)
    tensor = value.tensor
    if layout is None:
        tensor = imp.builder.require(value, plain(shape))
        layout = plain(shape).transposed(shape, perm)
        assert layout is not None
    moved = Value(tensor, layout, imp.shape(node.outputs[0]))
    _rename(imp, node.outputs[0], moved, stored)
    return True


def concat(imp: Importer, node: Node) -> bool:
    """Tensors one behind another along an axis."""
    result = node.outputs[0]
    shape = imp.shape(result)
    if any(imp.is_constant(name) for name in node.inputs):
        return False
    stored = all(name in imp.integers for name in node.inputs)
    tail = None
    if stored:
        quants = [imp.quant(imp.integers[name]) for name in node.inputs]
        if any(quant != quants[0] for quant in quants):
            tail = imp.tail(result)
            stored = tail is not None
    values = [imp.integers[n] if stored else imp.value(n) for n in node.inputs]
    first = next((v for v in values if v.layout.view == v.shape and not v.layout.is_plain), None)
    perm = first.layout.perm if first is not None else _usual(values).perm
    parts = tuple([imp.builder.require(v, Layout(v.shape, perm)) for v in values])
    axis = perm.index(int(node.attrs["axis"]) % len(shape))
    layout = Layout(shape, perm)
    attrs = {"axis": axis}
    if tail is not None and stored:
        y = imp.declare(imp.head(tail, result), layout.physical, tail.quant)
        imp.builder.emit("concat", node.name, parts, y, attrs)
        imp.finish_tail(tail, y, layout)
        return True
    quant = imp.builder.tensors[parts[0]].quant
    y = imp.declare(result, layout.physical, quant)
    imp.builder.emit("concat", node.name, parts, y, attrs)
    _rename(imp, result, Value(y, layout, shape), stored)
    return True


def _usual(values: list[Value]) -> Layout:
    value = values[0]
    return plain(value.shape) if value.layout.is_plain else channels_last(value.shape)


def softmax(imp: Importer, node: Node) -> bool:
    """Exponentials that add up to one along an axis, or their logarithms."""
    name, result = node.inputs[0], node.outputs[0]
    shape = imp.shape(name)
    if imp.is_constant(name) or imp.graph.types[result].dtype != np.float32 or not shape:
        return False
    old = imp.graph.opset < 13
    axis = int(node.attrs.get("axis", 1 if old else -1)) % len(shape)
    if old and any(dim != 1 for dim in shape[axis + 1 :]):
        return False  # before opset 13 the sum runs over all axes behind
    log = node.op == "LogSoftmax"
    tail = imp.tail(result) if name in imp.integers and not log else None
    if tail is not None and tail.clamps:
        tail = None
    value = imp.integers[name] if tail is not None else imp.value(name)
    layout = value.layout if value.layout.view == shape else channels_last(shape)
    if len(shape) > 1 and layout.perm.index(axis) == 0:
        return False  # along the batch: kernels have none
    x = imp.builder.require(value, layout)
    attrs: dict[str, object] = {"axis": layout.perm.index(axis)}
    if log:
        attrs["log"] = True
    if tail is not None:
        y = imp.declare(imp.head(tail, result), layout.physical, tail.quant)
        imp.builder.emit("softmax", node.name, (x,), y, attrs)
        imp.finish_tail(tail, y, layout)
        return True
    y = imp.declare(result, layout.physical)
    imp.builder.emit("softmax", node.name, (x,), y, attrs)
    imp.bind(result, y, layout)
    return True


def dequantize(imp: Importer, node: Node) -> bool:
    """Integers to real values, written only if someone needs them as floats."""
    result = node.outputs[0]
    constant = qdq.stored_constant(imp.graph, node)
    if constant is not None:
        imp.stored[result] = constant
        return True
    quant = qdq.parameters(imp.graph, node)
    value = imp.values.get(node.inputs[0])
    if quant is None or value is None or imp.builder.tensors[value.tensor].quant is None:
        return False
    tensor = imp.builder.requoted(value.tensor, quant)
    imp.integers[result] = Value(tensor, value.layout, value.shape)
    return True


def quantize(imp: Importer, node: Node) -> bool:
    """Real values to integers; integers that were real for nobody are taken as they are."""
    name, result = node.inputs[0], node.outputs[0]
    quant = qdq.parameters(imp.graph, node)
    if quant is None or imp.is_constant(name):
        return False
    if name in imp.integers:
        value = imp.integers[name]
        if imp.quant(value) != quant:
            made = imp.builder.like(value.tensor, result, quant)
            value = Value(requantize(imp, value, node.name, made), value.layout, value.shape)
        imp.values[result] = value
        return True
    value = imp.value(name)
    made = imp.declare(result, imp.builder.tensors[value.tensor].shape, quant)
    imp.builder.emit("quantize", node.name, (value.tensor,), made)
    imp.bind(result, made, value.layout)
    return True

"""Elementwise operators: activations, sums and products."""

from __future__ import annotations

import numpy as np

from edgeopt.core.activations import CLAMPS
from edgeopt.core.network import Array
from edgeopt.graph.builder import Value
from edgeopt.graph.importer import Function, Importer, function_of
from edgeopt.graph.ir import Node
from edgeopt.graph.layout import Layout, channels_last


def activation(imp: Importer, node: Node) -> bool:
    """A function of one tensor; with quantization on both sides a table."""
    name, result = node.inputs[0], node.outputs[0]
    function = function_of(imp, node)
    if function is None or imp.is_constant(name) or imp.graph.types[result].dtype != np.float32:
        return False
    tail = imp.tail(result)
    if name in imp.integers and tail is not None:
        value = imp.integers[name]
        known = imp.builder.tensors[value.tensor]
        y = imp.declare(imp.head(tail, result), known.shape, tail.quant)
        _apply(imp, node.name, function, value.tensor, y)
        imp.finish_tail(tail, y, value.layout)
        return True
    value = imp.value(name)
    y = imp.declare(result, imp.builder.tensors[value.tensor].shape)
    _apply(imp, node.name, function, value.tensor, y)
    imp.bind(result, y, value.layout)
    return True


def _apply(imp: Importer, name: str, function: Function, x: str, y: str) -> None:
    imp.builder.emit("activation", name, (x,), y, {"function": function[0], **function[1]})


def requantize(imp: Importer, value: Value, name: str, result: str) -> str:
    """Stored integers to the scale and zero point of the declared tensor ``result``."""
    assert "clip" in CLAMPS  # without bounds it changes nothing but the quantization
    return imp.builder.emit("activation", name, (value.tensor,), result, {"function": "clip"})


def binary(imp: Importer, node: Node) -> bool:
    """A sum, difference, product or quotient."""
    left, right = node.inputs
    result = node.outputs[0]
    if imp.graph.types[result].dtype != np.float32:
        return False
    for index, (name, other) in enumerate(((left, right), (right, left))):
        if imp.is_constant(other):
            if imp.is_constant(name) or (index and node.op in ("Sub", "Div")):
                return False
            return _with_constant(imp, node, name, other)
    if node.op in ("Sub", "Div"):
        return False
    return _with_value(imp, node, left, right)


def _with_constant(imp: Importer, node: Node, name: str, other: str) -> bool:
    result = node.outputs[0]
    shape = imp.shape(result)
    tail = imp.tail(result)
    kind = "mul" if node.op in ("Mul", "Div") else "add"
    stored = imp.stored.get(other)
    integer = (
        tail is not None
        and name in imp.integers
        and stored is not None
        and stored.scale.size == 1
        and stored.stored.dtype in (np.int8, np.uint8)
        and node.op in ("Mul", "Add")
    )
    value = imp.integers[name] if integer else imp.value(name)
    if value.shape != shape:
        return False
    layout = _simple_layout(value)
    if integer:
        assert tail is not None and stored is not None
        shift = 128 if stored.stored.dtype == np.uint8 else 0
        c = (stored.stored.astype(np.int16) - shift).astype(np.int8)
        constants = {
            "c": _operand(c, layout),
            "c_scale": stored.scale.astype(np.float32),
            "c_zero": stored.zero.astype(np.int32) - shift,
        }
        x = imp.builder.require(value, layout)
        y = imp.declare(imp.head(tail, result), layout.physical, tail.quant)
        imp.builder.emit(kind, node.name, (x,), y, {}, constants)
        imp.finish_tail(tail, y, layout)
        return True
    constant = imp.constant(other)
    assert constant is not None
    c32 = constant.astype(np.float32)
    if node.op == "Sub":
        c32 = -c32
    elif node.op == "Div":
        with np.errstate(all="ignore"):
            c32 = (np.float32(1) / c32).astype(np.float32)
    if not np.isfinite(c32).all():
        return False
    x = imp.builder.require(value, layout)
    y = imp.declare(result, layout.physical)
    imp.builder.emit(kind, node.name, (x,), y, {}, {"c": _operand(c32, layout)})
    imp.bind(result, y, layout)
    return True


def _simple_layout(value: Value) -> Layout:
    """The value's own layout if memory has its axes in some order, else the usual one."""
    return value.layout if value.layout.view == value.shape else channels_last(value.shape)


def _operand(constant: Array, layout: Layout) -> Array:
    """A constant operand as memory has it: one value a channel, or one for each element."""
    shape = layout.view
    aligned = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    moved = np.ascontiguousarray(aligned.transpose(layout.perm))
    physical = layout.physical
    ones = (1,) * (len(physical) - 1)
    if moved.size == 1 or moved.shape == (*ones, physical[-1]):
        return np.ascontiguousarray(np.broadcast_to(moved, (*ones, physical[-1])))
    return np.ascontiguousarray(np.broadcast_to(moved, physical))


def _with_value(imp: Importer, node: Node, left: str, right: str) -> bool:
    result = node.outputs[0]
    shape = imp.shape(result)
    kind = "mul" if node.op == "Mul" else "add"
    tail = imp.tail(result)
    integer = tail is not None and left in imp.integers and right in imp.integers
    a, b = (imp.integers[n] if integer else imp.value(n) for n in (left, right))
    if a.shape != shape:
        a, b = b, a
    if a.shape != shape:
        return False
    layout = _simple_layout(a)
    if b.shape != shape:
        if kind == "add":
            return False
        small = Layout((1,) * (len(shape) - len(b.shape)) + b.shape, layout.perm)
        physical = small.physical
        if physical[-1] != shape[layout.perm[-1]] or any(d != 1 for d in physical[:-1]):
            return False
        y_in = imp.builder.require(b, small)
    else:
        layout = layout if layout.view == shape else _simple_layout(b)
        y_in = imp.builder.require(b, layout)
    x_in = imp.builder.require(a, layout)
    quant = tail.quant if integer and tail is not None else None
    stem = imp.head(tail, result) if integer and tail is not None else result
    y = imp.declare(stem, layout.physical, quant)
    imp.builder.emit(kind, node.name, (x_in, y_in), y)
    if integer and tail is not None:
        imp.finish_tail(tail, y, layout)
    else:
        imp.bind(result, y, layout)
    return True


def sum_(imp: Importer, node: Node) -> bool:
    """A sum of several tensors of one shape, two at a time."""
    result = node.outputs[0]
    shape = imp.shape(result)
    if any(imp.is_constant(n) or imp.shape(n) != shape for n in node.inputs):
        return False
    if imp.graph.types[result].dtype != np.float32 or len(node.inputs) < 2:
        return False
    layout = _simple_layout(imp.value(node.inputs[0]))
    total = imp.builder.require(imp.value(node.inputs[0]), layout)
    for name in node.inputs[1:]:
        other = imp.builder.require(imp.value(name), layout)
        made = imp.declare(result, layout.physical)
        total = imp.builder.emit("add", node.name, (total, other), made)
    imp.bind(result, total, layout)
    return True


def _scaled(imp: Importer, node: Node, factor: float) -> bool:
    if imp.graph.types[node.outputs[0]].dtype != np.float32:
        return False
    value = imp.value(node.inputs[0])
    layout = _simple_layout(value)
    x = imp.builder.require(value, layout)
    y = imp.declare(node.outputs[0], layout.physical)
    c = _operand(np.asarray(factor, np.float32), layout)
    imp.builder.emit("mul", node.name, (x,), y, {}, {"c": c})
    imp.bind(node.outputs[0], y, layout)
    return True


def negate(imp: Importer, node: Node) -> bool:
    """The negative."""
    return _scaled(imp, node, -1.0)


def power(imp: Importer, node: Node) -> bool:
    """A square; other powers are left to the fallback."""
    exponent = imp.constant(node.inputs[1])
    if exponent is None or exponent.size != 1 or float(exponent.reshape(-1)[0]) != 2.0:
        return False
    if imp.graph.types[node.outputs[0]].dtype != np.float32:
        return False
    value = imp.value(node.inputs[0])
    if value.shape != imp.shape(node.outputs[0]):
        return False
    y = imp.declare(node.outputs[0], imp.builder.tensors[value.tensor].shape)
    imp.builder.emit("mul", node.name, (value.tensor, value.tensor), y)
    imp.bind(node.outputs[0], y, value.layout)
    return True

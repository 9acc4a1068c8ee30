"""Elementwise operators: activations, sums and products."""

from __future__ import annotations

import numpy as np

from edgeopt.core.activations import CLAMPS
from edgeopt.core.network import Array
from edgeopt.graph import qdq
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


#: What a binary operator is written as.
_KINDS = {"Add": "add", "Mul": "mul", "Sub": "sub", "Div": "div", "Max": "max", "Min": "min"}


def binary(imp: Importer, node: Node) -> bool:
    """A sum, difference, product, quotient, maximum or minimum of two."""
    if len(node.inputs) != 2:
        return False
    left, right = node.inputs
    result = node.outputs[0]
    if imp.graph.types[result].dtype != np.float32:
        return False
    if node.op == "Add" and left in imp.stored and right in imp.graph.constants:
        halves = qdq.with_halves(imp.stored[left], imp.graph.constants[right])
        if halves is not None:
            imp.stored[result] = halves
            return True
    for index, (name, other) in enumerate(((left, right), (right, left))):
        if imp.is_constant(other):
            if imp.is_constant(name) or (index and node.op == "Div"):
                return False
            if node.op in ("Max", "Min"):
                return _pair_with_constant(imp, node, _KINDS[node.op], name, imp.constant(other))
            if index and node.op == "Sub":
                return _constant_less(imp, node, name, other)
            return _with_constant(imp, node, name, other)
    return _with_value(imp, node, left, right)


def _constant_less(imp: Importer, node: Node, name: str, other: str) -> bool:
    """A constant minus a value: the negative value, then the constant on top."""
    value = imp.value(name)
    constant = imp.constant(other)
    if value.shape != imp.shape(node.outputs[0]) or constant is None:
        return False
    layout = _simple_layout(value)
    x = imp.builder.require(value, layout)
    minus = imp.builder.like(x, f"{node.outputs[0]}.negative")
    c = _operand(np.asarray(-1.0, np.float32), layout)
    imp.builder.emit("mul", f"{node.name}.negative", (x,), minus, {}, {"c": c})
    y = imp.declare(node.outputs[0], layout.physical)
    operand = {"c": _operand(constant.astype(np.float32), layout)}
    imp.builder.emit("add", node.name, (minus,), y, {}, operand)
    imp.bind(node.outputs[0], y, layout)
    return True


def prelu(imp: Importer, node: Node) -> bool:
    """Negative values times a constant: one number, one a channel, or one for each element."""
    slope = imp.constant(node.inputs[1])
    if slope is not None and slope.size == 1 and activation(imp, node):
        return True
    return _pair_with_constant(imp, node, "prelu", node.inputs[0], slope)


def _pair_with_constant(
    imp: Importer, node: Node, kind: str, name: str, constant: Array | None
) -> bool:
    """An operator with a real constant; integers go in and out where both sides are quantized."""
    result = node.outputs[0]
    if constant is None or imp.is_constant(name) or imp.graph.types[result].dtype != np.float32:
        return False
    tail = imp.tail(result) if name in imp.integers else None
    value = imp.integers[name] if tail is not None else imp.value(name)
    if value.shape != imp.shape(result):
        return False
    layout = _simple_layout(value)
    x = imp.builder.require(value, layout)
    if tail is None:
        y = imp.declare(result, layout.physical)
    else:
        y = imp.declare(imp.head(tail, result), layout.physical, tail.quant)
    operand = {"c": _operand(constant.astype(np.float32), layout)}
    imp.builder.emit(kind, node.name, (x,), y, {}, operand)
    if tail is None:
        imp.bind(result, y, layout)
    else:
        imp.finish_tail(tail, y, layout)
    return True


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
    kind = _KINDS[node.op]
    tail = imp.tail(result)
    integer = tail is not None and left in imp.integers and right in imp.integers
    a, b = (imp.integers[n] if integer else imp.value(n) for n in (left, right))
    layout = _simple_layout(a if a.shape == shape else b)
    turned = a.shape != shape
    if turned:
        a, b = b, a
    if a.shape != shape or (turned and kind == "div"):
        return False
    small = None
    if b.shape != shape:
        small = _spread_layout(b.shape, shape)
        if small is None:
            return False
        layout = Layout(shape, small.perm)
    x_in = imp.builder.require(a, layout)
    other = Layout(small.view, small.perm) if small is not None else layout
    y_in = imp.builder.require(b, other)
    if turned and kind == "sub":  # b - a = (-a) + b
        if integer:
            return False
        minus = imp.builder.like(x_in, f"{result}.negative")
        c = _operand(np.asarray(-1.0, np.float32), layout)
        x_in = imp.builder.emit("mul", f"{node.name}.negative", (x_in,), minus, {}, {"c": c})
        kind = "add"
    quant = tail.quant if integer and tail is not None else None
    stem = imp.head(tail, result) if integer and tail is not None else result
    y = imp.declare(stem, layout.physical, quant)
    imp.builder.emit(kind, node.name, (x_in, y_in), y)
    if integer and tail is not None:
        imp.finish_tail(tail, y, layout)
    else:
        imp.bind(result, y, layout)
    return True


def _spread_layout(shape: tuple[int, ...], whole: tuple[int, ...]) -> Layout | None:
    """How a smaller operand lies to be spread by kernels: one number a channel, or one a pixel.

    With its axes as those of the whole; None if neither fits.
    """
    view = (1,) * (len(whole) - len(shape)) + shape
    varying = [axis for axis, dim in enumerate(view) if dim != 1]
    others = [axis for axis in range(len(whole)) if axis not in varying and whole[axis] != 1]
    if any(view[axis] != whole[axis] for axis in varying):
        return None
    ones = [axis for axis in range(len(whole)) if axis not in varying and axis not in others]
    usual = channels_last(whole)
    if not varying:
        return None
    if len(varying) == 1 and usual.perm[-1] == varying[0]:
        return Layout(view, usual.perm)
    if len(others) == 1 and usual.perm[-1] == others[0]:
        return Layout(view, usual.perm)
    if len(varying) == 1:  # that axis goes last: a channel
        return Layout(view, (*ones, *others, *varying))
    if len(others) == 1:  # the axis that it lacks goes last: a pixel
        return Layout(view, (*ones, *varying, *others))
    return None


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

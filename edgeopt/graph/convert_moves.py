"""Operators that choose, repeat or surround elements: slices, gathers, pads, resizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeopt.core.moves import stored_value
from edgeopt.core.network import Array, Tensor
from edgeopt.graph.builder import Value
from edgeopt.graph.importer import Importer
from edgeopt.graph.ir import Node
from edgeopt.graph.layout import Layout, channels_last, plain
from edgeopt.graph.resize import Resize, resize_of

#: One axis of a move: indices into the source, in order.
Picks = Mapping[int, "range | Array"]


def source_of(imp: Importer, name: str) -> tuple[Value, bool] | None:
    """A value as kernels can move it, with its axes known; True if integers stand for it."""
    if not name or imp.is_constant(name):
        return None
    stored = name in imp.integers
    value = imp.integers[name] if stored else imp.value(name)
    if not _movable(imp.builder.tensors[value.tensor]):
        return None
    if value.layout.view != value.shape:
        layout = channels_last(value.shape)
        value = Value(imp.builder.require(value, layout), layout, value.shape)
    return value, stored


def _movable(tensor: Tensor) -> bool:
    return tensor.dtype == "f32" or (tensor.dtype == "i8" and tensor.quant is not None)


def finish(imp: Importer, result: str, value: Value, stored: bool) -> None:
    """Say what holds a result, as integers or as it is."""
    (imp.integers if stored else imp.values)[result] = value


def _emit(
    imp: Importer, node: Node, kind: str, value: Value, shape: tuple[int, ...],
    attrs: Mapping[str, tuple[int, ...] | int | float], constants: Mapping[str, Array],
) -> Value:  # fmt: skip
    """One operator whose tuples in ``attrs`` go by axes of the model; memory may have others."""
    perm = value.layout.perm
    before, layout = value.layout.physical, Layout(shape, perm)
    after = layout.physical
    led = () if before[:1] == (1,) and after[:1] == (1,) else (1,)  # a batch of one goes first
    filler = 1 if kind == "slice" else 0
    written: dict[str, object] = {}
    for name, given in attrs.items():
        if isinstance(given, tuple):
            fill = filler if name == "steps" else 0
            written[name] = (*(fill for _ in led), *(given[axis] for axis in perm))
        elif name == "axis":
            written[name] = perm.index(int(given)) + len(led)
        else:
            written[name] = given
    x = imp.builder.reshape(imp.builder.require(value, value.layout), (*led, *before))
    quant = imp.builder.tensors[x].quant
    stem = node.outputs[0]
    y = imp.builder.tensor(stem, (*led, *after), imp.builder.tensors[x].dtype, quant)
    imp.builder.emit(kind, node.name, (x,), y, written, constants)
    return Value(imp.builder.reshape(y, after), layout, shape)


def pick(imp: Importer, node: Node, value: Value, picks: Picks) -> Value:
    """Some indices of some axes: one slice for all that are regular, a gather for each other."""
    shape = list(value.shape)
    starts, steps = [0] * len(shape), [1] * len(shape)
    tables: dict[int, Array] = {}
    for axis, chosen in picks.items():
        regular = chosen if isinstance(chosen, range) else _regular(chosen)
        if regular is not None and (regular.step > 0 or len(regular) == 1):
            starts[axis] = regular.start
            steps[axis] = regular.step if len(regular) > 1 else 1
            shape[axis] = len(regular)
        else:
            tables[axis] = np.asarray(chosen, np.int32)
    if tuple(shape) != value.shape:
        attrs = {"starts": tuple(starts), "steps": tuple(steps)}
        value = _emit(imp, node, "slice", value, tuple(shape), attrs, {})
    for axis, table in tables.items():
        shape[axis] = table.size
        constants = {"index": table.reshape(-1)}
        value = _emit(imp, node, "gather", value, tuple(shape), {"axis": axis}, constants)
    return value


def _regular(index: Array) -> range | None:
    """Indices at equal distances, as a range."""
    values = [int(v) for v in index.reshape(-1)]
    if len(values) == 1:
        return range(values[0], values[0] + 1)
    step = values[1] - values[0]
    found = range(values[0], values[-1] + (1 if step > 0 else -1), step) if step else None
    return found if found is not None and list(found) == values else None


def slice_(imp: Importer, node: Node) -> bool:
    """A slice by constants; backwards too."""
    found = source_of(imp, node.inputs[0])
    if found is None:
        return False
    value, stored = found
    rank = len(value.shape)
    if imp.graph.opset < 10:
        starts, ends = node.ints("starts"), node.ints("ends")
        axes, steps = node.ints("axes", range(len(starts))), (1,) * len(starts)
    else:
        parts = [imp.constant(name) if name else None for name in node.inputs[1:]]
        if any(part is None for part, name in zip(parts, node.inputs[1:], strict=True) if name):
            return False
        given = [None if p is None else tuple(int(v) for v in p.reshape(-1)) for p in parts]
        given += [None] * (4 - len(given))
        assert given[0] is not None and given[1] is not None
        starts, ends = given[0], given[1]
        axes = given[2] if given[2] is not None else tuple(range(len(starts)))
        steps = given[3] if given[3] is not None else (1,) * len(starts)
    picks: dict[int, range] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = value.shape[axis % rank]
        low = -size - 1  # an end before the first element, which Python would count from behind
        stop = None if step < 0 and end < low + 1 else end
        picks[axis % rank] = range(size)[slice(start, stop, step)]
    finish(imp, node.outputs[0], pick(imp, node, value, picks), stored)
    return imp.shape(node.outputs[0]) == _shape_of(imp, node.outputs[0])


def _shape_of(imp: Importer, name: str) -> tuple[int, ...]:
    return (imp.integers if name in imp.integers else imp.values)[name].shape


def gather(imp: Importer, node: Node) -> bool:
    """Elements of one axis by constant indices."""
    index = imp.constant(node.inputs[1])
    found = source_of(imp, node.inputs[0])
    if found is None or index is None or not index.size:
        return False
    value, stored = found
    axis = int(node.attrs.get("axis", 0)) % len(value.shape)
    size = value.shape[axis]
    wrapped = index.astype(np.int64)
    if ((wrapped < -size) | (wrapped >= size)).any():
        return False  # refused by name there
    wrapped = np.where(wrapped < 0, wrapped + size, wrapped)
    moved = pick(imp, node, value, {axis: wrapped})
    shape = imp.shape(node.outputs[0])
    finish(imp, node.outputs[0], Value(moved.tensor, moved.layout, shape), stored)
    return True


def pad(imp: Importer, node: Node) -> bool:
    """Padding by constants: with one value, with the edge, or with a reflection."""
    found = source_of(imp, node.inputs[0])
    amounts = _amounts(imp, node)
    if found is None or amounts is None:
        return False
    value, stored = found
    mode = node.attrs.get("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        return False
    picks: dict[int, range | Array] = {}
    for axis, (before, after) in enumerate(amounts):
        size = value.shape[axis]
        if mode == "constant":
            if before < 0 or after < 0:
                picks[axis] = range(size)[max(-before, 0) : size + min(after, 0)]
        elif before or after:
            if mode == "reflect" and max(before, after) >= size:
                return False
            whole = np.arange(-before, size + after)
            picks[axis] = _folded(whole, size, str(mode))
    fill = 0.0
    if mode == "constant":
        given = imp.constant(node.input(2)) if node.input(2) else None
        if node.input(2) and (given is None or given.size != 1):
            return False
        fill = float(given.reshape(-1)[0]) if given is not None else _number(node)
        known = imp.builder.tensors[value.tensor]
        if stored and not _is_exact(fill, known):
            return _in_float(imp, node)
        if not stored and known.dtype == "i8":
            return False  # padding stored integers: what value is meant is not known
    if picks:
        value = pick(imp, node, value, picks)
    around = [(max(a, 0), max(b, 0)) for a, b in amounts]
    if mode == "constant" and any(a or b for a, b in around):
        attrs: dict[str, tuple[int, ...] | int | float] = {
            "begins": tuple(a for a, _ in around),
            "ends": tuple(b for _, b in around),
            "value": fill,
        }
        value = _emit(imp, node, "pad", value, imp.shape(node.outputs[0]), attrs, {})
    finish(imp, node.outputs[0], value, stored)
    return True


def _number(node: Node) -> float:
    return float(node.attrs.get("value", 0.0))


def _is_exact(fill: float, tensor: Tensor) -> bool:
    """Whether a real number is a step of the tensor's quantization."""
    quant = tensor.quant
    assert quant is not None
    step = np.float32(stored_value(fill, quant) - quant.zero_point) * np.float32(quant.scale)
    return bool(step == np.float32(fill))


def _in_float(imp: Importer, node: Node) -> bool:
    """Pad the dequantized values."""
    name = node.inputs[0]
    imp.value(name)
    integers = imp.integers.pop(name)
    try:
        return pad(imp, node)
    finally:
        imp.integers[name] = integers


def _amounts(imp: Importer, node: Node) -> list[tuple[int, int]] | None:
    """How much goes before and after each axis."""
    listed: Sequence[int]
    rank = len(imp.shape(node.inputs[0]))
    if node.input(1):
        constant = imp.constant(node.input(1))
        if constant is None:
            return None
        listed = [int(v) for v in constant.reshape(-1)]
    else:
        listed = node.ints("pads") or node.ints("paddings")
    axes = range(rank)
    if node.input(3):
        chosen = imp.constant(node.input(3))
        if chosen is None:
            return None
        axes = [int(axis) % rank for axis in chosen.reshape(-1)]  # type: ignore[assignment]
    if len(listed) != 2 * len(axes):
        return None
    amounts = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        amounts[axis] = (listed[index], listed[len(axes) + index])
    return amounts


def _folded(index: Array, size: int, mode: str) -> Array:
    """Positions outside brought back inside."""
    whole = np.asarray(index, np.int64)
    if mode == "edge":
        return np.clip(whole, 0, size - 1)
    if mode == "wrap":
        return whole % size
    whole = np.abs(whole)
    return np.where(whole >= size, 2 * (size - 1) - whole, whole)


def depth_to_space(imp: Importer, node: Node) -> bool:
    """Blocks of channels to pixels or back: a reshape, a transpose, a reshape."""
    name = node.inputs[0]
    if imp.is_constant(name):
        return False
    value, stored = (imp.integers[name], True) if name in imp.integers else (imp.value(name), False)
    n, c, h, w = value.shape
    size = int(node.attrs["blocksize"])
    perm: tuple[int, ...]
    if node.op == "SpaceToDepth":
        cut: tuple[int, ...] = (n, c, h // size, size, w // size, size)
        perm = (0, 3, 5, 1, 2, 4)
    elif node.attrs.get("mode", "DCR") == "DCR":
        cut, perm = (n, size, size, c // size**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        cut, perm = (n, c // size**2, size, size, h, w), (0, 1, 4, 2, 5, 3)
    layout = value.layout.transposed(cut, perm)
    tensor = value.tensor
    if layout is None:
        tensor = imp.builder.require(value, plain(value.shape))
        layout = plain(cut).transposed(cut, perm)
        assert layout is not None
    finish(imp, node.outputs[0], Value(tensor, layout, imp.shape(node.outputs[0])), stored)
    return True


def resize(imp: Importer, node: Node) -> bool:
    """Nearest neighbours or linear between them, in height and width."""
    name, result = node.inputs[0], node.outputs[0]
    if imp.is_constant(name):
        return False
    wanted = resize_of(imp, node)
    stored = name in imp.integers
    if wanted is None:
        return False
    if wanted.mode == "linear" and stored:
        return _interpolate(imp, node, wanted)
    value = imp.integers[name] if stored else imp.value(name)
    if not _movable(imp.builder.tensors[value.tensor]):
        return False
    if wanted.mode == "linear" and imp.builder.tensors[value.tensor].dtype == "i8":
        return False
    layout, memory, out_layout, out_memory = wanted.layouts(imp.shape(name), imp.shape(result))
    x = imp.builder.require(value, layout, memory)
    known = imp.builder.tensors[x]
    y = imp.builder.tensor(result, out_memory, known.dtype, known.quant)
    imp.builder.emit("resize", node.name, (x,), y, wanted.attrs, wanted.constants)
    finish(imp, result, Value(y, out_layout, imp.shape(result)), stored)
    return True


def _interpolate(imp: Importer, node: Node, wanted: Resize) -> bool:
    """Between integers: to integers again if a QuantizeLinear follows, else in float."""
    name, result = node.inputs[0], node.outputs[0]
    tail = imp.tail(result)
    value = imp.integers[name] if tail is not None else imp.value(name)
    layout, memory, out_layout, out_memory = wanted.layouts(imp.shape(name), imp.shape(result))
    x = imp.builder.require(value, layout, memory)
    if tail is None:
        y = imp.declare(result, out_memory)
    else:
        y = imp.declare(imp.head(tail, result), out_memory, tail.quant)
    imp.builder.emit("resize", node.name, (x,), y, wanted.attrs, wanted.constants)
    if tail is None:
        finish(imp, result, Value(y, out_layout, imp.shape(result)), stored=False)
    else:
        imp.finish_tail(tail, y, out_layout)
    return True

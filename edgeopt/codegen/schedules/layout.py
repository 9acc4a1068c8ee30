"""The template of kernels that move elements: copy, concat, transpose, slice, pad, resize."""

from __future__ import annotations

import math
from typing import Any

from edgeopt.codegen.schedules import parts
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.codegen.schedules.template import BaseTemplate, Const, Template, elements
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec


class Layout(BaseTemplate):
    """Runs of neighbouring elements, copied; concat may requantize."""

    name = "layout"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Tables of indices, a padding value, what an integer concat or mean of pixels needs."""
        if key.op in ("gather", "pad", "resize"):
            return _tables(key)
        if key.op != "concat" or key.dtype == "f32" or key.variant.endswith(".same"):
            return ()
        return Const("factors", "f32", key.inputs), Const("qparams", "i32", key.inputs + 1)

    def divide(self, key: OpKey, target: TargetSpec) -> parts.Division:
        """Pieces along the outer axes apart; a mere copy is one run and stays whole."""
        return parts.even(target.threads, units_of(key), parts.pass_cycles(key))

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.layout_code import emit

        isa = isa_of(target)
        assert isa is not None
        sizes = {const.name: const.elements for const in self.consts(key, target)}
        return emit(self.function(key, target), isa, sizes)


LAYOUT = Layout()


def concat_parts(key: OpKey) -> tuple[int, tuple[int, ...]] | None:
    """Axis and sizes along it from a concat key's variant; None if it is not well formed."""
    axis, _, sizes = key.variant.removesuffix(".same").partition(".")
    numbers = sizes.split("-")
    if not axis.startswith("axis") or not all(n.isdigit() for n in (axis[4:], *numbers)):
        return None
    at, parts = int(axis[4:]), tuple(int(n) for n in numbers)
    if at >= len(key.out_shape) or len(parts) != key.inputs or sum(parts) != key.out_shape[at]:
        return None
    return at, parts


def units_of(key: OpKey) -> int:
    """Pieces that can be moved apart."""
    found = concat_parts(key) if key.op == "concat" else None
    if found is not None:
        return math.prod(key.out_shape[: found[0]])
    if key.op == "resize":
        return key.out_shape[0] if key.variant else key.in_shape[0]
    if key.op == "gather":
        return math.prod(key.in_shape[: int(key.variant.removeprefix("axis"))])
    if key.op == "slice":
        return key.out_shape[0] if nested_axes(key) else 1
    axes = permutation(key) if key.op == "transpose" else None
    return 1 if axes is None or axes == tuple(range(len(axes))) else key.out_shape[0]


def permutation(key: OpKey) -> tuple[int, ...] | None:
    """The axes of a transpose key's variant; None if it is not well formed."""
    numbers = key.variant.removeprefix("perm").split("-")
    if not key.variant.startswith("perm") or not all(n.isdigit() for n in numbers):
        return None
    axes = tuple(int(n) for n in numbers)
    return axes if sorted(axes) == list(range(len(key.in_shape))) else None


def _tables(key: OpKey) -> tuple[Const, ...]:
    if key.op == "pad":
        return (Const("value", key.dtype, 1),)
    if key.op == "gather":
        return (Const("index", "i32", key.out_shape[int(key.variant[4:])]),)
    if not key.variant:
        return ()
    lines = key.out_shape[0] + key.out_shape[1]
    if key.variant == "index":
        return (Const("index", "i32", lines),)
    found: tuple[Const, ...] = (Const("index", "i32", 2 * lines), Const("share", "f32", 2 * lines))
    if key.dtype == "i8":
        found += (Const("scales", "f32", 2), Const("qparams", "i32", 2))
    return found


def numbers(text: str, rank: int) -> tuple[int, ...] | None:
    """Whole numbers joined by dashes, one for each axis; None if there are others."""
    parts = text.split("-")
    if len(parts) != rank or not all(part.isdigit() for part in parts):
        return None
    return tuple(int(part) for part in parts)


def slice_of(key: OpKey) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Starts and steps of a slice key's variant; None if it leaves the input."""
    start, _, step = key.variant.partition(".")
    rank = len(key.in_shape)
    starts = numbers(start.removeprefix("start"), rank) if start.startswith("start") else None
    steps = numbers(step.removeprefix("step"), rank) if step else (1,) * rank
    if starts is None or steps is None or len(key.out_shape) != rank or min(steps) < 1:
        return None
    lasts = (a + (n - 1) * s for a, n, s in zip(starts, key.out_shape, steps, strict=True))
    fits = all(last < size for last, size in zip(lasts, key.in_shape, strict=True))
    return (starts, steps) if fits else None


def nested_axes(key: OpKey) -> int:
    """How many outer axes a slice is taken along one by one; those behind move as one run."""
    found = slice_of(key)
    assert found is not None
    steps, kept = found[1], len(key.in_shape)
    while kept and key.in_shape[kept - 1] == key.out_shape[kept - 1] and steps[kept - 1] == 1:
        kept -= 1
    return kept - 1 if kept and steps[kept - 1] == 1 else kept


def pads_of(key: OpKey) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Amounts before and after each axis from a pad key's variant; None if they do not fit."""
    before, _, after = key.variant.removeprefix("pad").partition(".")
    rank = len(key.in_shape)
    begins, ends = numbers(before, rank), numbers(after, rank)
    if begins is None or ends is None or not key.variant.startswith("pad"):
        return None
    sizes = tuple(a + n + z for a, n, z in zip(begins, key.in_shape, ends, strict=True))
    return (begins, ends) if sizes == key.out_shape else None


def _gathers(key: OpKey) -> bool:
    number = key.variant.removeprefix("axis")
    if not key.variant.startswith("axis") or not number.isdigit():
        return False
    axis, rank = int(number), len(key.in_shape)
    others = all(key.in_shape[i] == key.out_shape[i] for i in range(rank) if i != axis)
    return axis < rank == len(key.out_shape) and others


def _resizes(key: OpKey) -> bool:
    if len(key.in_shape) != 3 or len(key.out_shape) != 3 or key.in_shape[2] != key.out_shape[2]:
        return False
    if key.variant:
        return key.variant in ("index", "linear")
    return all(
        out % size == 0 for out, size in zip(key.out_shape[:2], key.in_shape[:2], strict=True)
    )


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Moving keys of one element type."""
    if isa_of(target) is None or key.dtype != key.out_dtype or key.dtype not in ("f32", "i8"):
        return None
    if key.activation != "none" or key.residual:
        return None
    same = elements(key.in_shape) == elements(key.out_shape)
    known = False
    if key.op == "copy":
        known = same
    elif key.op == "concat":
        known = concat_parts(key) is not None
    elif key.op == "transpose":
        axes = permutation(key)
        known = axes is not None and key.out_shape == tuple(key.in_shape[a] for a in axes)
    elif key.op == "resize":
        known = _resizes(key)
    elif key.op == "slice":
        known = slice_of(key) is not None
    elif key.op == "pad":
        known = pads_of(key) is not None
    elif key.op == "gather":
        known = len(key.in_shape) == len(key.out_shape) and _gathers(key)
    return LAYOUT if known and key.inputs == (key.inputs if key.op == "concat" else 1) else None

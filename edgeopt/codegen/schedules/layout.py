"""The template of kernels that move elements: copy, concat, transpose, resize."""

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
        """Factors and zero points of an integer concat."""
        if key.op != "concat" or key.dtype == "f32" or key.variant.endswith(".same"):
            return ()
        return Const("factors", "f32", key.inputs), Const("qparams", "i32", key.inputs + 1)

    def parts(self, key: OpKey, target: TargetSpec) -> int:
        """Pieces along the outer axes apart; a mere copy is one run and stays whole."""
        return parts.even(target.threads, units_of(key), parts.pass_cycles(key))

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.layout_code import emit

        isa = isa_of(target)
        assert isa is not None
        return emit(self.function(key, target), isa)


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
        return key.in_shape[0]
    axes = permutation(key) if key.op == "transpose" else None
    return 1 if axes is None or axes == tuple(range(len(axes))) else key.out_shape[0]


def permutation(key: OpKey) -> tuple[int, ...] | None:
    """The axes of a transpose key's variant; None if it is not well formed."""
    numbers = key.variant.removeprefix("perm").split("-")
    if not key.variant.startswith("perm") or not all(n.isdigit() for n in numbers):
        return None
    axes = tuple(int(n) for n in numbers)
    return axes if sorted(axes) == list(range(len(key.in_shape))) else None


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
        known = len(key.in_shape) == 3 and key.in_shape[2] == key.out_shape[2]
        known = known and all(
            out % size == 0 for out, size in zip(key.out_shape[:2], key.in_shape[:2], strict=True)
        )
    return LAYOUT if known else None

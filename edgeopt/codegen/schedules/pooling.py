"""The template of maximum, average and global average pooling, and of reductions of maps."""

from __future__ import annotations

from typing import Any

from edgeopt.codegen.schedules import parts
from edgeopt.codegen.schedules.isa import Isa, isa_of, known_isa
from edgeopt.codegen.schedules.shared import Shared, of_average
from edgeopt.codegen.schedules.template import BaseTemplate, Const, Template, elements
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

#: Vectors of channels pooled at once, to hide the latency of one addition.
_AT_ONCE = 4

OPS = ("maxpool", "avgpool", "global_avgpool", "reduce")
#: Those of which one window is the map.
WHOLE = ("global_avgpool", "reduce")


class Pooling(BaseTemplate):
    """Windows over vectors of channels."""

    name = "pooling"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Requantization of an integer average."""
        if key.dtype == "f32" or key.op == "maxpool" or key.variant in ("max", "min"):
            return ()
        count = key.kernel[0] * key.kernel[1] if is_uneven(key) else 1
        return Const("multiplier", "f32", count), Const("qparams", "i32", 4)

    def divide(self, key: OpKey, target: TargetSpec) -> parts.Division:
        """Rows apart; vectors of channels of a global average."""
        isa = isa_of(target)
        assert isa is not None
        windows = key.kernel[0] * key.kernel[1] if key.op not in WHOLE else 1
        cycles = elements(key.out_shape) * windows / isa.lanes + parts.pass_cycles(key)
        return parts.even(target.threads, units_of(key, isa), cycles)

    def shared(self, key: OpKey, target: TargetSpec) -> tuple[Shared, ...]:
        """The function that a global average is."""
        if key.op != "global_avgpool":
            return ()
        parts = self.divide(key, target).parts if target.threads > 1 else 1
        return of_average(key, known_isa(target), parts)

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.pooling_code import emit

        isa = isa_of(target)
        assert isa is not None
        return emit(self.function(key, target), isa)


def units_of(key: OpKey, isa: Isa) -> int:
    """Pieces that can be computed apart."""
    if key.op in WHOLE:
        return sum(times for _, times, _, _ in block_runs(key.in_shape[2], isa.lanes))
    return key.out_shape[0]


def block_runs(channels: int, lanes: int) -> list[tuple[int, int, int, int]]:
    """Runs over channels: (first channel, times, vectors at once, channels of the last)."""
    whole = channels // lanes
    full, rest = divmod(whole, _AT_ONCE)
    runs = []
    if full:
        runs.append((0, full, _AT_ONCE, lanes))
    if rest:
        runs.append((full * _AT_ONCE * lanes, 1, rest, lanes))
    if channels % lanes:
        runs.append((whole * lanes, 1, 1, channels % lanes))
    return runs


POOLING = Pooling()


def is_uneven(key: OpKey) -> bool:
    """Whether windows of an average are divided by different numbers of elements."""
    if key.op != "avgpool":
        return False
    if any(key.pads) and key.variant != "include":
        return True
    begins, ends = key.pads[:2], key.pads[2:]
    return any(  # rounding up lets the last windows hang over the edge
        (key.out_shape[i] - 1) * key.strides[i] + key.kernel[i] - begins[i]
        > key.in_shape[i] + ends[i]
        for i in range(2)
    )


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Pooling keys."""
    if key.op not in OPS or key.inputs != 1 or isa_of(target) is None or len(key.in_shape) != 3:
        return None
    if key.dtype != key.out_dtype or key.dtype not in ("f32", "i8"):
        return None
    if key.residual or key.activation != "none" or key.dilations != (1, 1):
        return None
    if key.op == "reduce" and key.variant not in ("sum", "max", "min"):
        return None
    return POOLING

"""Functions that kernels of many shapes share: what differs between shapes is a parameter.

A kernel is compiled for one shape. Where its inner loops gain nothing from that, they are such a
function instead, and the kernel is the loops around it. Each stands once in a network, however
many of its kernels call it; kernels are compiled and measured one by one with those they call.

What a function is called says all that its code depends on but for the target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from edgeopt.codegen.abi import SHARED
from edgeopt.codegen.schedules.depthwise_parts import block_runs
from edgeopt.codegen.schedules.depthwise_plan import Plan as DepthwisePlan
from edgeopt.codegen.schedules.depthwise_plan import overhang, paired_isa
from edgeopt.codegen.schedules.gemm_plan import Plan
from edgeopt.codegen.schedules.gemm_run import Run, run_of
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import is_table
from edgeopt.core.kernels import OpKey

#: Of so many bytes a call to look them up costs nothing.
_MANY_BYTES = 512
#: Elements at once of operators on two maps.
_SWEPT = 16
#: Channels whose constants are widened at once.
WIDEN_AT_ONCE = 8


class Shared(Protocol):
    """A function that kernels share."""

    def __hash__(self) -> int:
        """Equal functions are one."""

    @property
    def symbol(self) -> str:
        """Its name."""

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""


@dataclass(frozen=True, slots=True)
class Panel:
    """The int8 product of a staged chunk of pixels with some vectors of output channels."""

    pixels: int
    vectors: int
    bits: int
    lanes: int
    last: int  # output channels of the last vector
    rest: int  # steps of the reduction beyond whole turns of the inner loop

    @property
    def symbol(self) -> str:
        """Its name."""
        tile = f"{self.pixels}x{self.vectors}"
        return f"{SHARED}gemm_{tile}w{self.bits}l{self.last}of{self.lanes}r{self.rest}"

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        return f"panel{self.pixels}x{self.vectors}" + (f".w{self.bits}" if self.bits < 8 else "")

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import gemm_shared

        return gemm_shared.panel(self, replace(isa, lanes=self.lanes))


@dataclass(frozen=True, slots=True)
class Stage:
    """Copies activations, a multiple of eight, into scratch as products read them."""

    lanes: int

    @property
    def symbol(self) -> str:
        """Its name."""
        return f"{SHARED}stage{self.lanes}"

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        return "stage"

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import gemm_shared

        return gemm_shared.stage(self, isa)


@dataclass(frozen=True, slots=True)
class LookUp:
    """Replaces bytes, a multiple of eight, by their entries of a table."""

    permutes: bool  # see `Isa.byte_permute`

    @property
    def symbol(self) -> str:
        """Its name."""
        return f"{SHARED}{'permuted_' if self.permutes else ''}table"

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        return "table.permuted" if self.permutes else "table"

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import shared_code

        return shared_code.table_of(self, isa)


@dataclass(frozen=True, slots=True)
class Widen:
    """Brings words (`core.narrow`), whole eights, to biases and multipliers in scratch."""

    @property
    def symbol(self) -> str:
        """Its name."""
        return f"{SHARED}widen"

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        return "widen"

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import shared_code

        return shared_code.widen()


@dataclass(frozen=True, slots=True)
class Row:
    """An output row of an int8 depthwise convolution, for some blocks of ``valid`` channels.

    Of ``key`` and ``plan`` no more is used than the name says.
    """

    key: OpKey = field(compare=False)
    plan: DepthwisePlan = field(compare=False)
    valid: int
    symbol: str

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        width = "any" if self.plan.any_width else "of"
        half = ".half" if self.valid <= self.plan.lanes // 2 else ""
        return f"row{max(self.key.kernel)}{width}{half}"

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import depthwise_pairs

        return depthwise_pairs.row(self, paired_isa(isa))


def rows(key: OpKey, plan: DepthwisePlan) -> list[tuple[int, int, Row]]:
    """Runs over blocks of channels: (first, times, what computes a row of them)."""

    def text(name: str, pair: tuple[int, int]) -> str:
        return name + (f"{pair[0]}" if pair[0] == pair[1] else f"{pair[0]}_{pair[1]}")

    shape = "".join(map(text, ("k", "s", "d"), (key.kernel, key.strides, key.dilations)))
    if plan.any_width:
        shape += f"p{key.pads[1]}_{overhang(key)}"
    else:
        shape += f"w{key.in_shape[1]}to{key.out_shape[1]}p{key.pads[1]}"
    shape += f"x{plan.pixels}" + ("" if plan.pad_bytes else "u")
    return [
        (start, times, Row(key, plan, valid, f"{SHARED}row_{shape}c{valid}of{plan.lanes}"))
        for start, times, _, valid in block_runs(key, plan)
    ]


def of_rows(key: OpKey, plan: DepthwisePlan) -> tuple[Shared, ...]:
    """The functions that the kernel of a plan calls."""
    return tuple(dict.fromkeys(row for _, _, row in rows(key, plan)))


@dataclass(frozen=True, slots=True)
class Average:
    """The int8 mean of each channel over all pixels of a map, some vectors of channels at once."""

    vectors: int
    lanes: int

    @property
    def symbol(self) -> str:
        """Its name."""
        return f"{SHARED}average{self.vectors}x{self.lanes}"

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        return "average"

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import pooling_code

        return pooling_code.average(self, isa)


@dataclass(frozen=True, slots=True)
class Sweep:
    """An int8 operator on two maps, or on a map and a vector of its channels.

    Runs are whole turns of ``vectors`` vectors: since an output may lie over its input, nothing
    can be computed twice. Of ``key`` no more is used than the operator.
    """

    key: OpKey = field(compare=False)
    op: str
    vectors: int
    lanes: int

    @property
    def symbol(self) -> str:
        """Its name."""
        return f"{SHARED}{self.op}{self.vectors}x{self.lanes}"

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        return "sweep"

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import elementwise_code

        return elementwise_code.sweep(self, isa)


def of_average(key: OpKey, isa: Isa, parts: int) -> tuple[Average, ...]:
    """The function that a global average is."""
    if isa.arch != "x86_64" or not isa.compact or parts > 1 or key.precision != "i8":
        return ()
    vectors = min(key.in_shape[-1] // isa.lanes, 2)
    return (Average(vectors, isa.lanes),) if vectors else ()


def of_sweep(key: OpKey, isa: Isa, parts: int) -> tuple[Sweep, ...]:
    """The function that an operator on two maps is."""
    maps = key.inputs == 2 and key.dtype == key.out_dtype == "i8" and not key.variant
    if (
        isa.arch != "x86_64"
        or not isa.compact
        or parts > 1
        or not maps
        or key.op not in ("add", "mul", "scale")
    ):
        return ()
    run = key.in_shape[-1] if key.op == "scale" else math.prod(key.in_shape)
    return (Sweep(key, key.op, _SWEPT // isa.lanes, isa.lanes),) if run % _SWEPT == 0 else ()


def panels(plan: Plan, isa: Isa) -> Iterator[tuple[int, int, Panel, Run]]:
    """Runs of equal panels: (first vector, times, what computes it, its reduction)."""
    full, rest = divmod(plan.output_vectors, plan.vectors)
    last = plan.lanes
    if not plan.overlaps:
        last = plan.outputs - (plan.output_vectors - 1) * plan.lanes
    runs = [(0, full, plan.vectors, plan.lanes), (full * plan.vectors, 1, rest, last)]
    if not rest and last != plan.lanes:
        begin = (full - 1) * plan.vectors
        runs = [(0, full - 1, plan.vectors, plan.lanes), (begin, 1, plan.vectors, last)]
    for start, times, vectors, valid in runs:
        if times and vectors:
            run = run_of(plan, isa, vectors)
            yield (
                start,
                times,
                Panel(plan.pixels, vectors, plan.bits, plan.lanes, valid, run.rest),
                run,
            )


def of_panels(plan: Plan, isa: Isa) -> tuple[Shared, ...]:
    """The functions that the kernel of a plan calls."""
    found = {panel for _, _, panel, _ in panels(plan, isa)}
    return (*of_stage(plan, isa), *sorted(found, key=lambda panel: panel.symbol))


def of_stage(plan: Plan, isa: Isa) -> tuple[Stage, ...]:
    """The function that copies a chunk."""
    return (Stage(isa.lanes),) if plan.window.out_cols * plan.window.run % 8 == 0 else ()


def of_table(key: OpKey, isa: Isa, parts: int, count: int) -> tuple[Shared, ...]:
    """The function that a kernel calls which looks up ``count`` bytes of its output at a time."""
    worth = isa.compact or count >= _MANY_BYTES
    able = isa.byte_shuffle and isa.arch == "x86_64" and parts == 1 and count % 8 == 0
    used = key.dtype == "i8" and is_table(key.activation)
    return (LookUp(isa.byte_permute),) if able and used and worth else ()

"""Functions that kernels of many shapes share: what differs between shapes is a parameter.

A kernel is compiled for one shape. Where its inner loops gain nothing from that, they are such a
function instead, and the kernel is the loops around it. Each stands once in a network, however
many of its kernels call it; kernels are compiled and measured one by one with those they call.

What a function is called says all that its code depends on but for the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from edgeopt.codegen.abi import SHARED
from edgeopt.codegen.schedules.gemm_plan import Plan
from edgeopt.codegen.schedules.gemm_run import Run, run_of
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import is_table
from edgeopt.core.kernels import OpKey


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
    last: int  # output channels of the last vector
    rest: int  # steps of the reduction beyond whole turns of the inner loop

    @property
    def symbol(self) -> str:
        """Its name."""
        tile = f"{self.pixels}x{self.vectors}"
        return f"{SHARED}gemm_{tile}w{self.bits}l{self.last}r{self.rest}"

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        return f"panel{self.pixels}x{self.vectors}" + (f".w{self.bits}" if self.bits < 8 else "")

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import gemm_shared

        return gemm_shared.panel(self, isa)


@dataclass(frozen=True, slots=True)
class LookUp:
    """Replaces bytes, a multiple of eight, by their entries of a table."""

    @property
    def symbol(self) -> str:
        """Its name."""
        return f"{SHARED}table"

    @property
    def kind(self) -> str:
        """Its class in the estimates of code."""
        return "table"

    def primfunc(self, isa: Isa) -> Any:
        """Its code."""
        from edgeopt.codegen.schedules import shared_code

        return shared_code.table_of(self, isa)


def panels(plan: Plan, isa: Isa) -> Iterator[tuple[int, int, Panel, Run]]:
    """Runs of equal panels: (first vector, times, what computes it, its reduction)."""
    full, rest = divmod(plan.output_vectors, plan.vectors)
    last = plan.outputs - (plan.output_vectors - 1) * plan.lanes
    runs = [(0, full, plan.vectors, plan.lanes), (full * plan.vectors, 1, rest, last)]
    if not rest and last != plan.lanes:
        begin = (full - 1) * plan.vectors
        runs = [(0, full - 1, plan.vectors, plan.lanes), (begin, 1, plan.vectors, last)]
    for start, times, vectors, valid in runs:
        if times and vectors:
            run = run_of(plan, isa, vectors)
            yield start, times, Panel(plan.pixels, vectors, plan.bits, valid, run.rest), run


def of_panels(plan: Plan, isa: Isa) -> tuple[Shared, ...]:
    """The functions that the kernel of a plan calls."""
    found = {panel for _, _, panel, _ in panels(plan, isa)}
    return tuple(sorted(found, key=lambda panel: panel.symbol))


def of_table(key: OpKey, isa: Isa, parts: int, count: int) -> tuple[Shared, ...]:
    """The function that a kernel calls which looks up ``count`` bytes of its output at a time."""
    able = isa.byte_shuffle and isa.arch == "x86_64" and parts == 1 and count % 8 == 0
    return (LookUp(),) if able and key.dtype == "i8" and is_table(key.activation) else ()

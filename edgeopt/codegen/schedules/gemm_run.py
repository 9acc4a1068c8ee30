"""How often the inner loop of a product goes round; pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeopt.codegen.schedules import packing
from edgeopt.codegen.schedules.gemm_plan import Plan
from edgeopt.codegen.schedules.isa import Isa


@dataclass(frozen=True, slots=True)
class Run:
    """Turns of the inner loop, a number or an expression, and the steps that are left."""

    chunks: Any
    rest: int


def steps_at_once(plan: Plan, isa: Isa, vectors: int) -> int:
    """Steps of the reduction that the inner loop does at once."""
    # Reading whole vectors of activations must not run past the end of the run.
    chunk = 4 if isa.by_element and plan.split == 1 else plan.split
    return max(chunk, packing.steps_a_block(plan.bits, vectors)) if plan.is_packed else chunk


def run_of(plan: Plan, isa: Isa, vectors: int) -> Run:
    """The run of a plan."""
    return Run(*divmod(plan.window.run_packed // plan.pack, steps_at_once(plan, isa, vectors)))

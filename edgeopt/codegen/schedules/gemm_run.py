"""How often the inner loop of a product goes round; pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeopt.codegen.schedules import packing
from edgeopt.codegen.schedules.gemm_plan import Plan
from edgeopt.codegen.schedules.isa import Isa


@dataclass(frozen=True, slots=True)
class Run:
    """Activations that whole turns of the inner loop take, and one of them, and the steps left.

    Activations are numbers, or expressions of what is known as a program runs.
    """

    whole: Any
    turn: Any
    rest: int


def steps_at_once(plan: Plan, isa: Isa, vectors: int) -> int:
    """Steps of the reduction that the inner loop does at once."""
    # Reading whole vectors of activations must not run past the end of the run.
    chunk = 4 if isa.by_element and plan.split == 1 else plan.split
    return max(chunk, packing.steps_a_block(plan.bits, vectors)) if plan.is_packed else chunk


def run_of(plan: Plan, isa: Isa, vectors: int) -> Run:
    """The run of a plan."""
    chunk = steps_at_once(plan, isa, vectors)
    chunks, rest = divmod(plan.window.run_packed // plan.pack, chunk)
    return Run(chunks * chunk * plan.pack, chunk * plan.pack, rest)

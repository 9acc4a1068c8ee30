"""Into how many parts a kernel is divided, so that several threads can compute it.

A rough count of cycles decides: dividing must save clearly more than handing the work over costs.
What it counts need not be exact, since kernels near the border gain or lose next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeopt.codegen.schedules.isa import Isa
from edgeopt.core.kernels import OpKey

#: Cycles until all threads know that a kernel is done and have begun the next: two exchanges of a
#: cache line, and what the threads drift apart.
HANDOVER_CYCLES = 2000.0
#: A divided kernel must take at most this share of the undivided one's time.
WORTH = 0.9
#: Bytes a cycle that a core reads or writes of its own caches, and of another core's.
NEAR_BYTES, FAR_BYTES = 32.0, 8.0


@dataclass(frozen=True, slots=True)
class Division:
    """Into how many parts a kernel is divided, and what that is estimated to save."""

    parts: int
    saved_cycles: float


UNDIVIDED = Division(1, 0.0)


def best(threads: int, whole_cycles: float, part_cycles: Callable[[int], float]) -> Division:
    """The number of parts that is estimated to be fastest; 1 where dividing does not pay.

    Args:
        threads: that the network may use.
        whole_cycles: of the undivided kernel.
        part_cycles: of the slowest of so many parts.
    """
    found, least = 1, WORTH * whole_cycles
    for parts in range(2, threads + 1):
        cycles = part_cycles(parts) + HANDOVER_CYCLES
        if cycles < least:
            found, least = parts, cycles
    return Division(found, whole_cycles - least) if found > 1 else UNDIVIDED


def even(threads: int, units: int, whole_cycles: float) -> Division:
    """The same for a kernel of ``units`` equal pieces."""
    return best(threads, whole_cycles, lambda n: whole_cycles * -(-units // n) / units)


def largest_share(sizes: Sequence[int], parts: int) -> float:
    """What of all the work the slowest part has, if pieces have these sizes (see `emit.Units`)."""
    count = len(sizes)
    bounds = [part * count // parts for part in range(parts + 1)]
    shares = [sum(sizes[low:high]) for low, high in pairwise(bounds)]
    return max(shares) / sum(sizes)


def mac_cycles(key: OpKey, isa: Isa) -> float:
    """Multiplying and accumulating, at two thirds of two vectors a cycle (one on small cores)."""
    per_cycle = isa.lanes * (isa.pack if key.precision == "i8" else 1)
    ports = 2.0 if isa.arch == "x86_64" else 1.0
    return key.macs / (per_cycle * ports * 2 / 3)


def pass_cycles(key: OpKey, bytes_a_cycle: float = 8.0) -> float:
    """Reading the inputs and writing the output once, with some arithmetic between."""
    return key.activation_bytes / bytes_a_cycle

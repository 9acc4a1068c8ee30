"""Time from counted instructions or cycles: how microcontrollers are measured.

A counter says how many; this meter makes them nanoseconds. Under emulation the counts are exact
and repeat, so each kernel is counted once; what is uncertain is how many cycles an instruction
takes, which no repetition narrows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import Window

#: Counts some kernels; also says which cannot be counted, and why.
Counter = Callable[[Sequence[OpKey]], tuple[Mapping[OpKey, Sequence[int]], Mapping[OpKey, str]]]


@dataclass(slots=True)
class CountingMeter:
    """A meter over counts.

    Args:
        count: counts kernels of a batch.
        runtime_version: of the code generator.
        ns_per_count: nanoseconds a count stands for.
        batch: kernels an image of firmware holds.
        workers: batches that are counted at a time; ``count`` is then called from threads.
        progress: told (counted, to count).
    """

    count: Counter
    runtime_version: str
    ns_per_count: float
    runtime: str = "edgeopt"
    threads: int = 1
    batch: int = 48
    workers: int = 1
    progress: Callable[[int, int], None] | None = None
    counts: dict[OpKey, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def prepare(self, keys: Sequence[OpKey]) -> dict[OpKey, str]:
        """Count the kernels that were not counted yet."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self.counts]
        failed: dict[OpKey, str] = {}
        parts = [wanted[i : i + self.batch] for i in range(0, len(wanted), self.batch)]
        with ThreadPoolExecutor(self.workers) as pool:
            each = map(self.count, parts) if self.workers == 1 else pool.map(self.count, parts)
            for number, (found, reasons) in enumerate(each, start=1):
                failed.update(reasons)
                for key, values in found.items():
                    if not values or any(value <= 0 for value in values):
                        failed[key] = f"counted {list(values)[:3]}, which cannot be"
                    else:
                        self.counts[key] = tuple(values)
                if self.progress is not None:
                    self.progress(min(number * self.batch, len(wanted)), len(wanted))
        return failed

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Window]:
        """The times of kernels that were prepared.

        Raises:
            InputError: one was not.
        """
        for key in keys:
            if key not in self.counts:
                raise InputError("was not counted", where=str(key), hint="prepare it first")
            yield Window(key, tuple(self.ns_per_count * value for value in self.counts[key]))

"""A meter without hardware: it gives back what a recorded table holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import Window
from edgeopt.latency.table import LatencyTable


@dataclass(frozen=True, slots=True)
class ReplayMeter:
    """Every visit repeats the recorded median."""

    table: LatencyTable
    samples: int = 5

    @property
    def runtime(self) -> str:
        """The recorded runtime."""
        return self.table.runtime

    @property
    def runtime_version(self) -> str:
        """The recorded version."""
        return self.table.runtime_version

    @property
    def threads(self) -> int:
        """The recorded number of threads."""
        return self.table.threads

    def prepare(self, keys: Sequence[OpKey]) -> dict[OpKey, str]:
        """Keys that were not recorded cannot be replayed."""
        return {key: "not in the recorded table" for key in keys if key not in self.table.entries}

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Window]:
        """The recorded medians."""
        for key in keys:
            yield Window(key, (self.table.entries[key].median_ns,) * self.samples)

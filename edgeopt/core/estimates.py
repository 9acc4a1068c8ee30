"""Figures with their uncertainty and their source; nothing unknown counts as zero."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey


class Source(enum.StrEnum):
    """How a figure is known."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    ESTIMATED = "estimated"
    DATASHEET = "datasheet"
    COMPUTED = "computed"  # exact by construction: bytes of a memory plan, of a weight blob


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with a 90 % interval.

    `coverage` is the share of the value that comes from measurement (0 to 1).
    """

    value: float
    low: float
    high: float
    source: Source
    coverage: float = 1.0
    how: str = ""

    def __post_init__(self) -> None:
        finite = all(math.isfinite(v) for v in (self.value, self.low, self.high, self.coverage))
        if not finite or not self.low <= self.value <= self.high:
            raise InputError(f"estimate {self.low} <= {self.value} <= {self.high} does not hold")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a compiled network may cost; None means no constraint."""

    latency_ns: int | None = None
    ram_bytes: int | None = None
    flash_bytes: int | None = None
    min_accuracy: float | None = None  # 0..1

    def __post_init__(self) -> None:
        for name in ("latency_ns", "ram_bytes", "flash_bytes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} must be positive, not {value}", where="budget")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise InputError(
                f"accuracy {self.min_accuracy} is not between 0 and 1", where="budget",
                hint="write 0.75 or 75%",
            )  # fmt: skip


class LatencyModel(Protocol):
    """Predicts what a list of kernels takes on one device, runtime and thread count."""

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        """Latency in nanoseconds of running the kernels one after another."""
        ...

    def predict_each(self, keys: Sequence[OpKey]) -> list[Estimate]:
        """The same, kernel by kernel."""
        ...

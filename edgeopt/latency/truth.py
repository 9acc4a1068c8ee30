"""How a table's predictions came out on whole networks that nothing was fitted to.

These networks decide the interval of every later prediction: its half width is the error that 90 %
of them stay within, by the rank that makes this hold for the next network too (split conformal
prediction). A network that the table knows less of than it knew of these gets a wider one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.latency.fit import compare

LEVEL = 0.9
#: Fewer networks cannot bound 90 % of errors.
MIN_NETWORKS = 10


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A network that the table was not built from.

    `own` is what the table thought of its prediction's relative uncertainty from the kernels
    alone: noise of measured ones, errors of estimated ones.
    """

    name: str
    measured_ns: float
    predicted_ns: float
    own: float = 0.0

    def __post_init__(self) -> None:
        values = (self.measured_ns, self.predicted_ns, self.own)
        good = all(math.isfinite(value) for value in values)
        if not good or self.measured_ns <= 0 or self.predicted_ns <= 0 or self.own < 0:
            raise InputError(f"a held-out network cannot be {values}", where=self.name[:120])

    @property
    def log_ratio(self) -> float:
        """Logarithm of measured by predicted."""
        return math.log(self.measured_ns / self.predicted_ns)


@dataclass(frozen=True, slots=True)
class Truth:
    """Errors on held-out networks.

    Attributes:
        networks: how many.
        mape: mean absolute relative error.
        median_error: its median.
        worst_error: the largest, of the network `worst`.
        within_5: share of the predictions that are within 5 %.
        within_10: share within 10 %.
        spearman: rank correlation.
        interval: half width of the 90 % interval, of the logarithm of measured by predicted.
        covered: share of the networks that the interval made from the others holds.
        own: median of what the table thought of its uncertainty.
        rows: the networks.
    """

    networks: int
    mape: float
    median_error: float
    worst_error: float
    worst: str
    within_5: float
    within_10: float
    spearman: float
    interval: float
    covered: float
    own: float
    rows: tuple[HeldOut, ...]

    def __post_init__(self) -> None:
        values = (self.mape, self.median_error, self.worst_error, self.interval, self.covered)
        good = all(math.isfinite(value) and value >= 0 for value in (*values, self.own))
        if not good or self.networks != len(self.rows) or self.networks < 1:
            raise InputError(f"errors on {self.networks} held-out networks cannot be {values}")


def half_width(log_ratios: Sequence[float], level: float = LEVEL) -> float:
    """What ``level`` of such errors stay within, the next one included (where there are enough)."""
    ordered = sorted(abs(value) for value in log_ratios)
    rank = math.ceil((len(ordered) + 1) * level)
    return ordered[min(rank, len(ordered)) - 1]


def judge(rows: Sequence[HeldOut]) -> Truth:
    """The errors of held-out networks.

    Raises:
        InputError: fewer than `MIN_NETWORKS`.
    """
    if len(rows) < MIN_NETWORKS:
        raise InputError(
            f"{len(rows)} held-out networks are too few to know a table's error",
            hint=f"measure at least {MIN_NETWORKS}",
        )
    predicted = np.array([row.predicted_ns for row in rows])
    measured = np.array([row.measured_ns for row in rows])
    found = compare(predicted, measured)
    ratios = [row.log_ratio for row in rows]
    covered = [
        abs(value) <= half_width(ratios[:index] + ratios[index + 1 :])
        for index, value in enumerate(ratios)
    ]
    worst = max(rows, key=lambda row: abs(row.predicted_ns / row.measured_ns - 1))
    return Truth(
        networks=len(rows),
        mape=found.mape,
        median_error=found.median_error,
        worst_error=found.worst_error,
        worst=worst.name,
        within_5=found.within_5,
        within_10=found.within_10,
        spearman=found.spearman,
        interval=half_width(ratios),
        covered=float(np.mean(covered)),
        own=float(np.median([row.own for row in rows])),
        rows=tuple(rows),
    )

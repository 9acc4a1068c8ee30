"""From the samples of many visits to one figure with its spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeopt.latency.table import Measurement

OUTLIER = 3.0  # times the median
DISTURBED = 0.10  # a window this much slower than the kernel's best met something else
MIN_GOOD = 3


def summarise(windows: Sequence[Sequence[float]]) -> Measurement:
    """The median of undisturbed windows, and half the width of its 95 % interval.

    A window is disturbed when its median exceeds that of the best by more than `DISTURBED`; the
    `MIN_GOOD` best windows always count. Samples of one visit are alike in what disturbs them, so
    the interval is that of independent visits: from the order statistics of window medians where
    there are many, else their range.
    """
    ranked = sorted(windows, key=lambda window: float(np.median(window)))
    medians = [float(np.median(window)) for window in ranked]
    good = [m <= medians[0] * (1 + DISTURBED) for m in medians]
    count = max(sum(good), min(MIN_GOOD, len(medians)))
    samples = np.array([value for window in ranked[:count] for value in window])
    median = float(np.median(samples))
    low, high = medians[0], medians[count - 1]
    if count >= 6:
        reach = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
        low, high = medians[reach], medians[count - 1 - reach]
    every = np.array([value for window in windows for value in window])
    return Measurement(
        median_ns=median,
        spread_ns=(high - low) / 2,
        samples=len(every),
        outliers=int((every > OUTLIER * median).sum()),
        windows=len(windows),
        disturbed=len(windows) - count,
    )

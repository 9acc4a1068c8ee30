"""From what a tensor was seen to hold to its int8 scale and zero point.

Every range includes 0, so that zero padding and a clamp at 0 are exact. Three methods:

* ``minmax``: the whole range seen;
* ``percentile``: all but a small share of the values at either end;
* ``mse``: the range whose expected squared error is smallest. An error counts where it is felt:
  behind the function that reads the tensor, if one function alone does. So a tensor read by
  HardSwish wastes no step on values below -3, which all become 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeopt.core import activations
from edgeopt.core.affine import I8_MAX, I8_MIN
from edgeopt.core.errors import InputError, suggest
from edgeopt.core.network import Quant

Doubles = npt.NDArray[np.float64]

METHODS = ("percentile", "mse", "minmax")

#: Outside these inputs a function is constant to less than a step of any int8 output.
_FLAT: Mapping[str, tuple[float, float]] = {
    "hardswish": (-3.0, np.inf),
    "sigmoid": (-8.0, 8.0),
    "tanh": (-5.0, 5.0),
    "silu": (-12.0, np.inf),
    "gelu": (-5.0, np.inf),
    "elu": (-8.0, np.inf),
}


@dataclass(frozen=True, slots=True)
class Spread:
    """What a tensor held on the calibration images."""

    low: float
    high: float
    counts: npt.NDArray[np.int64]  # histogram over [low, high] in equal bins
    zeros: int  # how many values were exactly 0, which quantization never changes

    @property
    def centers(self) -> Doubles:
        """The middle of each bin."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return np.asarray((edges[:-1] + edges[1:]) / 2, np.float64)


Function = tuple[str, Mapping[str, object]]


def bounds(bits: int) -> tuple[int, int]:
    """Smallest and largest stored activation; few bits use the lower end of int8."""
    return I8_MIN, I8_MIN + 2**bits - 1


def quant_of(low: float, high: float, bits: int = 8) -> Quant:
    """The quantization of [low, high], widened to hold 0.

    >>> quant_of(0.0, 2.55)
    Quant(scale=0.009999999776482582, zero_point=-128)
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if not np.isfinite(high - low):
        raise InputError(
            f"range [{low}, {high}] is not finite",
            hint="check the calibration images and the weights for infinite values",
        )
    least, most = bounds(bits)
    scale = float(np.float32((high - low) / (most - least)))
    if scale < float(np.finfo(np.float32).tiny):  # a tensor that is always 0: any scale holds it
        return Quant(float(np.float32(1 / 128)), 0 if bits == 8 else least)
    zero_point = int(np.clip(np.rint(least - low / scale), least, most))
    return Quant(scale, zero_point)


def narrowed(quant: Quant, bits: int) -> Quant:
    """The same range in ``2 ** bits`` steps, which are the lowest of int8's.

    >>> narrowed(Quant(0.25, 0), 4)
    Quant(scale=4.25, zero_point=-120)
    """
    if bits == 8:
        return quant
    low, high = ((edge - quant.zero_point) * quant.scale for edge in (I8_MIN, I8_MAX))
    scale = float(np.float32((high - low) / (2**bits - 1)))
    zero = int(np.clip(np.rint(-low / scale), 0, 2**bits - 1))
    return Quant(scale, I8_MIN + zero)


def check_method(method: str) -> None:
    """Raise InputError for a method that does not exist."""
    if method not in METHODS:
        raise InputError(
            f"unknown calibration method {method!r}", hint=suggest(method, METHODS, noun="method")
        )


def choose(
    spread: Spread,
    method: str,
    *,
    percentile: float,
    reader: Function | None = None,
    bits: int = 8,
) -> tuple[float, float]:
    """The range (low, high) to quantize, including 0."""
    low, high = min(spread.low, 0.0), max(spread.high, 0.0)
    if reader is not None:
        floor, ceiling = _live(reader)
        low, high = max(low, min(floor, 0.0)), min(high, max(ceiling, 0.0))
    if method == "minmax" or low == high:
        return low, high
    if method == "percentile":
        inner = _quantiles(spread, percentile)
        return min(max(low, inner[0]), 0.0), max(min(high, inner[1]), 0.0)
    return _least_error(spread, low, high, reader, bits)


def _live(reader: Function) -> tuple[float, float]:
    """Bounds outside which the function no longer changes."""
    name, attrs = reader
    if name in activations.CLAMPS:
        return activations.bounds(name, attrs)
    if name == "hardsigmoid":
        slope, offset = attrs.get("alpha", 0.2), attrs.get("beta", 0.5)
        assert isinstance(slope, float) and isinstance(offset, float)
        if slope > 0:
            return -offset / slope, (1 - offset) / slope
    return _FLAT.get(name, (-np.inf, np.inf))


def _quantiles(spread: Spread, percentile: float) -> tuple[float, float]:
    """Values that a share of 1 - percentile/100 lies below and above."""
    share = 1.0 - percentile / 100.0
    total = np.cumsum(spread.counts) / spread.counts.sum()
    edges = np.linspace(spread.low, spread.high, len(spread.counts) + 1)
    first = int(np.searchsorted(total, share, side="right"))
    last = int(np.searchsorted(total, 1.0 - share, side="left"))
    return float(edges[first]), float(edges[min(last, len(spread.counts) - 1) + 1])


def _least_error(
    spread: Spread, low: float, high: float, reader: Function | None, bits: int
) -> tuple[float, float]:
    """Search shrunken ranges for the least expected squared error.

    Inside the range a value is off by a uniform error of one step, outside by its distance to
    the bound; both pass through ``reader``.
    """
    x = spread.centers
    counts = spread.counts.astype(np.float64)
    at_zero = int(np.clip(np.searchsorted(x, 0.0), 0, len(x) - 1))
    if spread.zeros:  # the bin that holds 0 is where its neighbour is closest
        at_zero = int(np.argmin(np.abs(x)))
    noisy = counts.copy()
    noisy[at_zero] = max(noisy[at_zero] - spread.zeros, 0.0)
    if reader is None:
        slope_squared = np.ones_like(x)

        def felt(v: Doubles) -> Doubles:
            return v
    else:
        name, attrs = reader

        def felt(v: Doubles) -> Doubles:
            found = activations.apply(name, v.astype(np.float32), attrs)
            return np.asarray(found, np.float64)

        slope_squared = np.gradient(felt(x), x) ** 2
    rounding = np.concatenate([[0.0], np.cumsum(noisy * slope_squared)]) / 12.0
    images = felt(x)

    def outside(bound: float, beyond: npt.NDArray[np.bool_]) -> float:
        if not beyond.any():
            return 0.0
        edge = felt(np.asarray([bound]))
        return float(np.sum(counts[beyond] * (images[beyond] - edge) ** 2))

    def search(lows: Doubles, highs: Doubles) -> tuple[float, float]:
        clipped_low = np.array([outside(v, x < v) for v in lows])
        clipped_high = np.array([outside(v, x > v) for v in highs])
        below = rounding[np.searchsorted(x, lows)]
        above = rounding[np.searchsorted(x, highs, side="right")]
        step = (highs[None, :] - lows[:, None]) / (2**bits - 1)
        noise = step**2 * (above[None, :] - below[:, None])
        error = clipped_low[:, None] + clipped_high[None, :] + noise
        i, j = np.unravel_index(int(np.argmin(error)), error.shape)
        return float(lows[i]), float(highs[j])

    share = np.linspace(1.0, 0.1, 46)
    best_low, best_high = search(low * share, high * share)
    near = np.linspace(0.98, 1.02, 17)
    return search(
        np.maximum(best_low * near, low) if low else np.zeros(1),
        np.minimum(best_high * near, high) if high else np.zeros(1),
    )

"""Where the representable weights lie: any width, one scale a tensor, channel or group of inputs.

`edgeopt.quant.weights` makes what is deployed, symmetric with one scale a channel. This module
knows every `LayerPrecision`, so that a plan which no kernel computes can still be judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import NEARLY_ZERO, is_odd, largest, nearest
from edgeopt.core.precision import LayerPrecision

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

METHODS = ("max", "mse")

#: Shares of the largest magnitude that the search for the least error tries, eight bits and fewer.
_SHARES = {8: np.linspace(1.0, 0.5, 26)}
_FEW = np.linspace(1.0, 0.15, 52)


@dataclass(frozen=True, slots=True)
class Grid:
    """Steps of weights: real = ``scale * (stored - zero)``, both one for each row of `rows`."""

    scale: Doubles  # [R, 1]
    zero: Doubles  # [R, 1]; whole numbers
    low: int
    high: int
    odd: bool = False  # integers are odd, and symmetric

    def store(self, rows: Doubles) -> Doubles:
        """The nearest steps, as whole numbers."""
        if self.odd:
            return nearest(rows / self.scale, 2).astype(np.float64)
        steps: Doubles = np.clip(np.rint(rows / self.scale + self.zero), self.low, self.high)
        return steps

    def real(self, stored: Doubles) -> Doubles:
        """What steps stand for."""
        found: Doubles = (stored - self.zero) * self.scale
        return found


def rows(weight: Floats, precision: LayerPrecision, *, where: str = "weights") -> Doubles:
    """Weights [O, I, ...] as rows that share a scale.

    Raises:
        InputError: inputs do not divide into groups.
    """
    wide = weight.astype(np.float64)
    if precision.granularity == "tensor":
        return wide.reshape(1, -1)
    if precision.granularity == "channel":
        return wide.reshape(len(wide), -1)
    inputs = weight.shape[1]
    if inputs % precision.group:
        raise InputError(
            f"{inputs} inputs do not divide into groups of {precision.group}",
            where=where,
            hint="choose a group size that divides them, or granularity 'channel'",
        )
    return wide.reshape(len(wide) * (inputs // precision.group), -1)


def fit(
    values: Doubles,
    precision: LayerPrecision,
    method: str = "mse",
    importance: Doubles | None = None,
) -> Grid:
    """The grid of each row.

    Args:
        values: what `rows` gave.
        precision: width and symmetry.
        method: ``max`` spans the largest value, ``mse`` takes the least squared error.
        importance: weights of the squared errors, of the shape of ``values``.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}")
    bits = precision.weight_bits
    odd = is_odd(bits, precision.symmetric)
    if precision.symmetric:
        high = largest(bits)
        low, ends = -high, (-np.abs(values).max(1, keepdims=True), None)
        top = -ends[0]
    else:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        top = np.maximum(values.max(1, keepdims=True), 0.0)
    bottom = -top if precision.symmetric else np.minimum(values.min(1, keepdims=True), 0.0)

    def spanning(share: float) -> Grid:
        width = (top - bottom) * share
        tiny = float(np.finfo(np.float32).tiny) * (high - low)
        alive = width > tiny
        usual = float(np.median(width[alive])) if alive.any() else 1.0
        usual *= NEARLY_ZERO if odd else 1.0
        scale = (np.where(alive, width, usual) / (high - low)).astype(np.float32)
        wide = scale.astype(np.float64)
        zero = np.zeros_like(wide)
        if not precision.symmetric:
            zero = np.clip(np.rint(low - bottom * share / wide), low, high)
        return Grid(wide, zero, low, high, odd)

    if method == "max":
        return spanning(1.0)
    weigh = np.ones((1, 1)) if importance is None else importance
    best, least = spanning(1.0), np.full((len(values), 1), np.inf)
    scale, zero = best.scale.copy(), best.zero.copy()
    for share in _SHARES.get(bits, _FEW):
        grid = spanning(float(share))
        error = (weigh * (grid.real(grid.store(values)) - values) ** 2).sum(1, keepdims=True)
        better = error < least
        least = np.where(better, error, least)
        scale, zero = np.where(better, grid.scale, scale), np.where(better, grid.zero, zero)
    return Grid(scale, zero, low, high, odd)


def rounded(
    weight: Floats, precision: LayerPrecision, method: str = "mse", *, where: str = "weights"
) -> Floats:
    """Weights [O, I, ...] as they are once stored in ``precision``: real numbers on the grid."""
    values = rows(weight, precision, where=where)
    grid = fit(values, precision, method)
    return grid.real(grid.store(values)).reshape(weight.shape).astype(np.float32)

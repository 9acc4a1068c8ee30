"""Times of kernels nobody measured, from measured ones of their class, with what is not known.

A class's time is physical costs (`analytic.TERMS`, fitted without negative ones) times a smooth
correction: a Gaussian process over the logarithms of shapes and the few things that change how
code runs (tails of vectors, strides, activations). It says how far off it may be, and how much
measuring one kernel would tell of the others: both need the shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import features
from edgeopt.latency.fit import Matrix, fit_costs

SPILL_BYTES = 262_144
#: A standard normal number is within so much of 0 nine times in ten.
Z90 = 1.645

#: What is tried for a class: how far the correction reaches (in factors of two of a shape), how
#: large it is, and how much of a time is neither costs nor correction (logarithms).
_REACH = (1.0, 2.0, 4.0)
_SIZE = (0.1, 0.25, 0.6)
_NOISE = (0.01, 0.03, 0.08)
_MOST = 400  # kernels that a correction is fitted to; more would be slow and tell little

_OPS: dict[str, float] = {}


def _tail(count: int, step: int) -> float:
    """How much of the last vector is unused."""
    return (-count % step) / step


def shape_features(keys: Sequence[OpKey]) -> Matrix:
    """What the correction of `ClassModel` depends on, [keys, features]; lengths are logarithms."""
    rows = []
    for key in keys:
        c_in, c_out = key.in_shape[-1], key.out_shape[-1]
        before, after = math.prod(key.in_shape[:-1]), math.prod(key.out_shape[:-1])
        smooth = any(name in key.activation for name in ("swish", "sigmoid", "lut"))
        rows.append(
            [
                math.log2(c_in), math.log2(c_out), math.log2(after), math.log2(before / after),
                math.log2(key.kernel[0] * key.kernel[1]), 2.0 * (key.strides[0] > 1),
                _tail(c_out, 8), _tail(c_out, 16), _tail(c_in, 8), _tail(after, 4),
                float(key.inputs), float(key.residual), float(key.activation != "none"),
                2.0 * smooth, 2.0 * (key.out_dtype != key.dtype),
                4.0 * _op_number(key.op),
            ]
        )  # fmt: skip
    return np.array(rows, dtype=np.float64).reshape(len(keys), -1)


def _op_number(op: str) -> float:
    """Operators of one class are far from each other."""
    from edgeopt.core.kernels import KERNEL_OPS

    if not _OPS:
        _OPS.update((name, float(index)) for index, name in enumerate(sorted(KERNEL_OPS)))
    return _OPS[op]


def cost_terms(keys: Sequence[OpKey]) -> Matrix:
    """What the physical costs are multiplied with, [keys, terms]."""
    return np.array([features(key, SPILL_BYTES) for key in keys], dtype=np.float64)


def covariance(a: Matrix, b: Matrix, reach: float) -> Matrix:
    """Matérn 3/2 between points: smooth, yet with corners where code changes."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    distance = np.sqrt(np.maximum(squared, 0.0)) * (math.sqrt(3) / reach)
    found: Matrix = (1 + distance) * np.exp(-distance)
    return found


@dataclass(frozen=True, slots=True)
class ClassModel:
    """Times of the kernels of one class in one precision.

    `predict` gives nanoseconds and the standard deviation of their logarithm.
    """

    factors: Matrix  # of the physical costs
    points: Matrix  # shape features of what it was fitted to
    weights: Matrix  # inverse covariance times what costs left over
    inverse: Matrix  # of the covariance
    mean: float
    reach: float
    size: float
    noise: float
    calm: float  # what deviations are multiplied with, so that left-out kernels are within them
    low: float  # 5 % and 95 % quantiles of measured / predicted of left-out kernels
    high: float

    def predict(self, keys: Sequence[OpKey]) -> tuple[Matrix, Matrix]:
        """Nanoseconds, and the standard deviation of their logarithm."""
        cross = self.size**2 * covariance(shape_features(keys), self.points, self.reach)
        base = costs(self.factors, keys)
        spread = self.size**2 - np.einsum("ij,jk,ik->i", cross, self.inverse, cross)
        deviation = self.calm * np.sqrt(np.maximum(spread, 0.0) + self.noise**2)
        return base * np.exp(self.mean + cross @ self.weights), deviation


def costs(factors: Matrix, keys: Sequence[OpKey]) -> Matrix:
    """The physical costs in nanoseconds."""
    found: Matrix = np.maximum(cost_terms(keys) @ factors, 1.0)
    return found


def fit_class(keys: Sequence[OpKey], times: Matrix) -> ClassModel:
    """Fit one class (at least two kernels; more than `_MOST` are thinned out)."""
    if len(keys) > _MOST:
        kept = np.random.default_rng(0).permutation(len(keys))[:_MOST]
        keys, times = [keys[i] for i in kept], times[kept]
    factors = fit_costs(cost_terms(keys), times)
    left = np.log(times / costs(factors, keys))
    mean = float(np.median(left))
    points = shape_features(keys)
    count = len(keys)
    best: tuple[float, float, float, float, Matrix] | None = None
    for reach in _REACH:
        # One decomposition serves all sizes and noises.
        scales, vectors = np.linalg.eigh(covariance(points, points, reach))
        scales = np.maximum(scales, 0.0)
        turned = vectors.T @ (left - mean)
        for size in _SIZE:
            for noise in _NOISE:
                variances = size**2 * scales + noise**2
                evidence = -0.5 * float((turned**2 / variances).sum() + np.log(variances).sum())
                if best is None or evidence > best[0]:
                    best = (evidence, reach, size, noise, (vectors / variances) @ vectors.T)
    assert best is not None
    _, reach, size, noise, inverse = best
    weights = inverse @ (left - mean)
    # What each kernel would have been predicted as, had it been left out (Dubrule 1983).
    errors = weights / np.diag(inverse)
    deviations = np.sqrt(1 / np.diag(inverse))
    calm = float(np.quantile(np.abs(errors) / deviations, 0.9)) / Z90 if count >= 10 else 1.5
    low, high = np.quantile(np.exp(errors), [0.05, 0.95]) if count >= 6 else (0.3, 3.0)
    return ClassModel(
        factors, points, weights, inverse, mean, reach, size, noise, min(max(calm, 1.0), 3.0),
        min(1.0, float(low)), max(1.0, float(high)),
    )  # fmt: skip

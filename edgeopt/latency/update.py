"""From measurements to a core's costs: the most probable factors, and how sure they are.

Times are sums of costs, costs are exponentials of sums of factors, factors are normal around what
the facts say. Errors of measurement and model are taken as Student's t with four degrees of
freedom, so that a wild row does not bend the rest. The maximum is found by
damped Gauss-Newton steps; its curvature gives the covariance.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.latency.fit import Matrix
from edgeopt.latency.prior import LOADINGS

_FREEDOM = 4.0
_STEPS = 60
_ENOUGH = 6  # rows that can tell which of them is wild
_TINY = 1e-6
_MAX_FACTOR = 12.0  # a cost is at most so many natural logarithms from its base
#: Relative error of the model on one unit before anything is known, worth `_NOISE_ROWS` rows.
NOISE = 0.12
_NOISE_ROWS = 4.0
_LEAST_NOISE = 0.01
#: Beyond so many rows, groups of them are left out at a time instead of single ones.
MAX_FOLDS = 20
#: The 90 % interval of a normal distribution.
Z90 = 1.6448536269514722


@dataclass(frozen=True, slots=True)
class Belief:
    """What is held of the factors: a normal distribution, and the error around predictions."""

    mean: Matrix  # [factors]
    covariance: Matrix  # [factors, factors]
    noise: float = NOISE  # relative standard deviation of a unit's time around the prediction

    def costs(self, base: Matrix) -> Matrix:
        """The most probable costs."""
        return costs_of(base, self.mean)


@dataclass(frozen=True, slots=True)
class Learnt:
    """A belief, and how it did on rows left out."""

    belief: Belief
    left_out: Matrix  # predictions [rows] of rows not fitted
    deviation: Matrix  # their relative standard deviations
    folds: int


def costs_of(base: Matrix, factors: Matrix) -> Matrix:
    """Costs [WIDTH] at some factors."""
    costs: Matrix = base * np.exp(np.clip(LOADINGS @ factors, -_MAX_FACTOR, _MAX_FACTOR))
    return costs


def spread_of(work: Matrix, costs: Matrix, belief: Belief) -> Matrix:
    """Relative standard deviations of rows ``work`` [N,WIDTH], the error of the model included."""
    total = np.maximum(np.abs(work @ costs), 1e-12)
    slope = (work * costs) @ LOADINGS / total[:, None]
    variance = np.einsum("nf,fg,ng->n", slope, belief.covariance, slope)
    spread: Matrix = np.sqrt(np.maximum(variance, 0.0) + belief.noise**2)
    return spread


def maximum(
    work: Matrix,
    times: Matrix,
    base: Matrix,
    prior: Belief,
    noise: float,
    start: Matrix | None = None,
) -> Belief:
    """The most probable factors after rows ``work`` [N,WIDTH] took ``times`` [N].

    Args:
        work: what was done.
        times: how long it took.
        base: costs at no factors.
        prior: what was held before.
        noise: relative error of the rows.
        start: factors near the answer, if any are known.
    """
    rows = _Rows(work, times, base, noise)
    # Only other rows tell a wild row from a wrong prior: first all are taken at their word.
    factors, curvature = _descend(rows, prior, math.inf, prior.mean if start is None else start)
    if len(times) >= _ENOUGH:
        factors, curvature = _descend(rows, prior, _FREEDOM, factors)
    covariance = np.linalg.inv(curvature).astype(np.float64)
    return Belief(factors, covariance, noise)


class _Rows:
    """Measurements as errors in standard deviations, and how they change with the factors.

    The error of a sum is the logarithm of predicted / measured; that of a difference, which may be
    predicted negative, is relative to the time.
    """

    def __init__(self, work: Matrix, times: Matrix, base: Matrix, noise: float) -> None:
        used = np.abs(work).max(axis=0, initial=0.0) > 0
        self._work = (work / times[:, None])[:, used]
        self._loadings, self._base, self._noise = LOADINGS[used], base[used], noise
        self._sums = (work >= 0).all(axis=1)

    def errors(self, factors: Matrix) -> Matrix:
        """[N]."""
        return self._errors(self._work @ self._costs(factors))

    def errors_and_slope(self, factors: Matrix) -> tuple[Matrix, Matrix]:
        """[N] and [N,factors]."""
        costs = self._costs(factors)
        ratio = self._work @ costs
        slope: Matrix = (self._work * costs) @ self._loadings
        slope /= np.where(self._sums, np.maximum(ratio, _TINY), 1.0)[:, None] * self._noise
        return self._errors(ratio), slope

    def _costs(self, factors: Matrix) -> Matrix:
        logs = np.clip(self._loadings @ factors, -_MAX_FACTOR, _MAX_FACTOR)
        costs: Matrix = self._base * np.exp(logs)
        return costs

    def _errors(self, ratio: Matrix) -> Matrix:
        logs = np.log(np.maximum(ratio, _TINY))
        errors: Matrix = np.where(self._sums, logs, ratio - 1) / self._noise
        return errors


def _descend(rows: _Rows, prior: Belief, freedom: float, start: Matrix) -> tuple[Matrix, Matrix]:
    """Factors of the highest probability, and the curvature there; infinite freedom is normal."""
    inverse = np.linalg.inv(prior.covariance)

    def badness(factors: Matrix) -> float:
        off2 = rows.errors(factors) ** 2
        wild = math.isfinite(freedom)
        data = (freedom + 1) * np.log1p(off2 / freedom).sum() if wild else off2.sum()
        away = factors - prior.mean
        return float(data + away @ inverse @ away)

    factors, damping = start.copy(), 1e-3
    best, curvature = badness(factors), inverse
    for _ in range(_STEPS):
        off, slope = rows.errors_and_slope(factors)
        weight = np.ones_like(off)
        if math.isfinite(freedom):
            weight = (freedom + 1) / (freedom + off * off)
        curvature = (slope.T * weight) @ slope + inverse
        gradient = slope.T @ (weight * off) + inverse @ (factors - prior.mean)
        moved = 0.0
        for _ in range(12):
            damped = curvature + damping * np.diag(np.diag(curvature))
            step = np.clip(np.linalg.solve(damped, -gradient), -1.0, 1.0)
            value = badness(factors + step)
            if value < best:
                moved = best - value
                factors, best, damping = factors + step, value, max(damping / 5, 1e-9)
                break
            damping *= 5
        if moved < 1e-5 * (1 + abs(best)):
            break
    return factors, curvature.astype(np.float64)


def learn(
    work: Matrix,
    times: Matrix,
    base: Matrix,
    prior: Belief,
    alike: Sequence[Hashable] | None = None,
) -> Learnt:
    """Update a belief with measurements, and find its error on those left out.

    The error of the model is learnt with them: few rows leave it near that of the prior. Rows that
    are ``alike`` (equal marks, one a row) are left out together.
    """
    count = len(times)
    marks = list(range(count)) if alike is None else list(alike)
    distinct = {mark: place for place, mark in enumerate(dict.fromkeys(marks))}
    folds = min(MAX_FOLDS, len(distinct))
    groups = np.array([distinct[mark] % folds for mark in marks])
    noise = prior.noise
    full = None
    for _ in range(2):  # the error, then everything again with it
        full = maximum(work, times, base, prior, noise, None if full is None else full.mean)
        left_out, deviation = np.zeros(count), np.zeros(count)
        for group in range(folds):
            held = groups == group
            part = prior
            if folds > 1:
                part = maximum(work[~held], times[~held], base, prior, noise, full.mean)
            costs = part.costs(base)
            left_out[held] = work[held] @ costs
            deviation[held] = spread_of(work[held], costs, part)
        error = np.abs(left_out / times - 1)
        typical = 1.4826 * float(np.median(error))
        mixed = _NOISE_ROWS * prior.noise**2 + count * min(typical, 1.0) ** 2
        noise = max(_LEAST_NOISE, float(np.sqrt(mixed / (_NOISE_ROWS + count))))
        if folds == 1:
            noise = prior.noise
    assert full is not None
    final = maximum(work, times, base, prior, noise, full.mean)
    return Learnt(final, left_out, deviation, folds)


def carried(belief: Belief, measured: Belief, wanted: Belief, device: Matrix) -> Belief:
    """What a belief for one runtime says of another on the same device.

    Args:
        belief: of the runtime that was measured, now.
        measured: of that runtime, before any measurement (its covariance a diagonal).
        wanted: of the other runtime, likewise.
        device: deviations [factors] that both share.
    """
    shared, before = device**2, np.diag(measured.covariance)
    gain = shared / before
    reduction = np.diag(before) - belief.covariance
    covariance = wanted.covariance - gain[:, None] * reduction * gain[None, :]
    mean = wanted.mean + gain * (belief.mean - measured.mean)
    return Belief(mean, (covariance + covariance.T) / 2, wanted.noise)

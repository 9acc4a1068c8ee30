"""Which kernels to measure next: those that tell most, for what measuring them costs.

What is not known of a class is the covariance of its `classes.ClassModel`: it depends on which
shapes were measured, not on their times, so that the gain of measuring a kernel is known before.
The gain is how much less uncertain all kernels together become, each weighed by the share of time
that random networks spend in it. Kernels are taken greedily, by gain a second of building and
measuring, each time as if the ones before had been measured. The choice depends on what was
measured and on nothing else, so that a run that is cut off goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import CLASS_OF
from edgeopt.latency.classes import covariance, fit_class, shape_features
from edgeopt.latency.fit import Matrix

#: Before a class has this many measured kernels, its covariance is assumed.
MIN_ENTRIES = 6
_REACH, _SIZE, _NOISE = 2.0, 0.6, 0.03
#: Kernels of a class that are looked at: the most used ones where there are more.
_MOST = 1500


@dataclass(slots=True)
class _Class:
    """A class's kernels not measured yet, and how uncertain they are together."""

    keys: list[OpKey]
    weights: Matrix  # squared shares of the time
    costs_s: Matrix
    unknown: Matrix  # covariance of the logarithms of their times
    noise: float

    def gains(self) -> Matrix:
        """What measuring each would take from the weighed uncertainty of all, a second."""
        less = (self.weights[:, None] * self.unknown**2).sum(0)
        found: Matrix = less / (np.diag(self.unknown) + self.noise**2) / self.costs_s
        return found

    def take(self, index: int) -> OpKey:
        """As if that one had been measured."""
        column = self.unknown[:, index] / np.sqrt(self.unknown[index, index] + self.noise**2)
        kept = np.delete(np.arange(len(self.keys)), index)
        self.unknown = (self.unknown - np.outer(column, column))[np.ix_(kept, kept)]
        self.weights, self.costs_s = self.weights[kept], self.costs_s[kept]
        return self.keys.pop(index)


def choose(
    keys: Sequence[OpKey],
    measured: Mapping[OpKey, float],
    weights: Mapping[OpKey, float],
    cost_s: Callable[[OpKey], float],
    *,
    count: int,
    within_s: float | None = None,
) -> list[OpKey]:
    """The kernels to measure next, the most telling first.

    Args:
        keys: that could be measured.
        measured: nanoseconds of those that were.
        weights: of all: the time that a random network spends in a kernel, in any unit.
        cost_s: seconds that building and measuring a kernel takes.
        count: how many at most.
        within_s: what they may cost together; the first may cost more.
    """
    classes = _classes(keys, measured, weights, cost_s)
    chosen: list[OpKey] = []
    spent = 0.0
    gains = [group.gains() for group in classes]
    while len(chosen) < count:
        best = [(float(gain.max()), -at) for at, gain in enumerate(gains) if len(gain)]
        if not best:
            break
        at = -max(best)[1]
        key = classes[at].take(int(np.argmax(gains[at])))
        spent += cost_s(key)
        if within_s is not None and spent > within_s and chosen:
            break
        chosen.append(key)
        gains[at] = classes[at].gains()
    return chosen


def _classes(
    keys: Sequence[OpKey],
    measured: Mapping[OpKey, float],
    weights: Mapping[OpKey, float],
    cost_s: Callable[[OpKey], float],
) -> list[_Class]:
    groups: dict[tuple[str, str], tuple[list[OpKey], list[OpKey]]] = {}
    for key in sorted(set(keys) | set(measured)):
        name = ("irb" if key.parts else CLASS_OF[key.op], key.weight_type)
        groups.setdefault(name, ([], []))[key in measured].append(key)
    total = sum(weights.get(key, 0.0) for key in set(keys)) or 1.0
    found = []
    for _, (left, known) in sorted(groups.items()):
        if not left:
            continue
        left.sort(key=lambda key: (-weights.get(key, 0.0), key))
        left = left[:_MOST]
        reach, size, noise = _REACH, _SIZE, _NOISE
        if len(known) >= MIN_ENTRIES:
            fitted = fit_class(known, np.array([measured[key] for key in known]))
            reach, size, noise = fitted.reach, fitted.size * fitted.calm, fitted.noise
        points = shape_features(left)
        unknown = size**2 * covariance(points, points, reach)
        if known:
            given = shape_features(known)
            cross = size**2 * covariance(points, given, reach)
            inner = size**2 * covariance(given, given, reach) + noise**2 * np.eye(len(known))
            unknown = unknown - cross @ np.linalg.solve(inner, cross.T)
        np.fill_diagonal(unknown, np.maximum(np.diag(unknown), 1e-9))
        shares = np.array([weights.get(key, 0.0) / total for key in left])
        costs_s = np.array([max(cost_s(key), 1e-3) for key in left])
        found.append(_Class(left, shares**2, costs_s, unknown, noise))
    return found

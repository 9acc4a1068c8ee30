"""Costs of thousands of candidates at a glance: what is worth costing exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from edgeopt.core.estimates import Budget
from edgeopt.ofa.nsga import Floats, Genes

#: Latency in nanoseconds, bytes of RAM and of flash of candidates by their genes, as two tables
#: [candidates, 3]: what is expected, and what it will be at the least (NaN: not known).
Screen: TypeAlias = Callable[[Sequence[Genes]], tuple[Floats, Floats]]


class CostModel:
    """A `Screen` of costs as sums over genes, fitted to what was costed.

    Args:
        cardinalities: how many values each gene takes.
        genes: of candidates that were costed.
        costs: their latency, RAM and flash [candidates, 3].
    """

    def __init__(self, cardinalities: Sequence[int], genes: Sequence[Genes], costs: Floats) -> None:
        self._cardinalities = cardinalities
        design = self._one_hot(genes)
        self._scale = np.maximum(np.abs(costs).max(0), 1.0)
        scaled = costs / self._scale
        ridge = 1e-6 * len(design) * np.eye(design.shape[1])
        self._weights = np.linalg.solve(design.T @ design + ridge, design.T @ scaled)
        self._spread = (scaled - design @ self._weights).std(0)

    def _one_hot(self, genes: Sequence[Genes]) -> Floats:
        table = np.asarray(genes, np.int64)
        columns = [table[:, [i]] == np.arange(n) for i, n in enumerate(self._cardinalities)]
        return np.concatenate([*columns, np.ones((len(table), 1))], 1).astype(np.float64)

    def __call__(self, genes: Sequence[Genes]) -> tuple[Floats, Floats]:
        """Expected costs, and least ones: two standard deviations below."""
        expected = self._one_hot(genes) @ self._weights
        return expected * self._scale, (expected - 2 * self._spread) * self._scale


def excess_of(budget: Budget, least: Floats, accuracy: Floats) -> Floats:
    """How far past the budget candidates are at the least (≤ 0: may fit), relative to it."""
    excess = np.full(len(accuracy), -math.inf)
    caps = (budget.latency_ns, budget.ram_bytes, budget.flash_bytes)
    for column, cap in enumerate(caps):
        if cap is not None:
            known = np.nan_to_num(least[:, column], nan=0.0)
            excess = np.maximum(excess, known / cap - 1)
    if budget.min_accuracy is not None:
        excess = np.maximum(excess, budget.min_accuracy - accuracy)
    return excess

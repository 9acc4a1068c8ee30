"""Fronts of accuracy, latency and flash."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgeopt.core.estimates import Budget
from edgeopt.ofa.evolve import evolve
from edgeopt.ofa.genes import Domain
from edgeopt.ofa.nsga import ranks
from edgeopt.ofa.pool import (
    POPULATION,
    Candidate,
    Costs,
    Pool,
    Start,
    T,
    objectives,
    spread,
)
from edgeopt.ofa.screen import Screen


def explore(
    domain: Domain[T],
    predictor: Callable[[Sequence[T]], npt.NDArray[np.float64]],
    cost: Callable[[T], Costs],
    budget: Budget,
    *,
    seed: int = 0,
    evaluations: int = 2500,
    start: Start | None = None,
    screen: Screen | None = None,
) -> tuple[Candidate[T], ...]:
    """What is best in accuracy, latency and flash at once: a screened evolution on all three.

    Arguments are those of `edgeopt.ofa.search.search`.

    Returns:
        Every candidate that was costed, in that order; `pareto` picks the best of them.

    Raises:
        InputError: ``evaluations`` is not positive.
    """
    pool = Pool(domain, predictor, cost, budget, evaluations)
    if domain.size <= evaluations:
        pool.add(domain.enumerate())
    else:
        rng = np.random.default_rng(seed)
        first = spread(domain, rng) if start is None else start(POPULATION, rng)
        evolve(pool, domain, rng, first, evaluations, flash=True, screen=screen)
    return tuple(pool.points.values())


def pareto(points: Sequence[Candidate[T]]) -> tuple[Candidate[T], ...]:
    """Feasible candidates that none beats in accuracy, latency and flash at once; fastest first."""
    feasible = [p for p in points if p.feasible]
    if not feasible:
        return ()
    table, violation = objectives(feasible, flash=True)
    front = [p for p, rank in zip(feasible, ranks(table, violation), strict=True) if rank == 0]
    return tuple(sorted(front, key=lambda p: (p.costs.latency.value, -p.accuracy)))

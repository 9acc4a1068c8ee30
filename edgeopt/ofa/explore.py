"""Fronts of accuracy, latency and flash."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgeopt.core.estimates import Budget
from edgeopt.ofa.genes import Domain
from edgeopt.ofa.nsga import Genes, offspring, ranks, survivors
from edgeopt.ofa.pool import (
    POPULATION,
    Candidate,
    Costs,
    Pool,
    Start,
    T,
    fitted,
    objectives,
    spread,
)

_PARENTS = 4 * POPULATION  # of all that was costed: a front of three objectives is wide
_CHILDREN = 16 * POPULATION  # screened a generation
_COSTED = POPULATION // 2  # of them


def explore(
    domain: Domain[T],
    predictor: Callable[[Sequence[T]], npt.NDArray[np.float64]],
    cost: Callable[[T], Costs],
    budget: Budget,
    *,
    seed: int = 0,
    evaluations: int = 2500,
    start: Start | None = None,
) -> tuple[Candidate[T], ...]:
    """What is best in accuracy, latency and flash at once: a screened evolution on all three.

    Predicted accuracy is nearly free and costs are not. So every generation has many more children
    than are costed: a model of costs, fitted to what was costed so far, and the predictor say
    which of them are likely to be on the front.

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
        _evolve(pool, domain, rng, spread(domain, rng) if start is None else start(POPULATION, rng))
    return tuple(pool.points.values())


def pareto(points: Sequence[Candidate[T]]) -> tuple[Candidate[T], ...]:
    """Feasible candidates that none beats in accuracy, latency and flash at once; fastest first."""
    feasible = [p for p in points if p.feasible]
    if not feasible:
        return ()
    table, violation = objectives(feasible, flash=True)
    front = [p for p, rank in zip(feasible, ranks(table, violation), strict=True) if rank == 0]
    return tuple(sorted(front, key=lambda p: (p.costs.latency.value, -p.accuracy)))


def _evolve(
    pool: Pool[T], domain: Domain[T], rng: np.random.Generator, first: Sequence[Genes]
) -> None:
    pool.add(first)
    idle = 0
    while not pool.full and idle < 20:
        known = list(pool.points)
        table, violation = objectives([pool.points[g] for g in known], flash=True)
        parents = [known[i] for i in survivors(table, violation, _PARENTS)]
        children = offspring(parents, domain.cardinalities, _CHILDREN, rng)
        fresh = [g for g in dict.fromkeys(map(domain.canonical, children)) if g not in pool.points]
        if not fresh:
            idle += 1
            continue
        idle = 0
        costs, _ = fitted(domain, pool)(fresh)
        likely = np.column_stack([-pool.predict(fresh), costs[:, 0], costs[:, 2]])
        # Beside what is known: a child that something known dominates is not worth its costs.
        ahead = table[ranks(table, violation) == 0]
        both = np.concatenate([ahead, likely])
        order = survivors(both, np.zeros(len(both)), len(both))
        chosen = [i - len(ahead) for i in order if i >= len(ahead)]
        pool.add([fresh[i] for i in chosen[:_COSTED]])

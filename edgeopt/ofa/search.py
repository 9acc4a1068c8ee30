"""The best subnet within a budget: exhaustive where the space is small, else evolution + descent.

Only the cost of a candidate is expensive (it is lowered to kernels to know it); its predicted
accuracy is nearly free. So evolution maps the trade-off between accuracy and latency, and the
descent afterwards ranks thousands of neighbours of the best candidate by predicted accuracy, costs
them in that order, and stops at the first that fits: the best of the neighbourhood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InfeasibleError
from edgeopt.core.estimates import Budget
from edgeopt.ofa.evolve import evolve
from edgeopt.ofa.genes import Domain
from edgeopt.ofa.nsga import Genes, offspring, survivors
from edgeopt.ofa.pool import (
    POPULATION,
    Candidate,
    Costs,
    Pool,
    Progress,
    Slack,
    Start,
    T,
    fitted,
    objectives,
    spread,
)
from edgeopt.ofa.screen import Screen, excess_of

_EVOLUTION_SHARE = 0.6  # of the evaluations; the rest is for the descent
_MOVES = 3000  # two-gene, and as many three-gene neighbours ranked around a centre of the descent
_TRIES = 24  # neighbours costed around one centre before it is given up
_CENTRES = 16  # of the best candidates, those whose neighbourhoods are looked at


@dataclass(frozen=True, slots=True)
class SearchResult(Generic[T]):
    """What a search found."""

    best: Candidate[T]
    evaluated: tuple[Candidate[T], ...]  # in the order they were costed
    front: tuple[Candidate[T], ...]  # feasible, none better in accuracy and latency; fastest first
    seed: int
    exhaustive: bool  # every candidate of the space was costed

    @property
    def slack(self) -> tuple[Slack, ...]:
        """Per constraint: the best candidate's figure and the limit."""
        return self.best.slack


class NoCandidateError(InfeasibleError, Generic[T]):
    """No candidate meets the budget; carries the nearest one and all that were tried."""

    def __init__(self, nearest: Candidate[T], evaluated: Sequence[Candidate[T]]) -> None:
        missed = ", ".join(str(s) for s in nearest.slack if not s.met)
        met = ", ".join(str(s) for s in nearest.slack if s.met)
        super().__init__(
            f"none of {len(evaluated)} candidates meets the budget; the nearest, {nearest.config}, "
            f"misses it by: {missed}" + (f" (within it: {met})" if met else ""),
            where="budget",
            hint="relax what it misses, or choose a faster device or a smaller search space",
        )
        self.nearest, self.evaluated = nearest, tuple(evaluated)


def search(
    domain: Domain[T],
    predictor: Callable[[Sequence[T]], npt.NDArray[np.float64]],
    cost: Callable[[T], Costs],
    budget: Budget,
    *,
    seed: int = 0,
    evaluations: int = 2500,
    progress: Progress | None = None,
    start: Start | None = None,
    screen: Screen | None = None,
) -> SearchResult[T]:
    """The candidate of highest predicted accuracy whose costs are within the budget.

    With a floor on accuracy and no limit on cost, it is the candidate of lowest latency instead.
    The same arguments give the same result.

    Args:
        domain: what can be chosen (see `edgeopt.ofa.genes.SubnetDomain`).
        predictor: predicted accuracies (0..1) of many candidates.
        cost: one candidate's costs; called once per distinct candidate.
        budget: the constraints.
        seed: of the search's own random numbers.
        evaluations: calls of ``cost`` at most.
        progress: told after every batch.
        start: the first population, where the domain knows better than a spread of sizes.
        screen: costs of many candidates at once: evolution then looks at thousands for each that
            is costed (`edgeopt.ofa.evolve`). Where none is given it costs every child, and the
            descent screens by sums over genes, fitted to what was costed.

    Raises:
        InputError: ``evaluations`` is not positive.
        NoCandidateError: nothing that was tried meets the budget.
    """
    pool = Pool(domain, predictor, cost, budget, evaluations, progress)
    exhaustive = domain.size <= evaluations
    if exhaustive:
        pool.add(domain.enumerate())
    else:
        rng = np.random.default_rng(seed)
        allowance = min(evaluations, max(1, int(evaluations * _EVOLUTION_SHARE)))
        first = spread(domain, rng) if start is None else start(POPULATION, rng)
        if screen is None:
            _evolve(pool, domain, rng, allowance, first)
        else:
            evolve(pool, domain, rng, first, allowance, flash=False, screen=screen)
        _descend(pool, domain, rng, screen)
        while _intensify(pool, domain, rng):
            _descend(pool, domain, rng, screen)
    points = list(pool.points.values())
    best = pool.best
    assert best is not None
    if not best.feasible:
        raise NoCandidateError(best, points)
    return SearchResult(best, tuple(points), front_of(points), seed, exhaustive)


def _evolve(
    pool: Pool[T],
    domain: Domain[T],
    rng: np.random.Generator,
    allowance: int,
    first: Sequence[Genes],
) -> None:
    """NSGA-II over accuracy and latency."""
    population = pool.add(list(first)[:allowance])
    idle = 0
    while len(pool.points) < allowance and idle < 20:
        table, violation = objectives([pool.points[g] for g in population], flash=False)
        parents = [population[i] for i in survivors(table, violation, POPULATION)]
        before = len(pool.points)
        children = offspring(parents, domain.cardinalities, POPULATION, rng)
        added = pool.add(children[: max(1, allowance - before)])
        idle = idle + 1 if len(pool.points) == before else 0
        population = list(dict.fromkeys([*parents, *added]))


def _intensify(pool: Pool[T], domain: Domain[T], rng: np.random.Generator) -> bool:
    """Recombine the best candidates, whatever their latency; whether anything new was costed."""
    allowance = min(pool.limit - len(pool.points), pool.limit // 5)
    before = len(pool.points)
    for _ in range(20):
        room = before + allowance - len(pool.points)
        if room <= 0:
            break
        parents = sorted(pool.points, key=lambda g: (pool.order(pool.points[g]), g))[:POPULATION]
        pool.add(offspring(parents, domain.cardinalities, POPULATION, rng)[:room])
    return len(pool.points) > before


def _descend(
    pool: Pool[T], domain: Domain[T], rng: np.random.Generator, screen: Screen | None
) -> None:
    """Move to better neighbours of the best candidates until none of theirs is better."""
    done: set[Genes] = set()
    while not pool.full:
        leaders = sorted(pool.points, key=lambda g: (pool.order(pool.points[g]), g))[:_CENTRES]
        centre = next((g for g in leaders if g not in done), None)
        if centre is None:
            return
        done.add(centre)
        best = pool.points[leaders[0]]
        moves = [m for m in _moves(domain, centre, rng) if m not in pool.points]
        if not moves:
            continue
        accuracy = pool.predict(moves)
        model = fitted(domain, pool) if screen is None else screen
        expected, least = model(moves)
        latency, excess = expected[:, 0], excess_of(pool.budget, least, accuracy)
        if best.feasible:
            gain = -latency if pool.fastest_wins else accuracy
            worth = (gain > pool.score(best)) & (excess <= 0)
            order = np.argsort(-gain, kind="stable")
        else:  # first of all, get within the budget
            worth = np.ones(len(moves), bool)
            order = np.argsort(excess, kind="stable")
        for index in [i for i in order if worth[i]][:_TRIES]:
            pool.add([moves[index]])
            found = pool.points.get(moves[index])
            if found is None or (best.feasible and found.feasible):
                break


def _moves(domain: Domain[T], centre: Genes, rng: np.random.Generator) -> list[Genes]:
    """Canonical neighbours: every change of one gene, samples of changes of two and of three."""
    values = domain.cardinalities
    single = [(i, v) for i, n in enumerate(values) for v in range(n) if v != centre[i]]
    if not single:
        return []
    changes = [[index] for index in range(len(single))]
    for width in (2, 3):
        changes += rng.integers(len(single), size=(_MOVES, width)).tolist()
    moves: dict[Genes, None] = {}
    for change in changes:
        genes = list(centre)
        for index in change:
            gene, value = single[index]
            genes[gene] = value
        moves[domain.canonical(tuple(genes))] = None
    moves.pop(centre, None)
    return list(moves)


def front_of(points: Sequence[Candidate[T]]) -> tuple[Candidate[T], ...]:
    """The feasible ones that none of the others beats in accuracy and latency; fastest first."""
    feasible = [p for p in points if p.feasible]
    front: list[Candidate[T]] = []
    for point in sorted(feasible, key=lambda p: (p.costs.latency.value, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return tuple(front)

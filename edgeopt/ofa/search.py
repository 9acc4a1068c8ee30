"""The best subnet within a budget: exhaustive where the space is small, else evolution + descent.

Only the cost of a candidate is expensive (it is lowered to kernels to know it); its predicted
accuracy is nearly free. So evolution maps the trade-off between accuracy and latency, and the
descent afterwards ranks thousands of neighbours of the best candidate by predicted accuracy, costs
them in that order, and stops at the first that fits: the best of the neighbourhood.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InfeasibleError, InputError
from edgeopt.core.estimates import Budget, Estimate
from edgeopt.core.units import show_duration, show_size
from edgeopt.ofa.genes import Domain
from edgeopt.ofa.nsga import Floats, Genes, offspring, ranks, survivors
from edgeopt.ofa.screen import CostModel, Screen, excess_of

T = TypeVar("T", bound=Hashable)

#: First genes of an evolution: ``start(count, rng)``.
Start = Callable[[int, np.random.Generator], Sequence[Genes]]

#: ``progress(done, planned, best)``; ``best`` is the predicted accuracy, None while nothing fits.
Progress = Callable[[int, int, float | None], None]

_POPULATION = 96
_EVOLUTION_SHARE = 0.6  # of the evaluations; the rest is for the descent
_MOVES = 3000  # two-gene, and as many three-gene neighbours ranked around a centre of the descent
_TRIES = 24  # neighbours costed around one centre before it is given up
_CENTRES = 16  # of the best candidates, those whose neighbourhoods are looked at


@dataclass(frozen=True, slots=True)
class Costs:
    """What running a candidate takes on the target, from lowering it to kernels."""

    latency: Estimate  # nanoseconds
    ram_bytes: int
    flash_bytes: int


@dataclass(frozen=True, slots=True)
class Slack:
    """One constraint of the budget beside a candidate's figure."""

    name: str  # a field of Budget
    value: float
    limit: float

    @property
    def excess(self) -> float:
        """How far past the limit, relative to it; negative is room left."""
        if self.name == "min_accuracy":
            return (self.limit - self.value) / self.limit if self.limit else -self.value
        return self.value / self.limit - 1

    @property
    def met(self) -> bool:
        """Whether the constraint holds."""
        return self.value >= self.limit if self.name == "min_accuracy" else self.value <= self.limit

    def __str__(self) -> str:
        if self.name == "min_accuracy":
            sign = "≥" if self.met else "<"
            return f"accuracy {self.value:.2%} {sign} {self.limit:.2%}"
        show = show_duration if self.name == "latency_ns" else show_size
        noun = {"latency_ns": "latency", "ram_bytes": "RAM", "flash_bytes": "flash"}[self.name]
        return f"{noun} {show(self.value)} {'≤' if self.met else '>'} {show(self.limit)}"


@dataclass(frozen=True, slots=True)
class Candidate(Generic[T]):
    """A point of the space with its estimates; ``config`` is whatever the domain decodes to."""

    config: T
    accuracy: float  # predicted, 0..1
    costs: Costs
    slack: tuple[Slack, ...]  # per constraint of the budget

    @property
    def feasible(self) -> bool:
        """Whether every constraint holds."""
        return all(s.met for s in self.slack)

    @property
    def violation(self) -> float:
        """Sum of the relative excesses; 0 when feasible."""
        return sum(max(s.excess, 1e-12) for s in self.slack if not s.met)


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
    """No candidate meets the budget; carries the nearest one."""

    def __init__(self, nearest: Candidate[T], searched: int) -> None:
        missed = ", ".join(str(s) for s in nearest.slack if not s.met)
        met = ", ".join(str(s) for s in nearest.slack if s.met)
        super().__init__(
            f"none of {searched} candidates meets the budget; the nearest, {nearest.config}, "
            f"misses it by: {missed}" + (f" (within it: {met})" if met else ""),
            where="budget",
            hint="relax what it misses, or choose a faster device or a smaller search space",
        )
        self.nearest = nearest


def slack_of(accuracy: float, costs: Costs, budget: Budget) -> tuple[Slack, ...]:
    """A candidate's figures beside every constraint that the budget has."""
    figures = (
        ("latency_ns", costs.latency.value),
        ("ram_bytes", costs.ram_bytes),
        ("flash_bytes", costs.flash_bytes),
        ("min_accuracy", accuracy),
    )
    return tuple(
        Slack(name, float(value), float(limit))
        for name, value in figures
        if (limit := getattr(budget, name)) is not None
    )


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
        screen: costs of many candidates at once, in the order of the columns of
            `edgeopt.ofa.screen`; fitted to what was costed where none is given.

    Raises:
        InputError: ``evaluations`` is not positive.
        NoCandidateError: nothing that was tried meets the budget.
    """
    _check(evaluations)
    pool = _Pool(domain, predictor, cost, budget, evaluations, progress)
    exhaustive = domain.size <= evaluations
    if exhaustive:
        pool.add(domain.enumerate())
    else:
        rng = np.random.default_rng(seed)
        allowance = min(evaluations, max(1, int(evaluations * _EVOLUTION_SHARE)))
        _evolve(pool, domain, rng, allowance, start)
        _descend(pool, domain, rng, screen)
        while _intensify(pool, domain, rng):
            _descend(pool, domain, rng, screen)
    points = list(pool.points.values())
    best = pool.best
    assert best is not None
    if not best.feasible:
        raise NoCandidateError(best, len(points))
    return SearchResult(best, tuple(points), _front(points), seed, exhaustive)


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
    """What is best in accuracy, latency and flash at once: an evolution on all three.

    Arguments are those of `search`.

    Returns:
        Every candidate that was costed, in that order; `pareto` picks the best of them.

    Raises:
        InputError: ``evaluations`` is not positive.
    """
    _check(evaluations)
    pool = _Pool(domain, predictor, cost, budget, evaluations, None)
    if domain.size <= evaluations:
        pool.add(domain.enumerate())
    else:
        rng = np.random.default_rng(seed)
        _evolve(pool, domain, rng, evaluations, start, flash=True)
    return tuple(pool.points.values())


def pareto(points: Sequence[Candidate[T]]) -> tuple[Candidate[T], ...]:
    """Feasible candidates that none beats in accuracy, latency and flash at once; fastest first."""
    feasible = [p for p in points if p.feasible]
    if not feasible:
        return ()
    objectives, violation = _objectives(feasible, flash=True)
    front = [p for p, rank in zip(feasible, ranks(objectives, violation), strict=True) if rank == 0]
    return tuple(sorted(front, key=lambda p: (p.costs.latency.value, -p.accuracy)))


def _check(evaluations: int) -> None:
    if evaluations < 1:
        raise InputError(f"cannot search with {evaluations} evaluations", hint="allow at least 1")


class _Pool(Generic[T]):
    """Every candidate costed so far, by canonical genes."""

    def __init__(
        self,
        domain: Domain[T],
        predictor: Callable[[Sequence[T]], npt.NDArray[np.float64]],
        cost: Callable[[T], Costs],
        budget: Budget,
        limit: int,
        progress: Progress | None,
    ) -> None:
        self.points: dict[Genes, Candidate[T]] = {}
        self.best: Candidate[T] | None = None
        self.limit = limit
        self.budget = budget
        self._domain, self._predictor, self._cost = domain, predictor, cost
        self._progress = progress
        caps = (budget.latency_ns, budget.ram_bytes, budget.flash_bytes)
        self.fastest_wins = budget.min_accuracy is not None and all(c is None for c in caps)

    @property
    def full(self) -> bool:
        return len(self.points) >= self.limit

    def score(self, point: Candidate[T]) -> float:
        """What the search maximises among feasible candidates."""
        return -point.costs.latency.value if self.fastest_wins else point.accuracy

    def order(self, point: Candidate[T]) -> tuple[float, float, float]:
        """Sort key, best first: feasible, then score, then latency."""
        return point.violation, -self.score(point), point.costs.latency.value

    def predict(self, genes: Sequence[Genes]) -> Floats:
        """Predicted accuracies, checked."""
        configs = [self._domain.decode(g) for g in genes]
        accuracy = np.asarray(self._predictor(configs), np.float64)
        if accuracy.shape != (len(genes),) or not np.isfinite(accuracy).all():
            raise ValueError("the predictor must give one finite accuracy per candidate")
        return accuracy

    def add(self, genes: Iterable[Genes], accuracy: Floats | None = None) -> list[Genes]:
        """Cost those not seen yet, as far as the limit allows; gives the canonical genes costed."""
        canonical = [self._domain.canonical(g) for g in genes]
        fresh = [g for g in dict.fromkeys(canonical) if g not in self.points]
        fresh = fresh[: self.limit - len(self.points)]
        if fresh:
            for key, predicted in zip(fresh, self.predict(fresh), strict=True):
                config = self._domain.decode(key)
                costs = self._cost(config)
                value = float(predicted)
                slack = slack_of(value, costs, self.budget)
                point = Candidate(config, value, costs, slack)
                self.points[key] = point
                if self.best is None or self.order(point) < self.order(self.best):
                    self.best = point
        if self._progress is not None:
            best = self.best
            shown = best.accuracy if best is not None and best.feasible else None
            self._progress(len(self.points), min(self.limit, self._domain.size), shown)
        return [g for g in dict.fromkeys(canonical) if g in self.points]


def _objectives(points: Sequence[Candidate[T]], *, flash: bool) -> tuple[Floats, Floats]:
    table = np.array(
        [(-p.accuracy, p.costs.latency.value, p.costs.flash_bytes) for p in points], np.float64
    )
    return table if flash else table[:, :2], np.array([p.violation for p in points])


def _evolve(
    pool: _Pool[T],
    domain: Domain[T],
    rng: np.random.Generator,
    allowance: int,
    start: Start | None,
    *,
    flash: bool = False,
) -> None:
    """NSGA-II over accuracy and latency, perhaps flash, from extremes and a spread of sizes."""
    first = _spread(domain, rng) if start is None else start(_POPULATION, rng)
    population = pool.add(list(first)[:allowance])
    idle = 0
    while len(pool.points) < allowance and idle < 20:
        objectives, violation = _objectives([pool.points[g] for g in population], flash=flash)
        parents = [population[i] for i in survivors(objectives, violation, _POPULATION)]
        before = len(pool.points)
        children = offspring(parents, domain.cardinalities, _POPULATION, rng)
        added = pool.add(children[: max(1, allowance - before)])
        idle = idle + 1 if len(pool.points) == before else 0
        population = list(dict.fromkeys([*parents, *added]))


def _spread(domain: Domain[T], rng: np.random.Generator) -> list[Genes]:
    values = np.asarray(domain.cardinalities)
    # A uniform draw makes middle-sized candidates only; a bias per draw reaches both ends.
    bias = rng.random((_POPULATION, 1))
    drawn = rng.binomial(values - 1, np.broadcast_to(bias, (_POPULATION, len(values))))
    found: list[Genes] = [tuple(0 for _ in values), tuple(int(v) - 1 for v in values)]
    return found + [tuple(int(g) for g in row) for row in drawn]


def _intensify(pool: _Pool[T], domain: Domain[T], rng: np.random.Generator) -> bool:
    """Recombine the best candidates, whatever their latency; whether anything new was costed."""
    allowance = min(pool.limit - len(pool.points), pool.limit // 5)
    before = len(pool.points)
    for _ in range(20):
        room = before + allowance - len(pool.points)
        if room <= 0:
            break
        parents = sorted(pool.points, key=lambda g: (pool.order(pool.points[g]), g))[:_POPULATION]
        pool.add(offspring(parents, domain.cardinalities, _POPULATION, rng)[:room])
    return len(pool.points) > before


def _descend(
    pool: _Pool[T], domain: Domain[T], rng: np.random.Generator, screen: Screen | None
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
        model = _fitted(domain, pool) if screen is None else screen
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


def _fitted(domain: Domain[T], pool: _Pool[T]) -> Screen:
    costs = [p.costs for p in pool.points.values()]
    table = np.array([(c.latency.value, c.ram_bytes, c.flash_bytes) for c in costs], np.float64)
    return CostModel(domain.cardinalities, list(pool.points), table)


def _front(points: Sequence[Candidate[T]]) -> tuple[Candidate[T], ...]:
    feasible = [p for p in points if p.feasible]
    front: list[Candidate[T]] = []
    for point in sorted(feasible, key=lambda p: (p.costs.latency.value, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return tuple(front)

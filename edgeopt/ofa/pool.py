"""Candidates that a search has costed, each beside its budget."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Budget, Estimate
from edgeopt.core.units import show_duration, show_size
from edgeopt.ofa.genes import Domain
from edgeopt.ofa.nsga import Floats, Genes
from edgeopt.ofa.screen import CostModel

T = TypeVar("T", bound=Hashable)

#: First genes of an evolution: ``start(count, rng)``.
Start = Callable[[int, np.random.Generator], Sequence[Genes]]

#: ``progress(done, planned, best)``; ``best`` is the predicted accuracy, None while nothing fits.
Progress = Callable[[int, int, float | None], None]

#: Candidates that an evolution keeps, and has children at a time.
POPULATION = 96


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


class Pool(Generic[T]):
    """Every candidate costed so far, by canonical genes; of so many at most.

    Raises:
        InputError: ``limit`` is not positive.
    """

    def __init__(
        self,
        domain: Domain[T],
        predictor: Callable[[Sequence[T]], npt.NDArray[np.float64]],
        cost: Callable[[T], Costs],
        budget: Budget,
        limit: int,
        progress: Progress | None = None,
    ) -> None:
        if limit < 1:
            raise InputError(f"cannot search with {limit} evaluations", hint="allow at least 1")
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
        """Whether no more may be costed."""
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


def objectives(points: Sequence[Candidate[T]], *, flash: bool) -> tuple[Floats, Floats]:
    """Accuracy (negative), latency and perhaps flash [candidates, 2 or 3]; and violations."""
    table = np.array(
        [(-p.accuracy, p.costs.latency.value, p.costs.flash_bytes) for p in points], np.float64
    )
    return table if flash else table[:, :2], np.array([p.violation for p in points])


def spread(domain: Domain[T], rng: np.random.Generator) -> list[Genes]:
    """A population to begin with: the extremes, and draws of all sizes."""
    values = np.asarray(domain.cardinalities)
    # A uniform draw makes middle-sized candidates only; a bias per draw reaches both ends.
    bias = rng.random((POPULATION, 1))
    drawn = rng.binomial(values - 1, np.broadcast_to(bias, (POPULATION, len(values))))
    found: list[Genes] = [tuple(0 for _ in values), tuple(int(v) - 1 for v in values)]
    return found + [tuple(int(g) for g in row) for row in drawn]


def fitted(domain: Domain[T], pool: Pool[T]) -> CostModel:
    """What candidates cost by their genes, from those that were costed."""
    costs = [p.costs for p in pool.points.values()]
    table = np.array([(c.latency.value, c.ram_bytes, c.flash_bytes) for c in costs], np.float64)
    return CostModel(domain.cardinalities, list(pool.points), table)

"""Evolution whose children are screened: thousands are looked at for each that is costed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.ofa.genes import Domain
from edgeopt.ofa.nsga import Floats, Genes, offspring, survivors
from edgeopt.ofa.pool import POPULATION, Pool, T, fitted, objectives
from edgeopt.ofa.screen import Screen, excess_of

_PARENTS = 4 * POPULATION  # of all that is known or guessed: a front of three objectives is wide
_COSTED = POPULATION // 2  # a round
#: Generations a round, and children of each. A screen that the caller gives is nearly as good as
#: costs; one fitted to what was costed is not, and is asked for the next step only.
_GIVEN, _FITTED = (8, 8 * POPULATION), (1, 16 * POPULATION)


@dataclass(frozen=True)
class _Guesses:
    """Genes with accuracy, latency and perhaps flash as screened, and what exceeds the budget."""

    genes: list[Genes]
    table: Floats
    excess: Floats

    def joined(self, other: _Guesses) -> _Guesses:
        return _Guesses(
            self.genes + other.genes,
            np.concatenate([self.table, other.table]),
            np.concatenate([self.excess, other.excess]),
        )

    def only(self, rows: list[int]) -> _Guesses:
        return _Guesses([self.genes[i] for i in rows], self.table[rows], self.excess[rows])

    def best(self, count: int) -> _Guesses:
        return self.only(survivors(self.table, self.excess, count))


def evolve(
    pool: Pool[T],
    domain: Domain[T],
    rng: np.random.Generator,
    first: Sequence[Genes],
    allowance: int,
    *,
    flash: bool,
    screen: Screen | None = None,
) -> None:
    """Cost candidates that are likely on the front, until the pool holds so many.

    Predicted accuracy is nearly free and costs are not. So children are bred, and selected, on
    screened costs; only the best of a round are costed, and what they cost corrects the front that
    the next round starts from.

    Args:
        pool: gets the candidates.
        domain: what can be chosen.
        rng: the source of randomness.
        first: the first population; all of it is costed, as far as the allowance goes.
        allowance: candidates in the pool at the end, at most.
        flash: whether flash is an objective, beside accuracy and latency.
        screen: costs of many candidates; fitted to the pool, every round, where none is given.
    """
    pool.add(list(first)[:allowance])
    kept: list[Genes] = []
    generations, children = _FITTED if screen is None else _GIVEN
    idle = 0
    while len(pool.points) < allowance and idle < 20:
        known = _known(pool, flash)
        model = fitted(domain, pool) if screen is None else screen
        fresh = [g for g in kept if g not in pool.points]
        guesses = _guessed(pool, fresh, model, flash) if fresh else None
        found = known if guesses is None else known.joined(guesses)
        for _ in range(generations):
            parents = found.best(_PARENTS)
            bred = offspring(parents.genes, domain.cardinalities, children, rng)
            seen = {*pool.points, *found.genes}
            new = [g for g in dict.fromkeys(map(domain.canonical, bred)) if g not in seen]
            # All that was costed stays: a guess that it dominates is not worth its costs.
            guessed = [i for i, g in enumerate(parents.genes) if g not in pool.points]
            found = known.joined(parents.only(guessed)) if guessed else known
            if new:
                found = found.joined(_guessed(pool, new, model, flash))
        ordered = found.best(len(found.genes))
        kept = [g for g in ordered.genes if g not in pool.points]
        before = len(pool.points)
        pool.add(kept[: min(_COSTED, allowance - before)])
        kept = kept[:_PARENTS]
        idle = idle + 1 if len(pool.points) == before else 0


def _known(pool: Pool[T], flash: bool) -> _Guesses:
    table, violation = objectives(list(pool.points.values()), flash=flash)
    return _Guesses(list(pool.points), table, violation)


def _guessed(pool: Pool[T], genes: list[Genes], screen: Screen, flash: bool) -> _Guesses:
    accuracy, (costs, _) = pool.predict(genes), screen(genes)
    table = np.column_stack([-accuracy, costs[:, 0], costs[:, 2]])
    excess = np.maximum(excess_of(pool.budget, costs, accuracy), 0.0)
    return _Guesses(genes, table if flash else table[:, :2], excess)

"""The pieces of NSGA-II that a search over short integer vectors needs.

Source: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (2002), sections
III (ranks, crowding) and VI (constraint domination). All objectives are minimised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Genes = tuple[int, ...]


def ranks(objectives: Floats, violation: Floats) -> Ints:
    """Front number of every point, 0 the best.

    A feasible point (violation 0) dominates every infeasible one; of two infeasible ones the lesser
    violation dominates; of two feasible ones the better in one objective and worse in none.

    Args:
        objectives: [points, objectives], smaller is better.
        violation: [points], 0 where every constraint holds.
    """
    count = len(objectives)
    no_worse = np.ones((count, count), bool)
    for column in objectives.T:
        no_worse &= column[:, None] <= column[None, :]
    # No worse anywhere, and not the other way round: better in one.
    dominates = no_worse & ~no_worse.T
    feasible = violation == 0
    if not feasible.all():
        both = feasible[:, None] & feasible[None, :]
        dominates = np.where(both, dominates, violation[:, None] < violation[None, :])
    rank = np.full(len(objectives), -1, np.int64)
    dominators = dominates.sum(0)
    front = 0
    while (rank < 0).any():
        current = (dominators == 0) & (rank < 0)
        rank[current] = front
        dominators = dominators - dominates[current].sum(0)
        front += 1
    return rank


def crowding(objectives: Floats, rank: Ints) -> Floats:
    """Crowding distance of every point within its front; the ends of a front are infinite."""
    distance = np.zeros(len(objectives))
    for front in range(int(rank.max(initial=-1)) + 1):
        members = np.flatnonzero(rank == front)
        for column in objectives[members].T:
            order = np.argsort(column, kind="stable")
            span = column[order[-1]] - column[order[0]]
            distance[members[order[[0, -1]]]] = np.inf
            if span > 0:
                gaps = (column[order[2:]] - column[order[:-2]]) / span
                distance[members[order[1:-1]]] += gaps
    return distance


def survivors(objectives: Floats, violation: Floats, count: int) -> list[int]:
    """Indices of the ``count`` best points, best first: by rank, then the less crowded."""
    rank = ranks(objectives, violation)
    order = np.lexsort((-crowding(objectives, rank), rank))
    return [int(i) for i in order[:count]]


def offspring(
    parents: Sequence[Genes],
    cardinalities: Sequence[int],
    count: int,
    rng: np.random.Generator,
    *,
    mutations: float = 2.0,
) -> list[Genes]:
    """Children by tournament, uniform crossover and mutation.

    Args:
        parents: best first; a tournament of two is won by the one that stands earlier.
        cardinalities: how many values each gene takes.
        count: how many children.
        rng: the source of randomness.
        mutations: genes redrawn in a child, on average.
    """
    table = np.asarray(parents, np.int64)
    values = np.asarray(cardinalities, np.int64)
    picks = rng.integers(len(table), size=(count, 2, 2)).min(-1)
    from_first = rng.random((count, len(values))) < 0.5
    children = np.where(from_first, table[picks[:, 0]], table[picks[:, 1]])
    redraw = rng.random(children.shape) < mutations / len(values)
    children = np.where(redraw, rng.integers(values, size=children.shape), children)
    return [tuple(int(g) for g in child) for child in children]


def hypervolume(points: Floats, reference: Floats) -> float:
    """Volume that points dominate within a reference, of two or three objectives to be minimised.

    The third objective is swept: between two of its values, the area that the points so far
    dominate counts.

    Args:
        points: [points, objectives]; those that are not below the reference add nothing.
        reference: the corner that is worst in everything.
    """
    inside = points[(points < reference).all(1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 2:
        return _area(inside, reference)
    if inside.shape[1] != 3:
        raise ValueError(f"{inside.shape[1]} objectives")
    levels = np.unique(inside[:, 2])
    ends = np.append(levels[1:], reference[2])
    return float(
        sum(
            _area(inside[inside[:, 2] <= level][:, :2], reference[:2]) * (end - level)
            for level, end in zip(levels, ends, strict=True)
        )
    )


def _area(points: Floats, reference: Floats) -> float:
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(ordered[:, 1])
    widths = np.append(ordered[1:, 0], reference[0]) - ordered[:, 0]
    return float((widths * (reference[1] - lowest)).sum())

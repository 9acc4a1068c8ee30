"""Subnet and plan within a budget, from the best subnets of every width on.

Where kernels share code, plans of one width need the least of it: a mixed plan on the way from one
width to another costs more than either, and evolution that starts anywhere ends between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgeopt.core.estimates import Budget
from edgeopt.ofa.genes import Domain
from edgeopt.ofa.nsga import Floats, Genes
from edgeopt.ofa.plan_genes import OneWidth, PlanDomain, Planned
from edgeopt.ofa.pool import Candidate, Costs, Progress
from edgeopt.ofa.screen import Screen
from edgeopt.ofa.search import NoCandidateError, SearchResult, front_of, search

#: Of the evaluations, what the search of each width has; and the candidates it hands on.
_SHARE, _HANDED = 0.15, 8


def search_plans(
    domain: PlanDomain,
    predictor: Callable[[Sequence[Planned]], Floats],
    cost: Callable[[Planned], Costs],
    budget: Budget,
    screen: Screen,
    *,
    seed: int = 0,
    evaluations: int = 600,
    progress: Progress | None = None,
) -> SearchResult[Planned]:
    """The subnet and plan of highest predicted accuracy whose costs are within the budget.

    Args:
        domain: subnets and plans.
        predictor: predicted accuracies (0..1) of many candidates.
        cost: one candidate's costs.
        budget: the constraints.
        screen: costs of many candidates by their genes in ``domain``.
        seed: of the search's own random numbers.
        evaluations: calls of ``cost`` at most, all searches together.
        progress: told after every batch of the search over plans.

    Returns:
        What all searches together found.

    Raises:
        InputError: ``evaluations`` is not positive.
        NoCandidateError: nothing that was tried meets the budget.
    """
    each = int(evaluations * _SHARE)
    handed: list[Genes] = []
    seen: dict[Planned, Candidate[Planned]] = {}
    for bits in domain.bits if each > 0 else ():
        part = OneWidth(domain, bits)
        try:
            found = search(
                part, predictor, cost, budget, seed=seed, evaluations=each,
                screen=screen_of(domain, part, screen),
            )  # fmt: skip
        except NoCandidateError as none:  # too wide for the budget, all of them
            seen |= {c.config: c for c in none.evaluated}
            continue
        seen |= {c.config: c for c in found.evaluated}
        fit = sorted((c for c in found.evaluated if c.feasible), key=lambda c: -c.accuracy)
        handed += [domain.encode(c.config) for c in fit[:_HANDED]]

    def start(count: int, rng: np.random.Generator) -> list[Genes]:
        return [*handed, *domain.start(max(0, count - len(handed)), rng)]

    rest = evaluations - each * len(domain.bits)
    try:
        found = search(
            domain, predictor, cost, budget, seed=seed, evaluations=rest, progress=progress,
            start=start, screen=screen,
        )  # fmt: skip
    except NoCandidateError as none:
        seen |= {c.config: c for c in none.evaluated}
        raise NoCandidateError(none.nearest, tuple(seen.values())) from None
    points = tuple((seen | {c.config: c for c in found.evaluated}).values())
    return replace(found, evaluated=points, front=front_of(points))


def screen_of(domain: PlanDomain, part: Domain[Planned], screen: Screen) -> Screen:
    """A domain's screen for genes of a part of it."""

    def screened(genes: Sequence[Genes]) -> tuple[Floats, Floats]:
        return screen([domain.encode(part.decode(g)) for g in genes])

    return screened

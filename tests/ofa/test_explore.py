"""Three objectives at once: fronts, their volume, and costs screened before they are exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Budget, Estimate, Source
from edgeopt.core.space import SearchSpace, Stage
from edgeopt.ofa.explore import explore, pareto
from edgeopt.ofa.nsga import hypervolume
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plan_search import search_plans
from edgeopt.ofa.pool import Candidate, Costs
from edgeopt.ofa.screen import Screen
from edgeopt.ofa.search import NoCandidateError, search

SPACE = SearchSpace(
    name="small", kernels=(3, 5), expands=(2, 4), resolutions=(32,),
    stages=(Stage(16, 2, "relu", False, (1, 2)),), stem_width=8, stem_stride=1,
    stem_activation="relu", first_width=8, first_stride=1, first_activation="relu",
    expand_width=32, mix_width=16, classes=10,
)  # fmt: skip
DOMAIN = PlanDomain(SPACE, (2, 4, 8))  # 4,212 candidates


def accuracy(candidates: Sequence[Planned]) -> npt.NDArray[np.float64]:
    """Larger and wider is better, with a twist: narrow blocks suffer more."""
    found = []
    for c in candidates:
        used = list(SPACE.active(c.subnet))
        size = sum(c.subnet.expands[i] + c.subnet.kernels[i] / 4 for i in used)
        loss = sum(2.0 ** (2 - c.plan.blocks[i]) / c.subnet.expands[i] for i in used)
        loss += sum(2.0 ** (1 - b) for b in c.plan.head)
        found.append(0.9 - 0.3 * np.exp(-size / 8) - 0.2 * loss)
    return np.array(found)


def cost(c: Planned) -> Costs:
    used = list(SPACE.active(c.subnet))
    work = sum(c.subnet.expands[i] * c.subnet.kernels[i] ** 2 for i in used)
    unpacking = sum(8 - b for b in (*(c.plan.blocks[i] for i in used), *c.plan.head))
    bits = sum(c.subnet.expands[i] * c.plan.blocks[i] for i in used) + sum(c.plan.head)
    latency = 1000.0 * (work + unpacking)
    return Costs(Estimate(latency, latency, latency, Source.COMPUTED), 1000, 100 * bits)


def points_of(found: Sequence[Candidate[Planned]]) -> npt.NDArray[np.float64]:
    return np.array([(-c.accuracy, c.costs.latency.value, c.costs.flash_bytes) for c in found])


def test_evolution_comes_near_the_whole_front() -> None:
    every = explore(DOMAIN, accuracy, cost, Budget(), evaluations=DOMAIN.size)
    assert len(every) == DOMAIN.size
    table = points_of(every)
    worst = table.max(0) + 1e-9
    whole = hypervolume(points_of(pareto(every)), worst)
    assert whole == pytest.approx(hypervolume(table, worst))
    some = explore(DOMAIN, accuracy, cost, Budget(), evaluations=600, start=DOMAIN.start, seed=1)
    assert len(some) <= 600
    assert hypervolume(points_of(pareto(some)), worst) > 0.97 * whole
    again = explore(DOMAIN, accuracy, cost, Budget(), evaluations=600, start=DOMAIN.start, seed=1)
    assert again == some


def screening(price: Callable[[Planned], Costs]) -> Screen:
    """A screen that is never wrong, but for RAM that it does not know."""

    def screen(
        genes: Sequence[tuple[int, ...]],
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        found = [price(DOMAIN.decode(g)) for g in genes]
        rows = np.array([(c.latency.value, np.nan, c.flash_bytes) for c in found])
        return rows, rows

    return screen


EXACT = screening(cost)


def test_a_given_screen_spends_nearly_every_evaluation_on_the_front() -> None:
    every = explore(DOMAIN, accuracy, cost, Budget(), evaluations=DOMAIN.size)
    worst = points_of(every).max(0) + 1e-9
    whole = hypervolume(points_of(pareto(every)), worst)
    options = {"evaluations": 300, "start": DOMAIN.start, "seed": 1}
    plain = explore(DOMAIN, accuracy, cost, Budget(), **options)  # type: ignore[arg-type]
    given = explore(DOMAIN, accuracy, cost, Budget(), screen=EXACT, **options)  # type: ignore[arg-type]
    assert len(given) == 300
    volume = hypervolume(points_of(pareto(given)), worst)
    assert volume >= hypervolume(points_of(pareto(plain)), worst)
    assert volume > 0.99 * whole
    # A budget is met by nearly all that is costed after the first population.
    few = explore(
        DOMAIN, accuracy, cost, Budget(flash_bytes=4000), screen=EXACT, **options  # type: ignore[arg-type]
    )  # fmt: skip
    assert np.mean([c.feasible for c in few[100:]]) > 0.9


def test_nothing_beats_a_point_of_the_front() -> None:
    found = explore(DOMAIN, accuracy, cost, Budget(flash_bytes=4000), evaluations=300)
    front = pareto(found)
    assert front and all(c.feasible for c in front)
    table, every = points_of(front), points_of([c for c in found if c.feasible])
    for row in table:
        assert not ((every <= row).all(1) & (every < row).any(1)).any()
    assert pareto([c for c in found if not c.feasible]) == ()
    with pytest.raises(InputError, match="0 evaluations"):
        explore(DOMAIN, accuracy, cost, Budget(), evaluations=0)


def test_exact_screening_finds_what_brute_force_finds() -> None:
    budget = Budget(latency_ns=60_000, flash_bytes=3500)
    best = max(
        c.accuracy
        for c in explore(DOMAIN, accuracy, cost, budget, evaluations=DOMAIN.size)
        if c.feasible
    )

    result = search(
        DOMAIN, accuracy, cost, budget, evaluations=500, start=DOMAIN.start, screen=EXACT
    )
    assert result.best.accuracy == pytest.approx(best)
    assert len(result.evaluated) <= 500


def shared_code(c: Planned) -> Costs:
    """As `cost`, and every width that is there needs its kernels."""
    plain = cost(c)
    used = {*(c.plan.blocks[i] for i in SPACE.active(c.subnet)), *c.plan.head}
    return Costs(plain.latency, plain.ram_bytes, plain.flash_bytes + 1500 * len(used))


@pytest.mark.parametrize("flash_bytes", [4500, 6000, 7500])
def test_plans_are_found_where_kernels_share_code(flash_bytes: int) -> None:
    budget = Budget(flash_bytes=flash_bytes)
    every = explore(DOMAIN, accuracy, shared_code, budget, evaluations=DOMAIN.size)
    best = max(c.accuracy for c in every if c.feasible)
    asked: list[Planned] = []

    def counted(c: Planned) -> Costs:
        asked.append(c)
        return shared_code(c)

    found = search_plans(
        DOMAIN, accuracy, counted, budget, screening(shared_code), evaluations=400, seed=1
    )
    assert found.best.accuracy == pytest.approx(best)
    assert found.best.feasible and len(asked) <= 400
    assert {c.config for c in found.evaluated} == set(asked)
    uniform = max(
        c.accuracy for c in every
        if c.feasible and len({*(c.config.plan.blocks[i] for i in SPACE.active(c.config.subnet)),
                               *c.config.plan.head}) == 1
    )  # fmt: skip
    assert found.best.accuracy >= uniform


def test_a_budget_below_every_plan_names_the_nearest() -> None:
    with pytest.raises(NoCandidateError, match="the nearest"):
        search_plans(DOMAIN, accuracy, cost, Budget(flash_bytes=10), EXACT, evaluations=100)


def test_hypervolume_counts_unit_cubes() -> None:
    rng = np.random.default_rng(0)
    for width in (2, 3):
        for count in (1, 2, 5, 12):
            points = rng.integers(0, 8, (count, width)).astype(np.float64)
            cells = np.array(list(itertools.product(range(7), repeat=width)))
            covered = (cells[:, None] >= points[None]).all(2).any(1).sum()
            assert hypervolume(points, np.full(width, 7.0)) == covered
    assert hypervolume(np.array([[8.0, 1.0]]), np.array([7.0, 7.0])) == 0
    with pytest.raises(ValueError, match="4 objectives"):
        hypervolume(np.zeros((1, 4)), np.ones(4))

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.core.errors import InfeasibleError, InputError
from edgeopt.core.estimates import Budget, Estimate, Source
from edgeopt.core.space import SearchSpace, Stage, SubnetConfig
from edgeopt.ofa.genes import SubnetDomain, features
from edgeopt.ofa.nsga import crowding, offspring, ranks, survivors
from edgeopt.ofa.pool import Candidate, Costs, Slack, slack_of
from edgeopt.ofa.search import NoCandidateError, search


def make_space(depths: tuple[int, ...], stages: int = 2) -> SearchSpace:
    parts = tuple(Stage(16 + 8 * i, 2, "relu", False, depths) for i in range(stages))
    return SearchSpace(
        name="small", kernels=(3, 5), expands=(2, 4), resolutions=(32,), stages=parts,
        stem_width=8, stem_stride=1, stem_activation="relu", first_width=8, first_stride=1,
        first_activation="relu", expand_width=32, mix_width=16, classes=10,
    )  # fmt: skip


SMALL = make_space((1, 2))  # 400 subnets
MIDDLE = make_space((1, 2, 3))  # 7,056 subnets


class World:
    """Seeded accuracies and costs, not separable over the choices."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        rng = np.random.default_rng(seed)
        width = features(space, [space.min_config()]).shape[1]
        self.accuracy_weights = np.abs(rng.normal(size=width))
        self.latency_weights = np.abs(rng.normal(size=width)) * 1e5
        self.costed: list[SubnetConfig] = []

    def accuracy(self, configs: Sequence[SubnetConfig]) -> npt.NDArray[np.float64]:
        gain = features(self.space, configs) @ self.accuracy_weights
        return np.asarray(0.5 + 0.4 * (1 - np.exp(-gain / 20)))

    def cost(self, config: SubnetConfig) -> Costs:
        self.costed.append(config)
        row = features(self.space, [config])[0]
        latency = float(row @ self.latency_weights + np.exp(row[-2]) / 10)
        used = [config.expands[i] for i in self.space.active(config)]
        return Costs(
            Estimate(latency, latency * 0.9, latency * 1.1, Source.ESTIMATED),
            ram_bytes=1000 * max(a * b for a, b in itertools.pairwise([*used, 1])),
            flash_bytes=int(np.exp(row[-1])),
        )

    def brute(self, budget: Budget) -> float | None:
        domain = SubnetDomain(self.space)
        configs = [domain.decode(g) for g in domain.enumerate()]
        accuracy = self.accuracy(configs)
        fits = [
            all(s.met for s in slack_of(a, self.cost(c), budget))
            for a, c in zip(accuracy, configs, strict=True)
        ]
        return float(accuracy[fits].max()) if any(fits) else None


def test_enumeration_gives_every_subnet_once() -> None:
    domain = SubnetDomain(SMALL)
    genes = list(domain.enumerate())
    assert len(set(genes)) == len(genes) == domain.size == SMALL.size
    assert all(domain.canonical(g) == g for g in genes)
    assert len({domain.decode(g) for g in genes}) == len(genes)


@given(st.data())
def test_genes_round_trip(data: st.DataObject) -> None:
    domain = SubnetDomain(MIDDLE)
    genes = tuple(data.draw(st.integers(0, n - 1)) for n in domain.cardinalities)
    config = domain.decode(genes)
    assert MIDDLE.validate(config) == MIDDLE.canonical(config) == config
    assert domain.encode(config) == domain.canonical(genes)
    assert domain.decode(domain.encode(config)) == config


def test_totals_among_features_grow_with_every_choice() -> None:
    small, large = features(MIDDLE, [MIDDLE.min_config(), MIDDLE.max_config()])[:, -2:]
    assert (large > small).all()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 50),
    latency=st.none() | st.integers(300_000, 3_000_000),
    ram=st.none() | st.integers(1000, 17_000),
    flash=st.none() | st.integers(100, 9000),
    floor=st.none() | st.floats(0.5, 0.7),
)
def test_a_small_space_is_searched_exhaustively(
    seed: int, latency: int | None, ram: int | None, flash: int | None, floor: float | None
) -> None:
    world = World(SMALL, seed)
    budget = Budget(latency, ram, flash, floor)
    best = world.brute(budget)
    run = lambda: search(SubnetDomain(SMALL), world.accuracy, world.cost, budget)  # noqa: E731
    if best is None:
        with pytest.raises(NoCandidateError):
            run()
        return
    result = run()
    assert result.exhaustive and result.best.feasible
    assert len(result.evaluated) == SMALL.size
    if latency or ram or flash or floor is None:
        assert result.best.accuracy == pytest.approx(best)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    latency=st.integers(500_000, 4_000_000),
    ram=st.none() | st.integers(4000, 17_000),
    evaluations=st.integers(1, 250),
)
def test_evolution_never_returns_what_does_not_fit(
    seed: int, latency: int, ram: int | None, evaluations: int
) -> None:
    world = World(MIDDLE, seed)
    budget = Budget(latency_ns=latency, ram_bytes=ram)
    try:
        result = search(
            SubnetDomain(MIDDLE), world.accuracy, world.cost, budget, seed=seed,
            evaluations=evaluations,
        )  # fmt: skip
    except NoCandidateError as error:
        assert not error.nearest.feasible
    else:
        best = result.best
        assert best.costs.latency.value <= latency
        assert ram is None or best.costs.ram_bytes <= ram
        assert all(p.accuracy <= best.accuracy for p in result.evaluated if p.feasible)
    assert len(world.costed) == len(set(world.costed)) <= evaluations


@pytest.mark.parametrize(("seed", "share"), [(0, 0.2), (1, 0.5), (2, 0.8)])
def test_evolution_finds_what_brute_force_finds(seed: int, share: float) -> None:
    world = World(MIDDLE, seed)
    low, high = (world.cost(c).latency.value for c in (MIDDLE.min_config(), MIDDLE.max_config()))
    budget = Budget(latency_ns=int(low + share * (high - low)), ram_bytes=12_000)
    best = world.brute(budget)
    result = search(
        SubnetDomain(MIDDLE), world.accuracy, world.cost, budget, seed=seed, evaluations=900
    )
    assert not result.exhaustive
    assert result.best.accuracy == pytest.approx(best)


def test_the_same_seed_gives_the_same_search() -> None:
    budget = Budget(latency_ns=3_000_000)
    runs = []
    for _ in range(2):
        world = World(MIDDLE, 3)
        runs.append(
            search(
                SubnetDomain(MIDDLE), world.accuracy, world.cost, budget, seed=9, evaluations=300
            )
        )
    assert runs[0] == runs[1]


def test_a_tighter_budget_never_gives_more_accuracy() -> None:
    world = World(SMALL, 11)
    previous = 0.0
    for latency in range(600_000, 3_000_000, 200_000):
        try:
            result = search(
                SubnetDomain(SMALL), world.accuracy, world.cost, Budget(latency_ns=latency)
            )
        except NoCandidateError:
            assert previous == 0.0
            continue
        assert result.best.accuracy >= previous
        previous = result.best.accuracy
    assert previous > 0


def test_without_a_budget_the_most_accurate_subnet_wins() -> None:
    world = World(MIDDLE, 2)
    result = search(SubnetDomain(MIDDLE), world.accuracy, world.cost, Budget(), evaluations=400)
    assert result.best.accuracy == pytest.approx(world.brute(Budget()))
    assert result.slack == ()


def test_a_floor_on_accuracy_alone_asks_for_the_fastest() -> None:
    world = World(SMALL, 4)
    domain = SubnetDomain(SMALL)
    configs = [domain.decode(g) for g in domain.enumerate()]
    accuracy = world.accuracy(configs)
    floor = float(np.median(accuracy))
    fastest = min(
        world.cost(c).latency.value for c, a in zip(configs, accuracy, strict=True) if a >= floor
    )
    for evaluations in (1000, 250):
        result = search(
            domain, world.accuracy, world.cost, Budget(min_accuracy=floor), evaluations=evaluations
        )
        assert result.best.costs.latency.value == pytest.approx(fastest)


def test_an_infeasible_budget_names_the_nearest_candidate_and_its_slack() -> None:
    world = World(SMALL, 1)
    budget = Budget(latency_ns=1000, flash_bytes=50_000)
    with pytest.raises(InfeasibleError) as caught:
        search(SubnetDomain(SMALL), world.accuracy, world.cost, budget)
    error = caught.value
    assert error.exit_code == 3
    assert isinstance(error, NoCandidateError)
    assert str(error.nearest.config) in error.what
    fastest = min(world.cost(SubnetDomain(SMALL).decode(g)).latency.value
                  for g in SubnetDomain(SMALL).enumerate())  # fmt: skip
    assert error.nearest.costs.latency.value == fastest
    assert "none of 400 candidates meets the budget" in error.what
    assert "> 1.00 µs" in error.what.replace("1 µs", "1.00 µs")
    assert "within it: flash" in error.what


def test_contradictory_constraints_are_reported_together() -> None:
    world = World(MIDDLE, 1)
    budget = Budget(latency_ns=1000, min_accuracy=0.999)
    with pytest.raises(NoCandidateError, match=r"latency .* > 1 µs, accuracy .* < 99.90%"):
        search(SubnetDomain(MIDDLE), world.accuracy, world.cost, budget, evaluations=200)


def test_no_evaluations_are_refused() -> None:
    world = World(SMALL, 1)
    with pytest.raises(InputError, match="cannot search with 0 evaluations"):
        search(SubnetDomain(SMALL), world.accuracy, world.cost, Budget(), evaluations=0)


def test_a_predictor_that_gives_nonsense_is_a_bug() -> None:
    world = World(SMALL, 1)
    with pytest.raises(ValueError, match="one finite accuracy per candidate"):
        search(SubnetDomain(SMALL), lambda c: np.full(len(c), np.nan), world.cost, Budget())


def test_progress_counts_up_and_tells_the_best() -> None:
    world = World(MIDDLE, 1)
    seen: list[tuple[int, int, float | None]] = []
    result = search(
        SubnetDomain(MIDDLE), world.accuracy, world.cost, Budget(latency_ns=3_000_000),
        evaluations=300, progress=lambda *a: seen.append(a),
    )  # fmt: skip
    done = [d for d, _, _ in seen]
    assert done == sorted(done) and done[-1] == len(result.evaluated)
    assert seen[-1][2] == result.best.accuracy


def test_the_front_holds_no_dominated_point() -> None:
    world = World(SMALL, 6)
    budget = Budget(latency_ns=2_500_000)
    result = search(SubnetDomain(SMALL), world.accuracy, world.cost, budget)
    assert result.best.accuracy == result.front[-1].accuracy

    def beats(a: Candidate[SubnetConfig], b: Candidate[SubnetConfig]) -> bool:
        return (
            a.feasible
            and a.accuracy >= b.accuracy
            and a.costs.latency.value <= b.costs.latency.value
            and (a.accuracy, a.costs.latency.value) != (b.accuracy, b.costs.latency.value)
        )

    assert not any(beats(a, b) for b in result.front for a in result.evaluated)


@pytest.mark.parametrize(
    ("slack", "text", "excess"),
    [
        (Slack("latency_ns", 3.1e6, 2e6), "latency 3.10 ms > 2 ms", 0.55),
        (Slack("ram_bytes", 32_000, 64_000), "RAM 32 kB ≤ 64 kB", -0.5),
        (Slack("min_accuracy", 0.7, 0.8), "accuracy 70.00% < 80.00%", 0.125),
        (Slack("min_accuracy", 0.8, 0.8), "accuracy 80.00% ≥ 80.00%", 0.0),
    ],
)
def test_slack_reads_as_a_sentence(slack: Slack, text: str, excess: float) -> None:
    assert str(slack) == text
    assert slack.excess == pytest.approx(excess)
    assert slack.met == (excess <= 0)


def test_ranks_put_feasible_points_first() -> None:
    objectives = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
    violation = np.array([0.5, 0.0, 0.0, 0.0, 0.1])
    assert ranks(objectives, violation).tolist() == [3, 0, 0, 1, 2]
    assert survivors(objectives, violation, 2) == [1, 2]


def test_crowding_favours_the_ends_of_a_front() -> None:
    objectives = np.array([[0.0, 4.0], [1.0, 3.0], [1.1, 2.9], [4.0, 0.0]])
    distance = crowding(objectives, np.zeros(4, np.int64))
    assert np.isinf(distance[[0, 3]]).all()
    assert distance[2] > distance[1]


def test_children_stay_within_the_cardinalities() -> None:
    rng = np.random.default_rng(0)
    sizes = (1, 2, 3, 5)
    children = offspring([(0, 1, 2, 4), (0, 0, 0, 0)], sizes, 200, rng)
    assert len(set(children)) > 20
    assert all(0 <= g < n for child in children for g, n in zip(child, sizes, strict=True))

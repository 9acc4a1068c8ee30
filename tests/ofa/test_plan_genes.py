"""Architecture and plan as genes and as features, and what is predicted from these."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace, Stage
from edgeopt.ofa import predictor as fitting
from edgeopt.ofa.plan_genes import PlanDomain, Planned, PlansOf, noise, plan_features
from edgeopt.ofa.plan_predictor import fit_plan_predictor, load_plan_predictor
from edgeopt.ofa.plans import BlockPlan, PlanEvaluation, sample, uniform


def make_space(depths: tuple[int, ...], stages: int = 2) -> SearchSpace:
    parts = tuple(Stage(16 + 8 * i, 2, "relu", False, depths) for i in range(stages))
    return SearchSpace(
        name="small", kernels=(3, 5), expands=(2, 4), resolutions=(32,), stages=parts,
        stem_width=8, stem_stride=1, stem_activation="relu", first_width=8, first_stride=1,
        first_activation="relu", expand_width=32, mix_width=16, classes=10,
    )  # fmt: skip


TINY, MIDDLE = make_space((1,), 1), make_space((1, 2, 3))


@pytest.fixture(autouse=True)
def _one_family(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Fitting all families takes its time; how one is chosen is tested with subnets alone."""
    family = "kernel" if "learns" in request.node.name else "linear"
    monkeypatch.setattr(fitting, "FAMILIES", {family: fitting.FAMILIES[family]})


def test_every_candidate_is_enumerated_once() -> None:
    domain = PlanDomain(TINY, (4, 8))
    genes = list(domain.enumerate())
    assert len(set(genes)) == len(genes) == domain.size == 4 * 2 * 2**3
    assert all(domain.canonical(g) == g for g in genes)
    assert len({domain.decode(g) for g in genes}) == len(genes)
    two = PlanDomain(make_space((1, 2), 1), (2, 8))
    assert len(list(two.enumerate())) == two.size


@given(st.data())
def test_genes_round_trip(data: st.DataObject) -> None:
    domain = PlanDomain(MIDDLE)
    genes = tuple(data.draw(st.integers(0, n - 1)) for n in domain.cardinalities)
    candidate = domain.decode(genes)
    assert domain.encode(candidate) == domain.canonical(genes)
    assert domain.decode(domain.encode(candidate)) == candidate


def test_the_first_population_reaches_all_corners() -> None:
    domain = PlanDomain(MIDDLE)
    found = [domain.decode(g) for g in domain.start(200, np.random.default_rng(0))]
    corners = {
        (c, str(uniform(MIDDLE, b).head), b)
        for c in (MIDDLE.min_config(), MIDDLE.max_config())
        for b in (2, 8)
    }
    assert corners <= {(f.subnet, str(f.plan.head), f.plan.blocks[0]) for f in found}
    averages = [np.mean(f.plan.head) for f in found]
    assert np.histogram(averages, [2, 4, 6, 8.1])[0].min() > 30


def test_plans_of_given_subnets() -> None:
    domain = PlanDomain(TINY, (2, 8))
    subnets = [TINY.min_config(), TINY.max_config()]
    plans = PlansOf(domain, subnets)
    found = [plans.decode(g) for g in plans.enumerate()]
    assert len(found) == len(set(found)) == plans.size
    assert {f.subnet for f in found} == set(subnets)
    first = [plans.decode(g) for g in plans.start(20, np.random.default_rng(0))]
    assert first[:2] == [Planned(s, uniform(TINY, 8)) for s in subnets]


def test_features_of_a_plan_say_where_its_noise_is() -> None:
    rng = random.Random(3)
    subnets = [MIDDLE.sample(rng) for _ in range(30)]
    eight = plan_features(MIDDLE, [Planned(c, uniform(MIDDLE, 8)) for c in subnets])
    two = plan_features(MIDDLE, [Planned(c, uniform(MIDDLE, 2)) for c in subnets])
    assert noise(np.array([2, 3, 4])).tolist() == [1.0, 0.25, 0.0625]
    assert (two >= eight).all() and eight[:, :-1].max() < 0.01
    for row, config in zip(two, subnets, strict=True):
        used = np.zeros(MIDDLE.block_count)
        used[list(MIDDLE.active(config))] = 1
        assert (row[: MIDDLE.block_count] == used).all() and row[-1] == used.sum()
    plans = [Planned(subnets[0], sample(MIDDLE, subnets[0], rng)) for _ in range(30)]
    table = plan_features(MIDDLE, plans)
    assert len({row.tobytes() for row in table}) == len(set(plans))


def _measured(space: SearchSpace, count: int) -> list[PlanEvaluation]:
    """Accuracies that a formula makes of architecture and plan, and noise of counting images."""
    rng, random_bits = random.Random(0), np.random.default_rng(0)
    rows: list[PlanEvaluation] = []
    for _ in range(count):
        config = space.sample(rng)
        plan = sample(space, config, rng)
        used = list(space.active(config))
        whole = 0.6 + 0.2 * (1 - np.exp(-sum(config.expands[i] for i in used) / 10))
        loss = sum(2.0 ** (2 - plan.blocks[i]) / config.expands[i] for i in used) / len(used)
        loss += 0.1 * 2.0 ** (2 - plan.head[2])
        for chosen, accuracy in ((None, whole), (plan, whole * (1 - 0.8 * loss))):
            rows.append(
                PlanEvaluation(config, chosen, int(random_bits.binomial(5000, accuracy)), 5000)
            )
    return rows


def test_a_predictor_learns_what_bits_cost() -> None:
    rows = _measured(MIDDLE, 160)
    predictor = fit_plan_predictor(MIDDLE, rows)
    assert predictor.quality.kendall_tau >= 0.85
    assert predictor.quality.measured == 160
    config = MIDDLE.max_config()
    values = predictor.predict([Planned(config, uniform(MIDDLE, b)) for b in (2, 4, 8)])
    assert values[0] < values[1] < values[2]
    again = load_plan_predictor(predictor.dump(), MIDDLE)
    fresh = [Planned(c, sample(MIDDLE, c, random.Random(5))) for c in [config, MIDDLE.min_config()]]
    assert again.predict(fresh) == pytest.approx(predictor.predict(fresh), abs=1e-6)
    estimate = again.estimate(fresh[0])
    assert estimate.low <= estimate.value <= estimate.high
    assert "subnets with plans" in estimate.how and again.predict([]).shape == (0,)


def test_without_float_subnets_the_plan_predictor_goes_by_itself() -> None:
    rows = [r for r in _measured(MIDDLE, 60) if r.plan is not None]
    predictor = fit_plan_predictor(MIDDLE, rows)
    again = load_plan_predictor(predictor.dump(), MIDDLE)
    assert predictor.subnets is None is again.subnets


def test_what_is_no_plan_predictor_is_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        fit_plan_predictor(MIDDLE, _measured(MIDDLE, 3))
    data = fit_plan_predictor(MIDDLE, _measured(MIDDLE, 30)).dump()
    with pytest.raises(InputError, match="not a predictor"):
        load_plan_predictor(b"{}", MIDDLE)
    with pytest.raises(InputError, match="space is 'small', not 'other'"):
        load_plan_predictor(data, make_other())
    with pytest.raises(InputError, match="format is"):
        load_plan_predictor(data.replace(b"plan-predictor/1", b"plan-predictor/9"), MIDDLE)


def make_other() -> SearchSpace:
    from dataclasses import replace

    return replace(MIDDLE, name="other")


def test_a_plan_stays_with_its_blocks() -> None:
    plan = BlockPlan((2, 4, 8, 2, 4, 8), (8, 4, 2))
    domain = PlanDomain(MIDDLE)
    candidate = domain.decode(domain.encode(Planned(MIDDLE.min_config(), plan)))
    assert candidate.plan == BlockPlan((2, 8, 8, 2, 8, 8), (8, 4, 2))

from __future__ import annotations

import json
import random
from collections.abc import Callable

import numpy as np
import pytest

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace, Stage, SubnetConfig
from edgeopt.ofa.genes import features
from edgeopt.ofa.predictor import (
    Predictor,
    fit_measured,
    fit_predictor,
    kendall_tau,
    load_predictor,
)
from edgeopt.ofa.regression import FAMILIES, Fit, Floats, Model, Trees

SPACE = SearchSpace(
    name="small", kernels=(3, 5), expands=(2, 3, 4), resolutions=(32,),
    stages=tuple(Stage(w, 2, "relu", False, (1, 2)) for w in (16, 24, 32)),
    stem_width=8, stem_stride=1, stem_activation="relu", first_width=8, first_stride=1,
    first_activation="relu", expand_width=32, mix_width=16, classes=10,
)  # fmt: skip


def truth(configs: list[SubnetConfig]) -> np.ndarray:
    """Saturating in every choice, with an interaction: not linear."""
    x = features(SPACE, configs)
    weights = np.abs(np.random.default_rng(7).normal(size=x.shape[1]))
    weights[-2:] = 0.5
    return np.asarray(0.6 + 0.2 * (1 - np.exp(-x @ weights / 15)))


def sample(count: int, seed: int = 0) -> list[SubnetConfig]:
    rng = random.Random(seed)
    found = dict.fromkeys([SPACE.max_config(), SPACE.min_config()])
    while len(found) < count:
        found[SPACE.sample(rng)] = None
    return list(found)


@pytest.fixture(scope="module")
def fitted() -> Predictor:
    configs = sample(120)
    noise = np.random.default_rng(1).normal(size=120) * 0.0005
    return fit_predictor(SPACE, configs, list(truth(configs) + noise))


def test_unseen_subnets_are_ranked_and_placed(fitted: Predictor) -> None:
    seen = set(sample(120))
    fresh = [c for c in sample(400, seed=9) if c not in seen]
    predicted, actual = fitted.predict(fresh), truth(fresh)
    assert kendall_tau(predicted, actual) > 0.9
    assert np.abs(predicted - actual).mean() < 0.002
    low, high = fitted.interval
    inside = (actual >= predicted + low) & (actual <= predicted + high)
    assert inside.mean() > 0.8


def test_stated_quality_is_that_of_unseen_subnets(fitted: Predictor) -> None:
    quality = fitted.quality
    assert quality.measured == 120 and quality.held_out == 30
    assert quality.kendall_tau > 0.85
    assert 0 < quality.mean_absolute_error < 0.003
    assert set(quality.cross_validated) == {"linear", "kernel", "trees"}
    assert "120 measured subnets" in fitted.how


@pytest.mark.parametrize("family", ["linear", "kernel", "trees"])
def test_every_family_survives_being_stored(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeopt.ofa import regression

    only = {family: regression.FAMILIES[family]}
    monkeypatch.setattr("edgeopt.ofa.predictor.FAMILIES", only)
    configs = sample(60)
    made = fit_predictor(SPACE, configs, list(truth(configs)))
    kept = load_predictor(made.dump(), SPACE)
    fresh = sample(300, seed=5)
    np.testing.assert_allclose(kept.predict(fresh), made.predict(fresh), atol=1e-7)
    assert kendall_tau(kept.predict(fresh), truth(fresh)) > 0.7


def test_stored_trees_predict_what_scikit_learn_predicts() -> None:
    from sklearn.ensemble import GradientBoostingRegressor

    from edgeopt.ofa import regression

    configs = sample(80)
    x, y = features(SPACE, configs), truth(configs)
    model = GradientBoostingRegressor(
        n_estimators=250, max_depth=3, learning_rate=0.06, subsample=0.7, max_features=0.5,
        random_state=3,
    ).fit(x, y)  # fmt: skip
    fresh = features(SPACE, sample(200, seed=4))
    stored = regression.apply(regression.FAMILIES["trees"](x, y, 3), fresh)
    np.testing.assert_allclose(stored, model.predict(fresh), atol=1e-9)


def test_trees_win_only_by_a_clear_lead() -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (160, 4))
    smooth = fit_measured(x, np.tanh(x @ [0.4, 0.2, -0.3, 0.1]), 0)
    assert not isinstance(smooth.model, Trees)
    steps = fit_measured(x, np.where(x[:, 0] > 0.1, 1.0, 0.0) + 0.5 * (x[:, 1] > -0.3), 0)
    assert isinstance(steps.model, Trees)
    least = min(steps.quality.cross_validated.values())
    assert least == steps.quality.cross_validated["trees"]


def test_a_family_with_slopes_is_taken_among_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same fit under both names: trees are not better, so they are passed over."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (60, 3))
    asked: list[str] = []

    def named(name: str) -> Fit:
        def fit(rows: Floats, y: Floats, seed: int) -> Model:
            asked.append(name)
            return FAMILIES["linear"](rows, y, seed)

        return fit

    families = {"trees": named("trees"), "kernel": named("kernel")}
    monkeypatch.setattr("edgeopt.ofa.predictor.FAMILIES", families)
    fit_measured(x, x @ [1.0, 2.0, 3.0] + rng.normal(0, 0.1, 60), 0)
    assert asked[-1] == "kernel"


def test_fitting_is_deterministic() -> None:
    configs = sample(40)
    a, b = (fit_predictor(SPACE, configs, list(truth(configs)), seed=2) for _ in range(2))
    assert a.dump() == b.dump()


def test_an_estimate_has_its_interval_and_source(fitted: Predictor) -> None:
    estimate = fitted.estimate(SPACE.max_config())
    assert estimate.low < estimate.value < estimate.high
    assert estimate.source == "estimated" and "Kendall" in estimate.how


def test_nothing_to_predict(fitted: Predictor) -> None:
    assert fitted.predict([]).shape == (0,)


def test_too_few_measurements_are_refused() -> None:
    configs = sample(10)
    with pytest.raises(InputError, match="10 measured subnets are too few") as caught:
        fit_predictor(SPACE, configs, list(truth(configs)))
    assert "at least" in caught.value.hint


def spoil(change: Callable[[dict], None], data: bytes) -> bytes:
    document = json.loads(data)
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="edgeopt-predictor/9"), "format is 'edgeopt-predictor/9'"),
        (lambda d: d.update(space="other"), "space is 'other', not 'small'"),
        (lambda d: d.update(features="x"), "features is 'x'"),
        (lambda d: d.update(feature_count=3), "feature_count is 3"),
        (lambda d: d.update(extra=1), "unknown field `extra`"),
        (lambda d: d.pop("quality"), "missing required field `quality`"),
        (lambda d: d.update(interval=[0.1, 0.2]), "does not enclose 0"),
        (lambda d: d["model"].update(type="pickle"), "Invalid value 'pickle'"),
        (lambda d: d.update(model={"type": "linear", "offset": 0, "weights": [1, 2]}),
         "a linear model of the wrong shape"),
        (lambda d: d.update(model={"type": "trees", "offset": 0, "feature": [[0]],
                                   "threshold": [[0]], "left": [[5]], "right": [[0]],
                                   "value": [[0]]}),
         "a trees model of the wrong shape"),
        (lambda d: d.update(model={"type": "linear", "offset": 1e999, "weights": []}),
         "not a predictor|not finite"),
    ],
)  # fmt: skip
def test_a_spoilt_document_is_refused(
    fitted: Predictor, change: Callable[[dict], None], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_predictor(spoil(change, fitted.dump()), SPACE, "zoo/x/predictor.json")
    assert caught.value.where == "zoo/x/predictor.json"


@pytest.mark.parametrize("data", [b"", b"{", b"\x80\x04.", b"[]"])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="not a predictor"):
        load_predictor(data, SPACE)

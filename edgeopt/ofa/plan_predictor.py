"""Accuracy of a subnet under a precision plan without running it: quantization-aware prediction.

Architecture and plan are features of one regression (as in CQAP of EQ-Net), fitted to measured
pairs of both by the machinery of `edgeopt.ofa.predictor`. Where a model of subnets without
quantization is at hand, what is learned is the change to what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgeopt.core.estimates import Estimate
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.genes import FEATURES, features
from edgeopt.ofa.plan_genes import PLAN_FEATURES, Planned, plan_features
from edgeopt.ofa.plans import PlanEvaluation, uniform
from edgeopt.ofa.predictor import (
    MINIMUM,
    AccuracyModel,
    Document,
    Predictor,
    dump_document,
    fit_measured,
    fit_predictor,
    load_predictor,
    read_document,
    too_few,
)

Floats = npt.NDArray[np.float64]

FORMAT = "edgeopt-plan-predictor/1"


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored: the model of plans, and the text of the one of float subnets, or nothing."""

    plans: Document
    subnets: str


@dataclass(frozen=True, slots=True, eq=False)
class PlanPredictor(AccuracyModel):
    """Accuracies of subnets of one space under plans.

    Attributes:
        subnets: predicts subnets in fp32, a feature; None where none were measured.
    """

    subnets: Predictor | None
    measured: ClassVar[str] = "measured subnets with plans"

    def predict(self, candidates: Sequence[Planned]) -> Floats:
        """Predicted accuracies (0..1), one a candidate."""
        if not candidates:
            return np.zeros(0)
        rows = _features(self.space, candidates, self.subnets)
        change = self._apply(rows)
        # In fp32 is the last feature, where it is one.
        return np.clip(change if self.subnets is None else rows[:, -1] + change, 0.0, 1.0)

    def estimate(self, candidate: Planned) -> Estimate:
        """The same for one candidate, with its 90 % interval."""
        return self.within(float(self.predict([candidate])[0]))

    def dump(self) -> bytes:
        """The document as JSON."""
        below = "" if self.subnets is None else self.subnets.dump().decode()
        document = msgspec.json.decode(dump_document(self.document), type=Document)
        return msgspec.json.encode(_Stored(document, below)) + b"\n"


def _features(
    space: SearchSpace, candidates: Sequence[Planned], subnets: Predictor | None
) -> Floats:
    configs = [c.subnet for c in candidates]
    own = features(space, configs) if subnets is None else subnets.predict(configs)[:, None]
    return np.concatenate([plan_features(space, candidates), own], 1)


def load_plan_predictor(
    data: bytes, space: SearchSpace, where: str = "plan predictor"
) -> PlanPredictor:
    """Read what `PlanPredictor.dump` wrote.

    Raises:
        InputError: not such a document, for another space, or with figures that cannot be.
    """
    try:
        stored = msgspec.json.decode(data, type=_Stored)
    except msgspec.DecodeError:
        read_document(data, (FORMAT, space.name, _meaning(False), 0), where)  # says what is wrong
        raise
    subnets = load_predictor(stored.subnets.encode(), space, where) if stored.subnets else None
    plan = uniform(space, 8)
    width = _features(space, [Planned(space.min_config(), plan)], subnets).shape[1]
    document = read_document(
        msgspec.json.encode(stored.plans),
        (FORMAT, space.name, _meaning(subnets is not None), width), where,
    )  # fmt: skip
    return PlanPredictor(space, document, subnets)


def _meaning(with_subnets: bool) -> str:
    return f"{PLAN_FEATURES}; " + ("predicted in fp32" if with_subnets else FEATURES)


def fit_plan_predictor(
    space: SearchSpace,
    evaluations: Sequence[PlanEvaluation],
    *,
    subnets: Predictor | None = None,
    seed: int = 0,
) -> PlanPredictor:
    """Fit a predictor to measured subnets with plans, as `predictor.fit_predictor` does.

    Args:
        space: the space.
        evaluations: pairs; those without a plan (fp32) fit a model of subnets, if there are enough
            of them and none is given.
        subnets: predicts subnets in fp32: a feature.
        seed: what is held out.

    Raises:
        InputError: too few measurements with plans.
    """
    whole = {r.config: r.accuracy for r in evaluations if r.plan is None}
    if subnets is None and len(whole) >= MINIMUM:
        subnets = fit_predictor(space, list(whole), list(whole.values()), seed=seed)
    pairs = {
        Planned(r.config, r.plan): r.accuracy for r in evaluations if r.plan is not None
    }  # fmt: skip
    if len(pairs) < MINIMUM:
        raise too_few(len(pairs), space)
    x = _features(space, list(pairs), subnets)
    known = None if subnets is None else x[:, -1]
    found = fit_measured(x, np.array(list(pairs.values())), seed, known)
    document = Document(
        FORMAT, space.name, _meaning(subnets is not None), x.shape[1], found.interval,
        found.quality, found.model,
    )  # fmt: skip
    return PlanPredictor(space, document, subnets)

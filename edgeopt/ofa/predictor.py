"""Accuracy of a subnet without running it: a small regression on measured subnets.

Three families compete in cross-validation on the measurements at hand: a linear model, a kernel
model and boosted trees, which win if they are better by a quarter. The winner is stored as numbers
in JSON; predicting needs numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Estimate, Source
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.genes import FEATURES, features
from edgeopt.ofa.regression import FAMILIES, Fit, Model, apply, compiled, problem
from edgeopt.zoo.card import Prediction

Floats = npt.NDArray[np.float64]

FORMAT = "edgeopt-predictor/1"
_FOLDS = 10
_CLOSE = 1.25  # errors that are alike, relative to the least
_HELD_OUT = 0.25
MINIMUM = 24
COVERAGE = 0.9


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well subnets are predicted that the predictor was not fitted to."""

    measured: int  # subnets in all
    held_out: int  # of them, kept aside while choosing and fitting
    kendall_tau: float
    mean_absolute_error: float  # 0..1
    coverage: float  # share of the held-out inside the interval
    cross_validated: dict[str, float]  # family -> mean absolute error


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    format: str
    space: str
    features: str
    feature_count: int
    interval: tuple[float, float]  # 90 % of subnets are within prediction + these
    quality: Quality
    model: Model

    def summary(self) -> Prediction:
        """What a model card says of it."""
        return Prediction(
            family=type(self.model).__name__.lower(),
            measured=self.quality.measured,
            held_out=self.quality.held_out,
            kendall_tau=self.quality.kendall_tau,
            mean_absolute_error=self.quality.mean_absolute_error,
            interval=self.interval,
            coverage=self.quality.coverage,
        )


@dataclass(frozen=True, slots=True, eq=False)
class AccuracyModel:
    """A fitted model and what is known of its errors: what all predictors of accuracy share.

    Attributes:
        space: the space.
        document: the model as it is stored.
    """

    space: SearchSpace
    document: Document
    _apply: Callable[[Floats], Floats] = field(init=False, repr=False)
    measured: ClassVar[str] = "measured subnets"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_apply", compiled(self.document.model))

    @property
    def interval(self) -> tuple[float, float]:
        """What to add to a prediction for the ends of its 90 % interval."""
        return self.document.interval

    @property
    def quality(self) -> Quality:
        """Its errors on what it was not fitted to."""
        return self.document.quality

    @property
    def how(self) -> str:
        """One phrase for reports."""
        q = self.quality
        return (
            f"predictor fitted to {q.measured} {self.measured} "
            f"(held-out Kendall τ {q.kendall_tau:.3f}, "
            f"mean error {100 * q.mean_absolute_error:.2f} points)"
        )

    def within(self, value: float) -> Estimate:
        """A prediction with its 90 % interval."""
        low, high = (min(1.0, max(0.0, value + end)) for end in self.interval)
        return Estimate(value, low, high, Source.ESTIMATED, 0.0, self.how)


class Predictor(AccuracyModel):
    """Accuracies of subnets of one space."""

    __slots__ = ()

    def predict(self, configs: Sequence[SubnetConfig]) -> Floats:
        """Predicted accuracies (0..1), one a subnet."""
        if not configs:
            return np.zeros(0)
        return np.clip(self._apply(features(self.space, configs)), 0.0, 1.0)

    def estimate(self, config: SubnetConfig) -> Estimate:
        """The same for one subnet, with its 90 % interval."""
        return self.within(float(self.predict([self.space.validate(config)])[0]))

    def dump(self) -> bytes:
        """The document as JSON."""
        return dump_document(self.document)


def load_predictor(data: bytes, space: SearchSpace, where: str = "predictor") -> Predictor:
    """Read what `Predictor.dump` wrote.

    Raises:
        InputError: not such a document, for another space, or with figures that cannot be.
    """
    width = features(space, [space.min_config()]).shape[1]
    return Predictor(space, read_document(data, (FORMAT, space.name, FEATURES, width), where))


def read_document(data: bytes, expected: tuple[str, str, str, int], where: str) -> Document:
    """Read a stored model; ``expected`` are its format, space, features and their number.

    Raises:
        InputError: not such a document, of something else, or with figures that cannot be.
    """
    hint = "reinstall the package, or build the zoo entry again"
    try:
        document = msgspec.json.decode(data, type=Document)
    except msgspec.DecodeError as error:
        raise InputError(f"not a predictor: {error}", where=where, hint=hint) from error
    names = ("format", "space", "features", "feature_count")
    for name, needed in zip(names, expected, strict=True):
        found = getattr(document, name)
        if found != needed:
            raise InputError(f"{name} is {found!r}, not {needed!r}", where=where, hint=hint)
    wrong = problem(document.model, expected[3])
    low, high = document.interval
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high):
        wrong = f"interval {low} to {high} does not enclose 0"
    if wrong:
        raise InputError(wrong, where=where, hint=hint)
    return document


def fit_predictor(
    space: SearchSpace,
    configs: Sequence[SubnetConfig],
    accuracies: Sequence[float],
    *,
    seed: int = 0,
) -> Predictor:
    """Fit a predictor to measured subnets.

    A quarter is held out: the family is chosen by cross-validation on the rest, and the stated
    quality is that of the winner, fitted to the rest, on the held-out part. What is returned is
    the winner fitted to everything, its interval from out-of-fold errors on everything.

    Raises:
        InputError: too few measurements.
    """
    if len(configs) != len(accuracies) or len(set(configs)) < MINIMUM:
        raise too_few(len(set(configs)), space)
    x = features(space, configs)
    found = fit_measured(x, np.asarray(accuracies, np.float64), seed)
    return Predictor(
        space,
        Document(
            FORMAT, space.name, FEATURES, x.shape[1], found.interval, found.quality, found.model
        ),
    )


def too_few(count: int, space: SearchSpace) -> InputError:
    """The error that a predictor cannot be fitted to so few measurements."""
    return InputError(
        f"{count} measured subnets are too few for a predictor", where=space.name,
        hint=f"measure at least {MINIMUM}",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model fitted to everything, its 90 % interval, and how well it did held out."""

    model: Model
    interval: tuple[float, float]
    quality: Quality


def fit_measured(x: Floats, y: Floats, seed: int, known: Floats | None = None) -> Fitted:
    """Choose a family, state its quality on held-out rows, and fit it to all (`fit_predictor`).

    With ``known``, predictions of another model, what is fitted is the difference to these.
    """
    measured, y = y, (y if known is None else y - known)
    order = np.random.default_rng(seed).permutation(len(y))
    count = max(6, round(_HELD_OUT * len(y)))
    test, train = order[:count], order[count:]
    errors = {
        name: float(np.abs(_out_of_fold(fit, x[train], y[train], seed)[0]).mean())
        for name, fit in FAMILIES.items()
    }
    # A search climbs slopes, and trees have steps: thousands of candidates are alike to them, and
    # it takes one that a step is too hopeful about.
    close = [name for name in FAMILIES if errors[name] <= _CLOSE * min(errors.values())]
    winner = min(close, key=lambda name: (name == "trees", errors[name]))
    fit = FAMILIES[winner]
    residual = y[test] - apply(fit(x[train], y[train], seed), x[test])
    inner = _interval(_out_of_fold(fit, x[train], y[train], seed)[0])
    quality = Quality(
        measured=len(y),
        held_out=count,
        kendall_tau=kendall_tau(measured[test], measured[test] - residual),
        mean_absolute_error=float(np.abs(residual).mean()),
        coverage=float(((residual >= inner[0]) & (residual <= inner[1])).mean()),
        cross_validated=errors,
    )
    interval = _interval(_out_of_fold(fit, x, y, seed)[0])
    return Fitted(fit(x, y, seed), interval, quality)


def kendall_tau(a: Floats, b: Floats) -> float:
    """Kendall's rank correlation (τ-b) of two series; 0 where one of them is constant."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(a, b).statistic)
    return tau if math.isfinite(tau) else 0.0


def _out_of_fold(fit: Fit, x: Floats, y: Floats, seed: int) -> tuple[Floats, Floats]:
    """Errors (measured less predicted) and predictions, each from a fit that did not see it."""
    fold = np.random.default_rng(seed + 1).permutation(len(y)) % min(_FOLDS, len(y))
    predicted = np.zeros(len(y))
    for index in range(int(fold.max()) + 1):
        model = fit(x[fold != index], y[fold != index], seed)
        predicted[fold == index] = apply(model, x[fold == index])
    return y - predicted, predicted


def _interval(errors: Floats) -> tuple[float, float]:
    """Ends that enclose 90 % of the errors, and 0; a little wide for few errors (conformal)."""
    count = len(errors)
    tail = max(0.0, (1 - COVERAGE) / 2 * (count + 1) / count - 1 / count)
    low, high = np.quantile(errors, [tail, 1 - tail])
    return min(0.0, float(low)), max(0.0, float(high))


# -- reading and writing --------------------------------------------------------------------------


def dump_document(document: Document) -> bytes:
    """A document as JSON."""
    return msgspec.json.encode(_rounded(document)) + b"\n"


def _rounded(document: Document) -> Document:
    """Ten significant digits: enough, and a file of half the size."""

    def shorten(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.10g}")
        if isinstance(value, dict):
            return {key: shorten(item) for key, item in value.items()}
        return [shorten(item) for item in value] if isinstance(value, list | tuple) else value

    return msgspec.convert(shorten(msgspec.to_builtins(document)), Document)

"""Whole networks from a measured table: a calibrated sum, with what is missing estimated.

A kernel the table lacks is predicted by a regression on the table's own entries of its class
(physical costs, then boosted trees on what they leave over); its interval is that of entries the
regression had not seen. It is always said how much of a prediction was measured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Estimate, Source
from edgeopt.core.files import digest
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import DTYPE_BYTES
from edgeopt.latency.analytic import CLASS_OF, features
from edgeopt.latency.fit import Matrix, fit_costs
from edgeopt.latency.table import Calibration, LatencyTable

SPILL_BYTES = 262_144
MIN_ENTRIES = 6  # below, a class has too little to fit costs to and all classes are pooled
MIN_FOR_TREES = 40
MAX_LISTED = 5

#: A block in one kernel takes at least this share of its parts' time.
BLOCK_GAIN = 0.6

#: The interval of a sum that was never checked against whole networks.
UNCHECKED = (0.8, 1.5)


@dataclass(frozen=True, slots=True)
class _Regressor:
    """Times of one class of kernels in one precision."""

    factors: Matrix
    trees: Any  # a fitted sklearn regressor of log residuals, or None
    low: float  # 5 % and 95 % quantiles of measured / predicted on unseen entries
    high: float

    def predict(self, keys: Sequence[OpKey]) -> Matrix:
        return _predict(self.factors, self.trees, keys)


def _terms(keys: Sequence[OpKey]) -> Matrix:
    return np.array([features(key, SPILL_BYTES) for key in keys], dtype=np.float64)


def _shape_features(keys: Sequence[OpKey]) -> Matrix:
    """What physical costs do not see: shapes, tails of vectors and tiles, fused extras."""
    rows = []
    for key in keys:
        c_in, c_out = key.in_shape[-1], key.out_shape[-1]
        pixels = math.prod(key.out_shape[:-1])
        rows.append(
            [
                math.log(c_in), math.log(c_out), math.log(pixels), math.log(1 + key.macs),
                math.log(1 + key.weight_count), key.kernel[0], key.strides[0],
                c_out % 8, c_out % 16, c_in % 8, pixels % 8, key.inputs,
                float(key.residual), float(key.activation != "none"),
                float("swish" in key.activation or "sigmoid" in key.activation),
                float(key.out_dtype != key.dtype),
            ]
        )  # fmt: skip
    return np.array(rows, dtype=np.float64)


def _costs(factors: Matrix, keys: Sequence[OpKey]) -> Matrix:
    base: Matrix = _terms(keys) @ factors
    return np.maximum(base, 1.0)


def _predict(factors: Matrix, trees: Any, keys: Sequence[OpKey]) -> Matrix:
    base = _costs(factors, keys)
    if trees is None:
        return base
    corrected: Matrix = base * np.exp(trees.predict(_shape_features(keys)))
    return corrected


def _fit_trees(factors: Matrix, keys: Sequence[OpKey], times: Matrix) -> Any:
    if len(keys) < MIN_FOR_TREES:
        return None
    from sklearn.ensemble import GradientBoostingRegressor

    residuals = np.log(times / _costs(factors, keys))
    trees = GradientBoostingRegressor(
        n_estimators=150, max_depth=4, learning_rate=0.08, subsample=0.8, random_state=0
    )
    return trees.fit(_shape_features(keys), residuals)


def _fit(keys: Sequence[OpKey], times: Matrix) -> _Regressor:
    factors = fit_costs(_terms(keys), times)
    folds = min(5, len(keys))
    order = np.random.default_rng(0).permutation(len(keys))
    ratios: list[float] = []
    for fold in range(folds):
        held = set(order[fold::folds].tolist())
        inside = [i for i in range(len(keys)) if i not in held]
        if not inside:
            continue
        part = [keys[i] for i in inside]
        part_factors = fit_costs(_terms(part), times[inside])
        trees = _fit_trees(part_factors, part, times[inside])
        outside = sorted(held)
        predicted = _predict(part_factors, trees, [keys[i] for i in outside])
        ratios.extend((times[outside] / predicted).tolist())
    low, high = (0.3, 3.0) if len(ratios) < MIN_ENTRIES else np.quantile(ratios, [0.05, 0.95])
    trees = _fit_trees(factors, keys, times)
    return _Regressor(factors, trees, min(1.0, float(low)), max(1.0, float(high)))


@dataclass(slots=True)
class TableModel:
    """A `core.estimates.LatencyModel` from a measured table.

    Args:
        table: the measurements.
        strict: refuse kernels that the table does not hold, instead of estimating them.
    """

    table: LatencyTable
    strict: bool = False
    _regressors: dict[tuple[str, str], _Regressor] = field(default_factory=dict, repr=False)
    _cache: dict[OpKey, Estimate] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """Changes whenever a prediction could."""
        entries = sorted((str(key), repr(entry)) for key, entry in self.table.entries.items())
        return digest(repr((entries, self.table.calibration, self.strict)).encode())

    def missing(self, keys: Sequence[OpKey]) -> tuple[OpKey, ...]:
        """The distinct kernels that the table does not hold, in order."""
        return tuple(dict.fromkeys(key for key in keys if key not in self.table.entries))

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        """Latency of the kernels run one after another, calibrated on whole networks.

        Raises:
            InputError: ``strict`` and a kernel is missing, or the table is empty.
        """
        parts = self.predict_each(keys)
        total = sum(part.value for part in parts)
        measured = sum(part.value for part in parts if part.coverage > 0)
        # Measured kernels err independently, estimated ones together.
        noise = math.sqrt(sum((part.high - part.value) ** 2 for part in parts if part.coverage > 0))
        below = sum(part.value - part.low for part in parts if part.coverage == 0) + noise
        above = sum(part.high - part.value for part in parts if part.coverage == 0) + noise
        calibration = self.table.calibration
        extra = _network_overhead(calibration, keys)
        low, high = UNCHECKED if calibration is None else (calibration.low, calibration.high)
        value = total + extra
        coverage = measured / total if total else 1.0
        return Estimate(
            value=value,
            low=max(0.0, value * low - below),
            high=value * high + above,
            source=Source.MEASURED if coverage == 1.0 else Source.ESTIMATED,
            coverage=coverage,
            how=self._how(keys, parts),
        )

    def predict_each(self, keys: Sequence[OpKey]) -> list[Estimate]:
        """Kernel by kernel; a network's fixed overhead is only in `predict`.

        Raises:
            InputError: ``strict`` and a kernel is missing, or the table is empty.
        """
        unknown = [key for key in dict.fromkeys(keys) if key not in self._cache]
        if unknown:
            self._learn(unknown)
        return [self._cache[key] for key in keys]

    def _learn(self, keys: Sequence[OpKey]) -> None:
        scale = self.table.calibration.scale if self.table.calibration else 1.0
        missing = self.missing(keys)
        if missing and self.strict:
            listed = "; ".join(str(key) for key in missing[:MAX_LISTED])
            more = f"; and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
            raise InputError(
                f"{len(missing)} kernels are not in the latency table: {listed}{more}",
                where=f"device {self.table.device}",
                hint="measure them with `edgeopt profile`, or leave out --strict to estimate them",
            )
        for key in keys:
            entry = self.table.entries.get(key)
            if entry is not None:
                value, spread = entry.median_ns * scale, entry.spread_ns * scale
                self._cache[key] = Estimate(
                    value, max(0.0, value - spread), value + spread, Source.MEASURED, 1.0,
                    f"measured on {self.table.device} with {self.table.runtime}, "
                    f"{self.table.threads} thread{'s' if self.table.threads > 1 else ''}",
                )  # fmt: skip
        groups: dict[tuple[str, str], list[OpKey]] = {}
        for key in missing:
            if key.parts:
                self._cache[key] = self._by_parts(key)
                continue
            groups.setdefault((CLASS_OF[key.op], key.precision), []).append(key)
        for group, members in groups.items():
            regressor, pooled = self._regressor(group)
            values = regressor.predict(members) * scale
            low, high = regressor.low, regressor.high
            if pooled:
                low, high = min(low, 0.3), max(high, 4.0)
            how = f"estimated from the table's {'other' if pooled else group[0]} kernels"
            for key, raw in zip(members, values, strict=True):
                value = float(raw)
                self._cache[key] = Estimate(
                    value, value * low, value * high, Source.ESTIMATED, 0.0, how
                )

    def _by_parts(self, key: OpKey) -> Estimate:
        """A block that was not measured, as its parts one after another: they take longer."""
        parts = self.predict_each(key.parts)
        value, high = sum(part.value for part in parts), sum(part.high for part in parts)
        low = BLOCK_GAIN * sum(part.low for part in parts)
        how = "estimated from the kernels that it joins"
        return Estimate(value, low, high, Source.ESTIMATED, 0.0, how)

    def _regressor(self, group: tuple[str, str]) -> tuple[_Regressor, bool]:
        """The regression of a class, and whether all classes had to be pooled for it."""
        entries = self.table.entries
        single = [key for key in entries if not key.parts]
        members = [key for key in single if (CLASS_OF[key.op], key.precision) == group]
        pooled = len(members) < MIN_ENTRIES
        if pooled:
            group, members = ("", group[1]), [k for k in single if k.precision == group[1]]
            if len(members) < MIN_ENTRIES:
                group, members = ("", ""), single
        if not members:
            raise InputError(
                "the latency table is empty", where=f"device {self.table.device}",
                hint="measure it with `edgeopt profile`",
            )  # fmt: skip
        if group not in self._regressors:
            times = np.array([entries[key].median_ns for key in members])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._regressors[group] = _fit(members, times)
        return self._regressors[group], pooled

    def _how(self, keys: Sequence[OpKey], parts: Sequence[Estimate]) -> str:
        measured = sum(part.coverage > 0 for part in parts)
        text = f"sum of {len(parts)} kernels, {measured} measured"
        calibration = self.table.calibration
        if calibration is None:
            return f"{text}; never checked against whole networks"
        return (
            f"{text}; error on {calibration.networks} whole networks left out: "
            f"{calibration.mape:.1%} on average, {calibration.within_10:.0%} within 10 %"
        )


def weight_bytes(keys: Sequence[OpKey]) -> int:
    """Bytes of all kernels' weights."""
    return sum(key.weight_count * DTYPE_BYTES[key.dtype] for key in keys)


def _network_overhead(calibration: Calibration | None, keys: Sequence[OpKey]) -> float:
    if calibration is None:
        return 0.0
    return (
        calibration.per_kernel_ns * len(keys)
        + calibration.per_weight_byte_ns * weight_bytes(keys)
        + calibration.per_network_ns
    )


def calibrate(
    table: LatencyTable, networks: Mapping[str, tuple[Sequence[OpKey], float]]
) -> Calibration:
    """Fit the step from summed kernels to whole networks, and find its error.

    Args:
        table: the measurements; an earlier calibration in it is ignored.
        networks: name -> (kernels, measured nanoseconds); at least 8.

    Raises:
        InputError: fewer than 8 networks.
    """
    from dataclasses import replace

    from edgeopt.latency.fit import compare

    if len(networks) < 8:
        raise InputError(
            f"{len(networks)} whole networks are too few to calibrate a table with",
            hint="measure at least 8",
        )
    model = TableModel(replace(table, calibration=None))
    items = [networks[name] for name in sorted(networks)]
    terms = np.array(
        [
            [sum(part.value for part in model.predict_each(keys)), len(keys), weight_bytes(keys), 1]
            for keys, _ in items
        ],
        dtype=np.float64,
    )
    times = np.array([latency_ns for _, latency_ns in items])
    predicted = np.empty_like(times)
    folds = min(10, len(items))
    for fold in range(folds):
        held = np.arange(len(items)) % folds == fold
        predicted[held] = terms[held] @ fit_costs(terms[~held], times[~held], floor=0.02)
    report = compare(predicted, times)
    factors = fit_costs(terms, times, floor=0.02)
    low, high = np.quantile(times / predicted, [0.05, 0.95])
    return Calibration(
        scale=max(float(factors[0]), 1e-6),
        per_kernel_ns=float(factors[1]),
        per_weight_byte_ns=float(factors[2]),
        per_network_ns=float(factors[3]),
        networks=len(items),
        mape=report.mape,
        worst_error=report.worst_error,
        within_5=report.within_5,
        within_10=report.within_10,
        spearman=report.spearman,
        low=min(1.0, float(low)),
        high=max(1.0, float(high)),
    )

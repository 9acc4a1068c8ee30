"""Whole networks from a measured table: a calibrated sum, with what is missing estimated.

A kernel the table lacks is predicted from the table's own entries of its class
(`edgeopt.latency.classes`); its interval is that of entries which the prediction had not seen. It
is always said how much of a prediction was measured, and the interval of a network is that of
whole networks which nothing was fitted to, where the table has measured such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Estimate, Source
from edgeopt.core.files import digest
from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import CLASS_OF
from edgeopt.latency.classes import Z90, ClassModel, fit_class
from edgeopt.latency.fit import Matrix, fit_costs
from edgeopt.latency.table import Calibration, LatencyTable

MIN_ENTRIES = 6  # below, a class has too little to fit costs to and all classes are pooled
MAX_LISTED = 5

#: A block in one kernel takes at least this share of its parts' time.
BLOCK_GAIN = 0.6

#: What splitting networks finds of a kernel that was not measured by itself is this uncertain.
SPLIT = 0.25

#: How far off packed weights may be, told from int8 ones: with the sums in one form they take 0.9
#: to 1.2 times as long on x86-64, and 0.9 to 1.8 times the instructions on 64-bit Arm (sections
#: `lowbit_kernels` and `lowbit_aarch64` of benchmarks/RESULTS.md).
UNPACKED = 0.4

#: The interval of a sum that was never checked against whole networks.
UNCHECKED = (0.8, 1.5)

#: What kernels add to a network is a multiple of this, in nanoseconds (squared ones of 1 ns²).
#: Such numbers add up exactly in any order, so that networks summed block by block
#: (`edgeopt.pipeline.space_latency`) come to the same, to the last bit.
GRID_NS = 1 / 1024


@dataclass(frozen=True, slots=True)
class Share:
    """What one kernel adds to a network's prediction; see `GRID_NS`.

    Attributes:
        value: nanoseconds.
        measured: the same if it was measured, else 0.
        variance: of the measurement, square nanoseconds.
        below: how much less an estimate may come to; 0 where measured.
        above: how much more.
        weight_bytes: that it reads.
    """

    value: float
    measured: float
    variance: float
    below: float
    above: float
    weight_bytes: int

    @property
    def row(self) -> tuple[float, ...]:
        """The fields, and 1 for the kernel itself."""
        return (
            self.value, self.measured, self.variance, self.below, self.above,
            float(self.weight_bytes), 1.0,
        )  # fmt: skip


def _on_grid(value: float) -> float:
    return round(value / GRID_NS) * GRID_NS


@dataclass(slots=True)
class TableModel:
    """A `core.estimates.LatencyModel` from a measured table.

    Args:
        table: the measurements.
        strict: refuse kernels that the table does not hold, instead of estimating them.
        beyond: estimates kernels of classes that the table hardly holds; without it all classes
            are pooled for them.
    """

    table: LatencyTable
    strict: bool = False
    beyond: Callable[[Sequence[OpKey]], list[Estimate]] | None = field(default=None, repr=False)
    _classes: dict[tuple[str, str], ClassModel] = field(default_factory=dict, repr=False)
    _cache: dict[OpKey, Estimate] = field(default_factory=dict, repr=False)
    _shares: dict[OpKey, Share] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """Changes whenever a prediction could."""
        entries = sorted((str(key), repr(entry)) for key, entry in self.table.entries.items())
        inside = sorted((str(key), value) for key, value in self.table.in_network.items())
        found = (entries, inside, self.table.calibration, self.table.truth, self.strict)
        return digest(repr(found).encode())

    def missing(self, keys: Sequence[OpKey]) -> tuple[OpKey, ...]:
        """The distinct kernels that the table does not hold, in order."""
        table = self.table
        return tuple(
            dict.fromkeys(k for k in keys if k not in table.entries and k not in table.in_network)
        )

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        """Latency of the kernels run one after another, calibrated on whole networks.

        Raises:
            InputError: ``strict`` and a kernel is missing, or the table is empty.
        """
        shares = self.shares(keys)
        sums = [sum(column) for column in zip(*(share.row for share in shares), strict=True)]
        value, low, high, coverage = self.network(np.array([sums or [0.0] * 7]))
        return Estimate(
            value=float(value[0]),
            low=float(low[0]),
            high=float(high[0]),
            source=self.table.source if coverage[0] == 1.0 else Source.ESTIMATED,
            coverage=float(coverage[0]),
            how=self._how(len(shares), sum(share.measured > 0 for share in shares)),
        )

    def shares(self, keys: Sequence[OpKey]) -> list[Share]:
        """What each kernel adds to a network.

        Raises:
            InputError: ``strict`` and a kernel is missing, or the table is empty.
        """
        for key, part in zip(keys, self.predict_each(keys), strict=True):
            if key not in self._shares:
                value, known = _on_grid(part.value), part.coverage > 0
                self._shares[key] = Share(
                    value=value,
                    measured=value if known else 0.0,
                    variance=float(round((part.high - part.value) ** 2)) if known else 0.0,
                    below=0.0 if known else _on_grid(part.value - part.low),
                    above=0.0 if known else _on_grid(part.high - part.value),
                    weight_bytes=weight_bytes([key]),
                )
        return [self._shares[key] for key in keys]

    def network(self, sums: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """Value, low, high (nanoseconds) and coverage of networks, from sums of `Share.row`.

        Args:
            sums: [networks, 7].
        """
        total, measured, variance, below, above, read, kernels = sums.T
        calibration, truth = self.table.calibration, self.table.truth
        value = total
        if calibration is not None:
            value = total + (
                calibration.per_kernel_ns * kernels
                + calibration.per_weight_byte_ns * read
                + calibration.per_network_ns
            )
        # Measured kernels err independently, estimated ones together.
        noise = np.sqrt(variance)
        below, above = below + noise, above + noise
        if truth is not None:
            low, high = math.exp(-truth.interval), math.exp(truth.interval)
            # The held-out networks' errors hold what the table is unsure of, as far as in them.
            below = np.maximum(below - truth.own * value, 0.0)
            above = np.maximum(above - truth.own * value, 0.0)
        elif calibration is not None:
            low, high = calibration.low, calibration.high
        else:
            low, high = UNCHECKED
        coverage = np.divide(measured, total, out=np.ones_like(total), where=total > 0)
        return value, np.maximum(value * low - below, 0.0), value * high + above, coverage

    def own_uncertainty(self, keys: Sequence[OpKey]) -> float:
        """How far off a network may be for what is known of its kernels alone, relative to it."""
        sums = np.array([share.row for share in self.shares(keys)]).sum(0)
        value = self.network(sums[None])[0][0]
        return float(((sums[3] + sums[4]) / 2 + math.sqrt(sums[2])) / value)

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
        threads = f"{self.table.threads} thread{'s' if self.table.threads > 1 else ''}"
        where = f"{self.table.source} on {self.table.device} with {self.table.runtime}, {threads}"
        for key in keys:
            entry, inside = self.table.entries.get(key), self.table.in_network.get(key)
            if entry is not None:
                value, spread = entry.median_ns * scale, entry.spread_ns * scale
                how = where
                if inside is not None:
                    spread *= inside / value
                    value, how = inside, f"{where}; as found in whole networks"
                self._cache[key] = Estimate(
                    value, max(0.0, value - spread), value + spread, self.table.source, 1.0, how
                )
            elif inside is not None:
                self._cache[key] = Estimate(
                    inside, inside * (1 - SPLIT), inside * (1 + SPLIT), Source.ESTIMATED, 0.0,
                    f"split off whole networks {where}",
                )  # fmt: skip
        groups: dict[tuple[str, str], list[OpKey]] = {}
        for key in missing:
            if key.parts:
                self._cache[key] = self._by_parts(key)
                continue
            groups.setdefault((CLASS_OF[key.op], key.weight_type), []).append(key)
        for group, members in groups.items():
            if self.beyond is not None and self._members(group, self._times()) is None:
                if group[1] not in ("f32", "i8"):
                    self._cache.update((key, self._by_whole(key)) for key in members)
                    continue
                for key, found in zip(members, self.beyond(members), strict=True):
                    self._cache[key] = replace(
                        found, value=found.value * scale, low=found.low * scale,
                        high=found.high * scale,
                    )  # fmt: skip
                continue
            model, pooled = self._class(group)
            values, deviations = model.predict(members)
            how = f"estimated from the table's {'other' if pooled else group[0]} kernels"
            for key, raw, deviation in zip(members, values * scale, deviations, strict=True):
                value, reach = float(raw), math.exp(Z90 * float(deviation))
                low, high = 1 / reach, reach
                if pooled:
                    low, high = min(low, 0.3), max(high, 4.0)
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

    def _by_whole(self, key: OpKey) -> Estimate:
        """Packed weights nobody measured: their kernel with int8 ones, by what unpacking changes.

        What the processor's model says of the ratio is trusted less than the int8 kernel's time.
        """
        assert self.beyond is not None
        whole = replace(key, weight_bits=0)
        (known,) = self.predict_each([whole])
        packed, usual = self.beyond([key, whole])
        ratio = packed.value / usual.value
        value = known.value * ratio
        low = min(known.low * ratio, value * (1 - UNPACKED))
        high = max(known.high * ratio, value * (1 + UNPACKED))
        how = "estimated from the same kernel with int8 weights and the processor's facts"
        return Estimate(value, low, high, Source.ESTIMATED, 0.0, how)

    def _class(self, group: tuple[str, str]) -> tuple[ClassModel, bool]:
        """The model of a class, and whether all classes had to be pooled for it."""
        known = self._times()
        members = self._members(group, known)
        pooled = members is None
        if members is None:
            single = [key for key in known if not key.parts]
            group, members = ("", group[1]), [k for k in single if k.weight_type == group[1]]
            if len(members) < MIN_ENTRIES:
                group, members = ("", ""), single
        if not members:
            raise InputError(
                "the latency table is empty", where=f"device {self.table.device}",
                hint="measure it with `edgeopt profile`",
            )  # fmt: skip
        if group not in self._classes:
            times = np.array([known[key] for key in members])
            self._classes[group] = fit_class(members, times)
        return self._classes[group], pooled

    def _times(self) -> dict[OpKey, float]:
        """Nanoseconds of the table's kernels by themselves, or as whole networks were split."""
        known = {key: entry.median_ns for key, entry in self.table.entries.items()}
        if known:
            return known
        scale = self.table.calibration.scale if self.table.calibration else 1.0
        return {key: value / scale for key, value in self.table.in_network.items()}

    @staticmethod
    def _members(group: tuple[str, str], known: Iterable[OpKey]) -> list[OpKey] | None:
        """The kernels of a class; None where they are too few to learn it from."""
        found = [k for k in known if not k.parts and (CLASS_OF[k.op], k.weight_type) == group]
        return found if len(found) >= MIN_ENTRIES else None

    def _how(self, kernels: int, measured: int) -> str:
        text = f"sum of {kernels} kernels, {measured} measured"
        although = self.table.conditions.get("accepted_although")
        if although is not None:
            text += f", by a table that was asked for although {although}"
        calibration, truth = self.table.calibration, self.table.truth
        if truth is not None:
            return (
                f"{text}; error on {truth.networks} whole networks never fitted to: "
                f"{truth.mape:.1%} on average, {truth.within_10:.0%} within 10 %"
            )
        if calibration is None:
            return f"{text}; never checked against whole networks"
        return (
            f"{text}; error on {calibration.networks} whole networks left out: "
            f"{calibration.mape:.1%} on average, {calibration.within_10:.0%} within 10 %"
        )


def weight_bytes(keys: Sequence[OpKey]) -> int:
    """Bytes of all kernels' weights."""
    return sum(key.weight_bytes for key in keys)


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

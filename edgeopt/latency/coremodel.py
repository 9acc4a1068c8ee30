"""Latency from a model of the core: for any kernel, with or without measurements.

Without any it rests on the profile's facts alone and says so with a wide interval. Measurements of
kernels, blocks or whole networks on the device narrow it (`learn_core`); measurements under
another runtime tell what they can of this one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Estimate, Source
from edgeopt.core.files import digest
from edgeopt.core.kernels import OpKey
from edgeopt.latency.fit import ErrorReport, Matrix, compare
from edgeopt.latency.peaks import Peaks, peaks_of
from edgeopt.latency.prior import DEVICE, LOADINGS, base_costs, deviations, expectation
from edgeopt.latency.update import Z90, Belief, carried, learn, maximum
from edgeopt.latency.work import (
    NETWORK_TERMS,
    Unit,
    class_of,
    cold_bytes,
    unit_work,
    weight_bytes,
    work_of,
)

#: Fewer measurements say too little of their own error.
MIN_FOR_ERROR = 5
#: They lead from one precision to the other, and run where either does.
CONVERSIONS = frozenset({"quantize", "dequantize"})
#: Multiplications that Winograd's forms save at most: F(4x4, 3x3) needs 36 for 144.
WINOGRAD_GAIN = 4.0


@dataclass(frozen=True, slots=True)
class Trust:
    """How a core's model did on measurements left out of its fit."""

    rows: int
    folds: int
    mape: float
    median_error: float
    worst_error: float
    within_10: float
    spearman: float
    covered: float  # share of rows inside their 90 % interval
    widen: float  # what intervals are multiplied with so that 90 % are


@dataclass(frozen=True, slots=True)
class CoreFit:
    """What measurements taught of a core under one runtime.

    Attributes:
        threads: 0 where nobody says.
        classes: kernels measured, alone or within larger units, by ``class precision``.
        origin: what was measured, by whom, under which licence.
    """

    device: str
    fingerprint: str
    runtime: str
    threads: int
    belief: Belief
    trust: Trust
    classes: Mapping[str, int]
    origin: str


@dataclass(frozen=True, slots=True)
class _Known:
    """A kernel that was asked for before."""

    estimate: Estimate
    slope: Matrix  # [factors], nanoseconds: how its time changes with them
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class CoreModel:
    """A `core.estimates.LatencyModel` of a core."""

    device: str
    runtime: str
    threads: int
    peaks: Peaks
    base: Matrix
    belief: Belief
    how: str
    precisions: tuple[str, ...]
    widen: float = 1.0
    classes: Mapping[str, int] = field(default_factory=dict)  # measured under this runtime
    trust: Trust | None = None
    other: str | None = None  # the runtime that was measured, where it is not this one
    _costs: Matrix = field(init=False, repr=False, compare=False)
    _known: dict[OpKey, _Known] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_costs", self.belief.costs(self.base))

    @property
    def digest(self) -> str:
        """Changes whenever a prediction could."""
        belief = self.belief
        numbers = (self.base, belief.mean, belief.covariance)
        text = repr((belief.noise, self.widen, self.precisions, self.peaks, self.how))
        return digest(b"".join(array.tobytes() for array in numbers) + text.encode())

    def supported(self, key: OpKey) -> bool:
        """Whether kernels of its class and precision were measured under this runtime."""
        parts = key.parts or (key,)
        return all(self.classes.get(f"{class_of(p)} {p.weight_type}", 0) > 0 for p in parts)

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        """The kernels one after another, and what a run and cold weights cost besides."""
        if not keys:
            return Estimate(0.0, 0.0, 0.0, Source.ESTIMATED, 0.0, self.how)
        parts = self._look_up(keys)
        weights = sum(part.weight_bytes for part in parts)
        whole = self._costs[-len(NETWORK_TERMS) :] * (cold_bytes(weights, self.peaks), 1.0)
        slope = np.sum([part.slope for part in parts], axis=0)
        slope += whole @ LOADINGS[-len(NETWORK_TERMS) :]
        value = sum(part.estimate.value for part in parts) + float(whole.sum())
        return self._estimate(value, slope)

    def predict_each(self, keys: Sequence[OpKey]) -> list[Estimate]:
        """Kernel by kernel, in nanoseconds.

        Raises:
            InputError: the device does not compute in a kernel's precision.
        """
        return [part.estimate for part in self._look_up(keys)]

    def _look_up(self, keys: Sequence[OpKey]) -> list[_Known]:
        found = []
        for key in keys:
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = self._learn(key)
            found.append(known)
        return found

    def _learn(self, key: OpKey) -> _Known:
        if key.precision not in self.precisions and key.op not in CONVERSIONS:
            raise InputError(
                f"{key.precision} kernels do not run there: {key}", where=f"device {self.device}",
                hint=f"its precisions are {', '.join(self.precisions)}",
            )  # fmt: skip
        costs = work_of(key, self.peaks) * self._costs
        slope = costs @ LOADINGS
        value = max(float(costs.sum()), self.floor_ns(key))
        return _Known(self._estimate(value, slope), slope, weight_bytes(key))

    def floor_ns(self, key: OpKey) -> float:
        """What the kernel's multiplications take at the peak rate of all threads."""
        threads = self.threads or self.peaks.cores
        total = 0.0
        for part in key.parts or (key,):
            small = part.op == "conv2d" and part.kernel == (3, 3) and part.strides == (1, 1)
            rate = self.peaks.macs_per_ns(part.precision) * (WINOGRAD_GAIN if small else 1.0)
            total += part.macs / rate / threads
        return total

    def _estimate(self, value: float, slope: Matrix) -> Estimate:
        """With its interval; ``slope`` is how the value changes with the factors."""
        slope = slope / max(value, 1e-9)
        variance = float(slope @ self.belief.covariance @ slope)
        spread = self.widen * math.sqrt(max(variance, 0.0) + self.belief.noise**2)
        factor = math.exp(min(Z90 * spread, 20.0))
        return Estimate(
            value=value, low=value / factor, high=value * factor, source=Source.ESTIMATED,
            coverage=0.0, how=self.how,
        )  # fmt: skip


def prior_belief(profile: DeviceProfile, runtime: str, threads: int) -> Belief:
    """What is held before anything was measured on a device."""
    device, own = deviations(runtime, threads)
    return Belief(expectation(runtime, profile.arch), np.diag(device**2 + own**2))


def core_model(
    profile: DeviceProfile,
    *,
    runtime: str = "edgeopt",
    threads: int = 1,
    fit: CoreFit | None = None,
) -> CoreModel:
    """The model of a device's core, with what measurements taught of it if there are any.

    Args:
        profile: the facts.
        runtime: what will run the kernels.
        threads: how many threads will; 0 where nobody says.
        fit: measurements, of this runtime or of another one.
    """
    peaks = peaks_of(profile)
    base = base_costs(peaks, threads)
    fixed = {
        "device": profile.name, "runtime": runtime, "threads": threads, "peaks": peaks,
        "base": base, "precisions": profile.precisions,
    }  # fmt: skip
    if fit is None:
        assumed = f"; {' and '.join(peaks.assumed)} assumed" if peaks.assumed else ""
        measure = "; `edgeopt profile` measures" if profile.folder is None else ""
        return CoreModel(
            **fixed,  # type: ignore[arg-type]
            belief=prior_belief(profile, runtime, threads),
            how="estimated from the facts of its profile alone (clock, vector instructions, "
            f"caches{assumed}){measure}",
        )
    trust = fit.trust
    if (fit.runtime, fit.threads) == (runtime, threads):
        units = f"{trust.rows} unit{'s' if trust.rows != 1 else ''}"
        error = (
            f"error on rows left out: {trust.mape:.1%} on average, Spearman {trust.spearman:.3f}"
            if trust.rows >= MIN_FOR_ERROR
            else "too few to state an error"
        )
        return CoreModel(
            **fixed,  # type: ignore[arg-type]
            belief=fit.belief,
            widen=trust.widen,
            classes=fit.classes,
            trust=trust,
            how=f"estimated from {units} measured under {runtime}; {error}; {fit.origin}",
        )
    return CoreModel(
        **fixed,  # type: ignore[arg-type]
        belief=carried(
            fit.belief,
            prior_belief(profile, fit.runtime, fit.threads),
            prior_belief(profile, runtime, threads),
            DEVICE,
        ),
        other=fit.runtime,
        how=f"estimated from the profile's facts and from {trust.rows} units measured there under "
        f"another runtime, {fit.runtime}; not measured with {runtime}'s kernels",
    )


def learn_core(
    profile: DeviceProfile,
    units: Sequence[Unit],
    times_ns: Sequence[float],
    *,
    runtime: str,
    threads: int = 1,
    origin: str,
    onto: CoreModel | None = None,
    alike: Sequence[Hashable] | None = None,
) -> tuple[CoreFit, Matrix]:
    """Learn a core's costs from measured units; also gives their predictions when left out.

    Args:
        profile: the facts.
        units: what was measured.
        times_ns: how long each took.
        runtime: what ran them.
        threads: on how many threads; 0 where nobody says.
        origin: who measured what.
        onto: what is believed already; the facts' belief otherwise.
        alike: a mark a unit; units of equal marks are left out together to find the error.

    Raises:
        InputError: there is nothing to learn from.
    """
    if not units:
        raise InputError("there are no measurements", hint="give at least one")
    model = onto or core_model(profile, runtime=runtime, threads=threads)
    work = np.array([unit_work(unit, model.peaks) for unit in units])
    times = np.array(times_ns, dtype=np.float64)
    learnt = learn(work, times, model.base, model.belief, alike)
    report = compare(learnt.left_out, times)
    classes = Counter(
        f"{class_of(part)} {part.weight_type}"
        for unit in units
        for key in unit.keys
        for part in key.parts or (key,)
    )
    for name, count in (onto.classes if onto is not None else {}).items():
        classes[name] += count
    fit = CoreFit(
        device=profile.name,
        fingerprint=profile.fingerprint,
        runtime=runtime,
        threads=threads,
        belief=learnt.belief,
        trust=_trust(report, learnt.left_out, learnt.deviation, times, learnt.folds),
        classes=dict(sorted(classes.items())),
        origin=origin,
    )
    return fit, learnt.left_out


def _trust(
    report: ErrorReport, predicted: Matrix, deviation: Matrix, times: Matrix, folds: int
) -> Trust:
    ratio = np.maximum(predicted, 1e-3) / times
    score = np.abs(np.log(ratio)) / (Z90 * deviation)
    count = len(times)
    # The rank that leaves a tenth outside among exchangeable rows; few rows leave intervals alone.
    rank = math.ceil(0.9 * (count + 1)) - 1
    widen = float(np.sort(score)[rank]) if rank < count else 1.0
    return Trust(
        rows=count, folds=folds, mape=report.mape, median_error=report.median_error,
        worst_error=report.worst_error, within_10=report.within_10, spearman=report.spearman,
        covered=float((score <= 1).mean()), widen=max(widen, 0.5 if count >= 30 else 1.0),
    )  # fmt: skip


#: Relative error of the model on single kernels, and as many as it is taught at most.
KERNEL_NOISE, MOST_KERNELS = 0.25, 400


def core_of_kernels(
    profile: DeviceProfile, kernels: Mapping[OpKey, float], *, runtime: str, threads: int
) -> CoreModel:
    """A core learnt from the kernels of a table, for those that the table lacks.

    Args:
        profile: the facts.
        kernels: nanoseconds of each.
        runtime: what ran them.
        threads: on how many threads.
    """
    model = core_model(profile, runtime=runtime, threads=threads)
    some = sorted(kernels, key=lambda key: key.digest)[:MOST_KERNELS]
    if not some:
        return model
    work = np.array([work_of(key, model.peaks) for key in some])
    times = np.array([kernels[key] for key in some])
    return replace(
        model,
        belief=maximum(work, times, model.base, model.belief, KERNEL_NOISE),
        how="estimated from the table's kernels of other classes and the processor's facts",
    )

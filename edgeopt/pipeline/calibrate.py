"""``edgeopt table calibrate``: measured networks and kernels sharpen a board's estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt import devices
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Estimate
from edgeopt.core.files import digest
from edgeopt.core.kernels import OpKey
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model
from edgeopt.latency.corefile import save_fit
from edgeopt.latency.coremodel import MIN_FOR_ERROR, CoreFit, CoreModel, core_model, learn_core
from edgeopt.latency.measured import Measured, read_measured, refuse_rows, runtime_name
from edgeopt.latency.select import RUNTIME, find_fits, find_table, fit_path, made_table_dir
from edgeopt.latency.work import Unit
from edgeopt.pipeline.manifest import Record
from edgeopt.pipeline.predict import graph_for

#: Nothing runs this much faster than the peak of all cores: another processor ran it.
BEYOND_PEAK = 2.0


class CalibrationRow(Record, frozen=True):
    """A measurement beside what was predicted before it, after it, and without it."""

    name: str
    kernels: int
    measured_ns: float
    before_ns: float
    left_out_ns: float
    after_ns: float


class Calibrated(Record, frozen=True):
    """The answer of ``edgeopt table calibrate``; error figures are of rows left out of the fit."""

    schema: int
    device: str
    runtime: str
    threads: int
    rows: tuple[CalibrationRow, ...]
    mape_before: float
    mape_left_out: float | None  # None: too few rows to say
    spearman_left_out: float | None
    within_10_left_out: float | None
    mape_after: float  # of the rows themselves
    low: float  # a prediction of a like network lies between these multiples of it, 90 %
    high: float
    path: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What to calibrate.

    Attributes:
        device: name or path of a device profile.
        measurements: the CSV file.
        runtime: what ran the rows; empty takes it from the rows, else edgeopt's kernels.
        threads: 0 takes it from the rows, else 1.
        out: where to write; None is where predictions look for it.
        update: start from what earlier measurements taught instead of from the facts.
        profile_dirs: more device profiles.
    """

    device: str
    measurements: Path
    runtime: str = ""
    threads: int = 0
    out: Path | None = None
    update: bool = False
    profile_dirs: Sequence[Path] = ()


def calibrate(request: Request) -> Calibrated:
    """Learn a device's core from measurements, and write what was learnt.

    Raises:
        InputError: the device or the file cannot be used (every bad row is named).
    """
    if request.runtime and not runtime_name(request.runtime):
        raise InputError(
            f"a runtime cannot be called {request.runtime[:40]!r}", where="--runtime",
            hint="use letters, digits, '-', '_' and '.'",
        )  # fmt: skip
    profile = devices.load(request.device, request.profile_dirs)
    every = read_measured(request.measurements, profile.name)
    runtime, threads, rows = _chosen(every, request)
    notes = []
    if len(rows) < len(every):
        notes.append(f"{len(every) - len(rows)} rows of other runtimes or threads are left out")
    units = _units(rows, profile, runtime, request.measurements)
    before = _before(profile, runtime, threads, request, notes)
    _check_peak(units, rows, before, request.measurements)
    times = [row.latency_ns for row in rows]
    source = digest(request.measurements.read_bytes())[:12]
    fit, left_out = learn_core(
        profile, units, times, runtime=runtime, threads=threads, onto=before,
        origin=f"{request.measurements.name} (sha256 {source})",
    )  # fmt: skip
    after = core_model(profile, runtime=runtime, threads=threads, fit=fit)
    path = _write(request, profile, fit)
    if find_table(profile, runtime=runtime, threads=threads) is not None:
        notes.append("a measured table of this runtime exists: predictions go on using that")
    return _answer(rows, units, (before, after), left_out.tolist(), fit, path, notes)


def _chosen(rows: Sequence[Measured], request: Request) -> tuple[str, int, list[Measured]]:
    """The runtime and threads that are meant, and their rows."""
    runtimes = {row.runtime or request.runtime or RUNTIME for row in rows}
    if len(runtimes) > 1 and not request.runtime:
        raise InputError(
            f"rows of several runtimes: {', '.join(sorted(runtimes))}",
            where=str(request.measurements), hint="choose one with --runtime",
        )  # fmt: skip
    runtime = request.runtime or runtimes.pop()
    kept = [row for row in rows if (row.runtime or runtime) == runtime]
    counts = {row.threads or request.threads or 1 for row in kept}
    if len(counts) > 1 and not request.threads:
        raise InputError(
            f"rows of several numbers of threads: {', '.join(map(str, sorted(counts)))}",
            where=str(request.measurements), hint="choose one with --threads",
        )  # fmt: skip
    threads = request.threads or (counts.pop() if counts else 1)
    kept = [row for row in kept if (row.threads or threads) == threads]
    if not kept:
        raise InputError(
            f"no row is of runtime {runtime} and {threads} threads",
            where=str(request.measurements), hint="see the columns runtime and threads",
        )  # fmt: skip
    return runtime, threads, kept


def _units(
    rows: Sequence[Measured], profile: DeviceProfile, runtime: str, path: Path
) -> list[Unit]:
    units, problems = [], []
    for row in rows:
        try:
            keys = _keys(row, profile, runtime)
        except InputError as error:
            problems.append((row.line, f"{row.name}: {error.what}"))
            continue
        missing = {key.precision for key in keys} - set(profile.precisions)
        if missing:
            problems.append((row.line, f"{profile.name} does not compute in {missing.pop()}"))
        units.append(Unit(row.name, keys))
    if problems:
        raise refuse_rows(path, problems)
    return units


def _keys(row: Measured, profile: DeviceProfile, runtime: str) -> tuple[OpKey, ...]:
    if row.kernel is not None:
        return (row.kernel,)
    assert row.model is not None
    network = import_model(load_model(row.model)).network
    integer = any(t.dtype in ("i8", "u8") for t in network.tensors.values())
    if integer and row.precision == "fp32":
        raise InputError("the network is quantized, the row says fp32")
    keys = graph_for(network, profile, runtime, row.precision).keys
    if not keys:
        raise InputError("there is nothing to run")
    return keys


def _before(
    profile: DeviceProfile, runtime: str, threads: int, request: Request, notes: list[str]
) -> CoreModel:
    """What is believed before the rows: of this runtime only if asked for, else what others say."""
    fits = find_fits(profile)
    same = fits.get((runtime, threads))
    if request.update:
        if same is None:
            notes.append("nothing was learnt before: started from the processor's facts")
        else:
            notes.append(f"started from {same.trust.rows} earlier measurements: {same.origin}")
            return core_model(profile, runtime=runtime, threads=threads, fit=same)
    others = [fit for place, fit in fits.items() if place != (runtime, threads)]
    best = max(others, key=lambda fit: fit.trust.rows, default=None)
    return core_model(profile, runtime=runtime, threads=threads, fit=best)


def _check_peak(
    units: Sequence[Unit], rows: Sequence[Measured], model: CoreModel, path: Path
) -> None:
    problems = []
    for unit, row in zip(units, rows, strict=True):
        least_ns = sum(model.floor_ns(key) for key in unit.keys)
        least_ns *= (model.threads or model.peaks.cores) / model.peaks.cores / BEYOND_PEAK
        if row.latency_ns < least_ns:
            problems.append(
                (row.line, f"{row.name}: {row.latency_ns / 1e6:.4g} ms is less than the processor's"
                 f" cores could take at their peak ({least_ns / 1e6:.4g} ms)")
            )  # fmt: skip
    if problems:
        raise refuse_rows(
            path, problems, "are they of this device, and in milliseconds? an accelerator is "
            "another device"
        )  # fmt: skip


def _write(request: Request, profile: DeviceProfile, fit: CoreFit) -> Path:
    path = request.out
    if path is None:
        path = fit_path(made_table_dir(), profile, fit.runtime, fit.threads)
    save_fit(fit, path)
    return path


def _answer(
    rows: Sequence[Measured],
    units: Sequence[Unit],
    models: tuple[CoreModel, CoreModel],
    left_out: Sequence[float],
    fit: CoreFit,
    path: Path,
    notes: Sequence[str],
) -> Calibrated:
    found = []
    last: Estimate | None = None
    for row, unit, without in zip(rows, units, left_out, strict=True):
        old, last = (model.predict(unit.keys) for model in models)
        times = row.latency_ns, old.value, without, last.value
        found.append(CalibrationRow(unit.name, len(unit.keys), *times))
    assert last is not None
    trust, enough = fit.trust, fit.trust.rows >= MIN_FOR_ERROR
    return Calibrated(
        schema=1,
        device=fit.device,
        runtime=fit.runtime,
        threads=fit.threads,
        rows=tuple(found),
        mape_before=_mape(found, [row.before_ns for row in found]),
        mape_left_out=trust.mape if enough else None,
        spearman_left_out=trust.spearman if enough else None,
        within_10_left_out=trust.within_10 if enough else None,
        mape_after=_mape(found, [row.after_ns for row in found]),
        low=last.low / last.value,
        high=last.high / last.value,
        path=str(path),
        notes=tuple(notes),
    )


def _mape(rows: Sequence[CalibrationRow], values: Sequence[float]) -> float:
    pairs = zip(rows, values, strict=True)
    return sum(abs(value / row.measured_ns - 1) for row, value in pairs) / len(rows)

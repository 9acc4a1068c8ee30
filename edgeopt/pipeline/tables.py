"""What can be asked of latency tables: how they compare, what is odd in them, and joining them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeopt import devices
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import CLASS_OF
from edgeopt.latency.table import LatencyTable, Measurement, load_table

#: A kernel that does at least this much more and takes this much less than another is odd.
LESS_TIME = 0.7
#: A clock may be so much higher than the profile says; fast convolutions save so much.
BOOST, WINOGRAD = 1.6, 4.0
#: A spread above this share of the median is no measurement to rely on.
WIDE = 0.2


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class of kernels in one table, or in two: what `ratio` says of the second's times."""

    name: str
    precision: str
    kernels: int
    median_ns: float
    rate: float  # multiply-accumulates a nanosecond, of all together; 0 where there are none
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """How two tables differ.

    Attributes:
        identity: what they are of, where it is not the same: name -> both values.
        classes: ratios of the second table's times to the first's: median, 5 % and 95 %.
        rows: the kernels that differ most: both times in nanoseconds.
        only_first: kernels the second does not hold.
        only_second: kernels the first does not hold.
    """

    identity: Mapping[str, tuple[str, str]]
    classes: tuple[ClassRow, ...]
    rows: tuple[tuple[OpKey, float, float], ...]
    only_first: int
    only_second: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something odd in a table; an `error` makes it useless as it is, a `warning` doubtful."""

    level: str
    what: str
    kernels: tuple[OpKey, ...] = ()


def class_name(key: OpKey) -> str:
    """The class that a kernel is listed under."""
    return "block" if key.parts else CLASS_OF[key.op]


def classes_of(table: LatencyTable) -> tuple[ClassRow, ...]:
    """The kernels of a table by class and precision."""
    found = []
    for (name, precision), keys in _grouped(table.entries).items():
        times = [table.entries[key].median_ns for key in keys]
        macs = sum(key.macs for key in keys)
        rate = macs / sum(times)
        found.append(ClassRow(name, precision, len(keys), float(np.median(times)), rate))
    return tuple(found)


def _grouped(keys: Mapping[OpKey, object]) -> dict[tuple[str, str], list[OpKey]]:
    groups: dict[tuple[str, str], list[OpKey]] = {}
    for key in sorted(keys):
        groups.setdefault((class_name(key), key.precision), []).append(key)
    return dict(sorted(groups.items()))


def difference(first: LatencyTable, second: LatencyTable, *, worst: int = 10) -> Difference:
    """How the second table's times compare with the first's."""
    names = ("device", "fingerprint", "runtime", "runtime version", "threads")
    ratios = first.ratios(second)
    classes = []
    for (name, precision), keys in _grouped(ratios).items():
        found = np.array([ratios[key] for key in keys])
        times = [second.entries[key].median_ns for key in keys]
        rate = sum(key.macs for key in keys) / sum(times)
        classes.append(
            ClassRow(
                name, precision, len(keys), float(np.median(times)), rate, float(np.median(found)),
                *(float(value) for value in np.quantile(found, [0.05, 0.95])),
            )
        )  # fmt: skip
    furthest = sorted(ratios, key=lambda key: (-abs(math.log(ratios[key])), key))[:worst]
    return Difference(
        identity={
            name: (str(a), str(b))
            for name, a, b in zip(names, first.identity, second.identity, strict=True)
            if a != b
        },
        classes=tuple(classes),
        rows=tuple(
            (key, first.entries[key].median_ns, second.entries[key].median_ns) for key in furthest
        ),
        only_first=len(first.entries) - len(ratios),
        only_second=len(second.entries) - len(ratios),
    )


def merge(paths: Sequence[Path]) -> LatencyTable:
    """Several tables of one device, runtime and thread count as one.

    Later files win. Every row says which file it came from and when that was measured; rows that
    say so already keep it.

    Raises:
        InputError: a file is broken, or the tables do not go together.
    """
    if len(paths) < 2:
        raise InputError("one table needs no merging", where="edgeopt table merge",
                         hint="name two files or more")  # fmt: skip
    merged: LatencyTable | None = None
    for path in paths:
        table = _labelled(load_table(path), path)
        if merged is None:
            merged = table
            continue
        try:
            merged = merged.merged(table)
        except InputError as error:
            raise InputError(error.what, where=str(path), hint=error.hint) from error
    assert merged is not None
    return merged


def _labelled(table: LatencyTable, path: Path) -> LatencyTable:
    when = table.conditions.get("measured_at", "at an unknown time")
    label = f"{path.name}, {when}"
    entries: dict[OpKey, Measurement] = {
        key: entry if entry.origin else replace(entry, origin=label)
        for key, entry in table.entries.items()
    }
    return replace(table, entries=entries)


def check(table: LatencyTable, profile: DeviceProfile | None, version: str | None) -> list[Finding]:
    """What is odd in a table.

    Args:
        table: the table.
        profile: of its device, if that is known here.
        version: of the runtime as it is now; None if that is not known here.
    """
    found: list[Finding] = []
    if not table.entries and not table.in_network:
        found.append(Finding("error", "it holds no kernels"))
    if profile is None:
        found.append(Finding("warning", f"device {table.device} is not known here"))
    elif profile.fingerprint != table.fingerprint:
        versions = f"{table.fingerprint}, now {profile.fingerprint}"
        what = f"it was measured on another version of device {table.device}: {versions}"
        found.append(Finding("error", what))
    if version is not None and version != table.runtime_version:
        what = f"it timed {table.runtime} {table.runtime_version}, now {version}"
        found.append(Finding("error", what))
    if profile is not None:
        found += _impossible(table, profile)
    found += _unsteady(table)
    found += _not_monotone(table)
    if table.calibration is None:
        found.append(Finding("warning", "it was never checked against whole networks"))
    elif table.truth is None:
        found.append(Finding("warning", "no networks were held out to check it with"))
    elif table.truth.mape > 0.1:
        found.append(
            Finding("warning", f"it predicts whole networks badly: {table.truth.mape:.1%} error")
        )
    return found


def _impossible(table: LatencyTable, profile: DeviceProfile) -> list[Finding]:
    """Kernels faster than the core's arithmetic allows, generously: its clock may be boosted."""
    from edgeopt.latency.peaks import peaks_of

    peaks = peaks_of(profile)
    keys = []
    for key, entry in sorted(table.entries.items()):
        least = key.macs / (BOOST * peaks.macs_per_ns(key.precision) * table.threads)
        if key.op == "conv2d":
            least /= WINOGRAD
        if entry.median_ns < least:
            keys.append(key)
    if not keys:
        return []
    return [Finding("error", "times that the core's arithmetic cannot reach", tuple(keys))]


def _unsteady(table: LatencyTable) -> list[Finding]:
    keys = tuple(
        key for key, e in sorted(table.entries.items()) if e.spread_ns > WIDE * e.median_ns
    )
    return [Finding("warning", f"a spread above {WIDE:.0%} of the median", keys)] if keys else []


def _not_monotone(table: LatencyTable) -> list[Finding]:
    """Kernels of one kind that compute much more than another, from no less data, in less time."""
    odd: dict[OpKey, None] = {}
    groups: dict[tuple[object, ...], list[OpKey]] = {}
    for key in sorted(table.entries):
        kind = (key.op, key.dtype, key.out_dtype, key.kernel, key.strides, key.activation,
                key.residual, key.inputs, key.in_shape[:-1])  # fmt: skip
        groups.setdefault(kind, []).append(key)
    for keys in groups.values():
        shapes = np.array([(key.in_shape[-1], key.out_shape[-1]) for key in keys])
        times = np.array([table.entries[key].median_ns for key in keys])
        for index, key in enumerate(keys):
            smaller = (shapes <= shapes[index]).all(1) & (shapes < shapes[index]).any(1)
            if (times[smaller] * LESS_TIME > times[index]).any():
                odd[key] = None
    if not odd:
        return []
    share = f"less than {LESS_TIME:.0%} of the time of a smaller one"
    return [Finding("warning", f"kernels that take {share}", tuple(odd))]


def profile_of(table: LatencyTable, profile_dirs: Sequence[Path] = ()) -> DeviceProfile | None:
    """The profile of a table's device; None if it is not known here."""
    try:
        return devices.load(table.device, tuple(profile_dirs)).with_threads(table.threads)
    except InputError:
        return None


def version_now(table: LatencyTable) -> str | None:
    """The version of a table's runtime as it is here; None if there is none."""
    if table.runtime == "edgeopt":
        from edgeopt.pipeline.kernel_store import codegen_version

        return codegen_version()
    if table.runtime == "onnxruntime":
        try:
            import onnxruntime
        except ImportError:
            return None
        return str(onnxruntime.__version__)
    return None

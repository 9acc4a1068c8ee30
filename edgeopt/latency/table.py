"""Measured latency tables: kernel -> measurement, for one device, runtime and thread count.

A table is a text file of JSON lines: a header, then one line a kernel. It is written in one step,
sorted, so that two tables can be compared with ordinary tools. What later versions added is
optional: a table without it is written and read as schema 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.errors import InputError, suggest
from edgeopt.core.estimates import Source
from edgeopt.core.files import read_bytes, write_atomic
from edgeopt.core.kernels import OpKey
from edgeopt.latency.truth import HeldOut, Truth

FORMAT = "edgeopt-latency-table"
SCHEMA = 2
READABLE = (1, 2)
SUFFIX = ".latency.jsonl"
MAX_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 1_000_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """What repeated runs of one kernel took.

    Attributes:
        median_ns: median over the samples of undisturbed windows.
        spread_ns: half the 95 % confidence interval of the median.
        samples: runs that were timed, in all windows.
        outliers: samples above three times the median; they are kept, and counted here.
        windows: separate visits to the kernel, interleaved with the others.
        disturbed: windows visibly slower than the kernel's best, left out of the median.
        choice: the tiling that was timed: the best of those measured, or the model's.
        origin: where the row came from, in a table that was merged from several.
    """

    median_ns: float
    spread_ns: float
    samples: int
    outliers: int = 0
    windows: int = 1
    disturbed: int = 0
    choice: Choice = MODEL
    origin: str = ""

    def __post_init__(self) -> None:
        good = math.isfinite(self.median_ns) and self.median_ns > 0
        good = good and math.isfinite(self.spread_ns) and self.spread_ns >= 0
        good = good and self.samples > 0 and 0 <= self.outliers <= self.samples
        if not good or not 0 <= self.disturbed < self.windows:
            raise InputError(f"a measurement cannot be {asdict(self)}")


@dataclass(frozen=True, slots=True)
class Calibration:
    """From the sum of single kernels to a whole network, and how well that predicts.

    latency = scale * sum + per_kernel_ns * kernels + per_weight_byte_ns * bytes + per_network_ns,
    where the sum takes a kernel's time in networks where `LatencyTable.in_network` has it, already
    scaled. The error figures are of networks left out of the fit.

    Attributes:
        method: what predicted left-out networks best: ``isolated``, ``decomposition`` or ``both``.
        candidates: every method that was tried, with its error (MAPE) on left-out networks.
    """

    scale: float
    per_kernel_ns: float
    per_weight_byte_ns: float
    per_network_ns: float
    networks: int
    mape: float
    worst_error: float
    within_5: float
    within_10: float
    spearman: float
    low: float  # 5 % and 95 % quantiles of measured / predicted
    high: float
    method: str = "isolated"
    candidates: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        values = [getattr(self, item.name) for item in fields(self)[:12]]
        values += [error for _, error in self.candidates]
        good = all(math.isfinite(value) for value in values) and self.scale > 0
        if not good or not 0 < self.low <= 1 <= self.high or self.networks < 1:
            raise InputError(f"a calibration cannot be {asdict(self)}")


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Kernel -> measurement, with everything that the numbers depend on.

    Attributes:
        device: name of the profile.
        fingerprint: the profile's, when it was measured.
        runtime: what ran the kernels: ``edgeopt`` or ``onnxruntime``.
        runtime_version: changes whenever the same key would run different code.
        conditions: what was read of the machine while measuring (governor, temperature...).
        in_network: nanoseconds that a kernel takes within networks, as found by decomposing them.
        truth: how whole networks that nothing was fitted to came out.
        source: how the times are known; those of an emulator are simulated.
    """

    device: str
    fingerprint: str
    runtime: str
    runtime_version: str
    threads: int
    entries: Mapping[OpKey, Measurement]
    conditions: Mapping[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    in_network: Mapping[OpKey, float] = field(default_factory=dict)
    truth: Truth | None = None
    source: Source = Source.MEASURED

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", MappingProxyType(dict(self.entries)))
        object.__setattr__(self, "in_network", MappingProxyType(dict(self.in_network)))
        object.__setattr__(self, "conditions", MappingProxyType(dict(self.conditions)))
        if self.threads < 1:
            raise InputError(f"{self.threads} threads are not possible", where="latency table")
        for key, value in self.in_network.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{key} cannot take {value} ns in networks", where="latency table")

    @property
    def identity(self) -> tuple[str, str, str, str, int]:
        """Two tables can be merged when these agree."""
        return (self.device, self.fingerprint, self.runtime, self.runtime_version, self.threads)

    def merged(self, newer: LatencyTable) -> LatencyTable:
        """Both tables' entries, ``newer``'s where both have one.

        What was fitted on whole networks is ``newer``'s if it has it, else this one's.

        Raises:
            InputError: the tables are of different devices, runtimes or thread counts.
        """
        names = ("device", "fingerprint", "runtime", "runtime version", "threads")
        for name, old, new in zip(names, self.identity, newer.identity, strict=True):
            if old != new:
                raise InputError(
                    f"tables of different {name} cannot be merged: {old!r} and {new!r}",
                    hint="keep them as two tables",
                )
        if self.source != newer.source:
            raise InputError(
                f"{self.source} times cannot be merged with {newer.source} ones",
                hint="keep them as two tables",
            )
        fitted = newer if newer.calibration is not None else self
        return replace(
            newer,
            entries={**self.entries, **newer.entries},
            calibration=fitted.calibration,
            in_network=fitted.in_network,
            truth=fitted.truth,
        )

    @property
    def choices(self) -> dict[OpKey, Choice]:
        """The kernels that ran best with another tiling than the model's, and which."""
        return {k: entry.choice for k, entry in self.entries.items() if entry.choice != MODEL}

    def ratios(self, other: LatencyTable) -> dict[OpKey, float]:
        """``other``'s median / this one's, for the kernels both have."""
        return {
            key: other.entries[key].median_ns / entry.median_ns
            for key, entry in self.entries.items()
            if key in other.entries
        }

    def save(self, path: Path) -> None:
        """Write the table, replacing ``path`` in one step.

        Raises:
            InputError: the folder is missing or cannot be written.
        """
        later = {
            "in_network": {str(key): ns for key, ns in sorted(self.in_network.items())},
            "truth": None if self.truth is None else asdict(self.truth),
            "source": None if self.source is Source.MEASURED else self.source.value,
        }
        later = {name: value for name, value in later.items() if value}
        calibration = None if self.calibration is None else asdict(self.calibration)
        if calibration is not None and not self.calibration.candidates:  # type: ignore[union-attr]
            del calibration["method"], calibration["candidates"]
        new = (
            later
            or "method" in (calibration or ())
            or any(entry.origin for entry in self.entries.values())
        )
        header = {
            "format": FORMAT,
            "schema": SCHEMA if new else 1,
            "device": self.device,
            "fingerprint": self.fingerprint,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "threads": self.threads,
            "conditions": dict(sorted(self.conditions.items())),
            "calibration": calibration,
            **later,
        }
        lines = [json.dumps(header, ensure_ascii=False)]
        for text, entry in sorted((str(key), value) for key, value in self.entries.items()):
            values = {**asdict(entry), "choice": str(entry.choice)}
            if entry.choice == MODEL:
                del values["choice"]
            if not entry.origin:
                del values["origin"]
            lines.append(json.dumps({"key": text, **values}))
        write_atomic(path, "\n".join(lines) + "\n")


_HEADER = (
    "format", "schema", "device", "fingerprint", "runtime", "runtime_version", "threads",
    "conditions", "calibration",
)  # fmt: skip
_LATER = ("in_network", "truth", "source")
_OPTIONAL = ("choice", "origin")


def load_table(path: Path) -> LatencyTable:
    """Read a table strictly.

    Raises:
        InputError: naming file and line of the first thing that is not as it must be.
    """
    lines = read_bytes(path, max_bytes=MAX_BYTES, noun="latency table").split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError("the table is empty", where=str(path), hint="measure it again")
    header = _object(lines[0], path, 1, _HEADER, _LATER)
    if header["format"] != FORMAT:
        _refuse(path, 1, f"format is {header['format']!r}, not {FORMAT!r}")
    if header["schema"] not in READABLE:
        _refuse(
            path, 1, f"schema {header['schema']!r} is not known; this edgeopt reads "
            f"{' and '.join(map(str, READABLE))}",
        )  # fmt: skip
    if len(lines) > MAX_ENTRIES:
        _refuse(path, MAX_ENTRIES, f"more than {MAX_ENTRIES} lines")
    entries: dict[OpKey, Measurement] = {}
    for number, line in enumerate(lines[1:], start=2):
        key, entry = _entry(line, path, number)
        if key in entries:
            _refuse(path, number, f"the kernel {key} appears twice")
        entries[key] = entry
    conditions = _typed(header["conditions"], dict, "conditions", path, 1)
    if not all(isinstance(value, str) for value in conditions.values()):
        _refuse(path, 1, "conditions must be texts")
    source = _typed(header.get("source", Source.MEASURED.value), str, "source", path, 1)
    if source not in tuple(Source):
        _refuse(path, 1, f"source {source[:60]!r} is not known; {suggest(source[:60], Source)}")
    inside = _typed(header.get("in_network", {}), dict, "in_network", path, 1)
    try:
        return LatencyTable(
            **{
                name: _typed(header[name], str, name, path, 1)
                for name in ("device", "fingerprint", "runtime", "runtime_version")
            },
            threads=_typed(header["threads"], int, "threads", path, 1),
            entries=entries,
            conditions=conditions,
            calibration=_calibration(header["calibration"], path),
            in_network={
                OpKey.parse(key): _number(ns, "in_network", path, 1) for key, ns in inside.items()
            },
            truth=_truth(header.get("truth"), path),
            source=Source(source),
        )
    except InputError as error:
        if error.where.startswith(str(path)):
            raise
        _refuse(path, 1, error.what)


def _entry(line: bytes, path: Path, number: int) -> tuple[OpKey, Measurement]:
    names = ("key", *(i.name for i in fields(Measurement) if i.name not in _OPTIONAL))
    values = _object(line, path, number, names, _OPTIONAL)
    try:
        key = OpKey.parse(_typed(values.pop("key"), str, "key", path, number))
        return key, Measurement(
            median_ns=_number(values["median_ns"], "median_ns", path, number),
            spread_ns=_number(values["spread_ns"], "spread_ns", path, number),
            **{
                name: _typed(values[name], int, name, path, number)
                for name in ("samples", "outliers", "windows", "disturbed")
            },
            choice=Choice.parse(
                _typed(values.get("choice", str(MODEL)), str, "choice", path, number)
            ),
            origin=_typed(values.get("origin", ""), str, "origin", path, number),
        )
    except InputError as error:
        if error.where.startswith(str(path)):
            raise
        _refuse(path, number, str(error.what))


def _calibration(value: object, path: Path) -> Calibration | None:
    if value is None:
        return None
    later = ("method", "candidates")
    names = tuple(item.name for item in fields(Calibration) if item.name not in later)
    checked = _keys(_typed(value, dict, "calibration", path, 1), path, 1, names, later)
    networks = _typed(checked.pop("networks"), int, "networks", path, 1)
    method = _typed(checked.pop("method", "isolated"), str, "method", path, 1)
    tried = _typed(checked.pop("candidates", []), list, "candidates", path, 1)
    if not all(isinstance(item, list) and len(item) == 2 for item in tried):
        _refuse(path, 1, "candidates must be pairs of a method and its error")
    candidates = tuple(
        (_typed(name, str, "candidates", path, 1), _number(error, "candidates", path, 1))
        for name, error in tried
    )
    numbers = {name: _number(item, name, path, 1) for name, item in checked.items()}
    return Calibration(networks=networks, method=method, candidates=candidates, **numbers)


def _truth(value: object, path: Path) -> Truth | None:
    if value is None:
        return None
    names = tuple(item.name for item in fields(Truth))
    checked = _keys(_typed(value, dict, "truth", path, 1), path, 1, names)
    names = tuple(item.name for item in fields(HeldOut))
    rows = [
        _keys(_typed(row, dict, "a row of truth", path, 1), path, 1, names)
        for row in _typed(checked.pop("rows"), list, "truth", path, 1)
    ]
    networks = _typed(checked.pop("networks"), int, "networks", path, 1)
    worst = _typed(checked.pop("worst"), str, "worst", path, 1)
    return Truth(
        networks=networks,
        worst=worst,
        rows=tuple(
            HeldOut(
                name=_typed(row.pop("name"), str, "name", path, 1),
                **{name: _number(item, name, path, 1) for name, item in row.items()},
            )
            for row in rows
        ),
        **{name: _number(item, name, path, 1) for name, item in checked.items()},
    )


def _refuse(path: Path, line: int, what: str) -> NoReturn:
    raise InputError(what, where=f"{path}:{line}", hint="measure the table again, or remove it")


def _object(
    line: bytes, path: Path, number: int, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        _refuse(path, number, "not a line of JSON (cut off?)")
    return _keys(_typed(value, dict, "the line", path, number), path, number, names, optional)


def _keys(
    value: dict[str, Any],
    path: Path,
    number: int,
    names: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> dict[str, Any]:
    for name in value:
        if name not in names and name not in optional:
            known = suggest(name[:60], names, noun="key")
            _refuse(path, number, f"unknown key {name[:60]!r}; {known}")
    for name in names:
        if name not in value:
            _refuse(path, number, f"{name} is missing")
    return value


def _typed(value: Any, kind: type, name: str, path: Path, number: int) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        nouns = {str: "a text", int: "an integer", dict: "an object", list: "a list"}
        _refuse(path, number, f"{name} must be {nouns[kind]}")
    return value


def _number(value: Any, name: str, path: Path, number: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(path, number, f"{name} must be a number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        _refuse(path, number, f"{name} is not a finite number")
    return result

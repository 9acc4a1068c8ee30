"""Measurements that somebody took of networks and kernels: a CSV file, checked row by row."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.files import read_bytes
from edgeopt.core.kernels import OpKey

COLUMNS = ("model", "kernel", "ms", "precision", "threads", "runtime", "device", "note")
MAX_BYTES = 16 * 1024 * 1024
MAX_ROWS = 20_000
MAX_SHOWN = 20
#: An hour a run is no network for a small device; a nanosecond is less than any takes.
_LEAST_MS, _MOST_MS = 1e-6, 3.6e6
_THREADS = 1024
_RUNTIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Measured:
    """A row.

    Attributes:
        line: of the file.
        model: the ONNX file, or None where the row is of one kernel.
        kernel: that kernel.
        latency_ns: how long a run took.
        precision: ``int8`` or ``fp32`` as asked for; empty is as the model is.
        threads: None where the row does not say.
        runtime: empty where the row does not say.
    """

    line: int
    model: Path | None
    kernel: OpKey | None
    latency_ns: float
    precision: str
    threads: int | None
    runtime: str

    @property
    def name(self) -> str:
        """What was measured, in words."""
        return self.model.name if self.model is not None else str(self.kernel)


def refuse_rows(path: Path, problems: Sequence[tuple[int, str]], hint: str = "") -> InputError:
    """One error that names every bad row."""
    ordered = sorted(problems)
    listed = "".join(f"\n  line {line}: {what}" for line, what in ordered[:MAX_SHOWN])
    more = f"\n  and {len(ordered) - MAX_SHOWN} more" if len(ordered) > MAX_SHOWN else ""
    one = len(ordered) == 1
    return InputError(
        f"{len(ordered)} row{'' if one else 's'} cannot be used:{listed}{more}",
        where=str(path),
        hint=hint or f"correct {'it' if one else 'them'}, or take {'it' if one else 'them'} out",
    )


def read_measured(path: Path, device: str) -> list[Measured]:
    """The rows of a CSV file with a header; paths are relative to the file's folder.

    Columns are ``model`` (an ONNX file) or ``kernel`` (a kernel's key), ``ms``, and if need be
    ``precision``, ``threads``, ``runtime``, ``device`` and ``note``.

    Raises:
        InputError: no such file, a column that is unknown or missing, or rows that cannot be used
            (every one is named).
    """
    data = read_bytes(path, max_bytes=MAX_BYTES, noun="file of measurements")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 text (byte {error.start})", where=str(path), hint="write a CSV file"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for record in reader:
            if any(field.strip() for field in record):
                rows.append((reader.line_num, [field.strip() for field in record]))
            if len(rows) > MAX_ROWS:
                raise InputError(f"more than {MAX_ROWS} rows", where=str(path), hint="split it")
    except csv.Error as error:
        raise InputError(
            f"not CSV: {error}", where=f"{path}:{reader.line_num}", hint="quote fields with commas"
        ) from error
    header = _header(path, rows)
    if len(rows) == 1:
        raise InputError("there are no measurements", where=str(path), hint="give at least one row")
    found, problems = [], []
    seen: dict[tuple[object, ...], int] = {}
    for line, fields in rows[1:]:
        if len(fields) != len(header):
            problems.append((line, f"{len(fields)} fields under {len(header)} columns"))
            continue
        row, what = _row(line, dict(zip(header, fields, strict=True)), path.parent, device)
        if row is None:
            problems += [(line, text) for text in what]
            continue
        place = row.model.resolve() if row.model is not None else row.kernel
        mark = (place, row.precision, row.threads, row.runtime)
        if mark in seen:
            problems.append((line, f"the same network and conditions as line {seen[mark]}"))
        seen.setdefault(mark, line)
        found.append(row)
    if problems:
        raise refuse_rows(path, problems)
    return found


def _header(path: Path, rows: Sequence[tuple[int, list[str]]]) -> list[str]:
    if not rows:
        raise InputError("the file is empty", where=str(path), hint="start with model,ms")
    line, names = rows[0]
    where = f"{path}:{line}"
    for name in names:
        if name not in COLUMNS:
            hint = suggest(name[:40], COLUMNS, noun="column")
            raise InputError(f"unknown column {name[:40]!r}", where=where, hint=hint)
        if names.count(name) > 1:
            raise InputError(f"column {name!r} appears twice", where=where, hint="keep one")
    if "ms" not in names or not {"model", "kernel"} & set(names):
        raise InputError(
            "columns ms, and model or kernel, are needed", where=where,
            hint="the first line names the columns: model,ms",
        )  # fmt: skip
    return names


def _row(
    line: int, fields: dict[str, str], folder: Path, device: str
) -> tuple[Measured | None, list[str]]:
    """The row, or what is wrong with it."""
    wrong: list[str] = []
    model_text, kernel_text = fields.get("model", ""), fields.get("kernel", "")
    model, kernel = None, None
    if bool(model_text) == bool(kernel_text):
        wrong.append("name a model or a kernel, and one of them only")
    elif model_text:
        model = folder / model_text
        try:
            there = model.is_file()
        except (OSError, ValueError):
            there = False
        if not there:
            wrong.append(f"no such model: {model_text[:200]!r}")
    else:
        try:
            kernel = OpKey.parse(kernel_text)
        except InputError as error:
            wrong.append(f"not a kernel: {error.what}")
    milliseconds = _milliseconds(fields["ms"], wrong)
    precision = fields.get("precision", "")
    if precision not in ("", "fp32", "int8"):
        wrong.append(
            f"unknown precision {precision[:40]!r}: "
            f"{suggest(precision[:40], ('fp32', 'int8'), noun='precision')}"
        )
    threads = None
    if fields.get("threads"):
        text = fields["threads"]
        threads = int(text) if text.isdecimal() and len(text) < 6 else 0
        if not 1 <= threads <= _THREADS:
            wrong.append(f"threads must be a whole number from 1, not {text[:40]!r}")
    runtime = fields.get("runtime", "")
    if runtime and not runtime_name(runtime):
        wrong.append(f"a runtime's name has letters, digits, '-', '_', '.': not {runtime[:40]!r}")
    if fields.get("device", device) not in ("", device):
        wrong.append(f"measured on {fields['device'][:40]!r}, not on {device}")
    if wrong:
        return None, wrong
    return Measured(line, model, kernel, milliseconds * 1e6, precision, threads, runtime), []


def _milliseconds(text: str, wrong: list[str]) -> float:
    try:
        value = float(text)
    except ValueError:
        wrong.append(f"ms must be a number, not {text[:40]!r}")
        return math.nan
    if math.isnan(value):
        wrong.append("ms is not a number (NaN)")
    elif value <= 0:
        wrong.append(f"ms must be positive, not {text[:40]}")
    elif not _LEAST_MS <= value <= _MOST_MS:
        wrong.append(f"{text[:40]} ms cannot be: give milliseconds of one run")
    return value


def runtime_name(text: str) -> bool:
    """Whether a runtime may be called so: names become parts of file names."""
    return _RUNTIME.fullmatch(text) is not None

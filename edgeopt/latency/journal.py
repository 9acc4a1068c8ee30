"""Visits on disk, one line each, synced as they are written: what a cut-off run goes on from.

A line is JSON, a blank, and ``*`` with its CRC-32, so that a line that a dying disk or a crash
changed is known for what it is. Lines that cannot be read are dropped, the others kept, and what
was dropped is said.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeopt.core.errors import InputError
from edgeopt.core.files import Appender, write_atomic
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import Window

JOURNAL_SCHEMA = 2  # 1 had no checksums and only visits


@dataclass(frozen=True, slots=True)
class AnchorVisit:
    """A visit to the anchor kernel: what drift is seen by.

    Attributes:
        at_s: seconds of measuring since the run began, earlier parts of a resumed run included.
        best_ns: the fastest sample.
        kept: the visits since the anchor before it were kept, not repeated.
    """

    at_s: float
    best_ns: float
    kept: bool = True
    clock_hz: int | None = None
    temperature_c: float | None = None


@dataclass(slots=True)
class Journal:
    """What was measured so far.

    Args:
        path: the file.
        identity: what the times depend on; a journal of anything else is not continued.
    """

    path: Path
    identity: Mapping[str, object]
    windows: dict[OpKey, list[Window]] = field(default_factory=dict)
    skipped: dict[OpKey, str] = field(default_factory=dict)
    anchors: list[AnchorVisit] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)  # numbers of lines that could not be read
    _file: Appender | None = None

    def open(self, *, resume: bool) -> None:
        """Start a journal, or continue one (lines that cannot be read are dropped).

        Raises:
            InputError: the journal exists and ``resume`` is false, or is of something else.
        """
        header = _sealed({"journal": JOURNAL_SCHEMA, **self.identity})
        try:
            begun = self._read() if self.path.exists() else False
            if begun and not resume:
                raise InputError(
                    "a measurement was begun here and not finished", where=str(self.path),
                    hint="continue it with --resume, or remove the file",
                )  # fmt: skip
            self._file = Appender(self.path, fresh=not begun)
            if not begun:
                self._append(header)
                _sync_folder(self.path.parent)
        except OSError as error:
            raise InputError(
                f"cannot write the journal: {error.strerror}", where=str(self.path),
                hint="choose a writable folder with free space",
            ) from error  # fmt: skip

    def _read(self) -> bool:
        """Read what is there; False if nothing was begun. Broken lines are taken out of the file.

        Raises:
            InputError: it is of another device, runtime or version, or not a journal.
        """
        data = self.path.read_bytes()
        lines = data.split(b"\n")
        torn = lines.pop()  # empty unless the last line was cut off
        if len(lines) < 2:  # nothing was measured yet
            return False
        checked = self._check_header(lines[0])
        good = [_sealed({"journal": JOURNAL_SCHEMA, **self.identity})]
        for number, line in enumerate(lines[1:], start=2):
            item = _opened(line, checked=checked)
            if item is not None and self._take(item):
                good.append(_sealed(item))
            else:
                self.dropped.append(number)
        if torn:
            self.dropped.append(len(lines) + 1)
        if self.dropped or not checked:
            write_atomic(self.path, b"\n".join(good) + b"\n")
        return True

    def _check_header(self, line: bytes) -> bool:
        """Whether lines carry checksums."""
        header = _opened(line, checked=True) or _opened(line, checked=False)
        if header is None or "journal" not in header:
            raise InputError(
                "this is no journal of a measurement", where=f"{self.path}:1",
                hint="remove it to begin anew",
            )  # fmt: skip
        schema = header.pop("journal")
        if schema not in (1, JOURNAL_SCHEMA):
            raise InputError(
                f"the journal has schema {schema!r}, this edgeopt reads {JOURNAL_SCHEMA}",
                where=f"{self.path}:1", hint="continue it with the edgeopt that began it",
            )  # fmt: skip
        for name, value in self.identity.items():
            if header.get(name) != value:
                raise InputError(
                    "the journal is of another device, runtime or version: "
                    f"{name.replace('_', ' ')} {header.get(name)!r}, now {value!r}",
                    where=f"{self.path}:1", hint="remove it to begin anew",
                )  # fmt: skip
        return bool(schema != 1)

    def _take(self, item: Mapping[str, Any]) -> bool:
        """Whether it is something a measurement wrote."""
        try:
            if "ns" in item:
                key = OpKey.parse(item["key"])
                window = Window(key, tuple(float(value) for value in item["ns"]))
                times = window.samples_ns
                if not times or not all(math.isfinite(v) and v > 0 for v in times):
                    return False
                self.windows.setdefault(key, []).append(window)
            elif "skip" in item:
                self.skipped[OpKey.parse(item["skip"])] = str(item["why"])
            elif "anchor" in item:
                self.anchors.append(AnchorVisit(**item["anchor"]))
            else:
                self.events.append(str(item["event"]))
        except (KeyError, TypeError, ValueError, InputError):
            return False
        return True

    def _append(self, line: bytes) -> None:
        assert self._file is not None
        self._file.append(line + b"\n")

    def _record(self, items: Iterable[Mapping[str, object]]) -> None:
        """Write durably; several items are synced as one."""
        data = b"\n".join(_sealed(item) for item in items)
        if not data:
            return
        try:
            self._append(data)
        except OSError as error:
            raise InputError(
                f"cannot write the journal: {error.strerror}", where=str(self.path),
                hint="free some space and continue with --resume",
            ) from error  # fmt: skip

    def add(self, windows: Iterable[Window]) -> None:
        """Record visits.

        Raises:
            InputError: the disk is full.
        """
        found = list(windows)
        self._record([{"key": str(w.key), "ns": list(w.samples_ns)} for w in found])
        for window in found:
            self.windows.setdefault(window.key, []).append(window)

    def skip(self, key: OpKey, why: str) -> None:
        """Record that a kernel cannot be timed."""
        self._record([{"skip": str(key), "why": why}])
        self.skipped[key] = why

    def anchor(self, visit: AnchorVisit) -> None:
        """Record a visit to the anchor."""
        self._record([{"anchor": asdict(visit)}])
        self.anchors.append(visit)

    def event(self, text: str) -> None:
        """Record something that happened, for the report."""
        self._record([{"event": text[:500]}])
        self.events.append(text[:500])

    def close(self, *, remove: bool) -> None:
        """Close it; a finished measurement's journal is removed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if remove:
            self.path.unlink(missing_ok=True)


def _sealed(item: Mapping[str, object]) -> bytes:
    text = json.dumps(item, sort_keys=True, allow_nan=False).encode()
    return text + b" *%08x" % zlib.crc32(text)


def _opened(line: bytes, *, checked: bool) -> dict[str, Any] | None:
    """The object of a line; None if it is not what was written."""
    text = line
    if checked:
        text, mark, crc = line.rpartition(b" *")
        if not mark or crc != b"%08x" % zlib.crc32(text):
            return None
    try:
        item = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return item if isinstance(item, dict) else None


def _sync_folder(folder: Path) -> None:
    """So that a new file's name survives a power cut as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

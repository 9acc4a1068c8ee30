"""Measuring kernels so that the figures can be trusted, and so that nothing is lost.

Kernels are visited in passes, each in a new random order, so that a drift of the machine spreads
over all of them instead of hitting a few. An anchor kernel is visited throughout: if it takes
visibly longer than at the start, the machine is throttled or busy, and the visits since the last
good anchor are repeated. Its fastest sample is what counts: being interrupted by another program,
which medians withstand, is no reason to repeat. A kernel is done when the confidence interval of
its median is narrow enough. Every visit is appended to a journal and synced, so a run that is cut
off goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.conditions import read_conditions
from edgeopt.latency.meters import Meter, Window
from edgeopt.latency.table import LatencyTable, Measurement

JOURNAL_SCHEMA = 1
OUTLIER = 3.0  # times the median
DISTURBED = 0.10  # a window this much slower than the kernel's best met something else
MIN_GOOD = 3


@dataclass(frozen=True, slots=True)
class Protocol:
    """How carefully to measure.

    Attributes:
        spread: a kernel is done when half the 95 % interval of its median is below this share.
        min_windows: visits before that is asked at all.
        max_windows: visits after which a kernel is taken as it is.
        chunk: kernels between two visits to the anchor.
        drift: share above its baseline at which the anchor counts as disturbed.
        repeats: how often disturbed visits are repeated before they are kept.
        settle_windows: the anchor is visited until this many windows in a row agree to `drift`.
    """

    spread: float = 0.02
    min_windows: int = 3
    max_windows: int = 12
    chunk: int = 24
    drift: float = 0.10
    repeats: int = 1
    settle_windows: int = 3
    max_settle: int = 60
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a measurement stands, for showing."""

    done: int
    total: int
    windows: int
    disturbed: int


@dataclass(slots=True)
class Result:
    """A finished (or budget-limited) measurement."""

    table: LatencyTable
    skipped: Mapping[OpKey, str]  # keys that cannot be timed, with the reason
    unfinished: tuple[OpKey, ...]  # too few visits within the budget: not in the table
    disturbed: int  # visits that were repeated
    drift: float  # largest excess of the anchor that was kept


def summarise(windows: Sequence[Sequence[float]]) -> Measurement:
    """The median of undisturbed windows, and half the width of its 95 % interval.

    A window is disturbed when its median exceeds that of the best by more than `DISTURBED`; the
    `MIN_GOOD` best windows always count. Samples of one visit are alike in what disturbs them, so
    the interval is that of independent visits: from the order statistics of window medians where
    there are many, else their range.
    """
    ranked = sorted(windows, key=lambda window: float(np.median(window)))
    medians = [float(np.median(window)) for window in ranked]
    good = [m <= medians[0] * (1 + DISTURBED) for m in medians]
    count = max(sum(good), min(MIN_GOOD, len(medians)))
    samples = np.array([value for window in ranked[:count] for value in window])
    median = float(np.median(samples))
    low, high = medians[0], medians[count - 1]
    if count >= 6:
        reach = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
        low, high = medians[reach], medians[count - 1 - reach]
    every = np.array([value for window in windows for value in window])
    return Measurement(
        median_ns=median,
        spread_ns=(high - low) / 2,
        samples=len(every),
        outliers=int((every > OUTLIER * median).sum()),
        windows=len(windows),
        disturbed=len(windows) - count,
    )


@dataclass(slots=True)
class Journal:
    """Visits on disk, one JSON line each, synced as they are written."""

    path: Path
    identity: Mapping[str, object]
    windows: dict[OpKey, list[Window]] = field(default_factory=dict)
    _stream: IO[bytes] | None = None

    def open(self, *, resume: bool) -> None:
        """Start a journal, or continue one (its last line may be cut off).

        Raises:
            InputError: the journal exists and ``resume`` is false, or is of something else.
        """
        header = json.dumps({"journal": JOURNAL_SCHEMA, **self.identity}, sort_keys=True)
        try:
            kept = self._read(header) if self.path.exists() else b""
            if kept and not resume:
                raise InputError(
                    "a measurement was begun here and not finished", where=str(self.path),
                    hint="continue it with --resume, or remove the file",
                )  # fmt: skip
            self._stream = self.path.open("r+b" if kept else "wb")
            if kept:  # drop a half-written line, then append
                self._stream.truncate(len(kept))
                self._stream.seek(len(kept))
            else:
                self._append(header)
        except OSError as error:
            raise InputError(
                f"cannot write the journal: {error.strerror}", where=str(self.path),
                hint="choose a writable folder with free space",
            ) from error  # fmt: skip

    def _read(self, header: str) -> bytes:
        """The whole lines; fills `windows`."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode("utf-8", "replace").splitlines()
        if not lines:
            return b""
        if lines[0] != header:
            raise InputError(
                "the journal is of another device, runtime or version", where=f"{self.path}:1",
                hint="remove it to begin anew",
            )  # fmt: skip
        for number, line in enumerate(lines[1:], start=2):
            try:
                item = json.loads(line)
                key, values = OpKey.parse(item["key"]), item["ns"]
                window = Window(key, tuple(float(value) for value in values))
                if not values or not all(math.isfinite(v) and v > 0 for v in window.samples_ns):
                    raise ValueError("no times")
            except (ValueError, KeyError, TypeError, InputError) as error:
                raise InputError(
                    "the journal has a broken line", where=f"{self.path}:{number}",
                    hint="remove the file to begin anew",
                ) from error  # fmt: skip
            self.windows.setdefault(key, []).append(window)
        return whole

    def _append(self, line: str) -> None:
        assert self._stream is not None
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def add(self, windows: Iterable[Window]) -> None:
        """Record visits durably.

        Raises:
            InputError: the disk is full.
        """
        for window in windows:
            self.windows.setdefault(window.key, []).append(window)
            line = json.dumps({"key": str(window.key), "ns": list(window.samples_ns)})
            try:
                self._append(line)
            except OSError as error:
                raise InputError(
                    f"cannot write the journal: {error.strerror}", where=str(self.path),
                    hint="free some space and continue with --resume",
                ) from error  # fmt: skip

    def close(self, *, remove: bool) -> None:
        """Close it; a finished measurement's journal is removed."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if remove:
            self.path.unlink(missing_ok=True)


def profile_device(
    profile: DeviceProfile,
    keys: Sequence[OpKey],
    meter: Meter,
    journal_path: Path,
    *,
    resume: bool = False,
    budget_s: float | None = None,
    protocol: Protocol | None = None,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Measure ``keys`` on a device.

    Args:
        profile: the device.
        keys: kernels to measure; the one of median work serves as anchor.
        meter: times them.
        journal_path: where visits are recorded; removed when all is done.
        resume: continue an earlier journal.
        budget_s: stop after so many seconds, what `meter` needs to prepare not among them;
            kernels with too few visits stay out of the table.
        protocol: how carefully.
        progress: called after each chunk.
        clock: seconds that pass, for the budget.

    Raises:
        InputError: nothing can be measured, or the journal cannot be used.
        BoardError: the device does not answer as it should.
    """
    protocol = protocol or Protocol()
    wanted = tuple(dict.fromkeys(keys))
    skipped = meter.prepare(wanted)
    todo = [key for key in wanted if key not in skipped]
    if not todo:
        reason = next(iter(skipped.values()), "there are no kernels")
        raise InputError(
            f"none of the {len(wanted)} kernels can be measured: {reason}",
            where=f"device {profile.name}", hint="is this the right device and runtime?",
        )  # fmt: skip
    identity = {
        "device": profile.name,
        "fingerprint": profile.fingerprint,
        "runtime": meter.runtime,
        "runtime_version": meter.runtime_version,
        "threads": meter.threads,
    }
    journal = Journal(journal_path, identity)
    journal.open(resume=resume)
    try:
        run = _Run(protocol, meter, journal, todo, random.Random(protocol.seed))
        before = read_conditions()
        run.settle()
        began = clock()
        while run.pending() and (budget_s is None or clock() - began < budget_s):
            for chunk in run.chunks():
                run.visit(chunk)
                if progress is not None:
                    progress(run.progress())
                if budget_s is not None and clock() - began >= budget_s:
                    break
        conditions = {**before, **run.conditions()}
    except BaseException:
        journal.close(remove=False)
        raise
    unfinished = tuple(k for k in todo if len(journal.windows.get(k, ())) < protocol.min_windows)
    journal.close(remove=not unfinished)
    entries = {key: _summary(journal.windows[key]) for key in todo if key not in set(unfinished)}
    table = LatencyTable(**identity, entries=entries, conditions=conditions)  # type: ignore[arg-type]
    return Result(table, skipped, unfinished, run.disturbed, run.worst_drift)


def _summary(windows: Sequence[Window]) -> Measurement:
    return summarise([window.samples_ns for window in windows])


class _Run:
    """The state of one measurement."""

    def __init__(
        self,
        protocol: Protocol,
        meter: Meter,
        journal: Journal,
        todo: Sequence[OpKey],
        order: random.Random,
    ) -> None:
        self.protocol = protocol
        self.meter = meter
        self.journal = journal
        self.todo = tuple(todo)
        self.order = order
        ranked = sorted(todo, key=lambda key: (key.macs, key.activation_bytes, str(key)))
        self.anchor = ranked[len(ranked) // 2]
        self.baseline_ns = math.inf
        self.disturbed = 0
        self.worst_drift = 0.0
        self.anchor_ns: list[float] = []

    def _anchor(self) -> float:
        """The fastest sample of a visit: slower when the machine is, not when it is only busy."""
        windows = list(self.meter.visit([self.anchor]))
        value = min(v for window in windows for v in window.samples_ns)
        self.anchor_ns.append(value)
        return value

    def settle(self) -> None:
        """Visit the anchor until it is stable: caches, clocks and page tables are warm then."""
        recent: list[float] = []
        for _ in range(self.protocol.max_settle):
            recent.append(self._anchor())
            last = recent[-self.protocol.settle_windows :]
            steady = max(last) <= min(last) * (1 + self.protocol.drift)
            if len(last) == self.protocol.settle_windows and steady:
                break
        self.baseline_ns = min(recent[-self.protocol.settle_windows :])

    def _done(self, key: OpKey) -> bool:
        windows = self.journal.windows.get(key, [])
        if len(windows) < self.protocol.min_windows:
            return False
        if len(windows) >= self.protocol.max_windows:
            return True
        found = _summary(windows)
        if found.windows - found.disturbed < self.protocol.min_windows:
            return False
        return found.spread_ns <= self.protocol.spread * found.median_ns

    def pending(self) -> list[OpKey]:
        """Kernels that need more visits."""
        return [key for key in self.todo if not self._done(key)]

    def chunks(self) -> list[list[OpKey]]:
        """One pass over the pending kernels, in a new random order."""
        pending = self.pending()
        self.order.shuffle(pending)
        size = self.protocol.chunk
        return [pending[start : start + size] for start in range(0, len(pending), size)]

    def visit(self, chunk: Sequence[OpKey]) -> None:
        """Visit a chunk, again if the anchor shows that it was disturbed."""
        for attempt in range(self.protocol.repeats + 1):
            windows = list(self.meter.visit(chunk))
            excess = self._anchor() / self.baseline_ns - 1
            self.baseline_ns = min(self.baseline_ns, self.anchor_ns[-1])
            if excess <= self.protocol.drift or attempt == self.protocol.repeats:
                self.worst_drift = max(self.worst_drift, excess)
                break
            self.disturbed += len(windows)
        self.journal.add(windows)

    def progress(self) -> Progress:
        """Where it stands."""
        windows = sum(len(found) for found in self.journal.windows.values())
        done = len(self.todo) - len(self.pending())
        return Progress(done, len(self.todo), windows, self.disturbed)

    def conditions(self) -> dict[str, str]:
        """What the measurement says of itself."""
        return {
            "anchor": str(self.anchor),
            "anchor_best_ns": f"{self.baseline_ns:.1f}",
            "anchor_worst_excess": f"{max(self.worst_drift, 0.0):.4f}",
            "disturbed_windows": str(self.disturbed),
        }

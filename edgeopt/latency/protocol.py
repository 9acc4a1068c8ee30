"""Measuring kernels so that the figures can be trusted, and so that nothing is lost.

Kernels are visited in passes, each in a new random order, so that a drift of the machine spreads
over all of them instead of hitting a few. An anchor kernel is visited throughout: if it takes
visibly longer than at the start, the machine is throttled or busy, and the visits since the last
good anchor are repeated. Its fastest sample is what counts: being interrupted by another program,
which medians withstand, is no reason to repeat. A board that says it is throttled is left to cool
first. A kernel is done when the confidence interval of its median is narrow enough. Every visit is
appended to a journal and synced, so a run that is cut off goes on where it stopped.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.conditions import STEADY_GOVERNORS, Monitor, local_reader
from edgeopt.latency.journal import AnchorVisit, Journal
from edgeopt.latency.meters import Meter
from edgeopt.latency.summary import summarise
from edgeopt.latency.table import LatencyTable

__all__ = ["Progress", "Protocol", "Result", "profile_device", "summarise"]


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
        cool_s: a throttled board is left alone for at most so long before a visit is repeated.
        cool_below_c: how far below its limit it has to cool.
        cool_repeats: how often visits of a throttled board are repeated before they are kept.
        clock_drop: share below its highest at which a steady governor's clock counts as throttled.
    """

    spread: float = 0.02
    min_windows: int = 3
    max_windows: int = 12
    chunk: int = 24
    drift: float = 0.10
    repeats: int = 1
    settle_windows: int = 3
    max_settle: int = 60
    cool_s: float = 180.0
    cool_below_c: float = 5.0
    cool_repeats: int = 3
    clock_drop: float = 0.05
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a measurement stands, for showing; None is unknown.

    Attributes:
        done: kernels that need no more visits.
        total: kernels that can be timed.
        windows: visits so far.
        disturbed: visits that were repeated.
        skipped: kernels that cannot be timed.
        left_s: seconds it will take at the pace so far, or until the budget is spent.
        spread: half the interval of the median, as a share of it: of the kernels last visited,
            the middle one.
        drift: how much slower than at its best the anchor was.
        faults: what went wrong and was got over.
        note: what is being waited for, if anything.
    """

    done: int
    total: int
    windows: int
    disturbed: int
    skipped: int = 0
    left_s: float | None = None
    spread: float | None = None
    drift: float | None = None
    clock_hz: int | None = None
    temperature_c: float | None = None
    faults: int = 0
    note: str = ""


@dataclass(slots=True)
class Result:
    """A finished (or budget-limited) measurement."""

    table: LatencyTable
    skipped: Mapping[OpKey, str]  # keys that cannot be timed, with the reason
    unfinished: tuple[OpKey, ...]  # too few visits within the budget: not in the table
    disturbed: int  # visits that were repeated
    drift: float  # largest excess of the anchor that was kept
    anchors: tuple[AnchorVisit, ...] = ()  # in the order they were made
    events: tuple[str, ...] = ()  # what went wrong and was got over
    throttled: int = 0  # visits repeated because the board was throttled
    dropped: int = 0  # lines of the journal that could not be read


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
    monitor: Monitor | None = None,
    sleep: Callable[[float], None] = time.sleep,
    keep: bool = False,
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
        monitor: watches the board; this machine by default.
        sleep: waits for a board to cool.
        keep: leave the journal in place: more kernels follow.

    Raises:
        InputError: nothing can be measured, or the journal cannot be used.
        BoardError: the device does not answer as it should.
    """
    from edgeopt.latency.visits import Visits

    protocol = protocol or Protocol()
    monitor = monitor or Monitor(local_reader())
    wanted = tuple(dict.fromkeys(keys))
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
        skipped = dict(meter.prepare([key for key in wanted if key not in journal.skipped]))
        skipped.update((k, why) for k, why in journal.skipped.items() if k in set(wanted))
        todo = [key for key in wanted if key not in skipped]
        if not todo:
            journal.close(remove=not journal.windows and not keep)
            raise _nothing(wanted, skipped, profile.name)
        facts = {"measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        facts.update(monitor.facts())
        run = Visits(
            protocol, meter, journal, todo, random.Random(protocol.seed), monitor,
            steady_clock=facts.get("governor") in STEADY_GOVERNORS, clock=clock, sleep=sleep,
            budget_s=budget_s, progress=progress,
        )  # fmt: skip
        run.measure()
        skipped.update(journal.skipped)
        todo = [key for key in todo if key not in skipped]
        if not todo:
            raise _nothing(wanted, skipped, profile.name)
    except BaseException:
        journal.close(remove=False)
        raise
    unfinished = tuple(k for k in todo if len(journal.windows.get(k, ())) < protocol.min_windows)
    journal.close(remove=not unfinished and not keep)
    entries = {
        key: summarise([window.samples_ns for window in journal.windows[key]])
        for key in todo
        if key not in set(unfinished)
    }
    table = LatencyTable(**identity, entries=entries, conditions={**facts, **run.conditions()})  # type: ignore[arg-type]
    return Result(
        table=table,
        skipped={key: why for key, why in skipped.items() if key in set(wanted)},
        unfinished=unfinished,
        disturbed=run.disturbed,
        drift=run.worst_drift,
        anchors=tuple(journal.anchors),
        events=tuple(journal.events),
        throttled=run.throttled,
        dropped=len(journal.dropped),
    )


def _nothing(wanted: Sequence[OpKey], skipped: Mapping[OpKey, str], device: str) -> InputError:
    reason = next(iter(skipped.values()), "there are no kernels")
    return InputError(
        f"none of the {len(wanted)} kernels can be measured: {reason}",
        where=f"device {device}", hint="is this the right device and runtime?",
    )  # fmt: skip

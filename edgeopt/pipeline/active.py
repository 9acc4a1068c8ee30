"""Measuring within a budget: the most telling kernels first, as long as there is time.

Rounds of choosing, building and measuring a few kernels. What a round chooses follows from what the
journal holds, so that a run that is cut off goes on as it would have; what a shorter budget
measures is how a longer one begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import LatencyModel
from edgeopt.core.kernels import OpKey
from edgeopt.latency.active import choose

if TYPE_CHECKING:
    from edgeopt.core.space import SearchSpace
    from edgeopt.latency.conditions import Monitor
    from edgeopt.latency.journal import Journal
    from edgeopt.latency.meters import Meter
    from edgeopt.latency.protocol import Progress, Protocol, Result

#: Kernels a round: few enough to learn from them, enough for one program.
ROUND = 32
#: What a kernel costs, for choosing: to build it, and to run it so often.
BUILD_S, RUNS = 0.3, 150


def usage_of(
    space: SearchSpace, precisions: Sequence[str], device: DeviceProfile
) -> dict[OpKey, float]:
    """How often random subnets run each kernel of a space; every precision is as likely."""
    from edgeopt.pipeline.space_kernels import space_kernels

    found: dict[OpKey, float] = {}
    for precision in precisions:
        for key, usage in space_kernels(space, precision, device.target).usage.items():
            found[key] = found.get(key, 0.0) + usage
    return found


def measure_actively(
    device: DeviceProfile,
    usage: Mapping[OpKey, float],
    meter: Meter,
    journal_path: Path,
    prior: LatencyModel,
    *,
    budget_s: float | None,
    resume: bool = False,
    size: int = ROUND,
    protocol: Protocol | None = None,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    monitor: Monitor | None = None,
    after: Callable[[Result], None] | None = None,
) -> Result:
    """Measure the kernels of ``usage``, the most telling first.

    Args:
        device: the device.
        usage: kernel -> how often a random network runs it.
        meter: builds and times them.
        journal_path: of visits; left in place, for the caller to remove once the table is written.
        prior: estimates times before anything was measured.
        budget_s: building and measuring together; None measures all.
        resume: continue a journal.
        size: kernels a round.
        protocol: how carefully.
        progress: told where it stands.
        clock: seconds that pass.
        monitor: watches the board.
        after: told after every round what there is by then.

    Raises:
        InputError: nothing can be measured, or the journal cannot be used.
        BoardError: the device does not answer as it should.
    """
    from edgeopt.latency.protocol import Protocol, profile_device

    began = clock()
    protocol = protocol or Protocol()
    keys = tuple(usage)
    found = journalled(device, meter, journal_path, keys, protocol) if resume else None
    refused: dict[OpKey, str] = {} if found is None else dict(found.skipped)
    rounds = 0
    while True:
        measured = {} if found is None else dict(found.table.entries)
        left = [key for key in keys if key not in measured and key not in refused]
        spent = clock() - began
        if not left or (budget_s is not None and spent >= budget_s and found is not None):
            break
        count = size
        if budget_s is not None and rounds:
            # No round is begun that cannot be finished at the pace of those before.
            pace = spent / (rounds * size)
            count = min(size, int((budget_s - spent) / pace))
            if count < 1:
                break
        chosen = next_kernels(left, measured, usage, prior, meter, count)
        refused.update(meter.prepare(chosen))
        chosen = [key for key in chosen if key not in refused]
        if not chosen:
            continue
        result = profile_device(
            device, chosen, meter, journal_path, resume=resume or rounds > 0, keep=True,
            budget_s=None if budget_s is None else max(budget_s - spent, 1.0),
            protocol=replace(protocol, seed=protocol.seed + rounds),
            progress=_of_all(progress, len(measured), len(keys)),
            clock=clock, monitor=monitor,
        )  # fmt: skip
        found = result if found is None else _together(found, result)
        refused.update(found.skipped)
        rounds += 1
        if after is not None:
            after(found)
        if result.unfinished:
            break
    if found is None:
        reason = next(iter(refused.values()), "there are none")
        raise InputError(
            f"none of the {len(keys)} kernels can be measured: {reason}",
            where=f"device {device.name}", hint="is this the right device and runtime?",
        )  # fmt: skip
    unfinished = tuple(k for k in keys if k not in found.table.entries and k not in refused)
    return replace(found, skipped=refused, unfinished=unfinished)


def _of_all(
    progress: Callable[[Progress], None] | None, before: int, total: int
) -> Callable[[Progress], None] | None:
    """Tells where a round stands among all kernels."""
    if progress is None:
        return None
    return lambda state: progress(replace(state, done=before + state.done, total=total))


def next_kernels(
    left: Sequence[OpKey],
    measured: Mapping[OpKey, object],
    usage: Mapping[OpKey, float],
    prior: LatencyModel,
    meter: Meter,
    count: int,
) -> list[OpKey]:
    """What a round measures, from what was measured before it."""
    from edgeopt.latency.model import TableModel
    from edgeopt.latency.table import LatencyTable, Measurement

    entries = {k: entry for k, entry in measured.items() if isinstance(entry, Measurement)}
    model = prior
    if entries:
        model = TableModel(LatencyTable("", "", meter.runtime, "", meter.threads, entries))
    keys = list(usage)
    times = {k: e.value for k, e in zip(keys, model.predict_each(keys), strict=True)}
    return choose(
        left,
        {key: entry.median_ns for key, entry in entries.items()},
        {key: usage[key] * times[key] for key in keys},
        lambda key: BUILD_S + RUNS * times[key] / 1e9,
        count=count,
    )


def journalled(
    device: DeviceProfile,
    meter: Meter,
    path: Path,
    keys: Sequence[OpKey],
    protocol: Protocol,
) -> Result | None:
    """What an earlier run measured; None if it did not get to anything."""
    from edgeopt.latency.journal import Journal
    from edgeopt.latency.protocol import Result
    from edgeopt.latency.summary import summarise
    from edgeopt.latency.table import LatencyTable

    identity = {
        "device": device.name,
        "fingerprint": device.fingerprint,
        "runtime": meter.runtime,
        "runtime_version": meter.runtime_version,
        "threads": meter.threads,
    }
    journal: Journal = Journal(path, identity)
    if not path.exists():
        return None
    journal.open(resume=True)
    journal.close(remove=False)
    entries = {
        key: summarise([window.samples_ns for window in windows])
        for key, windows in journal.windows.items()
        if len(windows) >= protocol.min_windows and key in set(keys)
    }
    if not entries:
        return None
    table = LatencyTable(**identity, entries=entries)  # type: ignore[arg-type]
    return Result(
        table=table, skipped=dict(journal.skipped), unfinished=(), disturbed=0, drift=0.0,
        anchors=tuple(journal.anchors), events=tuple(journal.events), dropped=len(journal.dropped),
    )  # fmt: skip


def _together(before: Result, now: Result) -> Result:
    conditions = {**before.table.conditions, **now.table.conditions}
    for name in ("disturbed_windows", "throttled_windows", "faults"):
        if name in conditions:
            values = [r.table.conditions.get(name, "0") for r in (before, now)]
            # Faults are counted from the journal, which holds those before.
            whole = max if name == "faults" else sum
            conditions[name] = str(whole(int(value) for value in values))
    return replace(
        now,
        table=replace(before.table.merged(now.table), conditions=conditions),
        skipped={**before.skipped, **now.skipped},
        disturbed=before.disturbed + now.disturbed,
        drift=max(before.drift, now.drift),
        throttled=before.throttled + now.throttled,
    )

"""One measurement as it goes on: passes, the anchor, throttling, and what is done."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from edgeopt.core.errors import BoardError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.conditions import Monitor, Reading
from edgeopt.latency.journal import AnchorVisit, Journal
from edgeopt.latency.meters import Fault, Grouping, Meter, Refused, Window
from edgeopt.latency.protocol import Progress, Protocol
from edgeopt.latency.summary import summarise
from edgeopt.latency.table import Measurement

FIRST_WAIT_S = 5.0
MAX_WAIT_S = 40.0
#: Of a budget that waiting for a stable machine may take.
SETTLE_SHARE = 0.2


class Visits:
    """The state of one measurement."""

    def __init__(
        self,
        protocol: Protocol,
        meter: Meter,
        journal: Journal,
        todo: Sequence[OpKey],
        order: random.Random,
        monitor: Monitor,
        *,
        steady_clock: bool,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        budget_s: float | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.protocol = protocol
        self.meter = meter
        self.journal = journal
        self.todo = list(todo)
        self.order = order
        self.monitor = monitor
        self.steady_clock = steady_clock
        self.clock = clock
        self.sleep = sleep
        self.budget_s = budget_s
        self.tell = progress or (lambda state: None)
        self._failed_anchors: set[OpKey] = set()
        self.anchor = self._choose_anchor()
        self.baseline_ns = math.inf
        self.disturbed = 0
        self.throttled = 0
        self.worst_drift = 0.0
        self.faults = 0
        self._summaries: dict[OpKey, tuple[int, Measurement]] = {}
        self._began = clock()
        self._earlier_s = max((visit.at_s for visit in journal.anchors), default=0.0)
        self._windows_before = sum(len(found) for found in journal.windows.values())
        self._best_clock_hz = 0
        self._hottest_c: float | None = None
        self._last = Reading()
        self._last_ns = math.nan
        self._spread: float | None = None

    def measure(self) -> None:
        """Visit the kernels until all are known well enough, or the budget is spent.

        Raises:
            BoardError: the device does not answer as it should.
        """
        self._began = self.clock()
        self.settle()
        while self.pending() and not self._spent():
            for chunk in self.chunks():
                self.visit([key for key in chunk if key not in self.journal.skipped])
                self.tell(self.progress())
                if self._spent():
                    break

    def _spent(self, share: float = 1.0) -> bool:
        return self.budget_s is not None and self.clock() - self._began >= share * self.budget_s

    # The anchor

    def _choose_anchor(self) -> OpKey:
        """The kernel of median work, of those that are not known to fail.

        Raises:
            BoardError: all do.
        """
        able = [key for key in self.todo if key not in self._failed_anchors]
        if not able:
            raise BoardError(
                "none of the kernels can be timed", where="bench program",
                hint="run the program by hand on the board; what was measured is kept",
            )  # fmt: skip
        ranked = sorted(able, key=lambda key: (key.macs, key.activation_bytes, str(key)))
        return ranked[len(ranked) // 2]

    def _visit_anchor(self) -> float | None:
        """The fastest sample of a visit: slower when the machine is, not when it is only busy.

        None if the anchor had to be given up, and another one was chosen.
        """
        windows = self._take([self.anchor])
        if not windows:
            self._failed_anchors.add(self.anchor)
            self.anchor = self._choose_anchor()
            self.settle()
            return None
        self._last_ns = min(v for window in windows for v in window.samples_ns)
        return self._last_ns

    def settle(self) -> None:
        """Visit the anchor until it is stable: caches, clocks and page tables are warm then.

        A board that never is takes no more than `SETTLE_SHARE` of the budget.
        """
        recent: list[float] = []
        for _ in range(self.protocol.max_settle):
            value = self._visit_anchor()
            if value is None:  # another anchor was settled instead
                return
            recent.append(value)
            last = recent[-self.protocol.settle_windows :]
            steady = max(last) <= min(last) * (1 + self.protocol.drift)
            if len(last) == self.protocol.settle_windows and steady:
                break
            if self._spent(SETTLE_SHARE):
                break
        self.baseline_ns = min(recent[-self.protocol.settle_windows :])
        self._read()

    # One chunk

    def _take(self, keys: Sequence[OpKey]) -> list[Window]:
        """Visit kernels; what turned out not to be timeable is recorded as such.

        Raises:
            BoardError: what was measured before it is in the journal.
        """
        windows: list[Window] = []
        try:
            for outcome in self.meter.visit(keys):
                if isinstance(outcome, Window):
                    windows.append(outcome)
                elif isinstance(outcome, Refused):
                    self.journal.skip(outcome.key, outcome.why)
                    if outcome.key in self.todo:
                        self.todo.remove(outcome.key)
                else:
                    self._note(outcome)
        except BoardError:
            if list(keys) != [self.anchor]:
                self.journal.add(windows)
            raise
        return windows

    def _note(self, fault: Fault) -> None:
        self.faults += 1
        self.journal.event(fault.what)

    def visit(self, chunk: Sequence[OpKey]) -> None:
        """Visit a chunk, again if the anchor or the board itself shows that it was disturbed."""
        hot = 0
        busy = 0
        keys = list(chunk)
        while keys:
            before = self._last
            windows = self._take(keys)
            value = self._visit_anchor()
            now = self._read()
            excess = 0.0 if value is None else value / self.baseline_ns - 1
            if value is not None:
                self.baseline_ns = min(self.baseline_ns, value)
            why = self._throttling(before, now)
            again = (why and hot < self.protocol.cool_repeats) or (
                not why and excess > self.protocol.drift and busy < self.protocol.repeats
            )
            if value is not None:
                self._remember(value, now, kept=not again)
            if not again:
                self.worst_drift = max(self.worst_drift, excess)
                self.journal.add(windows)
                self._spread = self._middle_spread(keys)
                return
            self.disturbed += len(windows)
            if why:
                hot += 1
                self.throttled += len(windows)
                self.journal.event(f"throttled: {why}")
                self._cool(why)
            else:
                busy += 1
            keys = [key for key in keys if key not in self.journal.skipped]

    def _remember(self, value: float, now: Reading, *, kept: bool) -> None:
        at_s = self._earlier_s + self.clock() - self._began
        self.journal.anchor(AnchorVisit(at_s, value, kept, now.clock_hz, now.temperature_c))

    # The board's state

    def _read(self) -> Reading:
        self._last = now = self.monitor.reading()
        self._best_clock_hz = max(self._best_clock_hz, now.clock_hz or 0)
        if now.temperature_c is not None:
            self._hottest_c = max(self._hottest_c or now.temperature_c, now.temperature_c)
        return now

    def _throttling(self, before: Reading, now: Reading) -> str:
        """Why the board was slower than it could be; empty if nothing says so."""
        if now.throttled:
            return now.throttled
        if (now.throttle_count or 0) > (before.throttle_count or 0) > 0 or (
            before.throttle_count == 0 and (now.throttle_count or 0) > 0
        ):
            return "the processor counted itself throttled"
        floor = self._best_clock_hz * (1 - self.protocol.clock_drop)
        if self.steady_clock and now.clock_hz is not None and now.clock_hz < floor:
            return f"its clock fell to {now.clock_hz / 1e6:.0f} MHz"
        return ""

    def _cool(self, why: str) -> None:
        """Leave the board alone until it has cooled, or for as long as the protocol allows."""
        spent, wait = 0.0, FIRST_WAIT_S
        while spent < self.protocol.cool_s and not self._spent():
            wait = min(wait, self.protocol.cool_s - spent)
            self.tell(self.progress(f"cooling for {wait:.0f} s: {why}"))
            self.sleep(wait)
            spent += wait
            wait = min(2 * wait, MAX_WAIT_S)
            before, now = self._last, self._read()
            limit = self.monitor.trip_c
            cool = (
                limit is None
                or now.temperature_c is None
                or now.temperature_c <= limit - self.protocol.cool_below_c
            )
            if cool and not self._throttling(before, now):
                return

    # What is done

    def _summary(self, key: OpKey) -> Measurement:
        windows = self.journal.windows[key]
        known = self._summaries.get(key)
        if known is None or known[0] != len(windows):
            known = (len(windows), summarise([window.samples_ns for window in windows]))
            self._summaries[key] = known
        return known[1]

    def _done(self, key: OpKey) -> bool:
        windows = self.journal.windows.get(key, [])
        if len(windows) < self.protocol.min_windows:
            return False
        if len(windows) >= self.protocol.max_windows:
            return True
        found = self._summary(key)
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
        groups = [pending]
        if isinstance(self.meter, Grouping):
            groups = self.meter.groups(pending)
            self.order.shuffle(groups)
        return [
            group[start : start + size] for group in groups for start in range(0, len(group), size)
        ]

    def _middle_spread(self, keys: Sequence[OpKey]) -> float | None:
        found = [self._summary(key) for key in keys if key in self.journal.windows]
        shares = [entry.spread_ns / entry.median_ns for entry in found if entry.windows > 1]
        return float(np.median(shares)) if shares else None

    def _missing(self, key: OpKey) -> int:
        """About how many more visits a kernel needs."""
        have = len(self.journal.windows.get(key, ()))
        if have < self.protocol.min_windows:
            return self.protocol.min_windows - have
        found = self._summary(key)
        # An interval narrows with the root of the number of visits.
        short = found.spread_ns / found.median_ns / self.protocol.spread
        return max(1, min(self.protocol.max_windows, math.ceil(have * short**2)) - have)

    def progress(self, note: str = "") -> Progress:
        """Where it stands."""
        windows = sum(len(found) for found in self.journal.windows.values())
        pending = self.pending()
        missing = sum(self._missing(key) for key in pending)
        spent = self.clock() - self._began
        taken = windows - self._windows_before
        left = None if taken <= 0 else missing * spent / taken
        if self.budget_s is not None:
            rest = max(0.0, self.budget_s - spent)
            left = rest if left is None else min(left, rest)
        known = math.isfinite(self.baseline_ns) and math.isfinite(self._last_ns)
        return Progress(
            done=len(self.todo) - len(pending),
            total=len(self.todo),
            windows=windows,
            disturbed=self.disturbed,
            skipped=len(self.journal.skipped),
            left_s=left,
            spread=self._spread,
            drift=self._last_ns / self.baseline_ns - 1 if known else None,
            clock_hz=self._last.clock_hz,
            temperature_c=self._last.temperature_c,
            faults=self.faults,
            note=note,
        )

    def conditions(self) -> dict[str, str]:
        """What the measurement says of itself."""
        found = {
            "anchor": str(self.anchor),
            "anchor_best_ns": f"{self.baseline_ns:.1f}",
            "anchor_worst_excess": f"{max(self.worst_drift, 0.0):.4f}",
            "disturbed_windows": str(self.disturbed),
            "throttled_windows": str(self.throttled),
            "faults": str(len(self.journal.events)),
        }
        if self._hottest_c is not None:
            found["temperature_highest_c"] = f"{self._hottest_c:.1f}"
        return found

"""A meter that gets over what boards do: vanish, hang, restart, print nonsense, crash on a kernel.

What was delivered before a failure is kept. Then the board is asked whether it is still there,
with longer and longer waits; if it is, the kernels that are missing are tried again, then halved
until the one is found that fails by itself. That one is given up with the reason, the others are
timed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from edgeopt.core.errors import BoardError, BoardUnreachable
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import Fault, Grouping, Meter, Outcome, Refused, Window

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try.

    Attributes:
        attempts: how often a board that does not answer is asked.
        first_wait_s: before the second attempt; doubled each time.
        max_wait_s: no wait is longer.
        tries: how often the same kernels may fail before they are divided, or given up.
        refusals: kernels given up one after another, with none timed in between, before the
            board itself is taken to be at fault.
    """

    attempts: int = 8
    first_wait_s: float = 1.0
    max_wait_s: float = 60.0
    tries: int = 2
    refusals: int = 8


@dataclass(slots=True)
class Recovery:
    """Waits for a board to come back.

    Args:
        recover: returns once the board answers; raises `BoardError` while it does not. May say
            what it found (the board was restarted).
        note: told what is being waited for.
    """

    recover: Callable[[], str]
    patience: Patience = Patience()
    note: Callable[[str], None] = lambda text: None
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failure: BoardError) -> str:
        """Wait until the board answers; what it says of itself then.

        Raises:
            BoardUnreachable: it did not come back.
        """
        wait_s = self.patience.first_wait_s
        for attempt in range(self.patience.attempts):
            try:
                return self.recover()
            except BoardError as error:
                last = error
            if attempt + 1 < self.patience.attempts:
                self.note(f"the board does not answer: trying again in {wait_s:.0f} s")
                self.sleep(wait_s)
                wait_s = min(2 * wait_s, self.patience.max_wait_s)
        raise BoardUnreachable(
            f"the board did not come back ({failure.what}; then {last.what})",
            where=failure.where or last.where,
            hint="what was measured is kept: see to the board, then go on with --resume",
        ) from failure

    def retrying(self, work: Callable[[], T]) -> T:
        """``work()``, again after a failure that the board recovers from.

        Raises:
            BoardError: it failed as often as patience allows, or the board is gone.
        """
        for attempt in range(self.patience.tries + 1):
            try:
                return work()
            except BoardError as error:
                if attempt == self.patience.tries:
                    raise
                self.wait(error)
        raise AssertionError("unreachable")


@dataclass(slots=True)
class SteadyMeter:
    """Another meter, made to withstand its board."""

    meter: Meter
    recovery: Recovery
    _held: dict[OpKey, Refused] = field(default_factory=dict, repr=False)
    _refused_in_a_row: int = field(default=0, repr=False)

    @property
    def runtime(self) -> str:
        """The inner meter's."""
        return self.meter.runtime

    @property
    def runtime_version(self) -> str:
        """The inner meter's."""
        return self.meter.runtime_version

    @property
    def threads(self) -> int:
        """The inner meter's."""
        return self.meter.threads

    def groups(self, keys: Sequence[OpKey]) -> list[list[OpKey]]:
        """The inner meter's, if it has any."""
        return self.meter.groups(keys) if isinstance(self.meter, Grouping) else [list(keys)]

    def prepare(self, keys: Sequence[OpKey]) -> dict[OpKey, str]:
        """Build what is needed; a board that vanishes meanwhile is waited for."""
        return self.recovery.retrying(lambda: self.meter.prepare(keys))

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Outcome]:
        """Time the kernels; those that cannot be timed come back as `Refused`.

        They do so once another kernel was timed after them, in this visit or a later one: only
        that shows that the board works and the kernel is at fault.

        Raises:
            BoardError: the board did not come back, or fails whatever it is asked.
        """
        failures: Counter[frozenset[OpKey]] = Counter()
        waiting = [list(keys)]
        while waiting:
            group = waiting.pop()
            given: set[OpKey] = set()
            try:
                for outcome in self.meter.visit(group):
                    if isinstance(outcome, Window):
                        given.add(outcome.key)
                        self._refused_in_a_row = 0
                        yield from self._held.values()
                        self._held.clear()
                    elif isinstance(outcome, Refused):
                        given.add(outcome.key)
                    yield outcome
                continue
            except BoardError as error:
                failure = error
            yield Fault(_said(failure))
            found = self.recovery.wait(failure)
            if found:
                yield Fault(found)
            rest = [key for key in group if key not in given]
            if not rest:
                continue
            failures[frozenset(rest)] += 1
            if failures[frozenset(rest)] < self.recovery.patience.tries:
                waiting.append(rest)
            elif len(rest) > 1:
                waiting += [rest[len(rest) // 2 :], rest[: len(rest) // 2]]
            else:
                self._refused_in_a_row += 1
                if self._refused_in_a_row >= self.recovery.patience.refusals:
                    raise BoardError(
                        f"{self._refused_in_a_row} kernels in a row could not be timed: "
                        f"{failure.what}",
                        where=failure.where,
                        hint="the board is at fault rather than a kernel: what was measured is "
                        "kept; see to it, then go on with --resume",
                    ) from failure  # fmt: skip
                self._held[rest[0]] = Refused(rest[0], failure.what)


class Program(Protocol):
    """Something that runs and prints lines."""

    def run(self, args: Sequence[str]) -> Iterator[str]:
        """Run it, yielding the lines of its standard output."""
        ...


@dataclass(frozen=True, slots=True)
class SteadyProgram:
    """Another program, run again after a failure that its board recovers from."""

    program: Program
    recovery: Recovery

    def run(self, args: Sequence[str]) -> Iterator[str]:
        """All lines of the first run that does not fail.

        Raises:
            BoardError: it failed as often as patience allows, or the board is gone.
        """
        yield from self.recovery.retrying(lambda: list(self.program.run(args)))


def _said(error: BoardError) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what

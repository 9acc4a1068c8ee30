"""Timing kernels with bench programs: edgeopt's own kernels, or what prints the same lines.

The program runs on the device, by whatever transport reaches it, and prints one JSON object a
line. Nothing it prints is trusted: lines are bounded, checked, must be of keys asked for, and
their times must be possible.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import BoardError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import Outcome, Refused, Window

MAX_LINE = 64 * 1024
MAX_SAMPLES = 10_000
MAX_CALLS = 1 << 40
#: Samples beside an anchor this much slower than the best one were disturbed.
ANCHOR_EXCESS = 0.05
#: A board may claim to have measured this much longer than it took until its lines were here.
CLOCK_FACTOR, CLOCK_SLACK_S = 2.0, 0.25


class BenchProgram(Protocol):
    """A program on the device that times the kernels linked into it."""

    def run(self, args: Sequence[str]) -> Iterator[str]:
        """Run it, yielding the lines of its standard output as they come."""
        ...


#: Builds a program of the keys; also says which keys could not be built, and why.
Builder = Callable[[Sequence[OpKey]], tuple[BenchProgram | None, Mapping[OpKey, str]]]


@dataclass(slots=True)
class ProgramMeter:
    """A meter over bench programs.

    Args:
        build: makes a program of some keys (called for batches).
        runtime_version: of the code generator; changes when generated code does.
        batch: keys a program; small enough that one failing kernel costs little.
        min_us: microseconds a sample lasts at least.
        flush_bytes: caches are displaced by so many bytes before each call; 0 leaves them warm.
        cpu: processor to pin to; None lets the device choose.
        together: kernels of one program are visited together: starting one is dear.
        chain: so many kernels run in turn as in a network, each sample one call beside an anchor;
            0 repeats every kernel by itself.
        fastest_ns: no kernel can be faster on the device than this; None believes anything.
    """

    build: Builder
    runtime_version: str
    runtime: str = "edgeopt"
    threads: int = 1
    batch: int = 64
    samples: int = 5
    min_us: int = 200
    flush_bytes: int = 0
    cpu: int | None = None
    progress: Callable[[int, int], None] | None = None
    together: bool = False
    chain: int = 0
    fastest_ns: Callable[[OpKey], float] | None = None
    pinned: bool | None = None  # whether the last program was bound to `cpu`; None: it did not say
    _programs: dict[OpKey, BenchProgram] = field(default_factory=dict, repr=False)
    _best_anchor_ns: float = math.inf
    _visits: int = 0

    def prepare(self, keys: Sequence[OpKey]) -> dict[OpKey, str]:
        """Build programs for the keys that have none yet, batch by batch."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._programs]
        failed: dict[OpKey, str] = {}
        for start in range(0, len(wanted), self.batch):
            part = wanted[start : start + self.batch]
            program, reasons = self.build(part)
            failed.update(reasons)
            if program is not None:
                self._programs.update((key, program) for key in part if key not in reasons)
            if self.progress is not None:
                self.progress(min(start + self.batch, len(wanted)), len(wanted))
        return failed

    def groups(self, keys: Sequence[OpKey]) -> list[list[OpKey]]:
        """The keys by program, where that matters."""
        if not self.together and not self.chain:
            return [list(keys)]
        return [members for _, members in self._by_program(keys)]

    def _by_program(self, keys: Sequence[OpKey]) -> list[tuple[BenchProgram, list[OpKey]]]:
        groups: dict[int, tuple[BenchProgram, list[OpKey]]] = {}
        for key in keys:
            program = self._programs[key]
            groups.setdefault(id(program), (program, []))[1].append(key)
        return list(groups.values())

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Outcome]:
        """Time the keys program by program.

        Raises:
            BoardError: a program failed, printed something else, or left keys out.
        """
        options = ["--passes", "1", "--samples", str(self.samples), "--min-us", str(self.min_us)]
        if self.flush_bytes:
            options += ["--flush-bytes", str(self.flush_bytes)]
        if self.chain:
            # The seed decides which other kernels fill a chain.
            self._visits += 1
            options += ["--chain", str(self.chain), "--seed", str(self._visits)]
        if self.cpu is not None:
            options += ["--cpu", str(self.cpu)]
        for program, members in self._by_program(keys):
            by_digest = {key.digest: key for key in members}
            reader = Reader(by_digest, self.fastest_ns, best_anchor_ns=self._best_anchor_ns)
            yield from reader.read(program.run([*options, *by_digest]))
            self._best_anchor_ns = reader.best_anchor_ns
            if self.cpu is not None and reader.cpu is not None:
                self.pinned = reader.cpu == self.cpu


@dataclass(slots=True)
class Reader:
    """Reads what a bench program prints, and believes no more of it than is possible.

    Args:
        by_digest: what was asked for.
        fastest_ns: no kernel can be faster.
        clock: seconds on this machine.
    """

    by_digest: Mapping[str, OpKey]
    fastest_ns: Callable[[OpKey], float] | None = None
    clock: Callable[[], float] = time.monotonic
    cpu: int | None = None  # the processor it says it is bound to, -1 for none
    best_anchor_ns: float = math.inf
    _claimed_ns: float = 0.0

    def read(self, lines: Iterator[str]) -> Iterator[Outcome]:
        """The windows, as they come.

        Raises:
            BoardError: anything else than a header, one window a key, and an end.
        """
        waiting = dict(self.by_digest)
        began = self.clock()
        ended = False
        for line in lines:
            if not line.strip():
                continue
            message = _message(line)
            if "bench" in message:
                if message["bench"] != 1:
                    raise _strange("an unknown version", line)
                cpu = message.get("cpu")
                self.cpu = cpu if isinstance(cpu, int) else None
                continue
            if message.get("done") is True:
                ended = True
                break
            name = str(message.get("key"))
            key = waiting.pop(name, None)
            if key is None and name in self.by_digest:
                raise _strange("a second result of one kernel", line)
            if key is None:
                raise _strange("a result nobody asked for", line)
            if "error" in message:
                yield Refused(key, _printable(str(message["error"]))[:300])
                continue
            yield Window(key, self._times(key, message, line, self.clock() - began))
        # The rest of the lines, so that a program that fails at its end is noticed.
        for line in lines:
            if line.strip():
                raise _strange("something after its end", line)
        if waiting or not ended:
            first = next(iter(waiting.values()), None)
            detail = f" without a time for {first}" if first is not None else " before its end"
            raise BoardError(
                f"the bench program stopped{detail}", where="bench program",
                hint="run it by hand with that kernel's digest; the kernel may crash",
            )  # fmt: skip

    def _times(
        self, key: OpKey, message: Mapping[str, Any], line: str, elapsed_s: float
    ) -> tuple[float, ...]:
        values = message.get("ns")
        if not isinstance(values, list) or not 0 < len(values) <= MAX_SAMPLES:
            raise _strange("a result without times", line)
        times = [float(v) if _is_number(v) else math.nan for v in values]
        if not all(math.isfinite(value) for value in times):
            raise _strange("a time that is not a number", line)
        if min(times) < 0:
            raise _strange("a negative time", line)
        calls = message.get("calls", 1)
        if not isinstance(calls, int) or isinstance(calls, bool) or not 0 < calls <= MAX_CALLS:
            raise _strange("a count of calls that cannot be", line)
        if calls > 1 and min(times) == 0:
            raise _strange(f"a time of zero for {calls} calls", line)
        self._claimed_ns += calls * sum(times)
        if self._claimed_ns / 1e9 > CLOCK_FACTOR * elapsed_s + CLOCK_SLACK_S:
            raise _strange(
                f"times that cannot be: {self._claimed_ns / 1e9:.3g} s of measuring "
                f"in {elapsed_s:.3g} s", line,
            )  # fmt: skip
        least = 0.0 if self.fastest_ns is None else self.fastest_ns(key)
        if sorted(times)[len(times) // 2] < least:
            raise _strange(f"times that cannot be: {key} takes at least {least:.3g} ns here", line)
        times = self._undisturbed(times, message.get("anchors"), line)
        # One call that is over before the clock moves: the kernel is faster than its step.
        return tuple(max(value, 0.1) for value in times)

    def _undisturbed(self, times: list[float], anchors: object, line: str) -> list[float]:
        """The samples beside which the machine was at its best; all if it never was."""
        if anchors is None:
            return times
        if (
            not isinstance(anchors, list)
            or len(anchors) != len(times)
            or not all(_is_number(value) and 0 < value < math.inf for value in anchors)
        ):
            raise _strange("anchors that are not the samples'", line)
        self.best_anchor_ns = min(self.best_anchor_ns, *anchors)
        limit = self.best_anchor_ns * (1 + ANCHOR_EXCESS)
        good = [value for value, anchor in zip(times, anchors, strict=True) if anchor <= limit]
        return good or times


def fastest_ns(profile: DeviceProfile, key: OpKey, threads: int = 1) -> float:
    """A time that no kernel of a processor can be below, whatever its code: generously low.

    Four vector operations a cycle, each a multiply-accumulate in every lane (of eight bits four
    deep, as matrix instructions do), and a fast algorithm that saves three of four.
    """
    clock_hz = 1.5 * (profile.clock_hz or 4e9)
    lanes = profile.vector_bits / 32 * (16 if key.precision == "i8" else 1)
    macs_per_ns = 4 * 4 * max(lanes, 1.0) * clock_hz / 1e9 * threads
    return key.macs / macs_per_ns


def _message(line: str) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise _strange("a line of more than 64 KiB", line)
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _strange("a line that is not JSON", line) from error
    if not isinstance(message, dict):
        raise _strange("a line that is not an object", line)
    return message


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _strange(what: str, line: str) -> BoardError:
    return BoardError(
        f"printed {what}: {_printable(line[:80])!r}", where="bench program",
        hint="does something else write to the same standard output?",
    )  # fmt: skip

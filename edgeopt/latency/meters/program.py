"""Timing edgeopt's own kernels with the bench program that codegen links them into.

The program runs on the device, by whatever transport reaches it, and prints one JSON object a
line. Nothing it prints is trusted: lines are bounded, checked, and must be of keys asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import Window

MAX_LINE = 64 * 1024
MAX_SAMPLES = 10_000


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
    _programs: dict[OpKey, BenchProgram] = field(default_factory=dict, repr=False)

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

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Window]:
        """Time the keys program by program.

        Raises:
            BoardError: a program failed, printed something else, or left keys out.
        """
        groups: dict[int, tuple[BenchProgram, list[OpKey]]] = {}
        for key in keys:
            program = self._programs[key]
            groups.setdefault(id(program), (program, []))[1].append(key)
        options = ["--passes", "1", "--samples", str(self.samples), "--min-us", str(self.min_us)]
        if self.flush_bytes:
            options += ["--flush-bytes", str(self.flush_bytes)]
        if self.cpu is not None:
            options += ["--cpu", str(self.cpu)]
        for program, members in groups.values():
            by_digest = {key.digest: key for key in members}
            lines = program.run([*options, *by_digest])
            yield from read_windows(lines, by_digest)


def read_windows(lines: Iterator[str], by_digest: Mapping[str, OpKey]) -> Iterator[Window]:
    """The windows a bench program prints.

    Raises:
        BoardError: anything else than a header, one window a key, and an end.
    """
    waiting = dict(by_digest)
    ended = False
    for line in lines:
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            raise _strange("a line of more than 64 KiB", line)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _strange("a line that is not JSON", line) from error
        if not isinstance(message, dict):
            raise _strange("a line that is not an object", line)
        if "bench" in message:
            if message["bench"] != 1:
                raise _strange("an unknown version", line)
            continue
        if message.get("done") is True:
            ended = True
            break
        key = waiting.pop(str(message.get("key")), None)
        values = message.get("ns")
        if key is None or not isinstance(values, list) or not 0 < len(values) <= MAX_SAMPLES:
            raise _strange("a result nobody asked for", line)
        samples = [float(v) if _is_number(v) else math.nan for v in values]
        if not all(math.isfinite(value) and value >= 0 for value in samples):
            raise _strange("a time that is not a number", line)
        # A clock that did not move in a whole sample: the kernel is faster than its step.
        yield Window(key, tuple(max(value, 0.1) for value in samples))
    if waiting or not ended:
        first = next(iter(waiting.values()), None)
        detail = f" without a time for {first}" if first is not None else " before its end"
        raise BoardError(
            f"the bench program stopped{detail}", where="bench program",
            hint="run it by hand with that kernel's digest; the kernel may crash",
        )  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _strange(what: str, line: str) -> BoardError:
    shown = "".join(c if c.isprintable() else "?" for c in line[:80])
    return BoardError(
        f"printed {what}: {shown!r}", where="bench program",
        hint="does something else write to the same standard output?",
    )  # fmt: skip


def no_program(keys: Sequence[OpKey]) -> InputError:
    """The error of having nothing to time."""
    return InputError(
        f"none of the {len(keys)} kernels can be timed on this device",
        hint="see the reasons listed with -v",
    )

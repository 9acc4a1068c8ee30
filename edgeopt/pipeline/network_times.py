"""Timing whole networks as they are deployed, in turns, so that what disturbs a machine shows.

Beside every run a fixed piece of arithmetic is timed. On a shared machine it takes a third longer
whenever somebody else works on the same core, for milliseconds to seconds at a time; only runs
beside an anchor at its best count. A network is visited again and again, the others in between,
until enough runs of several visits count. Every visit is journalled.
"""

from __future__ import annotations

import json
import math
import random
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.files import Appender

#: Runs beside an anchor this much slower than the best one were disturbed.
ANCHOR_EXCESS = 0.10
_LOG = "edgeopt-networks"


class Program(Protocol):
    """A network's bench program."""

    def run(self, args: Sequence[str]) -> Iterator[str]:
        """Run it, yielding the lines of its standard output."""
        ...


@dataclass(frozen=True, slots=True)
class Visit:
    """Runs right after one another, each with the anchor beside it (or none at all)."""

    samples_ns: tuple[float, ...]
    anchors_ns: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """What a network takes.

    Attributes:
        median_ns: of the medians of the visits that count.
        spread_ns: half their range, the middle half of them.
        visits: how many counted.
        runs: that counted in them.
        disturbed: share of all runs that did not count.
    """

    median_ns: float
    spread_ns: float
    visits: int
    runs: int
    disturbed: float


@dataclass(frozen=True, slots=True)
class Rules:
    """When a network is known well enough.

    Attributes:
        visits: that have to agree with the fastest of them.
        agree: visits agree when their medians differ by at most this share.
        runs: undisturbed runs that a visit needs to count.
        max_visits: after which a network is taken as it is.
    """

    visits: int = 4
    agree: float = 0.05
    runs: int = 8
    max_visits: int = 40


Visiting = Callable[[str], Visit]


@dataclass(slots=True)
class NetworkLog:
    """Visits to networks, on disk one line each where there is a path; synced as they come."""

    path: Path | None = None
    identity: Mapping[str, object] = field(default_factory=dict)
    visits: dict[str, list[Visit]] = field(default_factory=dict)
    best_anchor_ns: float = math.inf
    _file: Appender | None = None

    def open(self) -> None:
        """Begin, or continue what is there.

        Raises:
            InputError: it is of something else, or cannot be written.
        """
        if self.path is None:
            return
        header = {_LOG: 1, **self.identity}
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
            items = [item for item in map(_opened, lines) if item is not None]
            if items and items[0] != json.loads(json.dumps(header)):
                raise InputError(
                    "the journal of networks is of another device, runtime or version",
                    where=str(self.path), hint="remove it to begin anew",
                )  # fmt: skip
            for item in items[1:]:
                self._take(item["network"], Visit(tuple(item["ns"]), tuple(item["anchors"])))
            self._file = Appender(self.path, fresh=not items)
            if not items:
                self._append(header)
            elif lines[-1]:  # cut off in the middle of a line
                self._file.append(b"\n")
        except OSError as error:
            raise InputError(
                f"cannot write the journal of networks: {error.strerror}", where=str(self.path),
                hint="choose a writable folder with free space",
            ) from error  # fmt: skip

    def add(self, name: str, visit: Visit) -> None:
        """Record a visit durably.

        Raises:
            InputError: the disk is full.
        """
        line = {"network": name, "ns": visit.samples_ns, "anchors": visit.anchors_ns}
        try:
            if self._file is not None:
                self._append(line)
        except OSError as error:
            raise InputError(
                f"cannot write the journal of networks: {error.strerror}", where=str(self.path),
                hint="free some space and continue with --resume",
            ) from error  # fmt: skip
        self._take(name, visit)

    def close(self, *, remove: bool = False) -> None:
        """Close it; a finished measurement's journal may be removed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if remove and self.path is not None:
            self.path.unlink(missing_ok=True)

    def _take(self, name: str, visit: Visit) -> None:
        self.visits.setdefault(name, []).append(visit)
        if visit.anchors_ns:  # the best visit's usual anchor: single ones are lucky
            usual = float(np.quantile(visit.anchors_ns, 0.25))
            self.best_anchor_ns = min(self.best_anchor_ns, usual)

    def _append(self, item: Mapping[str, object]) -> None:
        assert self._file is not None
        text = json.dumps(item).encode()
        self._file.append(text + b" *%08x\n" % zlib.crc32(text))

    def undisturbed(self, name: str) -> list[list[float]]:
        """The runs of each visit that count: both anchors around them are at their best."""
        limit = self.best_anchor_ns * (1 + ANCHOR_EXCESS)
        found = []
        for visit in self.visits.get(name, ()):
            runs = list(visit.samples_ns)
            if visit.anchors_ns:
                before = (math.inf, *visit.anchors_ns[:-1])
                around = map(max, before, visit.anchors_ns)
                runs = [run for run, anchor in zip(runs, around, strict=True) if anchor <= limit]
            found.append(runs)
        return found

    def _counting(self, name: str, rules: Rules) -> list[list[float]]:
        """The visits that count: of enough runs, and as fast as the fastest of them."""
        enough = [runs for runs in self.undisturbed(name) if len(runs) >= rules.runs]
        best = min((float(np.median(runs)) for runs in enough), default=0.0)
        return [runs for runs in enough if float(np.median(runs)) <= best * (1 + rules.agree)]

    def done(self, name: str, rules: Rules) -> bool:
        """Whether a network needs no more visits."""
        if len(self.visits.get(name, ())) >= rules.max_visits:
            return True
        return len(self._counting(name, rules)) >= rules.visits

    def time(self, name: str, rules: Rules) -> NetworkTime:
        """What a visited network takes; of disturbed runs where there are no others."""
        every = [list(visit.samples_ns) for visit in self.visits[name]]
        kept = self._counting(name, rules)
        if not kept:
            # The anchor never was at its best for long: the fastest visits are the least disturbed.
            kept = sorted(every, key=lambda runs: float(np.median(runs)))[: rules.visits]
        medians = [float(np.median(runs)) for runs in kept]
        low, high = np.quantile(medians, [0.25, 0.75])
        runs = sum(map(len, kept))
        return NetworkTime(
            median_ns=float(np.median(medians)),
            spread_ns=float(high - low) / 2,
            visits=len(kept),
            runs=runs,
            disturbed=1 - runs / sum(map(len, every)),
        )


def _opened(line: bytes) -> dict[str, Any] | None:
    text, mark, crc = line.rpartition(b" *")
    if not mark or crc != b"%08x" % zlib.crc32(text):
        return None
    item: dict[str, Any] = json.loads(text)
    return item


def measure(
    names: Sequence[str],
    visit: Visiting,
    log: NetworkLog,
    *,
    rules: Rules | None = None,
    seed: int = 0,
    until_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    tick: Callable[[int, int], None] | None = None,
) -> dict[str, NetworkTime]:
    """Visit networks in turn, in a new random order each round, until all are known.

    Args:
        names: of the networks.
        visit: runs one of them.
        log: where visits are recorded; what is in it counts.
        rules: when a network is known.
        seed: of the order.
        until_s: stop at this time of ``clock``; networks never visited are left out.
        clock: seconds that pass.
        tick: told after each round how many are known, of how many.

    Raises:
        BoardError: a program fails or prints something else.
    """
    rules = rules or Rules()
    order = random.Random(seed)
    while True:
        pending = [name for name in names if not log.done(name, rules)]
        order.shuffle(pending)
        for name in pending:
            if until_s is not None and clock() >= until_s:
                pending = []
                break
            log.add(name, visit(name))
        if tick is not None:
            tick(len(names) - sum(not log.done(n, rules) for n in names), len(names))
        if not pending:
            break
    return {name: log.time(name, rules) for name in names if name in log.visits}


@dataclass(frozen=True, slots=True)
class ProgramNetworks:
    """Visits by running bench programs.

    Attributes:
        programs: name -> program.
        min_ms: a visit lasts at least so long.
        warm_ms: and so long before that.
        threads: that the network uses; 0 lets the program decide.
    """

    programs: Mapping[str, Program]
    min_ms: int = 6
    warm_ms: int = 3
    runs: int = 24
    cpu: int | None = None
    threads: int = 0

    def __call__(self, name: str) -> Visit:
        """One visit.

        Raises:
            BoardError: the program fails or prints something else.
        """
        options = ["--runs", str(self.runs), "--min-ms", str(self.min_ms), "--samples"]
        options += ["--warm-ms", str(self.warm_ms), "--anchors"]
        if self.cpu is not None:
            options += ["--cpu", str(self.cpu)]
        if self.threads:
            options += ["--threads", str(self.threads)]
        return read_visit("".join(self.programs[name].run(options)))


def read_visit(text: str) -> Visit:
    """The samples (and anchors) in nanoseconds that a network's bench program printed.

    Raises:
        BoardError: it printed something else.
    """
    try:
        found = json.loads(text)
        samples = tuple(float(value) for value in found["samples_ns"])
        anchors = tuple(float(value) for value in found.get("anchors_ns", ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = "".join(c if c.isprintable() else "?" for c in text[:80])
        raise BoardError(
            f"printed something other than a bench result: {shown!r}", where="bench program",
            hint="does something else write to the same standard output?",
        ) from error  # fmt: skip
    if not samples or not all(math.isfinite(v) and v > 0 for v in (*samples, *anchors)):
        raise BoardError("printed no usable times", where="bench program", hint="run it again")
    if anchors and len(anchors) != len(samples):
        raise BoardError(
            "printed anchors that are not the runs'", where="bench program", hint="run it again"
        )
    return Visit(samples, anchors)

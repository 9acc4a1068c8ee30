"""A board that misbehaves: real programs run, and what comes back of them is spoiled at random.

Everything goes through a real link to this machine. What a fault does to a run is decided by a
seeded generator; the times that get through are those of the program.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from edgeopt.core.errors import BoardCommandFailed, BoardLost, BoardTimeout, BoardUnreachable
from edgeopt.devices.transports import BoardFacts, Link

Spoil = Callable[[random.Random, list[str]], list[str]]


def _changed(line: str, value: object) -> str:
    message = json.loads(line)
    message["ns"][0] = value
    return json.dumps(message)


#: What a board that lies does to one line of a result.
LIES: dict[str, Callable[[str], list[str]]] = {
    "negative": lambda line: [_changed(line, -1.0)],
    "zero": lambda line: [_changed(line, 0)],
    "nan": lambda line: [_changed(line, float("nan"))],
    "absurd": lambda line: [_changed(line, 1e17)],
    "impossible": lambda line: [line.replace('"ns": [', '"ns": [1e-9, 1e-9, 1e-9, 1e-9, 1e-9, ')],
    "truncated": lambda line: [line[: len(line) // 2]],
    "twice": lambda line: [line, line],
    "text": lambda line: ["kernel: usb 1-1: device descriptor read/64, error -71", line],
    "other": lambda line: [line.replace('"key": "', '"key": "f')],
    "lost": lambda line: [],
}


@dataclass
class Faults:
    """What goes wrong, and how often: shares of runs. Counts what did."""

    seed: int = 0
    vanish: float = 0.0
    hang: float = 0.0
    lie: float = 0.0
    full: float = 0.0
    refuse: float = 0.0  # connections that fail
    restart: float = 0.0  # a board that vanished comes back restarted
    crash_on: str = ""  # a kernel that crashes its program
    lies: tuple[str, ...] = tuple(LIES)
    gone_after: int = -1  # so many runs the board vanishes for good
    boots: int = 0
    log: list[str] = field(default_factory=list)
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def strikes(self, share: float, name: str) -> bool:
        if share and self.random.random() < share:
            self.log.append(name)
            return True
        return False


@dataclass
class FaultyLink:
    """A link that something happens to."""

    inner: Link
    faults: Faults
    dead: bool = False

    @property
    def name(self) -> str:
        return "a faulty board"

    def _alive(self) -> None:
        if self.dead:
            raise BoardLost("the connection is gone", where=self.name)

    def _vanish(self) -> None:
        self.dead = True
        self.faults.boots += self.faults.strikes(self.faults.restart, "restart")
        raise BoardLost("the board vanished", where=self.name)

    def push(self, source: Path, name: str, *, executable: bool = False) -> str:
        self._alive()
        if self.faults.strikes(self.faults.full, "full"):
            raise BoardCommandFailed("No space left on device", where=self.name)
        return self.inner.push(source, name, executable=executable)

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float | None = None,
        idle_s: float | None = None,
    ) -> Iterator[str]:
        self._alive()
        if "--samples" not in command:
            yield from self.inner.run(command, timeout_s=timeout_s, idle_s=idle_s)
            return
        self.faults.gone_after -= 1
        if self.faults.gone_after == 0:
            self.faults.vanish = self.faults.refuse = 1.0
        if self.faults.strikes(self.faults.vanish, "vanish"):
            left = self.faults.random.randrange(4)
        else:
            left = -1
        hang = self.faults.strikes(self.faults.hang, "hang")
        lie = ""
        if self.faults.strikes(self.faults.lie, "lie"):
            lie = self.faults.random.choice(self.faults.lies)
            self.faults.log[-1] = lie
        crash = self.faults.crash_on and self.faults.crash_on in command
        for line in self.inner.run(command, timeout_s=timeout_s, idle_s=idle_s):
            if left == 0:
                self._vanish()
            left -= 1
            if hang and '"ns"' in line:
                raise BoardTimeout("the program printed nothing for 120 s", where=self.name)
            if crash and (('"ns"' in line and self.faults.random.random() < 0.3) or "done" in line):
                raise BoardCommandFailed(
                    "the program was ended by signal 11", status=-11, where=self.name
                )
            if crash and self.faults.crash_on in line:
                continue
            if lie and '"ns"' in line:
                yield from LIES[lie](line)
                lie = ""
                continue
            yield line

    def read_text(self, path: str) -> str | None:
        self._alive()
        if path.endswith("boot_id"):
            return f"{self.faults.boots:08d}-0000\n"
        if path.startswith("/sys/devices/system/cpu/cpu") and "cache" not in path:
            return None
        return self.inner.read_text(path)

    def facts(self) -> BoardFacts:
        self._alive()
        return self.inner.facts()

    def close(self) -> None:
        self.inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connector(opened: Callable[[], Link], faults: Faults) -> Callable[[], FaultyLink]:
    """Connects to the board again and again, with its faults."""

    def connect() -> FaultyLink:
        if faults.strikes(faults.refuse, "refuse"):
            raise BoardUnreachable("connection refused", where="a faulty board")
        return FaultyLink(opened(), faults)

    return connect

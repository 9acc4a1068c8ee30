"""Bytes from a board as lines that are safe to keep and to show, within bounds of size and time."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeopt.core.errors import BoardCommandFailed, BoardError, BoardTimeout, InputError

MAX_LINE_BYTES = 1 << 16
MAX_OUTPUT_BYTES = 1 << 28
MAX_STDERR_BYTES = 4096
#: Files of the board that `read_text` reads are smaller.
MAX_TEXT_BYTES = 1 << 18
#: Silence that is taken for a hang where a caller does not say.
IDLE_S = 300.0

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def printable(text: str) -> str:
    r"""Text without control characters and direction marks; each becomes U+FFFD.

    >>> printable("1.5\x1b[2J ms") == "1.5\ufffd[2J ms"
    True
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text)


def file_name(name: str) -> str:
    """``name`` if it is a plain file name.

    Raises:
        InputError: it is not.
    """
    if not _FILE_NAME.fullmatch(name):
        raise InputError(
            f"{name[:60]!r} is not a plain file name", where="push",
            hint="use letters, digits, '.', '_' and '-'",
        )  # fmt: skip
    return name


def source_file(source: Path) -> Path:
    """``source`` if it is a readable file.

    Raises:
        InputError: it is not.
    """
    try:
        with source.open("rb"):
            return source
    except OSError as error:
        raise InputError(
            f"cannot read the file to push: {error.strerror}", where=str(source),
            hint="check the path",
        ) from error  # fmt: skip


def checked(command: Sequence[str]) -> list[str]:
    """``command`` as a list, if it can be run.

    Raises:
        InputError: it is empty, or has a NUL character, which no argument can hold.
    """
    if not command or not command[0] or any("\0" in part for part in command):
        raise InputError(
            "a command needs a program, and no argument can hold a NUL character", where="run",
            hint="check the arguments",
        )  # fmt: skip
    return list(command)


@dataclass(slots=True)
class Lines:
    """Splits a stream into lines.

    Args:
        where: names the program and the board in errors.
    """

    where: str
    _waiting: bytearray = field(default_factory=bytearray)
    _total: int = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes.

        Raises:
            BoardError: a line without end, or output without end.
        """
        self._total += len(data)
        if self._total > MAX_OUTPUT_BYTES:
            raise BoardError(
                f"prints endlessly (more than {MAX_OUTPUT_BYTES >> 20} MiB)", where=self.where,
                hint="is it the right program?",
            )  # fmt: skip
        self._waiting += data
        *whole, rest = bytes(self._waiting).split(b"\n")
        self._waiting = bytearray(rest)
        if any(len(line) > MAX_LINE_BYTES for line in (*whole, rest)):
            raise BoardError(
                f"prints a line without end (more than {MAX_LINE_BYTES >> 10} KiB)",
                where=self.where, hint="is it the right program?",
            )  # fmt: skip
        return [_text(line) for line in whole]

    def end(self) -> list[str]:
        """What came after the last line end, if anything."""
        rest, self._waiting = bytes(self._waiting), bytearray()
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return printable(line.removesuffix(b"\r").decode("utf-8", "replace"))


@dataclass(slots=True)
class Tail:
    """The end of a stream, for error messages."""

    _data: bytes = b""

    def feed(self, data: bytes) -> None:
        """Keep the end of all that came."""
        self._data = (self._data + data)[-MAX_STDERR_BYTES:]

    @property
    def text(self) -> str:
        """What was kept, line by line printable."""
        lines = self._data.decode("utf-8", "replace").strip().splitlines()
        return "\n".join(printable(line) for line in lines)


@dataclass(slots=True)
class Clock:
    """Counts down to the nearer of two limits.

    Args:
        where: names the program and the board in errors.
        timeout_s: in all; None for no limit.
        idle_s: since anything was last heard; None for `IDLE_S`.
    """

    where: str
    timeout_s: float | None = None
    idle_s: float | None = None
    _begin: float = field(default_factory=time.monotonic)
    _heard: float = field(default_factory=time.monotonic)

    def heard(self) -> None:
        """Something came."""
        self._heard = time.monotonic()

    @property
    def left_s(self) -> float:
        """Seconds until the nearer limit, never negative."""
        limit = self._heard + self._idle
        if self.timeout_s is not None:
            limit = min(limit, self._begin + self.timeout_s)
        return max(0.0, limit - time.monotonic())

    @property
    def _idle(self) -> float:
        return IDLE_S if self.idle_s is None else self.idle_s

    def check_total(self) -> None:
        """Fail if the time in all is over, however much comes.

        Raises:
            BoardTimeout: it is.
        """
        if self.timeout_s is not None and time.monotonic() > self._begin + self.timeout_s:
            self.expired()

    def expired(self) -> None:
        """Raise the error of the limit that was hit.

        Raises:
            BoardTimeout: always.
        """
        total = self.timeout_s
        if total is not None and time.monotonic() >= self._begin + total:
            raise BoardTimeout(
                f"did not finish within {total:g} s", where=self.where,
                hint="the board may be overloaded; allow more time, or look at it with `ps`",
            )  # fmt: skip
        raise BoardTimeout(
            f"was silent for {self._idle:g} s", where=self.where,
            hint="the program or the board hangs; try again, or restart the board",
        )  # fmt: skip


def failed(where: str, status: int, stderr: str) -> BoardCommandFailed:
    """The error of a program that ended with a status (negative for a signal's number)."""
    import signal

    if status < 0:
        try:
            ended = f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            ended = f"was ended by signal {-status}"
    else:
        ended = f"ended with status {status}"
    return BoardCommandFailed(
        f"{ended}: {stderr}" if stderr else f"{ended} and said nothing on standard error",
        status=status, stderr=stderr, where=where, hint=_hint(status),
    )  # fmt: skip


def _hint(status: int) -> str:
    if status in (-9, 137):
        return "the board may be short of memory: see `dmesg` there"
    if status in (-4, 132):
        return "an illegal instruction: the profile's ISA features are not this processor's"
    if status in (-11, -7, 139, 135):
        return "the program crashed; please report it with the command"
    if status == 127:
        return "the board does not have this program"
    if status == 126:
        return "the board cannot execute this program: is it for another architecture?"
    return "run the command on the board by hand"

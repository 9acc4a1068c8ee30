"""A board over its link: opened when first needed, opened again when it was lost.

Programs are pushed when they are first run, and again after the board was restarted; when it has
no room, what was pushed before is removed first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeopt.core.errors import BoardCommandFailed, BoardError, BoardLost, BoardTimeout
from edgeopt.devices.transports import BoardFacts, Link

BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: A bench program prints a line a kernel; a kernel that takes so long is not one for this board.
IDLE_S = 120.0
#: Programs that lie on the board at once.
MAX_PUSHED = 64


@dataclass(slots=True)
class Session:
    """One board for as long as it is measured.

    Args:
        connect: opens a link.
    """

    connect: Callable[[], Link]
    _link: Link | None = field(default=None, repr=False)
    _facts: BoardFacts | None = field(default=None, repr=False)
    _boot: str = field(default="", repr=False)
    _pushed: dict[Path, str] = field(default_factory=dict, repr=False)
    _count: int = field(default=0, repr=False)

    @property
    def link(self) -> Link:
        """The open link.

        Raises:
            BoardUnreachable: no connection.
        """
        if self._link is None:
            self._link = self.connect()
            boot = self._link.read_text(BOOT_ID) or ""
            self._boot = self._boot or boot
        return self._link

    @property
    def name(self) -> str:
        """The board, for messages."""
        return self.link.name

    def facts(self) -> BoardFacts:
        """What the board says of itself, asked once."""
        if self._facts is None:
            self._facts = self.link.facts()
        return self._facts

    def drop(self) -> None:
        """Give the link up, whatever state it is in."""
        link, self._link = self._link, None
        self._pushed.clear()
        if link is not None:
            with contextlib.suppress(BoardError):
                link.close()

    def close(self) -> None:
        """Remove what was pushed, and disconnect."""
        self.drop()

    def recover(self) -> str:
        """Return once the board answers; what happened to it, if that shows.

        Raises:
            BoardError: it does not answer.
        """
        try:
            if self._link is not None and self._link.read_text(BOOT_ID) == self._boot:
                next(iter(self._link.run(["true"], timeout_s=30.0)), None)
                return ""
        except BoardError:
            pass
        self.drop()
        boot = self.link.read_text(BOOT_ID) or ""
        restarted = bool(boot and self._boot and boot != self._boot)
        self._boot = boot or self._boot
        return "the board was restarted" if restarted else "the connection was made again"

    def read_text(self, path: str) -> str | None:
        """A small file of the board; None also where the board does not answer just now."""
        try:
            return self.link.read_text(path)
        except BoardError:
            return None

    def push(self, source: Path, *, executable: bool = False) -> str:
        """A file's path on the board; it is pushed if it is not there yet.

        Raises:
            BoardError: the board vanished, or cannot store it.
        """
        known = self._pushed.get(source)
        if known is not None:
            return known
        if len(self._pushed) >= MAX_PUSHED:
            self._make_room()
        self._count += 1
        name = f"{self._count}-{source.name}"[-99:].lstrip("-.")
        try:
            path = self.link.push(source, name, executable=executable)
        except BoardCommandFailed:
            if not self._pushed:
                raise
            self._make_room()
            path = self.link.push(source, name, executable=executable)
        self._pushed[source] = path
        return path

    def _make_room(self) -> None:
        paths = list(self._pushed.values())
        self._pushed.clear()
        with contextlib.suppress(BoardCommandFailed):
            list(self.link.run(["rm", "-f", *paths], timeout_s=60.0))

    def run(self, command: Sequence[str], *, idle_s: float | None = None) -> Iterator[str]:
        """Run a program on the board, yielding its lines; it may be silent for so long.

        Raises:
            BoardError: as the link's.
        """
        try:
            yield from self.link.run(command, idle_s=IDLE_S if idle_s is None else idle_s)
        except (BoardLost, BoardTimeout):
            self.drop()  # a hung board and a hung program look alike: begin with a new connection
            raise


@dataclass(frozen=True, slots=True)
class BoardProgram:
    """A program of this machine's disk that runs on the board.

    Attributes:
        session: the board.
        path: the program here.
        before: what goes in front of it: an interpreter.
        files: options that name more files it needs there.
        words: more of its arguments.
        executable: it is a program by itself.
    """

    session: Session
    path: Path
    before: tuple[str, ...] = ()
    files: tuple[tuple[str, Path], ...] = ()
    words: tuple[str, ...] = ()
    executable: bool = True

    def run(self, args: Sequence[str]) -> Iterator[str]:
        """Push what is not there yet, run it, yield its lines.

        Raises:
            BoardError: as the link's.
        """
        program = self.session.push(self.path, executable=self.executable)
        more = []
        for option, source in self.files:
            more += [option, self.session.push(source)]
        yield from self.session.run([*self.before, program, *more, *self.words, *args])

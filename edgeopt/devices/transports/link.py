"""What every way to reach a board offers.

A `Link` reaches an operating system: files are pushed, programs run, their lines come back. A
`FirmwareLink` reaches a microcontroller: an image is started and answers requests, line by line.
Nothing that a board says is trusted: its lines are bounded and free of control characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgeopt.core.device import DeviceProfile

#: Builds a shared library for the board from one C file (source, output).
BuildShared = Callable[[Path, Path], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a transport is given to open a link.

    Attributes:
        profile: the device.
        host: what the user typed, or the profile names; empty for none.
        port: a serial port; empty for none.
        build_shared: a compiler for the board, for transports that need a helper there.
    """

    profile: DeviceProfile
    host: str = ""
    port: str = ""
    build_shared: BuildShared | None = None


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """What a board says of itself; None where it does not.

    Attributes:
        machine: as ``uname -m`` names it.
        cpu: the processor's name, for people.
        cores: processors that a program may run on.
        kernel: release of the operating system's kernel.
        libc: name and version of the C library.
        python3: how to call the interpreter, if there is one.
        python3_version: of it.
        onnxruntime: the version that this interpreter has installed.
        memory_bytes: of the board in all.
    """

    machine: str
    cpu: str | None = None
    cores: int | None = None
    kernel: str | None = None
    libc: str | None = None
    python3: str | None = None
    python3_version: str | None = None
    onnxruntime: str | None = None
    memory_bytes: int | None = None


class Closing(Protocol):
    """What `with` closes; links inherit it."""

    def close(self) -> None:
        """End it; a second call does nothing."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Link(Closing, Protocol):
    """A connection to a board with an operating system; a context manager.

    A link is used from one thread. Commands run one at a time: the iterator of one is exhausted
    or closed before the next starts.
    """

    name: str  # "ssh pi@192.0.2.7"

    def push(self, source: Path, name: str, *, executable: bool = False) -> str:
        """Copy a file into the link's work folder on the board.

        The folder belongs to this link alone, is readable by nobody else, and is removed by
        `close`. Commands run in it.

        Args:
            source: a file of this machine.
            name: what it is called there: a plain file name; an existing file is replaced.
            executable: it is a program.

        Returns:
            The file's path on the board.

        Raises:
            InputError: ``source`` cannot be read, or ``name`` is not a plain file name.
            BoardCommandFailed: the board cannot store it (full, read-only).
            BoardLost: the board vanished.
        """
        ...

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float | None = None,
        idle_s: float | None = None,
    ) -> Iterator[str]:
        """Run a program on the board and yield the lines of its standard output as they come.

        No shell interprets the arguments. Closing the iterator ends the program. Lines have no
        line end and no control characters (each becomes U+FFFD).

        Args:
            command: the program (a path that `push` returned, or a name on the board) and its
                arguments.
            timeout_s: the program may take so long in all; None sets no limit.
            idle_s: it may be silent for so long; None for `stream.IDLE_S`.

        Raises:
            BoardCommandFailed: it cannot be started, or ends with another status than 0; after
                all its lines were yielded.
            BoardTimeout: a limit was hit; the program was ended.
            BoardLost: the board vanished.
            BoardError: it prints a line without end, or endlessly.
        """
        ...

    def read_text(self, path: str) -> str | None:
        """A small file of the board (``/sys/...``), whole; None if absent or not permitted.

        Raises:
            BoardLost: the board vanished.
        """
        ...

    def facts(self) -> BoardFacts:
        """What the board says of itself.

        Raises:
            BoardError: it does not answer, or not as a board does.
        """
        ...

    def close(self) -> None:
        """End what runs, remove the work folder, disconnect; a second call does nothing."""
        ...


class FirmwareLink(Closing, Protocol):
    """A connection to firmware that speaks the line protocol; a context manager."""

    name: str  # "serial /dev/ttyACM0"

    def start(self, image: Path | None = None) -> str:
        """Start the firmware and wait until it answers.

        Args:
            image: the program to start, where the transport can load one; None for what the
                board already holds.

        Returns:
            Its first line: the answer to ``info``.

        Raises:
            InputError: the transport needs an image, or cannot load one.
            BoardUnreachable: it cannot be started.
            BoardTimeout: it does not answer, or not in the line protocol.
        """
        ...

    def request(
        self, line: str, *, timeout_s: float | None = None, idle_s: float | None = None
    ) -> Iterator[str]:
        """Send a request and yield the lines of its answer as they come, each checked.

        The last is ``{"done": true}``. Closing the iterator abandons the answer; the next request
        is understood all the same.

        Raises:
            InputError: the request does not fit a line.
            BoardCommandFailed: the firmware answers ``{"error": ...}``.
            BoardTimeout: a limit was hit.
            BoardLost: the line or the emulator is gone.
            BoardError: a line was garbled three times.
        """
        ...

    def close(self) -> None:
        """Release the port or end the emulator; a second call does nothing."""
        ...

"""Firmware on an emulated board: QEMU's system mode, the board's first UART on pipes.

Only what the emulator models exists; time does not. Instructions can be counted, not cycles.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from edgeopt.core.errors import BoardLost, BoardUnreachable, InputError, ToolError
from edgeopt.devices.transports import process
from edgeopt.devices.transports.conversation import START_S, Conversation
from edgeopt.devices.transports.link import Closing, Endpoint
from edgeopt.devices.transports.stream import MAX_STDERR_BYTES, source_file

_CHUNK = 1 << 16
#: Wait for the firmware's greeting: QEMU's model of a UART that is off holds what it is sent back,
#: and nothing tells it later that the UART is on. A multiplexer in between polls all the same.
LISTEN_S = 5.0
_STDIO = ("-chardev", "stdio,id=uart,mux=on,signal=off", "-serial", "chardev:uart")


def command(
    emulator: str, machine: str, image: Path, *, cpu: str = "", serial: str = "",
    options: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """How the emulator is called.

    Args:
        emulator: its path.
        machine: its name of the board.
        image: the firmware, an ELF file.
        cpu: its name of the processor; empty for the board's own.
        serial: where the board's first UART goes if not to standard input and output: ``pty``...
        options: more options (a plugin...).
    """
    return [
        emulator, "-M", machine, *(("-cpu", cpu) if cpu else ()),
        "-display", "none", "-monitor", "none", "-parallel", "none", "-net", "none",
        *(("-serial", serial) if serial else _STDIO), *options, "-kernel", str(image),
    ]  # fmt: skip


@dataclass(slots=True)
class PipeChannel:
    """An emulator's UART.

    Args:
        emulator: started with pipes.
        where: names it in errors.
    """

    emulator: subprocess.Popen[bytes]
    where: str

    def read(self, timeout_s: float) -> bytes:
        """What came within the time; see `Channel.read`."""
        assert self.emulator.stdout is not None
        ready, _, _ = select.select([self.emulator.stdout], [], [], timeout_s)
        if not ready:
            return b""
        data = os.read(self.emulator.stdout.fileno(), _CHUNK)
        if not data:
            raise self._lost()
        return data

    def write(self, data: bytes) -> None:
        """Send; see `Channel.write`."""
        assert self.emulator.stdin is not None
        try:
            self.emulator.stdin.write(data)
            self.emulator.stdin.flush()
        except OSError as error:
            raise self._lost() from error

    def _lost(self) -> BoardLost:
        assert self.emulator.stderr is not None
        process.end(self.emulator, pipes=False)
        said = self.emulator.stderr.read(MAX_STDERR_BYTES).decode("utf-8", "replace").strip()
        reason = "".join(c if c.isprintable() else " " for c in said)
        return BoardLost(
            f"the emulator ended{f': {reason}' if reason else ''}", where=self.where,
            hint="the firmware may have crashed, or not fit the emulated board",
        )  # fmt: skip


@dataclass(slots=True)
class QemuSystemLink(Closing):
    """Firmware under an emulator.

    Args:
        emulator: its path.
        machine: its name of the board.
        cpu: its name of the processor; empty for the board's own.
        options: more options of the emulator (a plugin...). Semihosting is off unless they turn
            it on: it would give the firmware this machine's files.
    """

    emulator: str
    machine: str
    cpu: str = ""
    options: tuple[str, ...] = ()
    _channel: PipeChannel | None = field(default=None, repr=False)
    _talk: Conversation | None = field(default=None, repr=False)

    @classmethod
    def open(cls, endpoint: Endpoint) -> Self:
        """A link as a device profile asks for it.

        Raises:
            InputError: the profile names no emulated board.
            ToolError: the emulator is not installed.
        """
        runner, device = endpoint.profile.runner, f"device {endpoint.profile.name}"
        if not runner.machine:
            raise InputError(
                "the profile names no board that QEMU emulates", where=device,
                hint="add `machine` under [runner] (`qemu-system-arm -M help` lists them)",
            )  # fmt: skip
        program = runner.program or "qemu-system-arm"
        path = shutil.which(program)
        if path is None:
            raise ToolError(
                f"{program} is not installed", where=device, hint="apt-get install qemu-system-arm"
            )
        return cls(path, runner.machine, runner.cpu)

    @property
    def name(self) -> str:
        """``qemu-system-arm (mps2-an386)``."""
        return f"{Path(self.emulator).name} ({self.machine})"

    def start(self, image: Path | None = None) -> str:
        """Start an emulator with the image, ending the one before; see `FirmwareLink.start`."""
        if image is None:
            raise InputError(
                "an emulated board has no firmware of its own", where=self.name,
                hint="give the image to start",
            )  # fmt: skip
        self.close()
        argv = command(
            self.emulator, self.machine, source_file(image), cpu=self.cpu, options=self.options
        )
        started = process.start(argv, where=self.name, stdin=subprocess.PIPE)
        self._channel = PipeChannel(started, self.name)
        self._talk = Conversation(self._channel, self.name)
        try:
            return self._talk.hello(START_S, listen_s=LISTEN_S)
        except BoardLost as error:
            self.close()
            raise BoardUnreachable(error.what, where=error.where, hint=error.hint) from error

    def request(
        self, line: str, *, timeout_s: float | None = None, idle_s: float | None = None
    ) -> Iterator[str]:
        """Send a request and yield its answer; see `FirmwareLink.request`."""
        if self._talk is None:
            raise BoardLost("no firmware runs", where=self.name, hint="start the image again")
        return self._talk.request(line, timeout_s=timeout_s, idle_s=idle_s)

    def close(self) -> None:
        """End the emulator."""
        if self._channel is not None:
            process.end(self._channel.emulator)
        self._channel = self._talk = None

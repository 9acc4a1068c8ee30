"""Programs of another architecture on this machine, under QEMU's user mode.

Files and the kernel are this machine's; only the processor is emulated. Times measured this way
say nothing about a board: instruction counts do.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from edgeopt.core.errors import BoardCommandFailed, ToolError
from edgeopt.devices.transports import process
from edgeopt.devices.transports.link import BoardFacts, Closing, Endpoint
from edgeopt.devices.transports.local import LocalLink
from edgeopt.devices.transports.stream import checked, printable


@dataclass(slots=True)
class QemuUserLink(Closing):
    """Programs run under an emulator.

    Args:
        emulator: its path.
        cpu: its name of the processor; empty for its default.
        machine: the architecture as ``uname -m`` names it.
        options: more options of the emulator (a plugin...).
    """

    emulator: str
    cpu: str = ""
    machine: str = ""
    options: tuple[str, ...] = ()
    _files: LocalLink = field(default_factory=LocalLink, repr=False)

    @classmethod
    def open(cls, endpoint: Endpoint) -> Self:
        """A link as a device profile asks for it.

        Raises:
            ToolError: the emulator is not installed.
        """
        runner, arch = endpoint.profile.runner, endpoint.profile.arch
        program = runner.program or f"qemu-{arch}"
        path = shutil.which(program)
        if path is None:
            raise ToolError(
                f"{program} is not installed", where=f"device {endpoint.profile.name}",
                hint="apt-get install qemu-user",
            )  # fmt: skip
        return cls(path, runner.cpu, arch)

    @property
    def name(self) -> str:
        """``qemu-aarch64 (cortex-a72)``."""
        program = Path(self.emulator).name
        return f"{program} ({self.cpu})" if self.cpu else program

    @property
    def work(self) -> Path:
        """The folder that files are pushed to."""
        return self._files.work

    def push(self, source: Path, name: str, *, executable: bool = False) -> str:
        """Copy a file into the work folder; see `Link.push`."""
        return self._files.push(source, name, executable=executable)

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float | None = None,
        idle_s: float | None = None,
    ) -> Iterator[str]:
        """Run a program under the emulator and yield its lines; see `Link.run`."""
        argv = checked(command)
        where = f"{printable(Path(argv[0]).name)} on {self.name}"
        if not Path(argv[0]).is_file():  # the emulator says so on standard output
            raise BoardCommandFailed(
                f"No such file: {printable(argv[0])[:200]}", status=127, where=where,
                hint="programs for an emulated processor are pushed first",
            )  # fmt: skip
        cpu = ("-cpu", self.cpu) if self.cpu else ()
        return process.lines(
            [self.emulator, *cpu, *self.options, *argv], where=where,
            cwd=self.work, timeout_s=timeout_s, idle_s=idle_s,
        )  # fmt: skip

    def read_text(self, path: str) -> str | None:
        """None: this machine's temperature and clock are not the emulated board's."""
        return None

    def facts(self) -> BoardFacts:
        """The emulated processor; nothing else of the board exists."""
        return BoardFacts(machine=self.machine or "unknown", cpu=self.cpu or None)

    def close(self) -> None:
        """Remove the work folder."""
        self._files.close()

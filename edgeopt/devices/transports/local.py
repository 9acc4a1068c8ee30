"""The machine edgeopt runs on, as a board."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from edgeopt.core.errors import BoardCommandFailed
from edgeopt.devices.transports import posix, process
from edgeopt.devices.transports.link import BoardFacts, Closing, Endpoint
from edgeopt.devices.transports.stream import (
    MAX_TEXT_BYTES,
    checked,
    file_name,
    printable,
    source_file,
)


@dataclass(slots=True)
class LocalLink(Closing):
    """Programs run as child processes.

    Args:
        python: the interpreter to report; the one that runs edgeopt where empty.
    """

    python: str = ""
    name: str = "this machine"
    _work: Path | None = field(default=None, repr=False)

    @classmethod
    def open(cls, endpoint: Endpoint) -> Self:
        """A link as a device profile asks for it."""
        return cls(endpoint.profile.runner.python)

    @property
    def work(self) -> Path:
        """The folder that files are pushed to; made when it is first needed."""
        if self._work is None:
            self._work = Path(tempfile.mkdtemp(prefix="edgeopt-"))  # mode 0700
        return self._work

    def push(self, source: Path, name: str, *, executable: bool = False) -> str:
        """Copy a file into the work folder; see `Link.push`."""
        target = self.work / file_name(name)
        source_file(source)
        try:
            # A running program cannot be written to, but it can be replaced.
            copy = target.with_name(f".{target.name}.part")
            shutil.copyfile(source, copy)
            copy.chmod(0o700 if executable else 0o600)
            copy.replace(target)
        except OSError as error:
            raise BoardCommandFailed(
                f"cannot store {name!r}: {error.strerror or error}", where=str(self.work),
                hint="free space in the folder of temporary files, or set TMPDIR",
            ) from error  # fmt: skip
        return str(target)

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float | None = None,
        idle_s: float | None = None,
    ) -> Iterator[str]:
        """Run a program and yield its lines; see `Link.run`."""
        argv = checked(command)
        where = f"{printable(Path(argv[0]).name)} on {self.name}"
        return process.lines(argv, where=where, cwd=self.work, timeout_s=timeout_s, idle_s=idle_s)

    def read_text(self, path: str) -> str | None:
        """A small file of this machine; None if absent or not permitted."""
        try:
            with Path(path).open("rb") as stream:
                data = stream.read(MAX_TEXT_BYTES)
        except (OSError, ValueError):
            return None
        text = data.decode("utf-8", "replace")
        return "\n".join(printable(line) for line in text.split("\n"))

    def facts(self) -> BoardFacts:
        """What this machine says of itself."""
        return posix.facts_of(self, self.python or sys.executable)

    def close(self) -> None:
        """Remove the work folder."""
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None

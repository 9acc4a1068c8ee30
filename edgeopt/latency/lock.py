"""One profiler on a board: two at once would each measure the other.

On this machine a locked file says so; it is free again when its process ends, however it ends. On
the board a symbolic link does, whose target is the owner's name: making one succeeds or fails in
one step everywhere, and needs no tool but ``ln``. A lock of the board is stale when the board was
restarted since, when its owner ran on this machine and is gone, or when it was not renewed for
long.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeopt.core.errors import BoardCommandFailed, BoardError, InputError
from edgeopt.core.files import digest
from edgeopt.latency.meters.session import BOOT_ID, Session

NAME = "edgeopt-profile.lock"
RENEW_S = 60.0
STALE_S = 900.0
_OWNER = re.compile(
    r"edgeopt:host=(?P<host>[\w.-]{1,64}):pid=(?P<pid>\d{1,10}):boot=(?P<boot>[0-9a-f-]{0,36})"
    r":at=(?P<at>\d{1,12})"
)


class BoardBusyError(BoardError):
    """Another profiler measures on the board."""


@contextlib.contextmanager
def host_lock(folder: Path, board: str) -> Iterator[None]:
    """Hold this machine's lock of a board.

    Raises:
        BoardBusyError: another process of this machine holds it.
        InputError: the folder cannot be written.
    """
    path = folder / f"{digest(board.encode())[:16]}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(
            f"cannot write the lock of {board}: {error.strerror}", where=str(path),
            hint="set EDGEOPT_CACHE_DIR to a writable folder",
        ) from error  # fmt: skip
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise BoardBusyError(
                f"another profiler of this machine measures on it (process {owner or 'unknown'})",
                where=board, hint="wait for it to end, or end it",
            ) from error  # fmt: skip
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class BoardLock:
    """The lock on the board itself.

    Args:
        session: the board.
    """

    session: Session
    _path: str = ""
    _renewed: float = 0.0

    def take(self) -> str:
        """Take it.

        Returns:
            Why the board could not be locked, in words; empty if it is locked.

        Raises:
            BoardBusyError: somebody else holds it.
            BoardError: the board does not answer.
        """
        try:
            path = self._place()
            if self._make(path):
                self._path = path
                return ""
            owner = self._read(path)
            if owner is None:
                return f"{path} is in the way, and no lock of edgeopt's"
            why_stale = self._stale(owner)
            if not why_stale:
                raise self._busy(owner, path)
            self._command("rm", "-f", path)
            if not self._make(path):  # somebody else was quicker
                raise self._busy(self._read(path) or owner, path)
            self._path = path
        except BoardCommandFailed as error:
            return f"the board cannot be locked: {error.what}"
        return ""

    def renew(self) -> None:
        """Say that it is still held, now and then; also after the board was restarted."""
        if not self._path or time.monotonic() - self._renewed < RENEW_S:
            return
        with contextlib.suppress(BoardCommandFailed):
            self._command("ln", "-sfn", self._me(), self._path)
            self._renewed = time.monotonic()

    def release(self) -> None:
        """Give it back; a board that does not answer keeps it until it is stale."""
        if self._path:
            with contextlib.suppress(BoardError):
                self._command("rm", "-f", self._path)
            self._path = ""

    def _place(self) -> str:
        """Beside the link's own folder: where every user of the board looks."""
        with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
            probe = Path(folder) / "lock-probe"
            probe.write_bytes(b"")
            pushed = self.session.push(probe)
        return str(PurePosixPath(pushed).parent.parent / NAME)

    def _make(self, path: str) -> bool:
        try:
            self._command("ln", "-s", self._me(), path)
        except BoardCommandFailed:
            if self._target(path) is None:
                raise
            return False
        self._renewed = time.monotonic()
        return True

    def _me(self) -> str:
        host = re.sub(r"[^\w.-]", "_", platform.node(), flags=re.ASCII)[:64] or "unknown"
        return f"edgeopt:host={host}:pid={os.getpid()}:boot={self._boot()}:at={self._now()}"

    def _boot(self) -> str:
        found = (self.session.link.read_text(BOOT_ID) or "").strip()
        return found if re.fullmatch(r"[0-9a-f-]{1,36}", found) else ""

    def _now(self) -> int:
        """Seconds by the board's own clock: it may be years off, but agrees with itself."""
        text = "".join(self._command("date", "+%s")).strip()
        return int(text) if re.fullmatch(r"\d{1,12}", text) else 0

    def _target(self, path: str) -> str | None:
        try:
            return "".join(self._command("readlink", path)).strip() or None
        except BoardCommandFailed:
            return None

    def _read(self, path: str) -> re.Match[str] | None:
        return _OWNER.fullmatch(self._target(path) or "")

    def _stale(self, owner: re.Match[str]) -> str:
        """Why the lock holds no more; empty if it may."""
        boot = self._boot()
        if boot and owner["boot"] and boot != owner["boot"]:
            return "the board was restarted since"
        mine = re.match(r"edgeopt:host=([\w.-]+):", self._me())
        if mine and mine[1] == owner["host"] and not _runs(int(owner["pid"])):
            return "its process is gone"
        age_s = self._now() - int(owner["at"])
        if age_s > STALE_S:
            return f"it was not renewed for {age_s} s"
        return ""

    def _busy(self, owner: re.Match[str], path: str) -> BoardBusyError:
        return BoardBusyError(
            f"another profiler measures on it (process {owner['pid']} of {owner['host']})",
            where=self.session.name,
            hint=f"wait for it to end; if it is gone for good, remove {path} on the board",
        )  # fmt: skip

    def _command(self, *command: str) -> list[str]:
        return list(self.session.link.run(list(command), timeout_s=60.0))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

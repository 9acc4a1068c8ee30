"""Writing and reading files so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from edgeopt.core.errors import InputError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` with ``data`` in one step; a crash leaves the old file or the new one.

    Raises:
        InputError: the folder is missing, not writable, or full.
    """
    payload = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise InputError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            hint="choose a writable folder with free space",
        ) from error


class Appender:
    """A file that grows by whole pieces, each synced to the disk: all of a piece is there or none.

    Args:
        path: the file.
        fresh: begin an empty one.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        if fresh:
            path.write_bytes(b"")
        # Unbuffered: a buffer would keep what did not fit, and fail once more when it is closed.
        self._file = path.open("ab", buffering=0)

    def append(self, data: bytes) -> None:
        """Write a piece durably.

        Raises:
            OSError: it does not fit; the file is as before.
        """
        before_bytes = os.fstat(self._file.fileno()).st_size
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(before_bytes)
            raise

    def close(self) -> None:
        """Close it."""
        self._file.close()


def read_bytes(path: Path, *, max_bytes: int, noun: str = "file") -> bytes:
    """Read a file no larger than ``max_bytes``.

    Raises:
        InputError: missing, unreadable, not a regular file, or too large.
    """
    try:
        if not path.is_file():
            missing = not path.exists()
            raise InputError(
                f"no such {noun}" if missing else f"not a regular {noun}",
                where=str(path),
                hint="check the path",
            )
        size_bytes = path.stat().st_size
        if size_bytes > max_bytes:
            raise InputError(
                f"{noun} is {size_bytes} bytes, more than the {max_bytes} allowed",
                where=str(path),
                hint="is this the right file?",
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {noun}: {error.strerror or error}", where=str(path), hint="check the path"
        ) from error


def digest(data: bytes) -> str:
    """SHA-256 of ``data`` as hex."""
    return hashlib.sha256(data).hexdigest()

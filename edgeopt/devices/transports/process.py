"""Programs started on this machine: their lines within bounds, their children ended with them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgeopt.core.errors import BoardCommandFailed
from edgeopt.devices.transports.stream import Clock, Lines, Tail, failed

_CHUNK = 1 << 16
#: What a program sees of this machine's environment; no setting of edgeopt's own process leaks in.
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")


def environment() -> dict[str, str]:
    """The environment of programs: few variables, messages in English."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}


def start(
    command: Sequence[str], *, where: str, cwd: Path | None = None, stdin: int | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a program in a process group of its own, its outputs as pipes.

    Raises:
        BoardCommandFailed: it cannot be started.
    """
    try:
        return subprocess.Popen(
            list(command), cwd=cwd, stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env=dict(env) if env is not None else environment(),
        )  # fmt: skip
    except OSError as error:
        raise BoardCommandFailed(
            f"cannot start: {error.strerror or error}", where=where,
            hint="is it there, executable, for this architecture, and not on a folder mounted "
            "noexec?",
        ) from error  # fmt: skip


def end(process: subprocess.Popen[bytes], *, pipes: bool = True) -> None:
    """End a program and its children, and release its pipes unless told not to."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None and pipes:
            with contextlib.suppress(OSError):
                pipe.close()


def lines(
    command: Sequence[str], *, where: str, cwd: Path | None = None,
    timeout_s: float | None = None, idle_s: float | None = None,
) -> Iterator[str]:  # fmt: skip
    """Run a program and yield the lines of its standard output as they come.

    Raises:
        BoardCommandFailed: it cannot be started, or fails.
        BoardTimeout: a limit was hit.
        BoardError: a line, or the output, without end.
    """
    clock, tail, split = Clock(where, timeout_s, idle_s), Tail(), Lines(where)
    process = start(command, where=where, cwd=cwd)
    try:
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(timeout=clock.left_s)
                if not ready:
                    clock.expired()
                clock.heard()
                clock.check_total()
                for key, _ in ready:
                    data = os.read(key.fd, _CHUNK)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        tail.feed(data)
                    else:
                        yield from split.feed(data)
        yield from split.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=clock.left_s)
        if process.returncode is None:
            clock.expired()
        if process.returncode != 0:
            raise failed(where, process.returncode, tail.text)
    finally:
        end(process)

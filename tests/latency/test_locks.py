"""Two profilers on one board refuse each other; locks that hold no more are recognised."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.core.errors import BoardCommandFailed, InputError
from edgeopt.devices.transports import open_link
from edgeopt.latency import lock as locks
from edgeopt.latency.lock import BoardBusyError, BoardLock, host_lock
from edgeopt.latency.meters.session import BOOT_ID, Session

HOLDER = """
import sys
from pathlib import Path
from edgeopt.latency.lock import host_lock
with host_lock(Path({folder!r}), "board"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    local = devices.load("local")
    found = Session(lambda: open_link(local))
    yield found
    found.close()


def test_this_machine_refuses_a_second_profiler(tmp_path: Path) -> None:
    code = textwrap.dedent(HOLDER).format(folder=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(BoardBusyError, match=f"process {holder.pid}") as caught,
                host_lock(tmp_path, "board"),
            ):
                pass
            assert caught.value.exit_code == 5 and caught.value.where == "board"
            with host_lock(tmp_path, "another board"):
                pass
        finally:
            holder.kill()
        holder.wait()
    with host_lock(tmp_path, "board"):  # a killed process holds nothing
        pass


def test_locks_need_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot write the lock of board"),
        host_lock(tmp_path / "file", "board"),
    ):
        pass


def test_the_board_refuses_a_second_profiler(session: Session, tmp_path: Path) -> None:
    first, second = BoardLock(session), BoardLock(session)
    assert first.take() == ""
    path = tmp_path / locks.NAME
    assert f":pid={os.getpid()}:" in str(path.readlink())
    with pytest.raises(BoardBusyError, match=f"process {os.getpid()} of ") as caught:
        second.take()
    assert str(path) in caught.value.hint
    first.release()
    assert not path.is_symlink()
    assert second.take() == ""
    second.release()
    second.release()


def owner(session: Session, **changes: object) -> str:
    values: dict[str, object] = {
        "host": "elsewhere", "pid": 1, "boot": (session.link.read_text(BOOT_ID) or "").strip(),
        "at": int(time.time()),
    } | changes  # fmt: skip
    return "edgeopt:" + ":".join(f"{name}={value}" for name, value in values.items())


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


def test_stale_locks_are_taken_over(session: Session, tmp_path: Path) -> None:
    path = tmp_path / locks.NAME
    here = platform.node()
    for text in (
        owner(session, boot="0000-1111"),
        owner(session, host=here, pid=dead_process()),
        owner(session, at=int(time.time()) - 3600),
    ):
        path.symlink_to(text)
        lock = BoardLock(session)
        assert lock.take() == "", text
        assert f":pid={os.getpid()}:" in str(path.readlink())
        lock.release()


def test_locks_of_others_that_hold_are_respected(session: Session, tmp_path: Path) -> None:
    path = tmp_path / locks.NAME
    path.symlink_to(owner(session, pid=77))
    with pytest.raises(BoardBusyError, match="process 77 of elsewhere"):
        BoardLock(session).take()
    path.unlink()
    path.symlink_to("/somewhere/else")
    assert "is in the way" in BoardLock(session).take()
    path.unlink()
    path.write_text("")
    assert "cannot be locked" in BoardLock(session).take()


def test_a_lock_is_renewed(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / locks.NAME
    lock = BoardLock(session)
    lock.take()
    path.unlink()  # as after a restart of the board
    lock.renew()
    assert not path.is_symlink()  # it was not time yet
    monkeypatch.setattr(locks, "RENEW_S", 0.0)
    lock.renew()
    assert path.is_symlink()
    lock.release()


def test_a_board_without_tools_is_not_locked(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **more: object) -> Iterator[str]:
        raise BoardCommandFailed("cannot start: No such file or directory", where="ln")

    monkeypatch.setattr(type(session.link), "run", fails)
    assert "the board cannot be locked: cannot start" in BoardLock(session).take()

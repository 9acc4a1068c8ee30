"""What only ssh has: host keys, permissions, the user's configuration, connections that hang."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rigs
from rigs import SshBoard

from edgeopt import devices
from edgeopt.core.errors import BoardCommandFailed, BoardLost, BoardUnreachable, InputError
from edgeopt.devices.transports import open_link
from edgeopt.devices.transports import ssh as ssh_module

NeedsTool = Callable[[str], str]


BASH = pytest.mark.skipif(
    not pwd.getpwuid(os.geteuid()).pw_shell.endswith("bash"), reason="the login shell is not bash"
)


@pytest.fixture
def board(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[SshBoard]:
    with rigs.ssh_board(tmp_path, needs_tool) as board:
        yield board


def test_host_keys(board: SshBoard, tmp_path: Path, needs_tool: NeedsTool) -> None:
    """Unknown: refused with its fingerprint and the command that adds it, which works; changed."""
    known = board.home / ".ssh" / "known_hosts"
    known.unlink()
    with pytest.raises(BoardUnreachable, match="the host key is unknown: ssh-ed25519") as caught:
        board.open()
    shown = subprocess.run(
        [needs_tool("ssh-keygen"), "-lf", str(tmp_path / "host_key.pub")],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert shown.split()[1] in caught.value.what
    advice = caught.value.hint.partition("`ssh-keyscan")[2]
    assert advice == f" -p {board.port} -t ed25519 127.0.0.1 >> ~/.ssh/known_hosts`"
    scanned = subprocess.run(
        [needs_tool("ssh-keyscan"), "-p", str(board.port), "-t", "ed25519", "127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    known.write_bytes(scanned.stdout)
    board.open().close()

    other = known.read_text().split()
    subprocess.run(
        [needs_tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")],
        check=True,
    )
    known.write_text(f"{other[0]} {(tmp_path / 'other.pub').read_text()}")
    with pytest.raises(BoardUnreachable, match="the host key has changed") as caught:
        board.open()
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in caught.value.hint


def test_no_permission(board: SshBoard) -> None:
    (board.home / ".ssh" / "authorized").write_text("")
    with pytest.raises(BoardUnreachable, match="no permission to log in") as caught:
        board.open()
    assert f"ssh-copy-id -p {board.port} " in caught.value.hint


def test_key_that_needs_a_passphrase(board: SshBoard, needs_tool: NeedsTool) -> None:
    key = board.home / ".ssh" / "id_ed25519"
    subprocess.run(
        [needs_tool("ssh-keygen"), "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with pytest.raises(BoardUnreachable) as caught:
        board.open()
    assert "ssh-add" in caught.value.hint


def test_the_users_configuration_counts(board: SshBoard) -> None:
    user = board.host.partition("@")[0]
    elsewhere = board.home / "keys"
    elsewhere.mkdir()
    (board.home / ".ssh" / "id_ed25519").rename(elsewhere / "key")
    config = board.home / ".ssh" / "config"
    config.write_text(
        f"Host myboard\n  HostName 127.0.0.1\n  Port {board.port}\n  User {user}\n"
        f"  IdentityFile {elsewhere}/key\n"
    )
    with board.open("myboard") as link:
        assert link.name == "ssh myboard"
        assert list(link.run(["echo", "there"])) == ["there"]
    config.write_text("Host myboard\n  Port many\n")
    with pytest.raises(BoardUnreachable, match="your ssh configuration has a mistake"):
        board.open("myboard")


def test_hosts_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    profile = devices.load("rpi4")
    with pytest.raises(BoardUnreachable, match="the connection was refused") as caught:
        open_link(profile, host=f"pi@127.0.0.1:{rigs.free_port()}")
    assert "sshd" in caught.value.hint
    with pytest.raises(BoardUnreachable, match=r"no host of this name: no-such-board\.invalid"):
        open_link(profile, host="pi@no-such-board.invalid")
    with pytest.raises(InputError, match="which host is the board"):
        open_link(profile, transport="ssh")


def test_a_port_that_is_not_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ssh_module, "CONNECT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(BoardUnreachable, match="no answer"):
            open_link(devices.load("rpi4"), host=f"pi@127.0.0.1:{silent.getsockname()[1]}")


def test_a_frozen_board_is_noticed(board: SshBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    """No packet says that it is gone: keepalive messages stay without an answer."""
    monkeypatch.setattr(ssh_module, "KEEPALIVE_S", 0.3)
    link = board.open()
    try:
        lines = link.run(["sh", "-c", "echo before; sleep 600"])
        assert next(lines) == "before"
        frozen = board.processes()
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(BoardLost, match="the connection is lost") as caught:
            next(lines)
        assert "--resume" in caught.value.hint
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        link.close()


def test_the_keeper_clears_up_when_the_link_is_cut(board: SshBoard, tmp_path: Path) -> None:
    """Killed with SIGKILL, a profiler leaves neither its folder nor its program on the board."""
    script = tmp_path / "profiler.py"
    script.write_text(
        "import sys, pathlib, time\n"
        "from edgeopt import devices\n"
        "from edgeopt.devices.transports import open_link\n"
        "link = open_link(devices.load('rpi4'), host=sys.argv[1])\n"
        "path = link.push(pathlib.Path(__file__), 'file')\n"
        "lines = link.run(['sh', '-c', 'echo $$; sleep 600'])\n"
        "print(next(lines), path, flush=True)\n"
        "time.sleep(600)\n"
    )
    profiler = subprocess.Popen(
        [sys.executable, str(script), board.host], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    with profiler:
        assert profiler.stdout is not None
        pid, path = profiler.stdout.readline().split()
        assert Path(path).exists() and Path(f"/proc/{pid}").exists()
        profiler.kill()
    deadline = time.monotonic() + 30
    while (Path(path).parent.exists() or _runs(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(path).parent.exists()
    assert not _runs(pid)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@BASH
def test_a_login_script_that_talks(board: SshBoard) -> None:
    (board.home / ".bashrc").write_text("echo welcome to the board\n")
    (board.home / ".ssh" / "rc").write_text("echo hello from rc\n")
    with board.open() as link:
        assert list(link.run(["echo", "only this"])) == ["only this"]
        assert link.facts().machine


def test_an_account_with_few_sessions(tmp_path: Path, needs_tool: NeedsTool) -> None:
    few = rigs.ssh_board(tmp_path, needs_tool, limits="MaxSessions 1\n")
    with few as board, board.open() as link:
        with pytest.raises(BoardCommandFailed, match="refuses to run commands") as caught:
            list(link.run(["true"]))
        assert "sessions" in caught.value.hint


@BASH
def test_a_full_board(board: SshBoard, tmp_path: Path) -> None:
    """Its storage refuses more than a limit, as a full disk does."""
    (board.home / ".bashrc").write_text("ulimit -f 64\n")
    big = tmp_path / "big"
    big.write_bytes(bytes(1 << 20))
    with board.open() as link:
        with pytest.raises(BoardCommandFailed, match=r"cannot store 'big\.bin'") as caught:
            link.push(big, "big.bin")
        assert "free space" in caught.value.hint
        small = tmp_path / "small"
        small.write_bytes(b"x")
        assert link.push(small, "small.bin").endswith("/small.bin")


@BASH
def test_a_board_without_a_folder_for_programs(board: SshBoard) -> None:
    (board.home / "bin").mkdir()
    (board.home / "bin" / "mktemp").write_text("#!/bin/sh\nexit 1\n")
    (board.home / "bin" / "mktemp").chmod(0o755)
    (board.home / ".bashrc").write_text('PATH="$HOME/bin:$PATH"\n')
    with board.open() as link, pytest.raises(BoardCommandFailed, match="no folder to write"):
        list(link.run(["true"]))


def test_a_command_that_is_too_long(board: SshBoard) -> None:
    with board.open() as link:
        with pytest.raises(InputError, match="the command is longer than 120000 bytes"):
            list(link.run(["echo", *["x" * 1000] * 130]))
        assert list(link.run(["echo", "x" * 50_000])) == ["x" * 50_000]


def test_nothing_runs_over_a_closed_link(board: SshBoard) -> None:
    link = board.open()
    link.close()
    with pytest.raises(BoardLost, match="the link is closed"):
        list(link.run(["true"]))

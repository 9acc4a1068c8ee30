"""Boards for the conformance suite: for each transport a link to one, and ways to break it."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.devices.transports import Link, open_link
from edgeopt.devices.transports import ssh as ssh_module

PROGRAM = Path(__file__).parent / "board_program.c"
NeedsTool = Callable[[str], str]


@dataclass
class Rig:
    """A board that tests may do anything to.

    Attributes:
        open: connects; every call is a new link.
        program: the test program, built for the board.
        vanish: takes the board away; None where it cannot vanish (this machine).
        shell: commands of the board's own can be run (an emulated processor has none).
        signals: the transport tells a crash from an exit status.
        single: the board serves one link at a time.
        work: a work folder as this machine sees it.
    """

    open: Callable[[], Link]
    program: Path
    vanish: Callable[[], None] | None = None
    shell: bool = True
    signals: bool = True
    single: bool = False
    work: Callable[[str], Path] = field(default=Path)


def build(compiler: str, output: Path) -> Path:
    subprocess.run([compiler, "-O1", "-static", "-o", str(output), str(PROGRAM)], check=True)
    return output


@contextlib.contextmanager
def local(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[Rig]:
    program = build(needs_tool("gcc"), tmp_path / "program")
    yield Rig(lambda: open_link(devices.load("local")), program)


@contextlib.contextmanager
def qemu_user(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[Rig]:
    needs_tool("qemu-aarch64")
    program = build(needs_tool("aarch64-linux-gnu-gcc"), tmp_path / "program")
    yield Rig(lambda: open_link(devices.load("rpi4")), program, shell=False)


@dataclass
class SshBoard:
    """A real sshd on loopback, and a home folder that trusts it.

    Attributes:
        host: for ``--host``.
        home: with ``.ssh``; it is $HOME meanwhile.
        port: it listens on.
        server: the listening process.
    """

    host: str
    home: Path
    port: int
    server: subprocess.Popen[bytes]

    def open(self, host: str = "") -> Link:
        return open_link(devices.load("rpi4"), host=host or self.host)

    def processes(self) -> list[int]:
        """The server and those that serve a connection, innermost last."""
        found, more = [], [self.server.pid]
        while more:
            found += more
            more = [pid for pid in _children(more) if _name(pid) == "sshd"]
        return found

    def vanish(self) -> None:
        server, *serving = self.processes()
        for pid in reversed(serving):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for _ in range(100):  # the server, not init, is to clear them away
            if not _children([server]):
                break
            time.sleep(0.01)
        self.server.kill()


def _children(parents: list[int]) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) in parents:
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def ssh_board(
    tmp_path: Path, needs_tool: NeedsTool, *, limits: str = "MaxSessions 6\n"
) -> Iterator[SshBoard]:
    with pytest.MonkeyPatch.context() as patch:  # not on everybody's path
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
        sshd = needs_tool("sshd")
    keygen = needs_tool("ssh-keygen")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it puts its unprivileged half
    ssh = tmp_path / "home" / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    for key in (tmp_path / "host_key", ssh / "id_ed25519"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    port = free_port()
    (ssh / "authorized").write_text((ssh / "id_ed25519.pub").read_text())
    (ssh / "known_hosts").write_text(
        f"[127.0.0.1]:{port} {(tmp_path / 'host_key.pub').read_text()}"
    )
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {ssh}/authorized\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"SetEnv HOME={ssh.parent}\n{limits}"
    )
    user = pwd.getpwuid(os.geteuid()).pw_name
    with (tmp_path / "sshd.log").open("wb") as log:
        server = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
    board = SshBoard(f"{user}@127.0.0.1:{port}", ssh.parent, port, server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(ssh.parent))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        patch.setattr(ssh_module, "KEEPALIVE_S", 60.0)  # this machine may be overloaded
        try:
            wait_for_port(port, server)
            yield board
        finally:
            board.vanish()
            server.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"the server ended with {server.returncode}")


@contextlib.contextmanager
def ssh(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[Rig]:
    program = build(needs_tool("gcc"), tmp_path / "program")
    with ssh_board(tmp_path, needs_tool) as board:
        yield Rig(board.open, program, board.vanish)


def _name(pid: int) -> str:
    """What runs as a process; nothing if that has ended since it was listed."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def tree(root: int) -> list[int]:
    """A process and all that descend from it, innermost last."""
    found, more = [], [root]
    while more:
        found += more
        more = _children(more)
    return found


def wait_until_idle(root: subprocess.Popen[bytes]) -> None:
    """Return when every thread of a process and its descendants has waited at three looks."""
    looks = 0
    while looks < 3:
        assert root.poll() is None, f"the process ended with {root.returncode}"
        looks = looks + 1 if all(_waits(pid) for pid in tree(root.pid)) else 0
        time.sleep(0.03)


def _waits(pid: int) -> bool:
    stats = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        stats = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "S" for stat in stats)


def kill_tree(root: subprocess.Popen[bytes]) -> None:
    # outermost first: what vanishes does not live to say that its programs have ended
    for pid in tree(root.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    root.wait()


@contextlib.contextmanager
def tvm_server(tmp_path: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """TVM's own RPC server on loopback."""
    port = free_port()
    with (tmp_path / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [*tvm_program("rpc_server"), "--host", "127.0.0.1", "--port", str(port),
             "--port-end", str(port + 1), *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=quiet_environment(),
        )  # fmt: skip
    try:
        while "bind to" not in (tmp_path / "server.log").read_text():
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.05)
        # A session forks a thread of the server, for good where another one holds a lock: those
        # that start it are to be done before the first, however slow the machine is.
        wait_until_idle(server)
        yield port, server
    finally:
        kill_tree(server)


def tvm_program(name: str) -> list[str]:
    """One of TVM's own programs, started without torch, whose import takes seconds."""
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module(sys.argv.pop(1), " \
           "run_name='__main__', alter_sys=True)"  # fmt: skip
    return [sys.executable, "-c", code, f"tvm.exec.{name}"]


def quiet_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@contextlib.contextmanager
def tvm_rpc(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[Rig]:
    program = build(needs_tool("gcc"), tmp_path / "program")
    with tvm_server(tmp_path) as (port, server):
        yield Rig(
            lambda: open_link(
                devices.load("local"), host=f"127.0.0.1:{port}", transport="tvm_rpc"
            ),
            program, lambda: kill_tree(server), single=True,
        )  # fmt: skip


@contextlib.contextmanager
def adb_server(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[int]:
    """A real adb server of its own, without the devices of this machine."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("ADB_MDNS", "0")
        with (tmp_path / "adb.log").open("ab") as log:
            server = subprocess.Popen(
                [needs_tool("adb"), "-P", str(port), "nodaemon", "server"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_for_port(port, server)
            yield port
        finally:
            kill_tree(server)


@contextlib.contextmanager
def android(features: str = "shell_v2,cmd") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """What stands in for a device; its serial number."""
    port = free_port()
    device = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "fake_adbd.py"), str(port), features],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert device.stdout is not None
        assert device.stdout.readline() == b"ready\n"
        yield f"127.0.0.1:{port}", device
    finally:
        kill_tree(device)
        device.stdout.close()


@contextlib.contextmanager
def adb(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[Rig]:
    program = build(needs_tool("gcc"), tmp_path / "program")
    with adb_server(tmp_path, needs_tool), android() as (serial, device):
        yield Rig(
            lambda: open_link(devices.load("rpi4"), host=serial, transport="adb"),
            program, lambda: kill_tree(device), signals=False,
        )  # fmt: skip


RIGS = {"local": local, "qemu_user": qemu_user, "ssh": ssh, "adb": adb, "tvm_rpc": tvm_rpc}


def host_only() -> None:
    if platform.system() != "Linux":
        pytest.skip("boards of the conformance suite need Linux")

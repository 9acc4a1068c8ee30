"""What only TVM RPC has: trackers, one session at a time, a helper, no secrecy."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import rigs

from edgeopt import devices
from edgeopt.core.errors import BoardError, BoardUnreachable, InputError
from edgeopt.devices.transports import open_link
from edgeopt.devices.transports import tvm_rpc as module

NeedsTool = Callable[[str], str]
LOCAL = devices.load("local")


def test_a_board_of_a_tracker(tmp_path: Path, needs_tool: NeedsTool) -> None:
    needs_tool("gcc")
    port = rigs.free_port()
    with (tmp_path / "tracker.log").open("wb") as log:
        tracker = subprocess.Popen(
            [*rigs.tvm_program("rpc_tracker"), "--host", "127.0.0.1", "--port", str(port),
             "--port-end", str(port + 1)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=rigs.quiet_environment(),
        )  # fmt: skip
    try:
        rigs.wait_for_port(port, tracker)
        with (
            rigs.tvm_server(tmp_path, "--tracker", f"127.0.0.1:{port}", "--key", "rpi4"),
            open_link(LOCAL, host=f"127.0.0.1:{port}/rpi4", transport="tvm_rpc") as link,
        ):
            assert link.name == f"tvm_rpc 127.0.0.1:{port}/rpi4"
            assert list(link.run(["echo", "a  b"])) == ["a  b"]
    finally:
        rigs.kill_tree(tracker)


def test_no_server() -> None:
    with pytest.raises(BoardUnreachable, match="no session: ") as caught:
        open_link(LOCAL, host=f"127.0.0.1:{rigs.free_port()}", transport="tvm_rpc")
    assert "python -m tvm.exec.rpc_server --host 127.0.0.1" in caught.value.hint
    with pytest.raises(InputError, match="where is the TVM RPC server"):
        open_link(LOCAL, transport="tvm_rpc")


def test_a_server_that_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections, as a busy server's queue does, and says nothing."""
    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(BoardUnreachable, match=r"no session: no answer for 0\.5 s") as caught:
            open_link(
                LOCAL, host=f"127.0.0.1:{silent.getsockname()[1]}", transport="tvm_rpc"
            )  # fmt: skip
        assert "one session at a time" in caught.value.hint


def test_a_helper_for_another_processor(tmp_path: Path, needs_tool: NeedsTool) -> None:
    needs_tool("aarch64-linux-gnu-gcc")
    profile = devices.load("rpi4")
    if LOCAL.arch == profile.arch:
        pytest.skip("this machine is of that architecture")
    with rigs.tvm_server(tmp_path) as (port, _):
        with pytest.raises(BoardError, match="the helper does not load there") as caught:
            open_link(profile, host=f"127.0.0.1:{port}", transport="tvm_rpc")
        assert "architecture" in caught.value.hint


def test_a_server_across_the_network_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.TvmRpcLink, "connect", lambda *args: None)
    with pytest.warns(UserWarning, match=r"TVM RPC to 192\.0\.2\.7 is plaintext") as caught:
        open_link(LOCAL, host="192.0.2.7", transport="tvm_rpc")
    assert "ssh -L" in str(caught[0].message)
    assert module.is_loopback("::1") and module.is_loopback("localhost")


def test_no_compiler_for_the_helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no compiler for rpi4"):
        module._default_build(devices.load("rpi4"))(module.SOURCE, tmp_path / "x.so")

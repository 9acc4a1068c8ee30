"""What only adb has: its server, lists of devices, trust. The server is real, the device is not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rigs

from edgeopt import devices
from edgeopt.core.errors import BoardError, BoardLost, BoardUnreachable, InputError, ToolError
from edgeopt.devices.transports import adb, open_link

NeedsTool = Callable[[str], str]
PHONE = devices.load("rpi4")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, needs_tool: NeedsTool
) -> Iterator[int]:  # fmt: skip
    with rigs.adb_server(tmp_path_factory.mktemp("adb"), needs_tool) as port:
        yield port


def test_a_real_server_without_devices(server: int) -> None:
    assert adb.devices() == {}
    with pytest.raises(BoardUnreachable, match="no device is connected") as caught:
        open_link(PHONE, transport="adb")
    assert "USB debugging" in caught.value.hint
    with pytest.raises(BoardUnreachable, match="no device is connected"):
        open_link(PHONE, transport="adb", host="emulator-5554")
    with pytest.raises(BoardUnreachable, match=r"refused|cannot|failed|unable") as caught:
        open_link(PHONE, transport="adb", host=f"127.0.0.1:{rigs.free_port()}")
    assert "adb tcpip 5555" in caught.value.hint


def test_the_only_device_needs_no_name(server: int) -> None:
    with rigs.android() as (serial, _):
        open_link(PHONE, transport="adb", host=serial).close()
        with open_link(PHONE, transport="adb") as link:
            assert link.name == f"adb {serial}"
            assert list(link.run(["echo", "a  b"])) == ["a  b"]
        with pytest.raises(BoardUnreachable, match=r"no device '127\.0\.0\.9'") as caught:
            open_link(PHONE, transport="adb", host="127.0.0.9")
        assert serial in caught.value.hint
        with rigs.android() as (other, _):
            open_link(PHONE, transport="adb", host=other).close()
            with pytest.raises(InputError, match="2 devices are connected") as caught:
                open_link(PHONE, transport="adb")
            assert serial in caught.value.hint and other in caught.value.hint


def test_a_device_of_before_android_7(server: int) -> None:
    with (
        rigs.android(features="cmd") as (serial, _),
        pytest.raises(BoardUnreachable, match="its shell cannot tell errors from output"),
    ):
        open_link(PHONE, transport="adb", host=serial)


def test_the_device_goes_between_commands(server: int) -> None:
    with rigs.android() as (serial, device):
        link = open_link(PHONE, transport="adb", host=serial)
        assert list(link.run(["true"])) == []
        rigs.kill_tree(device)
        with pytest.raises(BoardLost) as caught:
            list(link.run(["true"]))
        assert "cable" in caught.value.hint
        link.close()


class Answers:
    """A server that says what it is told to, for what the real one says only to real phones."""

    def __init__(self, *replies: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.replies = replies
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        for reply in self.replies:
            link, _ = self.listener.accept()
            with link:
                link.recv(int(link.recv(4), 16))
                link.sendall(reply)
        self.listener.close()


def listed(rows: str) -> bytes:
    return b"OKAY%04x%s" % (len(rows), rows.encode())


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ("unauthorized", "does not trust this machine yet"),
        ("offline", "is offline"),
        ("no permissions; see [http://...]", "may not be opened by this user"),
        ("rescue", "is in state 'rescue'"),
    ],
)
def test_devices_that_are_not_ready(
    monkeypatch: pytest.MonkeyPatch, state: str, what: str
) -> None:  # fmt: skip
    monkeypatch.setenv(
        "ANDROID_ADB_SERVER_PORT", str(Answers(listed(f"R58M\t{state}\n")).port)
    )  # fmt: skip
    with pytest.raises(BoardUnreachable, match=what) as caught:
        open_link(PHONE, transport="adb", host="R58M")
    assert caught.value.where == "adb R58M" and caught.value.hint


@pytest.mark.parametrize("reply", [b"", b"OK", b"OKAYzzzz", b"FAIL0005x\x1b[2J", b"HTTP/1.1 400"])
def test_a_server_that_is_none(monkeypatch: pytest.MonkeyPatch, reply: bytes) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(Answers(reply).port))
    with pytest.raises(BoardError) as caught:
        open_link(PHONE, transport="adb")
    assert "\x1b" not in str(caught.value)


def test_no_server_and_no_adb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(rigs.free_port()))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="no adb server runs here, and adb is not installed"):
        open_link(PHONE, transport="adb")
    (tmp_path / "adb").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "adb").chmod(0o755)
    with pytest.raises(ToolError, match="the adb server does not answer"):
        open_link(PHONE, transport="adb")


@pytest.mark.parametrize(("text", "port"), [("", 5037), ("5038", 5038), ("x", 5037), ("0", 5037)])
def test_the_servers_port(monkeypatch: pytest.MonkeyPatch, text: str, port: int) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", text)
    assert adb.server_port() == port

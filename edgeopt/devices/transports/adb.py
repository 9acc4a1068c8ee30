"""Android devices, by the protocol of the adb server, which runs on this machine.

The server is spoken to directly: its shell protocol keeps standard output, standard error and the
exit status apart, byte for byte. Devices from Android 7 on have it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeopt.core.errors import (
    BoardCommandFailed,
    BoardLost,
    BoardTimeout,
    BoardUnreachable,
    InputError,
    ToolError,
    suggest,
)
from edgeopt.devices.transports.link import Endpoint
from edgeopt.devices.transports.shell import ANSWER_S, Chunk, ShellLink
from edgeopt.devices.transports.stream import printable

PORT = 5037
CONNECT_S = 20.0
_CHUNK = 1 << 16
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)  # packets of the shell protocol

#: State in the server's list -> what is wrong, what to do.
_STATES = {
    "unauthorized": (
        "does not trust this machine yet", "unlock it and accept the question on its screen"
    ),
    "offline": ("is offline", "connect it again, or `adb reconnect`"),
    "no permissions": (
        "may not be opened by this user", "install android-sdk-platform-tools-common (udev rules)"
    ),
    "authorizing": ("is deciding whether to trust this machine", "try again in a moment"),
    "connecting": ("is still connecting", "try again in a moment"),
    "recovery": ("is in recovery mode", "restart it"),
    "sideload": ("is in sideload mode", "restart it"),
    "bootloader": ("is in its boot loader", "restart it"),
}  # fmt: skip


class Adb:
    """The transport ``adb``."""

    @classmethod
    def open(cls, endpoint: Endpoint) -> ShellLink:
        """Connect to the device that a user or a profile names, or to the only one there is.

        Raises:
            InputError: none is named, and there are several.
            BoardUnreachable: no such device, or it does not trust this machine.
            ToolError: there is no adb server, and no adb to start one.
        """
        serial = _choose(endpoint.host)
        name = f"adb {serial}"
        features = _ask(f"host-serial:{serial}:features", name).split(",")
        if "shell_v2" not in features:
            raise BoardUnreachable(
                "its shell cannot tell errors from output", where=name,
                hint="Android 7 or later is needed",
            )  # fmt: skip
        return ShellLink(AdbRemote(serial, name), name, endpoint.profile.runner.python)


def server_port() -> int:
    """Where the server listens: ``ANDROID_ADB_SERVER_PORT`` or 5037, as adb itself has it."""
    text = os.environ.get("ANDROID_ADB_SERVER_PORT", "")
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16 else PORT


def _connect() -> socket.socket:
    """A connection to the server, started if it does not run."""
    for attempt in range(2):
        try:
            return socket.create_connection(("127.0.0.1", server_port()), CONNECT_S)
        except OSError as error:
            program = shutil.which("adb")
            if program is None:
                raise ToolError(
                    "no adb server runs here, and adb is not installed", where="transport adb",
                    hint="apt-get install adb",
                ) from error  # fmt: skip
            if attempt:
                raise ToolError(
                    f"the adb server does not answer: {error.strerror or error}",
                    where="transport adb", hint="look at what `adb start-server` says",
                ) from error  # fmt: skip
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [program, "start-server"], stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=CONNECT_S,
                    check=False,
                )  # fmt: skip
    raise AssertionError("unreachable")


def _receive(link: socket.socket, count: int, where: str) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            part = link.recv(count - len(data))
        except OSError as error:
            raise _lost(where, error.strerror or "no answer") from error
        if not part:
            raise _lost(where, "the adb server closed the connection")
        data += part
    return bytes(data)


def _lost(where: str, reason: str) -> BoardLost:
    return BoardLost(
        f"the connection is lost: {reason}", where=where,
        hint="is the cable in, and the device on? Go on with --resume",
    )  # fmt: skip


def _send(link: socket.socket, service: str, where: str) -> None:
    """Ask for a service.

    Raises:
        BoardCommandFailed: the server refuses, with its own words.
    """
    data = service.encode("utf-8", "surrogateescape")
    try:
        link.sendall(b"%04x" % len(data) + data)
    except OSError as error:
        raise _lost(where, error.strerror or "") from error
    if _receive(link, 4, where) != b"OKAY":
        reason = printable(_text(link, where))
        raise BoardCommandFailed(
            f"adb refuses: {reason}", where=where, hint="see what `adb devices -l` lists"
        )


def _text(link: socket.socket, where: str) -> str:
    try:
        count = int(_receive(link, 4, where), 16)
    except ValueError as error:
        raise _lost(where, "the adb server speaks another protocol") from error
    return _receive(link, count, where).decode("utf-8", "replace")


def _ask(service: str, where: str) -> str:
    """The answer to a question to the server.

    Raises:
        BoardUnreachable: it refuses.
    """
    with _connect() as link:
        try:
            _send(link, service, where)
        except BoardCommandFailed as error:
            raise BoardUnreachable(error.what, where=where, hint=error.hint) from error
        return _text(link, where)


def devices() -> Mapping[str, str]:
    """Serial number -> state of all devices that the server knows."""
    rows = [line.split("\t", 1) for line in _ask("host:devices", "adb").splitlines()]
    return {printable(row[0]): row[1].strip() for row in rows if len(row) == 2}


def _choose(serial: str) -> str:
    """The device to use, if it is ready."""
    known = devices()
    if serial and serial not in known and ":" in serial:
        said = _ask(f"host:connect:{serial}", f"adb {serial}")
        known = devices()
        if serial not in known:
            raise BoardUnreachable(
                printable(said)[:200], where=f"adb {serial}",
                hint="is debugging over the network on? (`adb tcpip 5555` over USB)",
            )  # fmt: skip
        known = _settled(serial, known)
    if not serial:
        if len(known) > 1:
            raise InputError(
                f"{len(known)} devices are connected", where="--host",
                hint=f"name one: --host {' or '.join(sorted(known))}",
            )  # fmt: skip
        serial = next(iter(known), "")
    if not known:
        raise BoardUnreachable(
            "no device is connected", where="adb",
            hint="turn USB debugging on (Settings, Developer options) and connect it; "
            "`adb devices` lists it then",
        )  # fmt: skip
    if serial not in known:
        raise BoardUnreachable(
            f"no device {printable(serial)!r}", where="adb",
            hint=suggest(serial, known, noun="device"),
        )  # fmt: skip
    state = known[serial]
    if state != "device":
        what, hint = next(
            (row for start, row in _STATES.items() if state.startswith(start)),
            (f"is in state {printable(state)[:60]!r}", "see what `adb devices -l` says"),
        )
        raise BoardUnreachable(what, where=f"adb {serial}", hint=hint)
    return serial


def _settled(serial: str, known: Mapping[str, str]) -> Mapping[str, str]:
    """The list once a device that has just connected has said what it is."""
    deadline = time.monotonic() + CONNECT_S
    while known.get(serial) in ("offline", "connecting") and time.monotonic() < deadline:
        time.sleep(0.1)
        known = devices()
    return known


@dataclass(frozen=True, slots=True)
class AdbRemote:
    """A device by its serial number; every command has a connection of its own."""

    serial: str
    name: str

    def execute(self, line: str) -> AdbProcess:
        """Start a command line; see `Remote.execute`."""
        try:
            link = _connect()
        except ToolError as error:
            raise _lost(self.name, error.what) from error
        try:
            _send(link, f"host:transport:{self.serial}", self.name)
            _send(link, f"shell,v2,raw:{line}", self.name)
        except BoardCommandFailed as error:  # the device is not there any more
            link.close()
            raise _lost(self.name, error.what) from error
        except BaseException:
            link.close()
            raise
        link.setblocking(False)
        return AdbProcess(link, self.name)

    def disconnect(self) -> None:
        """Nothing stays connected between commands."""


@dataclass(slots=True)
class AdbProcess:
    """A command over the shell protocol; see `RemoteProcess`."""

    link: socket.socket
    where: str
    _waiting: bytearray = field(default_factory=bytearray)

    def read(self, timeout_s: float) -> Chunk | None:
        """What came; see `RemoteProcess.read`."""
        chunk = self._parse()
        if chunk is not None:
            return chunk
        ready, _, _ = select.select([self.link], [], [], timeout_s)
        if not ready:
            return None
        try:
            data = self.link.recv(_CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _lost(self.where, error.strerror or "") from error
        if not data:
            raise _lost(self.where, "the device is gone")
        self._waiting += data
        return self._parse() or Chunk()

    def _parse(self) -> Chunk | None:
        """The packets that are complete."""
        got = {_STDOUT: bytearray(), _STDERR: bytearray()}
        any_packet = False
        while len(self._waiting) >= 5:
            kind, size = self._waiting[0], int.from_bytes(self._waiting[1:5], "little")
            if kind > _CLOSE_STDIN or size > 1 << 24:
                raise _lost(self.where, "the device speaks another protocol")
            if len(self._waiting) < 5 + size:
                break
            data = bytes(self._waiting[5 : 5 + size])
            del self._waiting[: 5 + size]
            any_packet = True
            if kind == _EXIT:
                status = data[0] if data else 255
                return Chunk(bytes(got[_STDOUT]), bytes(got[_STDERR]), True, status)
            if kind in got:
                got[kind] += data
        return Chunk(bytes(got[_STDOUT]), bytes(got[_STDERR])) if any_packet else None

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send to its standard input; see `RemoteProcess.write`."""
        rest = memoryview(self._packet(_STDIN, data))
        while rest:
            _, ready, _ = select.select([], [self.link], [], timeout_s)
            if not ready:
                raise BoardTimeout(
                    f"takes nothing in for {timeout_s:g} s", where=self.where,
                    hint="is the device's storage hanging?",
                )  # fmt: skip
            try:
                rest = rest[self.link.send(rest) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return  # it ended: its status says why
            except OSError as error:
                raise _lost(self.where, error.strerror or "") from error

    def end_input(self) -> None:
        """Its standard input ends here."""
        with contextlib.suppress(OSError):
            self.link.setblocking(True)
            self.link.settimeout(ANSWER_S)
            self.link.sendall(self._packet(_CLOSE_STDIN, b""))
            self.link.setblocking(False)

    @staticmethod
    def _packet(kind: int, data: bytes) -> bytes:
        return bytes([kind]) + len(data).to_bytes(4, "little") + data

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.link.close()

"""Firmware on a serial port, with pyserial."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from edgeopt.core.errors import BoardLost, BoardUnreachable, InputError, ToolError
from edgeopt.devices.transports.conversation import START_S, Conversation
from edgeopt.devices.transports.link import Closing, Endpoint

BAUD = 115200
WRITE_TIMEOUT_S = 5.0
_CHUNK = 4096


@dataclass(slots=True)
class PortChannel:
    """An open port; nobody else can open it meanwhile.

    Args:
        port: from pyserial.
        where: names it in errors.
    """

    port: Any
    where: str

    def read(self, timeout_s: float) -> bytes:
        """What came within the time; see `Channel.read`."""
        try:
            self.port.timeout = timeout_s
            first = self.port.read(1)
            return bytes(first + self.port.read(min(self.port.in_waiting, _CHUNK)))
        except (OSError, TypeError) as error:  # TypeError: pyserial, when the port was closed
            raise self._lost(error) from error

    def write(self, data: bytes) -> None:
        """Send; see `Channel.write`."""
        try:
            self.port.write(data)
            self.port.flush()
        except (OSError, TypeError) as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> BoardLost:
        return BoardLost(
            f"the serial port is gone: {error}", where=self.where,
            hint="was the cable pulled, or the board reset? Connect it again and go on with "
            "--resume",
        )  # fmt: skip


@dataclass(slots=True)
class SerialLink(Closing):
    """Firmware that a debugger or the board's loader flashed before.

    Args:
        port: ``/dev/ttyACM0``.
        baud: of the line; boards with native USB ignore it.
    """

    port: str
    baud: int = BAUD
    _channel: PortChannel | None = field(default=None, repr=False)
    _talk: Conversation | None = field(default=None, repr=False)

    @classmethod
    def open(cls, endpoint: Endpoint) -> Self:
        """Open the port a user or a profile names.

        Raises:
            InputError: neither names one.
            BoardUnreachable: it cannot be opened.
            ToolError: pyserial is missing.
        """
        _pyserial()
        if not endpoint.port:
            raise InputError(
                "which serial port is the board on?", where="--port", hint=_ports_hint()
            )
        link = cls(endpoint.port, endpoint.profile.runner.baud or BAUD)
        link.connect()
        return link

    @property
    def name(self) -> str:
        """``serial /dev/ttyACM0``."""
        return f"serial {self.port}"

    def connect(self) -> None:
        """Open the port, for this process alone.

        Raises:
            BoardUnreachable: it cannot be opened.
            ToolError: pyserial is missing.
        """
        serial = _pyserial()
        try:
            port = serial.Serial(
                self.port, self.baud, timeout=1.0, write_timeout=WRITE_TIMEOUT_S, exclusive=True
            )
        except (OSError, ValueError) as error:
            raise BoardUnreachable(
                f"cannot open the port: {_reason(error)}", where=self.name, hint=_hint(error)
            ) from error
        self._channel = PortChannel(port, self.name)
        self._talk = Conversation(self._channel, self.name)

    def start(self, image: Path | None = None) -> str:
        """Wait for the firmware on the board; see `FirmwareLink.start`."""
        if image is not None:
            raise InputError(
                "firmware cannot be flashed over this line", where=self.name,
                hint=f"flash {image.name} with the board's own tool, then leave the image out",
            )  # fmt: skip
        return self._open().hello(START_S)

    def request(
        self, line: str, *, timeout_s: float | None = None, idle_s: float | None = None
    ) -> Iterator[str]:
        """Send a request and yield its answer; see `FirmwareLink.request`."""
        return self._open().request(line, timeout_s=timeout_s, idle_s=idle_s)

    def _open(self) -> Conversation:
        if self._talk is None:
            raise BoardLost("the port is closed", where=self.name, hint="open the link again")
        return self._talk

    def close(self) -> None:
        """Release the port."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.port.close()
        self._channel = self._talk = None


def _pyserial() -> Any:
    try:
        import serial
    except ImportError as error:
        raise ToolError(
            "pyserial is not installed", where="transport serial", hint="pip install pyserial"
        ) from error
    return serial


def _reason(error: Exception) -> str:
    text = str(error)
    if "exclusively lock" in text:
        return "another program uses it"
    number = getattr(error, "errno", None)
    if number is not None:
        import os

        return os.strerror(number)
    return text


def _hint(error: Exception) -> str:
    if "exclusively lock" in str(error):
        return "close the other profiler or terminal (`fuser` names it)"
    if getattr(error, "errno", None) == 13:
        return "add yourself to the group that owns it (`sudo usermod -aG dialout $USER`)"
    return _ports_hint()


def _ports_hint() -> str:
    """The ports that are there."""
    from serial.tools import list_ports

    ports = sorted(port.device for port in list_ports.comports() if port.vid is not None)
    return f"ports here: {', '.join(ports)}" if ports else (
        "no USB serial port is here: is the board connected, and powered?"
    )  # fmt: skip

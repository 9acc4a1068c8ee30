"""The host's side of the line protocol with firmware (`edgeopt_line.h` has the other).

A line is ``<payload> *<CRC>``: printable ASCII, CRC-16/CCITT-FALSE of the payload. Every line is
acknowledged by its ending, ``ok *<CRC>``, before the next is sent; a garbled one is asked for with
``again``. Every second line of an answer has ``+`` in place of ``*`` and the complement of the
CRC: what comes with the mark of the line before is that line, sent again.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeopt.core.errors import BoardCommandFailed, BoardError, BoardTimeout, InputError
from edgeopt.devices.transports.stream import Clock, printable

MAX_LINE_BYTES = 512
MAX_PAYLOAD_BYTES = 505
#: Times that one line is asked for, or sent, again.
MAX_AGAIN = 2
#: A request is acknowledged within this time, before the firmware starts to work on it.
ACKNOWLEDGE_S = 3.0
#: After ``again``, an acknowledgement that is on its way comes within this time.
AGAIN_S = 0.3
#: Firmware answers within this time of its start: boot loaders may wait for a few seconds.
START_S = 20.0
#: What may come without a good line in it.
MAX_NOISE_BYTES = 1 << 16

_CHECKED = re.compile(rb"([ -~]{1,505}) ([*+])([0-9A-F]{4})")


class Channel(Protocol):
    """Bytes to and from firmware."""

    def read(self, timeout_s: float) -> bytes:
        """What came; nothing if nothing came in time.

        Raises:
            BoardLost: the line is gone.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send.

        Raises:
            BoardLost: the line is gone.
        """
        ...


def json_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object that firmware said.

    Raises:
        BoardError: it is none.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BoardError(
            f"said {printable(line[:80])!r} where JSON was expected", where=where,
            hint="is this edgeopt's bench firmware?",
        )  # fmt: skip
    return found


def crc16(payload: bytes) -> int:
    """CRC-16/CCITT-FALSE.

    >>> f"{crc16(b'123456789'):04X}"
    '29B1'
    """
    return binascii.crc_hqx(payload, 0xFFFF)


def frame(payload: str) -> bytes:
    r"""A payload as a line.

    >>> frame("info")
    b'info *92CA\n'

    Raises:
        InputError: it does not fit a line.
    """
    data = payload.encode("ascii", "replace")
    if not data or len(data) > MAX_PAYLOAD_BYTES or not payload.isascii() or not _plain(payload):
        raise InputError(
            f"cannot be sent as one line: {printable(payload[:60])!r}", where="line protocol",
            hint=f"a line is 1 to {MAX_PAYLOAD_BYTES} printable ASCII characters; send fewer keys",
        )  # fmt: skip
    return data + b" *%04X\n" % crc16(data)


def _plain(payload: str) -> bool:
    return payload.isprintable()


def parse(line: bytes) -> tuple[str, str] | None:
    """The payload of a line (without its end) and its mark; None if it is garbled."""
    found = _CHECKED.fullmatch(line)
    if found is None or int(found[3], 16) != _check(found[1], found[2] == b"+"):
        return None
    return found[1].decode("ascii"), found[2].decode("ascii")


def _check(payload: bytes, odd: bool) -> int:
    return crc16(payload) ^ 0xFFFF if odd else crc16(payload)


@dataclass(slots=True)
class Conversation:
    """Requests and answers over a channel.

    Args:
        channel: to the firmware.
        where: names the board in errors.
    """

    channel: Channel
    where: str
    _waiting: bytearray = field(default_factory=bytearray)
    _noise: int = 0
    _sent: bytes = b""

    def hello(self, timeout_s: float = START_S, *, listen_s: float = 0.0) -> str:
        """Wait until the firmware answers ``info``, whatever its boot prints before.

        Args:
            timeout_s: how long in all.
            listen_s: so long nothing is sent, unless something is heard before.

        Returns:
            The first line of the answer.

        Raises:
            BoardTimeout: it does not answer, or not in this protocol.
            BoardCommandFailed: its answer is an error.
        """
        clock = Clock(self.where, timeout_s, timeout_s)
        if listen_s > 0.0:
            self._waiting += self.channel.read(listen_s)
        while True:
            self._send("info")
            if self._acknowledged(Clock(self.where, min(1.0, clock.left_s)), crc16(b"info")):
                break
            if clock.left_s == 0.0:
                heard = "nothing" if not self._noise else "something else than its line protocol"
                raise BoardTimeout(
                    f"the firmware says {heard} after {timeout_s:g} s", where=self.where,
                    hint="is it edgeopt's bench firmware, is this the right port, and the right "
                    "baud rate? Reset the board and try again",
                )  # fmt: skip
        answer = list(self._answer(Clock(self.where, timeout_s, timeout_s), crc16(b"info")))
        return answer[0]

    def request(
        self, line: str, *, timeout_s: float | None = None, idle_s: float | None = None
    ) -> Iterator[str]:
        """Send a request and yield its answer; see `FirmwareLink.request`."""
        check = crc16(frame(line)[: len(line)])
        where = f"{line.split(' ')[0]} on {self.where}"
        clock = Clock(where, timeout_s, idle_s)
        for _ in range(MAX_AGAIN + 1):
            self._send(line)
            if self._acknowledged(Clock(where, ACKNOWLEDGE_S), check):
                yield from self._answer(clock, check)
                return
        raise BoardTimeout(
            f"did not acknowledge the request, sent {MAX_AGAIN + 1} times", where=where,
            hint="the firmware hangs: reset the board; or the line is bad: check the cable",
        )  # fmt: skip

    def _send(self, payload: str) -> None:
        self._sent = frame(payload)
        # The empty line ends whatever noise came before; it means nothing by itself.
        self.channel.write(b"\n" + self._sent)

    def _acknowledged(self, clock: Clock, check: int) -> bool:
        """Whether the request is acknowledged in time; what an earlier answer left is dropped."""
        while (line := self._line(clock)) is not None:
            payload, _ = parse(line) or ("", "")
            if payload == f"ok *{check:04X}":
                return True
            if payload == "again":  # for the request, or for noise before it: then it is on its way
                clock = Clock(clock.where, min(AGAIN_S, clock.left_s))
        return False

    def _answer(self, clock: Clock, check: int) -> Iterator[str]:
        """The lines of an answer, each acknowledged once the next is wanted."""
        expected, again, count, repeated = "*", 0, 0, 0
        while True:
            line = self._line(clock)
            if line is None:
                clock.expired()
                continue
            clock.heard()
            clock.check_total()
            payload, mark = parse(line) or ("", "")
            if not payload:
                if again == MAX_AGAIN:
                    raise BoardError(
                        f"a line was garbled {again + 1} times", where=clock.where,
                        hint="check the cable, its length and its ground, or lower the baud rate",
                    )  # fmt: skip
                again += 1
                self.channel.write(frame("again"))
            elif payload == "again":
                self.channel.write(self._sent)
            elif payload.startswith("ok "):
                if payload == f"ok *{check:04X}":  # it heard the request twice, and starts anew
                    repeated, expected = count, "*"
            elif mark != expected:  # it had been heard; the acknowledgement had not
                self._acknowledge(payload, mark)
            else:
                expected, again = "+" if mark == "*" else "*", 0
                if repeated:
                    repeated -= 1
                    self._acknowledge(payload, mark)
                    continue
                count += 1
                message = _message(payload)
                if message is None or "error" in message or "done" in message:
                    self._acknowledge(payload, mark)
                    yield _last(payload, message, clock.where)
                    return
                yield payload
                self._acknowledge(payload, mark)

    def _acknowledge(self, payload: str, mark: str) -> None:
        self._sent = frame(f"ok {mark}{_check(payload.encode(), mark == '+'):04X}")
        self.channel.write(self._sent)

    def _line(self, clock: Clock) -> bytes | None:
        """The next line that is not empty; None when none came before a limit.

        Raises:
            BoardError: noise without end.
        """
        while True:
            head, end, rest = self._waiting.partition(b"\n")
            if end:
                self._waiting = rest
                line = bytes(head).strip(b"\r")
                if not line:
                    continue
                good = parse(line) is not None
                self._noise = 0 if good else self._noise + len(line)
                return line
            if self._noise + len(self._waiting) > MAX_NOISE_BYTES:
                raise BoardError(
                    f"sends {MAX_NOISE_BYTES >> 10} KiB without a line of the protocol",
                    where=clock.where,
                    hint="is it edgeopt's firmware, and the right baud rate?",
                )  # fmt: skip
            data = self.channel.read(clock.left_s)
            if not data:
                if clock.left_s > 0.0:
                    continue
                return None
            self._waiting += data


def _message(payload: str) -> dict[str, object] | None:
    """The JSON object of a payload; None if it is something else."""
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _last(payload: str, message: dict[str, object] | None, where: str) -> str:
    """The last line of an answer, if it is a good end.

    Raises:
        BoardCommandFailed: it reports an error.
        BoardError: it is not a JSON object.
    """
    if message is None:
        raise BoardError(
            f"answers something other than a JSON object: {payload[:80]!r}", where=where,
            hint="the firmware and this edgeopt may be of different versions",
        )  # fmt: skip
    if "error" in message:
        raise BoardCommandFailed(
            f"the firmware reports: {printable(str(message['error']))[:400]}", where=where,
            hint="see the firmware's requests in docs/boards.md",
        )  # fmt: skip
    return payload

"""The line protocol and the links that speak it, against firmware under emulation."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from edgeopt import devices
from edgeopt.codegen.toolchain import STRICT_FLAGS
from edgeopt.core.errors import (
    BoardCommandFailed,
    BoardError,
    BoardLost,
    BoardTimeout,
    BoardUnreachable,
    InputError,
    ToolError,
)
from edgeopt.devices.transports import FirmwareLink, conversation, open_firmware_link, process
from edgeopt.devices.transports.conversation import Conversation, crc16, frame, parse
from edgeopt.devices.transports.qemu_system import PipeChannel, QemuSystemLink, command
from edgeopt.devices.transports.serial import SerialLink

FIRMWARE = Path(__file__).parent / "firmware"
RUNTIME = Path(__file__).parents[2] / "edgeopt" / "codegen" / "runtime"
NeedsTool = Callable[[str], str]
DONE = '{"done": true}'


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory, needs_tool: NeedsTool) -> Path:
    """The test firmware for mps2-an386."""
    output = tmp_path_factory.mktemp("firmware") / "firmware.elf"
    subprocess.run(
        [needs_tool("arm-none-eabi-gcc"), "-mcpu=cortex-m4", "-mthumb", "-Os", *STRICT_FLAGS,
         "-ffreestanding", "-nostartfiles", f"-I{RUNTIME}", "-T", str(FIRMWARE / "link.ld"),
         str(FIRMWARE / "mps2.c"), str(FIRMWARE / "main.c"), str(RUNTIME / "edgeopt_line.c"),
         "-o", str(output)],
        check=True,
    )  # fmt: skip
    return output


@pytest.fixture(scope="session")
def host_program(tmp_path_factory: pytest.TempPathFactory, needs_tool: NeedsTool) -> Path:
    """The same firmware for this machine, with the sanitizers."""
    output = tmp_path_factory.mktemp("firmware") / "firmware"
    subprocess.run(
        [needs_tool("gcc"), "-O1", "-g", *STRICT_FLAGS, "-D_POSIX_C_SOURCE=200809L",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{RUNTIME}",
         str(FIRMWARE / "host.c"), str(FIRMWARE / "main.c"), str(RUNTIME / "edgeopt_line.c"),
         "-o", str(output)],
        check=True,
    )  # fmt: skip
    return output


@contextlib.contextmanager
def emulated(image: Path, needs_tool: NeedsTool) -> Iterator[tuple[FirmwareLink, Path | None]]:
    with open_firmware_link(devices.load("nucleo-l4r5zi")) as link:
        yield link, image


@contextlib.contextmanager
def on_a_pty(image: Path, needs_tool: NeedsTool) -> Iterator[tuple[FirmwareLink, Path | None]]:
    with board_on_a_pty(image, needs_tool) as (port, _):
        profile = devices.load("nucleo-l4r5zi")
        with open_firmware_link(profile, port=port) as link:
            yield link, None


@contextlib.contextmanager
def board_on_a_pty(
    image: Path, needs_tool: NeedsTool
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    emulator = needs_tool("qemu-system-arm")
    # Its second UART is standard output: there the firmware says that the first one is on.
    argv = command(emulator, "mps2-an386", image, serial="pty", options=("-serial", "stdio"))
    board = process.start(argv, where="board")
    try:
        assert board.stdout is not None
        said = board.stdout.readline().decode()
        found = re.search(r"/dev/pts/\d+", said)
        assert found, said
        assert board.stdout.readline() == b"on\n"
        yield found[0], board
    finally:
        process.end(board)


LINKS = {"qemu_system": emulated, "serial": on_a_pty}


@pytest.fixture(scope="module", params=list(LINKS))
def link(
    request: pytest.FixtureRequest, image: Path, needs_tool: NeedsTool
) -> Iterator[FirmwareLink]:
    needs_tool("qemu-system-arm")
    with LINKS[request.param](image, needs_tool) as (link, given_image):
        first = link.start(given_image)
        assert json.loads(first) == {"bench": 1, "kernels": 0}
        yield link


def lines_of(count: int) -> list[str]:
    return [*(f'{{"line": {i}}}' for i in range(count)), DONE]


def test_answers(link: FirmwareLink) -> None:
    assert list(link.request("lines 200")) == lines_of(200)
    assert list(link.request("lines 0")) == [DONE]
    assert list(link.request('echo - a "b" \\c $(id)')) == [
        '{"words": ["a", "\\"b\\"", "\\\\c", "$(id)"]}', DONE,
    ]  # fmt: skip


def test_equal_lines_are_all_kept(link: FirmwareLink) -> None:
    assert list(link.request("same")) == ['{"same": true}', '{"same": true}', DONE]


def test_the_longest_lines(link: FirmwareLink) -> None:
    words = "x" * (conversation.MAX_PAYLOAD_BYTES - len("echo - "))
    with pytest.raises(BoardCommandFailed, match="the firmware reports: the words do not fit"):
        list(link.request(f"echo - {words}"))
    fitting = "x" * (conversation.MAX_PAYLOAD_BYTES - len('{"words": [""]}'))
    assert next(iter(link.request(f"echo - {fitting}"))) == f'{{"words": ["{fitting}"]}}'
    for line in ("echo " + words + "xxx", "", "a\nb", "é", "a\x1b"):
        with pytest.raises(InputError, match="cannot be sent as one line"):
            list(link.request(line))


def test_firmware_reports_an_error(link: FirmwareLink) -> None:
    with pytest.raises(BoardCommandFailed, match='the firmware reports: unknown "request"'):
        list(link.request("nonsense"))
    assert list(link.request("lines 1")) == lines_of(1)


@pytest.mark.parametrize(
    "request_line", ["garble-out 1", "garble-out 2", "garble-in 1", "garble-in 2"]
)
def test_garbled_lines_are_asked_for_again(link: FirmwareLink, request_line: str) -> None:
    assert list(link.request(request_line)) == lines_of(3)


def test_a_stray_line_is_not_taken_for_an_answer(link: FirmwareLink) -> None:
    assert list(link.request("mumble")) == lines_of(2)


def test_lines_garbled_for_good(link: FirmwareLink) -> None:
    with pytest.raises(BoardError, match="a line was garbled 3 times") as caught:
        list(link.request("garble-out 100000"))
    assert "cable" in caught.value.hint


def test_a_request_that_is_garbled_is_sent_again(link: FirmwareLink) -> None:
    with contextlib.suppress(BoardError):  # left over from a test of garbled lines
        list(link.request("lines 1"))
    assert list(link.request("deaf 1")) == [DONE]
    assert list(link.request("lines 2")) == lines_of(2)


def test_an_abandoned_answer(link: FirmwareLink) -> None:
    answer = link.request("lines 1000")
    assert next(answer) == '{"line": 0}'
    assert next(answer) == '{"line": 1}'
    answer.close()  # type: ignore[attr-defined]
    assert list(link.request("lines 3")) == lines_of(3)
    assert list(link.request("lines 3")) == lines_of(3)


def test_an_answer_that_is_not_json(link: FirmwareLink) -> None:
    with pytest.raises(BoardError, match="answers something other than a JSON object: 'not JSON'"):
        list(link.request("text"))
    assert list(link.request("lines 1")) == lines_of(1)


@pytest.fixture
def fresh(image: Path, needs_tool: NeedsTool) -> Iterator[FirmwareLink]:
    needs_tool("qemu-system-arm")
    with open_firmware_link(devices.load("nucleo-l4r5zi")) as link:
        link.start(image)
        yield link


def test_firmware_that_hangs(fresh: FirmwareLink, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = fresh.request("hang", idle_s=0.5)
    assert next(answer) == '{"before": true}'
    with pytest.raises(BoardTimeout, match=r"was silent for 0\.5 s"):
        next(answer)
    monkeypatch.setattr(conversation, "ACKNOWLEDGE_S", 0.3)
    with pytest.raises(BoardTimeout, match="did not acknowledge the request, sent 3 times"):
        list(fresh.request("info"))


def test_firmware_that_babbles(fresh: FirmwareLink) -> None:
    with pytest.raises(BoardError, match="sends 64 KiB without a line of the protocol"):
        list(fresh.request("babble"))


def test_the_emulator_dies(fresh: QemuSystemLink) -> None:
    answer = fresh.request("hang")
    next(answer)
    assert fresh._channel is not None
    fresh._channel.emulator.kill()
    with pytest.raises(BoardLost, match="the emulator ended"):
        next(answer)
    fresh.close()
    with pytest.raises(BoardLost, match="no firmware runs"):
        list(fresh.request("info"))


def test_the_cable_is_pulled(image: Path, needs_tool: NeedsTool) -> None:
    with board_on_a_pty(image, needs_tool) as (port, board), SerialLink(port) as link:
        link.connect()
        link.start()
        answer = link.request("lines 100000")
        next(answer)
        board.kill()
        board.wait()
        with pytest.raises(BoardLost, match="the serial port is gone") as caught:
            for _ in answer:
                pass
        assert "--resume" in caught.value.hint


def test_two_profilers_refuse_each_other(image: Path, needs_tool: NeedsTool) -> None:
    with board_on_a_pty(image, needs_tool) as (port, _), SerialLink(port) as link:
        link.connect()
        with pytest.raises(BoardUnreachable, match="another program uses it"):
            SerialLink(port).connect()
        link.start()
        assert list(link.request("lines 2")) == lines_of(2)


def test_a_port_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = os.openpty()
    try:
        with SerialLink(os.ttyname(terminal)) as link:
            link.connect()
            talk = link._open()
            with pytest.raises(BoardTimeout, match=r"the firmware says nothing after 0\.4 s"):
                talk.hello(0.4)
            os.write(main, b"U-Boot 2024.01\r\nlogin: \n")
            with pytest.raises(BoardTimeout, match="something else than its line protocol"):
                talk.hello(0.4)
    finally:
        os.close(main)
        os.close(terminal)


def test_ports_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = devices.load("nucleo-l4r5zi")
    with pytest.raises(BoardUnreachable, match="cannot open the port: No such file") as caught:
        open_firmware_link(profile, port="/dev/ttyNOWHERE")
    assert "port" in caught.value.hint
    with pytest.raises(InputError, match="which serial port is the board on"):
        open_firmware_link(profile, transport="serial")
    with pytest.raises(InputError, match="is not a serial port"):
        open_firmware_link(profile, port="-x")

    def refuse(*args: object, **named: object) -> None:
        raise serial.SerialException(errno.EACCES, "could not open port")

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(BoardUnreachable, match="Permission denied") as caught:
        open_firmware_link(profile, port="/dev/ttyACM0")
    assert "dialout" in caught.value.hint


def test_what_a_link_to_firmware_cannot_start(image: Path, needs_tool: NeedsTool) -> None:
    needs_tool("qemu-system-arm")
    with pytest.raises(InputError, match="firmware cannot be flashed over this line") as caught:
        SerialLink("/dev/null").start(image)
    assert "flash firmware.elf" in caught.value.hint
    with pytest.raises(BoardLost, match="the port is closed"):
        SerialLink("/dev/null").start()
    link = open_firmware_link(devices.load("nucleo-l4r5zi"))
    with pytest.raises(InputError, match="has no firmware of its own"):
        link.start()
    with pytest.raises(InputError, match="cannot read the file to push"):
        link.start(Path("/nowhere.elf"))
    with pytest.raises(BoardUnreachable, match="the emulator ended: "):
        link.start(Path(__file__))  # no firmware at all
    with pytest.raises(ToolError, match="qemu-nowhere is not installed"):
        from dataclasses import replace

        profile = devices.load("nucleo-l4r5zi")
        runner = replace(profile.runner, program="qemu-nowhere")
        open_firmware_link(replace(profile, runner=runner))


class Noisy:
    """A channel that flips bits, both ways, in a share of the lines."""

    def __init__(self, channel: PipeChannel, seed: int, share: float) -> None:
        self.channel, self.random, self.share = channel, random.Random(seed), share

    def _spoil(self, data: bytes) -> bytes:
        spoilt = bytearray(data)
        for i in range(len(spoilt)):
            if self.random.random() < self.share:
                spoilt[i] ^= 1 << self.random.randrange(7)
        return bytes(spoilt)

    def read(self, timeout_s: float) -> bytes:
        return self._spoil(self.channel.read(timeout_s))

    def write(self, data: bytes) -> None:
        self.channel.write(self._spoil(data))


@pytest.mark.parametrize("seed", range(12))
def test_noise_never_changes_an_answer(
    host_program: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is yielded is a prefix of the truth, however bad the line; the firmware survives."""
    monkeypatch.setattr(conversation, "ACKNOWLEDGE_S", 0.05)
    monkeypatch.setattr(conversation, "AGAIN_S", 0.02)
    board = process.start([str(host_program)], where="board", stdin=subprocess.PIPE)
    try:
        channel = PipeChannel(board, "board")
        noisy = Conversation(Noisy(channel, seed, 0.002), "noisy board")
        for _ in range(10):
            got: list[str] = []
            try:
                for line in noisy.request("lines 20", idle_s=0.05):
                    got.append(line)
            except BoardError:
                assert got == lines_of(20)[: len(got)]
            else:
                assert got == lines_of(20)
        assert list(Conversation(channel, "board").request("lines 20")) == lines_of(20)
    finally:
        process.end(board)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=505))
def test_frames_read_back(payload: str) -> None:
    line = frame(payload)
    assert len(line) <= conversation.MAX_LINE_BYTES
    assert parse(line[:-1]) == (payload, "*")


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=100),
    st.data(),
)
def test_a_wrong_bit_is_noticed(payload: str, data: st.DataObject) -> None:
    line = bytearray(frame(payload)[:-1])
    bit = data.draw(st.integers(0, 8 * len(line) - 1))
    line[bit // 8] ^= 1 << (bit % 8)
    assert parse(bytes(line)) is None


def test_checksum_of_the_standard_text() -> None:
    assert crc16(b"123456789") == 0x29B1
    assert frame("info") == b"info *92CA\n"


def test_the_lines_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "boards.md").read_text()
    lines = re.findall(r"^    [<>] (.*)$", page, re.MULTILINE)
    assert len(lines) == 6
    assert [line for line in lines if parse(line.encode()) is None] == []


@pytest.mark.parametrize(
    "compiler", ["gcc", "clang", "arm-none-eabi-gcc -mcpu=cortex-m0plus -mthumb"]
)
def test_the_c_side_is_clean(compiler: str, needs_tool: NeedsTool, tmp_path: Path) -> None:
    program, *flags = compiler.split()
    subprocess.run(
        [needs_tool(program), *flags, *STRICT_FLAGS, "-Os", "-c", str(RUNTIME / "edgeopt_line.c"),
         "-o", str(tmp_path / "line.o")],
        check=True,
    )  # fmt: skip

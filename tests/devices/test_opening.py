"""What a user may type for a board, and which link that opens."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt import devices
from edgeopt.core.device import Runner
from edgeopt.core.errors import BoardError, InputError, ToolError
from edgeopt.devices.profile import load_file
from edgeopt.devices.transports import (
    TRANSPORTS,
    Address,
    open_firmware_link,
    open_link,
    opening,
    posix,
    shell,
)
from edgeopt.devices.transports.opening import choose

RPI4 = devices.load("rpi4")
NUCLEO = devices.load("nucleo-l4r5zi")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("board", Address("board")),
        ("pi@192.0.2.7", Address("192.0.2.7", "pi")),
        ("pi@192.0.2.7:2222", Address("192.0.2.7", "pi", 2222)),
        ("pi@[2001:db8::1]:22", Address("2001:db8::1", "pi", 22)),
        ("[fe80::1%eth0]", Address("fe80::1%eth0")),
        ("a.b-c+d@my_board.local", Address("my_board.local", "a.b-c+d")),
        ("tracker:9190/rpi4", Address("tracker", "", 9190, "rpi4")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@given(
    st.from_regex(r"[a-z0-9_][a-z0-9.-]{0,20}", fullmatch=True),
    st.from_regex(r"([a-z_][a-z0-9_]{0,8})?", fullmatch=True),
    st.integers(0, 65535),
)
def test_addresses_read_back(host: str, user: str, port: int) -> None:
    address = Address(host, user, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["-oProxyCommand=id", "pi@-oProxyCommand=id", "-l", "--help"]
)  # fmt: skip
def test_a_host_is_never_an_option(text: str) -> None:
    with pytest.raises(InputError, match="a host cannot start with '-'"):
        open_link(RPI4, host=text)


@pytest.mark.parametrize(
    "text",
    ["", "@", "pi@", "a b", "a;b", "$(id)", "`id`", "a\nb", "a\x1b[2J", "pi@a:b", "é", "a" * 400,
     "a:1:2", "[::1", "a/b/c", "a|b", "x@y@z"],
)  # fmt: skip
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(InputError, match="is not a host") as caught:
        open_link(RPI4, host=text)
    assert caught.value.where == "--host" and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(InputError, match="is not a port"):
        Address.parse(f"board:{port}")


def test_what_was_typed_wins_over_the_profile() -> None:
    adb = dataclasses.replace(RPI4, runner=Runner("adb"))
    assert choose(RPI4) == "qemu_user"
    assert choose(RPI4, host="pi@board") == "ssh"
    assert choose(adb, host="R58M") == "adb"
    assert choose(RPI4, host="board", transport="tvm_rpc") == "tvm_rpc"
    assert choose(NUCLEO) == "qemu_system"
    assert choose(NUCLEO, port="/dev/ttyACM0") == "serial"
    with pytest.raises(InputError, match="--host and --port are two ways to reach a board"):
        choose(RPI4, host="board", port="/dev/ttyACM0")


def test_unknown_transports_name_near_misses() -> None:
    with pytest.raises(InputError, match="unknown transport 'shh'") as caught:
        open_link(RPI4, transport="shh")
    assert "did you mean ssh" in caught.value.hint
    with pytest.raises(InputError, match="unknown transport 'zzzz'") as caught:
        open_link(RPI4, transport="zzzz")
    for name in TRANSPORTS:
        assert name in caught.value.hint


def test_firmware_and_programs_are_kept_apart() -> None:
    with pytest.raises(InputError, match="'serial' reaches firmware, which runs no programs"):
        open_link(NUCLEO, port="/dev/ttyACM0")
    with pytest.raises(InputError, match="'ssh' runs programs; nucleo-l4r5zi has firmware only"):
        open_firmware_link(NUCLEO, host="pi@board")


def test_an_emulator_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="qemu-aarch64 is not installed"):
        open_link(RPI4)
    with pytest.raises(ToolError, match="qemu-system-arm is not installed"):
        open_firmware_link(NUCLEO)
    bare = dataclasses.replace(NUCLEO, runner=Runner("qemu_system"))
    with pytest.raises(InputError, match="the profile names no board that QEMU emulates"):
        open_firmware_link(bare)


def test_transports_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by entry point; one that cannot be loaded is named, with the reason."""
    points = EntryPoints(
        [
            EntryPoint("telepathy", "edgeopt.devices.transports.local:LocalLink", opening.GROUP),
            EntryPoint("broken", "no_such_package:Link", opening.GROUP),
        ]
    )
    monkeypatch.setattr(
        opening, "entry_points", lambda **wanted: points.select(**wanted)
    )  # fmt: skip
    assert opening.names() == (*TRANSPORTS, "broken", "telepathy")
    with open_link(RPI4, transport="telepathy") as link:
        assert list(link.run(["echo", "x"])) == ["x"]
    with pytest.raises(
        InputError, match=r"'broken' .* cannot be loaded: No module named"
    ) as caught:
        open_link(RPI4, transport="broken")
    assert caught.value.where == "no_such_package:Link"


def test_transports_that_are_in_the_table_are_there() -> None:
    for name in TRANSPORTS:
        assert callable(opening._load(name).open)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    folder = tmp_path / "board"
    folder.mkdir()
    text = (devices.shipped_dir() / "rpi4" / "profile.toml").read_text()
    (folder / "profile.toml").write_text(text.replace('name = "rpi4"', 'name = "board"'))
    return folder / "profile.toml"


def test_a_profile_may_say_where_the_board_is(board: Path) -> None:
    text, _, _ = board.read_text().partition("[runner]")
    board.write_text(
        text + '[runner]\ntransport = "ssh"\nhost = "pi@192.0.2.7:2222"\n'
        'python = "/home/pi/venv/bin/python3"\n'
    )
    runner = load_file(board).runner
    assert (runner.transport, runner.host) == ("ssh", "pi@192.0.2.7:2222")
    assert runner.python == "/home/pi/venv/bin/python3"
    board.write_text(
        text + '[runner]\ntransport = "serial"\nport = "/dev/ttyUSB0"\nbaud = 921600\n'
    )
    runner = load_file(board).runner
    assert (runner.port, runner.baud) == ("/dev/ttyUSB0", 921600)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('host = "-oProxyCommand=id"', "is not a host like"),
        ('host = "a b"', "is not a host like"),
        ('port = "$(id)"', "is not a serial port like"),
        ("baud = -1", "-1 is not between"),
        ('python = "python3; id"', "is not the path of a Python"),
        ('password = "secret"', "unknown key 'runner.password'"),
        ('transport = "shh"', "unknown value 'shh'"),
    ],
)
def test_mistakes_in_a_profile(board: Path, line: str, what: str) -> None:
    text, _, _ = board.read_text().partition("[runner]")
    start = "" if line.startswith("transport") else 'transport = "ssh"\n'
    board.write_text(f"{text}[runner]\n{start}{line}\n")
    with pytest.raises(InputError, match=what):
        load_file(board)


def test_facts_that_are_nonsense() -> None:
    lines = ["machine=aarch64", "cores=-3", "memory_kib=999999999999999999999", "cpu=", "x" * 500,
             "kernel=6.1\ufffd", "cores=4"]  # fmt: skip
    facts = posix.parse_facts(lines, where="board")
    assert (facts.machine, facts.cores, facts.memory_bytes, facts.cpu) == (
        "aarch64",
        None,
        None,
        None,
    )
    with pytest.raises(BoardError, match="does not say what machine it is"):
        posix.parse_facts(["hello"], where="board")


def test_the_line_for_a_login_shell_quotes_everything() -> None:
    import shlex

    arguments = ["a b", "it's", "$(id)", "", "\n", "-x"]
    words = shlex.split(shell.script_line('echo "$1"', arguments))
    assert words == ["exec", "sh", "-c", 'echo "$1"', "sh", *arguments]

"""End to end on a board: an arm64 computer under QEMU, reached over ssh, measured by both meters.

It fetches Debian packages once (about 350 MB unpacked) and takes many minutes, so it is asked for:

    EDGEOPT_BOARD_TESTS=1 python -m pytest tests/board
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import arm64_board
import pytest
from typer.testing import CliRunner

from edgeopt import devices
from edgeopt.cli.main import app
from edgeopt.core.errors import BoardLost
from edgeopt.devices.transports import open_link, posix, ssh
from edgeopt.latency import protocol
from edgeopt.latency.meters import session
from edgeopt.latency.table import load_table

pytestmark = [
    pytest.mark.board,
    pytest.mark.skipif(
        os.environ.get("EDGEOPT_BOARD_TESTS") != "1",
        reason="boots an emulated board for many minutes: set EDGEOPT_BOARD_TESTS=1",
    ),
]
ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "devices" / "board_program.c"


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """An emulated board takes its time over key exchange, and a minute to start Python.

    Its times mean nothing, so that no visit is repeated for them.
    """
    quick = protocol.Protocol(spread=1.0, drift=1e9, max_settle=3, max_windows=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssh, "CONNECT_S", 600.0)
        patch.setattr(ssh, "KEEPALIVE_S", 120.0)
        patch.setattr(posix, "FACTS_IDLE_S", 900.0)
        patch.setattr(session, "IDLE_S", 900.0)
        patch.setattr(protocol, "Protocol", lambda: quick)
        yield


@pytest.fixture(scope="module")
def board(
    tmp_path_factory: pytest.TempPathFactory, needs_tool: Callable[[str], str]
) -> Iterator[arm64_board.Board]:
    with arm64_board.running(tmp_path_factory.mktemp("board"), needs_tool) as board:
        yield board


def test_it_is_an_arm64_computer(board: arm64_board.Board) -> None:
    with open_link(devices.load("rpi4"), host=board.host) as link:
        facts = link.facts()
        assert (facts.machine, facts.cores) == ("aarch64", 2)
        assert facts.libc and facts.libc.startswith("glibc")
        assert facts.python3 == "/usr/bin/python3" and facts.onnxruntime
        assert "0xd08" in (link.read_text("/proc/cpuinfo") or "")
        assert link.read_text("/sys/class/thermal/thermal_zone0/temp") is None


def test_a_program_for_it(
    board: arm64_board.Board, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    compiler = needs_tool("aarch64-linux-gnu-gcc")
    program = tmp_path / "program"
    subprocess.run([compiler, "-O1", "-static", "-o", program, PROGRAM], check=True)
    with open_link(devices.load("rpi4"), host=board.host) as link:
        path = link.push(program, "program", executable=True)
        assert list(link.run([path, "args", "a b", "$(id)", '"'])) == ["a b", "$(id)", '"']
        folder = path.rpartition("/")[0]
        assert list(link.run(["stat", "-c", "%a %U", folder])) == ["700 pi"]


@pytest.mark.parametrize("meter", ["tvm", "ort"])
def test_profile(
    board: arm64_board.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meter: str
) -> None:
    """One network's kernels, from the command line, as a user would."""
    shutil.copy(ROOT / "tests" / "models" / "tiny_cnn.onnx", tmp_path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app,
        ["profile", "tiny_cnn.onnx", "--device", "rpi4", "--host", board.host, "--meter", meter,
         "--space", "", "--precision", "fp32", "--networks", "0", "--held-out", "0", "--no-tiles",
         "--json", "--out", "table.json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.exception or done.output
    table = load_table(tmp_path / "table.json")
    assert table.device == "rpi4"
    assert len(table.entries) >= 3
    assert all(entry.median_ns > 0 for entry in table.entries.values())
    with open_link(devices.load("rpi4"), host=board.host) as link:
        assert list(link.run(["sh", "-c", "ls -d /tmp/edgeopt-*"])) == [link.work]  # type: ignore


def test_the_plug_is_pulled(board: arm64_board.Board, monkeypatch: pytest.MonkeyPatch) -> None:
    link = open_link(devices.load("rpi4"), host=board.host)
    lines = link.run(["sh", "-c", "echo before; sleep 600"])
    assert next(lines) == "before"
    board.emulator.kill()
    with pytest.raises(BoardLost):
        next(lines)
    link.close()

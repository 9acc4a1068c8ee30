"""Profiling over a real sshd on loopback: a new profile, both meters, a cable that is pulled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "devices"))
from rigs import SshBoard, ssh_board, wait_for_port

from edgeopt import devices
from edgeopt.devices.transports import Link, open_link
from edgeopt.latency import protocol
from edgeopt.latency.meters.program import ProgramMeter
from edgeopt.latency.meters.session import BoardProgram, Session
from edgeopt.latency.meters.steady import Recovery, SteadyMeter
from edgeopt.latency.protocol import profile_device
from edgeopt.latency.table import load_table
from edgeopt.pipeline.boards import Reach
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.enumerate import kernels_of_models
from edgeopt.pipeline.kernel_programs import KernelPrograms
from edgeopt.pipeline.new_profile import write_new_profile
from edgeopt.pipeline.profile import ProfileRequest, profile

MODEL = Path(__file__).resolve().parents[1] / "models" / "tiny_cnn.onnx"
QUICK = protocol.Protocol(spread=1.0, drift=1e9, max_settle=3, max_windows=3)


@pytest.fixture
def board(tmp_path: Path, needs_tool: Callable[[str], str]) -> Iterator[SshBoard]:
    with ssh_board(tmp_path, needs_tool) as found:
        yield found


@pytest.mark.slow
def test_a_new_board_is_described_and_measured(
    board: SshBoard, tmp_path: Path, stage_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(stage_cache))
    monkeypatch.setattr(protocol, "Protocol", lambda: QUICK)
    new = write_new_profile(Reach(host=board.host), name="over-ssh", out=tmp_path)
    assert new.profile.runner.transport == "ssh" and new.profile.runner.host == board.host
    assert new.profile.mcpu == devices.load("local").mcpu and not new.guessed
    text = new.path.read_text()
    new.path.write_text(text + f'python = "{sys.executable}"\n')
    for runtime, kernels in (("edgeopt", 6), ("onnxruntime", 5)):
        report = profile(
            ProfileRequest(
                device=str(new.path), space="", models=(MODEL,), precisions=("f32",),
                reach=Reach(host=board.host), runtime=runtime, networks=0, tiles=False,
                out=tmp_path / f"{runtime}.latency.jsonl",
            )
        )  # fmt: skip
        table = load_table(report.path)
        assert len(table.entries) == kernels and table.device == "over-ssh"
        assert table.conditions["board"].startswith("ssh ")


@pytest.mark.slow
def test_a_cable_that_is_pulled_loses_nothing(
    board: SshBoard, tmp_path: Path, stage_cache: Path
) -> None:
    local = devices.load("local")
    built: list[Path] = []

    class Kept:
        def __init__(self, path: Path) -> None:
            built.append(path)

    programs = KernelPrograms(
        local, (), tmp_path, StageCache(stage_cache), static=True, runs=Kept,  # type: ignore[arg-type]
    )  # fmt: skip
    keys = [k for k, kernel in kernels_of_models([MODEL], ["f32"]).items() if not kernel.payload]
    programs.bench(keys)
    servers: list[subprocess.Popen[bytes]] = []

    def connect() -> Link:
        if board.server.poll() is not None:  # it comes back, as after a restart
            again = subprocess.Popen(board.server.args, stderr=subprocess.DEVNULL)
            servers.append(again)
            wait_for_port(board.port, again)
            board.server = again
        return open_link(local, host=board.host)

    session = Session(connect)
    runs = 0

    class Pulled(BoardProgram):
        def run(self, args: Sequence[str]) -> Iterator[str]:
            nonlocal runs
            runs += 1
            for number, line in enumerate(super().run(args)):
                if runs in (2, 4) and number == 1:
                    board.vanish()
                    board.server.wait()
                yield line

    meter = SteadyMeter(
        ProgramMeter(
            lambda keys: (Pulled(session, built[0]), {}), "1", samples=3, min_us=1, together=True
        ),
        Recovery(session.recover, sleep=lambda seconds: None),
    )
    result = profile_device(local, keys, meter, tmp_path / "journal", protocol=QUICK)
    session.close()
    board.vanish()
    board.server.wait()
    assert len(servers) == 2 and set(result.table.entries) == set(keys)
    assert not result.skipped and "the connection was made again" in result.events

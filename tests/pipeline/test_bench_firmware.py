"""Bench firmware: the same counts by its own counter as by the emulator's, and over a pty."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_firmware import need_machine, request, small_net

from edgeopt import devices
from edgeopt.codegen import firmware as built
from edgeopt.codegen import testvectors
from edgeopt.codegen.machines import machine_for
from edgeopt.core.errors import BoardError
from edgeopt.core.estimates import Source
from edgeopt.devices.transports import process, qemu_system
from edgeopt.pipeline import bench_firmware, firmware
from edgeopt.pipeline.bundle import read_files
from edgeopt.pipeline.compile import compile_network

DEVICE = "nucleo-l4r5zi"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, needs_tool: Callable[[str], str]) -> Path:
    need_machine(machine_for(devices.load(DEVICE)), needs_tool)
    folder = tmp_path_factory.mktemp("bench")
    model = folder / "small.onnx"
    model.write_bytes(small_net().SerializeToString(deterministic=True))
    compile_network(request(model, folder / "bundle", DEVICE, name="eye"))
    return folder / "bundle"


@pytest.fixture
def on_a_pty(bundle: Path, tmp_path: Path) -> Iterator[str]:
    """The bundle's bench firmware on an emulated board whose UART is a pseudo-terminal."""
    board = firmware.board_of(devices.load(DEVICE))
    manifest, files = read_files(bundle)
    vectors = testvectors.load(files, "bundle")
    net = built.of_bundle(manifest.name, files, vectors, len(manifest.kernels))
    image = built.build_bench(files, net, board.machine, board.compiler, tmp_path)
    emulator = shutil.which(board.machine.qemu[0])
    assert emulator is not None
    command = qemu_system.command(
        emulator, board.machine.board, image, serial="pty", options=bench_firmware.CLOCK
    )
    started = process.start(command, where="test")
    try:
        assert started.stdout is not None
        said = ""
        while (found := re.search(r"redirected to (/dev/pts/\d+)", said)) is None:
            assert select.select([started.stdout], [], [], 20)[0], said
            said += os.read(started.stdout.fileno(), 4096).decode()
        yield found[1]
    finally:
        process.end(started)


def test_the_firmware_counts_what_the_emulator_counts(bundle: Path) -> None:
    manifest, _ = read_files(bundle)
    found = bench_firmware.bench_firmware(bundle, runs=2, kernels=True)
    exact = manifest.figure("instructions")
    assert exact is not None
    assert found.unit == "instructions" and found.source is Source.SIMULATED
    assert found.count == pytest.approx(exact.value, rel=0.01)
    assert found.low_ns < found.time_ns < found.high_ns
    assert found.self_test is True and found.runs == 2
    assert [kernel.name for kernel in found.kernels] == [k.name for k in manifest.kernels]
    assert sum(kernel.share for kernel in found.kernels) == pytest.approx(1)
    slowest = max(found.kernels, key=lambda kernel: kernel.count)
    wanted = next(k for k in manifest.kernels if k.name == slowest.name)
    assert slowest.time_ns == pytest.approx(wanted.latency_ns, rel=0.01)


def test_a_serial_port_gives_cycles_that_were_measured(bundle: Path, on_a_pty: str) -> None:
    pytest.importorskip("serial")
    done = subprocess.run(
        [sys.executable, "-m", "edgeopt.cli.main", "bench", str(bundle), "--port", on_a_pty,
         "--runs", "3", "--kernels", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["unit"], found["source"], found["counter"]) == ("cycles", "measured", "systick")
    assert found["self_test"] is True and found["runs"] == 3
    clock_hz = devices.load(DEVICE).clock_hz
    assert clock_hz is not None
    assert found["time_ns"] == pytest.approx(1e9 * found["count"] / clock_hz)
    assert found["low_ns"] == found["high_ns"] == found["time_ns"]
    assert len(found["kernels"]) == len(read_files(bundle)[0].kernels)


def test_firmware_of_another_bundle_is_refused(bundle: Path, on_a_pty: str, tmp_path: Path) -> None:
    pytest.importorskip("serial")
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    text = (other / "manifest.json").read_text().replace('"name": "eye"', '"name": "ear"')
    (other / "manifest.json").write_text(text)
    with pytest.raises(BoardError, match=r"runs firmware of 'eye' .* not of 'ear'") as caught:
        bench_firmware.bench_firmware(other, port=on_a_pty)
    assert "flash the bench firmware" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "said 'not json' where JSON was expected"),
        ('{"run": 0, "cycles": []}', r"counted \[\] in answer"),
        ('{"run": 0, "cycles": [0]}', r"counted \[0\] in answer"),
        ('{"run": 0, "cycles": [-4]}', r"counted \[-4\] in answer"),
        ('{"run": 0}', "counted None in answer"),
    ],
)
def test_a_board_that_lies_is_named(line: str, message: str) -> None:
    class Liar:
        name = "serial /dev/null"

        def request(self, line_: str, **_: object) -> Iterator[str]:
            return iter([line, '{"done": true}'])

    with pytest.raises(BoardError, match=message):
        bench_firmware._answers(Liar(), "run", "cycles")  # type: ignore[arg-type]

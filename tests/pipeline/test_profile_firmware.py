"""Tables of microcontrollers: counted under emulation, or timed by the board over a serial port."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_firmware import need_machine, small_net

from edgeopt import devices
from edgeopt.codegen import bench_firmware as codegen
from edgeopt.codegen.machines import machine_for
from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.estimates import Source
from edgeopt.core.kernels import OpKey
from edgeopt.core.space import parse_space
from edgeopt.devices.transports import open_firmware_link, process, qemu_system
from edgeopt.latency.table import load_table
from edgeopt.pipeline import firmware, firmware_meter
from edgeopt.pipeline.bench_firmware import CLOCK
from edgeopt.pipeline.boards import Reach
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.firmware_meter import Simulated
from edgeopt.pipeline.local_table import model_for
from edgeopt.pipeline.profile import ProfileRequest, profile
from edgeopt.pipeline.profile_firmware import SerialCounter
from tests.ofa.conftest import TINY

DEVICE = "nucleo-l4r5zi"


def i8(op: str, *args: object, **more: object) -> OpKey:
    return OpKey(op, *args, dtype="i8", out_dtype="i8", **more)  # type: ignore[arg-type]


SMALL = i8("pointwise", (4, 4, 8), (4, 4, 8))
TWICE = i8("pointwise", (8, 4, 8), (8, 4, 8))
DEPTHWISE = i8("depthwise", (6, 6, 8), (6, 6, 8), kernel=(3, 3), pads=(1, 1, 1, 1), groups=8)
KEYS = (SMALL, TWICE, DEPTHWISE)


@pytest.fixture(scope="module")
def board(needs_tool: Callable[[str], str]) -> firmware.Board:
    need_machine(machine_for(devices.load(DEVICE)), needs_tool)
    return firmware.board_of(devices.load(DEVICE))


def test_counts_are_exact_kept_and_become_time(board: firmware.Board, tmp_path: Path) -> None:
    store = StageCache(tmp_path)
    told: list[tuple[int, int]] = []
    meter = firmware_meter.emulated_meter(board, store, lambda *done: told.append(done))
    odd = OpKey("pointwise", (4, 4, 8), (4, 4, 8))  # floats: no such kernel
    huge = i8("add", (2048, 2048, 1), (2048, 2048, 1), inputs=2)
    failed = meter.prepare((*KEYS, odd, huge))
    assert "has no kernel for pointwise of f32" in failed[odd]
    assert re.search(r"arguments take [\d,]+ bytes, mps2-an386 has", failed[huge])
    assert told == [(5, 5)]
    counts = {key: meter.counts[key][0] for key in KEYS}
    assert 1.6 < counts[TWICE] / counts[SMALL] < 2.4
    # From the store: nothing is built any more, which a broken compiler shows.
    broken = replace(board, compiler=replace(board.compiler, argv=("/nonexistent",)))
    again, _ = firmware_meter.EmulatedCounter(broken, store)(KEYS)
    assert {key: values[0] for key, values in again.items()} == counts
    cycles = board.profile.cycles_per_instruction
    assert cycles is not None
    (window,) = meter.visit([SMALL])
    assert window.samples_ns == (pytest.approx(counts[SMALL] * cycles.mean / 0.12),)
    with pytest.raises(InputError, match="was not counted"):
        list(meter.visit([odd]))


def test_batches_count_the_same_one_by_one_and_at_a_time(board: firmware.Board) -> None:
    told: list[tuple[int, int]] = []
    several = firmware_meter.emulated_meter(board, progress=lambda *done: told.append(done))
    several.batch, several.workers = 1, 3
    one = firmware_meter.emulated_meter(board)
    one.batch, one.workers = 1, 1
    assert not several.prepare(KEYS) and not one.prepare(KEYS)
    assert several.counts == one.counts and told == [(1, 3), (2, 3), (3, 3)]


def test_a_mixed_search_counts_packed_kernels_once(
    board: firmware.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path))
    space = parse_space(TINY)
    int8 = model_for(board.profile, space=space)
    (path,) = tmp_path.rglob(f"{board.profile.name}*.jsonl")
    assert not any(key.weight_bits for key in load_table(path).entries)
    both = model_for(board.profile, space=space, packed=True)
    entries = load_table(path).entries
    packed = [key for key in entries if key.weight_bits]
    assert {key.weight_bits for key in packed} == {2, 4}
    assert all(replace(key, weight_bits=0) in entries for key in packed)
    counted = both.predict_each(packed)
    assert {e.source for e in counted} == {Source.SIMULATED}
    followed = int8.predict_each(packed)  # from int8 kernels
    assert {e.source for e in followed} == {Source.ESTIMATED}
    ratios = [guess.value / exact.value for exact, guess in zip(counted, followed, strict=True)]
    assert 0.7 < statistics.median(ratios) < 1.4
    written = path.stat().st_mtime_ns
    model_for(board.profile, space=space, packed=True)
    model_for(board.profile, space=space)
    short = model_for(board.profile.compacted(), space=space, packed=True)  # as with --flash
    assert path.stat().st_mtime_ns == written
    slower = [
        few.value / one.value for few, one in zip(short.predict_each(packed), counted, strict=True)
    ]
    assert len(set(map("{:.6f}".format, slower))) == 1 and 1 < slower[0] < 1.2


def test_a_mixed_search_keeps_what_a_table_has(
    board: firmware.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path))
    space = parse_space(TINY)
    model_for(board.profile, space=space)
    (path,) = tmp_path.rglob(f"{board.profile.name}*.jsonl")
    counted = load_table(path)
    other = i8("pointwise", (3, 3, 24), (3, 3, 40))  # of another network
    assert other not in counted.entries
    more = replace(
        counted, entries={**counted.entries, other: next(iter(counted.entries.values()))}
    )
    more.save(path)
    model_for(board.profile, space=space, packed=True)
    both = load_table(path)
    assert other in both.entries and any(key.weight_bits for key in both.entries)
    # Times of a real board are worth more than counts, and are not replaced by them.
    replace(counted, source=Source.MEASURED).save(path)
    measured = path.read_bytes()
    model_for(board.profile, space=space, packed=True)
    assert path.read_bytes() == measured


def test_a_profile_of_a_model_is_simulated_and_says_so(
    board: firmware.Board, tmp_path: Path
) -> None:
    model = tmp_path / "small.onnx"
    model.write_bytes(small_net().SerializeToString(deterministic=True))
    request = ProfileRequest(
        device=DEVICE, space="", models=(model,), out=tmp_path / "table", cache=False
    )
    report = profile(request)
    table = load_table(tmp_path / "table")
    assert table.source is Source.SIMULATED and len(table.entries) == report.measured >= 6
    assert table.conditions["cycles_per_instruction"] == "1.52 (1.38 to 1.72)"
    assert "mps2-an386" in table.conditions["emulated"]
    assert not report.skipped
    from edgeopt.latency.model import TableModel

    predicted = Simulated(TableModel(table), board.profile)
    keys = list(table.entries)
    found = predicted.predict(keys)
    assert found.source is Source.SIMULATED and found.coverage == 1.0
    assert found.value == pytest.approx(sum(e.median_ns for e in table.entries.values()), rel=1e-3)
    assert found.low == pytest.approx(found.value * 1.38 / 1.52)
    assert found.high == pytest.approx(found.value * 1.72 / 1.52)
    other = predicted.predict([i8("pointwise", (5, 5, 16), (5, 5, 24))])
    assert other.source is Source.ESTIMATED and other.low < other.value < other.high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": "onnxruntime"}, "onnxruntime does not run on nucleo-l4r5zi"),
        ({"space": ""}, "there is nothing to measure"),
        ({"precisions": ("f32",)}, "has no f32 kernels"),
    ],
)
def test_what_firmware_has_no_use_for_is_refused(
    changes: dict[str, object], message: str, board: firmware.Board, tmp_path: Path
) -> None:
    request = ProfileRequest(device=DEVICE, out=tmp_path / "table", cache=False)
    with pytest.raises(InputError, match=message):
        profile(replace(request, **changes))  # type: ignore[arg-type]


@pytest.fixture
def port(board: firmware.Board, tmp_path: Path) -> Iterator[str]:
    """Bench firmware of `KEYS` on an emulated board, its UART a pseudo-terminal."""
    jobs, _ = firmware_meter.jobs_of(KEYS, board)
    work = tmp_path / "image"
    work.mkdir()
    image, _ = codegen.build_kernels(jobs, board.machine, board.compiler, work, line=True)
    emulator = shutil.which(board.machine.qemu[0])
    assert image is not None and emulator is not None
    command = qemu_system.command(
        emulator, board.machine.board, image.path, serial="pty", options=CLOCK
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


def test_a_board_times_its_own_kernels(board: firmware.Board, port: str, tmp_path: Path) -> None:
    pytest.importorskip("serial")
    with open_firmware_link(board.profile, port=port) as link:
        counter = SerialCounter(board, link, KEYS, tmp_path / "flash.elf")
        counter.open()
        assert counter.counter == "systick" and not counter.refused
        found, failed = counter(KEYS)
    assert not failed and set(found) == set(KEYS)
    assert all(len(values) == 5 and min(values) > 0 for values in found.values())
    assert min(found[TWICE]) > 1.5 * max(found[SMALL])
    # The image to flash lies where the board's flash is.
    entry = int.from_bytes((tmp_path / "flash.elf").read_bytes()[24:28], "little")
    flash = board.profile.memory()[1]
    assert flash.address <= entry < flash.address + flash.size_bytes


def test_a_board_with_other_firmware_is_told_what_to_flash(
    board: firmware.Board, port: str, tmp_path: Path
) -> None:
    pytest.importorskip("serial")
    request = ProfileRequest(
        device=DEVICE, space="cifar", out=tmp_path / "table", reach=Reach(port=port), cache=False
    )
    with pytest.raises(BoardError, match="does not run the bench firmware of these") as caught:
        profile(request)
    assert f"flash {tmp_path / 'table'}.elf" in caught.value.hint
    assert (tmp_path / "table.elf").read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["no json"], "said 'no json' where JSON was expected"),
        ([json.dumps({"key": SMALL.digest, "cycles": [0]})], r"counted \[0\] for"),
        ([json.dumps({"key": SMALL.digest, "cycles": [True]})], r"counted \[True\] for"),
        ([json.dumps({"key": "ffffffffffff", "cycles": [4]})], r"counted \[4\] for 'ffff"),
        (['{"done": true}'], "left out 1 of 1 kernels"),
    ],
)
def test_a_board_that_lies_is_named(
    lines: list[str], message: str, board: firmware.Board, tmp_path: Path
) -> None:
    class Liar:
        name = "serial /dev/null"

        def request(self, line: str, **_: object) -> Iterator[str]:
            return iter(lines)

    counter = SerialCounter(board, Liar(), KEYS, tmp_path / "flash.elf")  # type: ignore[arg-type]
    with pytest.raises(BoardError, match=message):
        counter([SMALL])

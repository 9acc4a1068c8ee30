"""The measurement protocol: order, stopping, disturbances, and a journal that survives a kill."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from keys import many, table_of, truth_ns

from edgeopt import devices
from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.conditions import Monitor, local_reader
from edgeopt.latency.meters import Window
from edgeopt.latency.meters.replay import ReplayMeter
from edgeopt.latency.protocol import Progress, Protocol, profile_device, summarise

BOARD = devices.load("rpi4")


class NoisyMeter:
    """A machine with known times, noise, and a phase in which everything is slower."""

    runtime, runtime_version, threads = "edgeopt", "1", 1

    def __init__(self, noise: float = 0.0, slow: range = range(0), factor: float = 1.5) -> None:
        self.random = random.Random(3)
        self.noise, self.slow, self.factor = noise, slow, factor
        self.calls = 0
        self.visited: list[tuple[OpKey, ...]] = []

    def prepare(self, keys: Sequence[OpKey]) -> dict[OpKey, str]:
        return {}

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Window]:
        self.calls += 1
        self.visited.append(tuple(keys))
        slowdown = self.factor if self.calls in self.slow else 1.0
        for key in keys:
            shift = 1 + self.random.uniform(-self.noise, self.noise)
            value = truth_ns(key) * shift * slowdown
            yield Window(key, (value, value * 1.001, value * 0.999, value * 40))


def test_medians_are_found_and_outliers_counted(tmp_path: Path) -> None:
    keys = many(30)
    result = profile_device(BOARD, keys, NoisyMeter(), tmp_path / "j")
    assert set(result.table.entries) == set(keys)
    for key, entry in result.table.entries.items():
        assert entry.median_ns == pytest.approx(truth_ns(key), rel=0.01)
        assert (entry.windows, entry.samples, entry.outliers) == (3, 12, 3)
    assert result.table.identity == ("rpi4", BOARD.fingerprint, "edgeopt", "1", 1)
    assert "anchor" in result.table.conditions and "load_average" in result.table.conditions
    assert not (tmp_path / "j").exists()


def test_noise_takes_more_visits_up_to_a_limit(tmp_path: Path) -> None:
    keys = many(8)
    protocol = Protocol(drift=10.0, max_windows=9)
    quiet = profile_device(BOARD, keys, NoisyMeter(0.005), tmp_path / "a", protocol=protocol)
    loud = profile_device(BOARD, keys, NoisyMeter(0.3), tmp_path / "b", protocol=protocol)
    assert all(entry.windows == 3 for entry in quiet.table.entries.values())
    assert max(entry.windows for entry in loud.table.entries.values()) == 9
    assert all(
        e.spread_ns > 0.02 * e.median_ns or e.windows - e.disturbed < 3
        for e in loud.table.entries.values()
        if e.windows == 9
    )  # fmt: skip


def test_kernels_are_interleaved_in_changing_order(tmp_path: Path) -> None:
    keys = many(12)
    meter = NoisyMeter()
    profile_device(BOARD, keys, meter, tmp_path / "j", protocol=Protocol(chunk=12))
    passes = [visit for visit in meter.visited if len(visit) == 12]
    assert len(passes) == 3
    assert all(set(visit) == set(keys) for visit in passes)
    assert len(set(passes)) == 3


def test_disturbed_visits_are_repeated(tmp_path: Path) -> None:
    keys = many(20)
    meter = NoisyMeter(slow=range(6, 9))
    result = profile_device(BOARD, keys, meter, tmp_path / "j", protocol=Protocol(chunk=10))
    assert result.disturbed > 0 and result.drift < 0.1
    for key, entry in result.table.entries.items():
        assert entry.median_ns == pytest.approx(truth_ns(key), rel=0.01)
    assert int(result.table.conditions["disturbed_windows"]) == result.disturbed


def test_a_lasting_slowdown_is_kept_and_reported(tmp_path: Path) -> None:
    meter = NoisyMeter(slow=range(6, 10**6))
    result = profile_device(BOARD, many(20), meter, tmp_path / "j", protocol=Protocol(chunk=10))
    assert result.drift == pytest.approx(0.5, rel=0.05)
    assert float(result.table.conditions["anchor_worst_excess"]) == pytest.approx(0.5, rel=0.05)


def test_budget_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    ticks = iter(range(10**6))
    result = profile_device(
        BOARD, many(30), NoisyMeter(), tmp_path / "j", budget_s=4.0,
        protocol=Protocol(chunk=5), clock=lambda: float(next(ticks)),
    )  # fmt: skip
    assert len(result.unfinished) == 30 and not result.table.entries
    assert (tmp_path / "j").exists()
    again = profile_device(BOARD, many(30), NoisyMeter(), tmp_path / "j", resume=True)
    assert not again.unfinished and len(again.table.entries) == 30


def test_a_machine_that_never_settles_leaves_most_of_the_budget_to_kernels(tmp_path: Path) -> None:
    now = 0.0
    meter = NoisyMeter(0.5)
    take = meter.visit

    def visit(keys: Sequence[OpKey]) -> Iterator[Window]:
        nonlocal now
        now += 1.0
        return take(keys)

    meter.visit = visit  # type: ignore[method-assign]
    profile_device(
        BOARD, many(4), meter, tmp_path / "j", budget_s=50.0, clock=lambda: now,
        protocol=Protocol(drift=0.01),
    )  # fmt: skip
    first = next(n for n, keys in enumerate(meter.visited) if len(keys) > 1)
    assert 3 <= first <= 11 and now <= 53


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[Progress] = []
    profile_device(BOARD, many(10), NoisyMeter(), tmp_path / "j", progress=seen.append)
    assert (seen[-1].done, seen[-1].total) == (10, 10)
    assert [p.windows for p in seen] == sorted(p.windows for p in seen)


def test_what_cannot_be_measured_is_listed(tmp_path: Path) -> None:
    keys = many(10)
    meter = ReplayMeter(table_of(keys[:6]))
    result = profile_device(BOARD, keys, meter, tmp_path / "j")
    assert dict(result.skipped) == dict.fromkeys(keys[6:], "not in the recorded table")
    with pytest.raises(InputError, match="none of the 4 kernels can be measured: not in the"):
        profile_device(BOARD, keys[6:], meter, tmp_path / "k")


def test_a_begun_journal_is_not_overwritten(tmp_path: Path) -> None:
    class Breaking(NoisyMeter):
        def visit(self, keys: Sequence[OpKey]) -> Iterator[Window]:
            if self.calls > 8:
                raise BoardError("gone")
            yield from super().visit(keys)

    journal = tmp_path / "j"
    with pytest.raises(BoardError, match="gone"):
        profile_device(BOARD, many(40), Breaking(), journal, protocol=Protocol(chunk=4))
    with pytest.raises(InputError, match="begun here and not finished") as caught:
        profile_device(BOARD, many(40), NoisyMeter(), journal)
    assert "--resume" in caught.value.hint
    other = NoisyMeter()
    other.runtime_version = "2"
    with pytest.raises(InputError, match=r"or version: runtime version '1', now '2'"):
        profile_device(BOARD, many(40), other, journal, resume=True)


def test_unwritable_journal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write the journal"):
        profile_device(BOARD, many(2), NoisyMeter(), tmp_path / "absent" / "j")


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from keys import many, truth_ns
from edgeopt import devices
from edgeopt.latency.meters import Window
from edgeopt.latency.protocol import Protocol, profile_device

class Slow:
    runtime, runtime_version, threads = "edgeopt", "1", 1
    def prepare(self, keys):
        return {{}}
    def visit(self, keys):
        for key in keys:
            time.sleep(0.002)
            yield Window(key, (truth_ns(key),) * 3)

profile_device(devices.load("rpi4"), many(200), Slow(), Path({journal!r}),
               protocol=Protocol(chunk=4))
"""


def test_a_killed_measurement_goes_on_where_it_stopped(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    code = textwrap.dedent(CHILD).format(tests=str(Path(__file__).parent), journal=str(journal))
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b"\n") < 40:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    with journal.open("ab") as stream:  # what a kill in the middle of a write leaves
        stream.write(b'{"key": "pointwise in_sh')
    recorded = [line for line in journal.read_bytes().splitlines()[1:-1] if b'"ns"' in line]
    assert len(recorded) >= 30
    meter = NoisyMeter()
    result = profile_device(BOARD, many(200), meter, journal, resume=True)
    assert len(result.table.entries) == 200 and result.dropped == 1
    measured = sum(len(visit) for visit in meter.visited if len(visit) > 1)
    assert measured <= 3 * 200 - len(recorded)
    assert not journal.exists()


def test_interval_of_the_median() -> None:
    assert summarise([[100.0], [102.0], [108.0]]).spread_ns == 4.0
    found = summarise([[100.0 + i / 2] for i in range(12)])
    assert (found.median_ns, found.spread_ns, found.windows) == (102.75, 1.75, 12)


def test_disturbed_windows_are_counted_and_left_out() -> None:
    found = summarise([[100.0, 101.0, 102.0]] * 4 + [[150.0, 151.0, 900.0]] * 3)
    assert (found.median_ns, found.windows, found.disturbed) == (101.0, 7, 3)
    assert (found.samples, found.outliers) == (21, 3)
    lucky = summarise([[10.0], [100.0], [101.0], [180.0]])
    assert (lucky.median_ns, lucky.disturbed) == (100.0, 1)
    assert lucky.spread_ns == 45.5


def test_conditions_are_read_and_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_governor").write_text("perf\x1b[1mormance\n")
    found = Monitor(local_reader(tmp_path)).facts()
    assert found["governor"] == "perf[1mormance"
    assert "temperature_millicelsius" not in found

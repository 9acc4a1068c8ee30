"""What boards say of their state, and what is made of it: throttling is waited out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from keys import many, truth_ns

from edgeopt import devices
from edgeopt.core.kernels import OpKey
from edgeopt.latency.conditions import (
    Monitor,
    choose_cpu,
    governor_hint,
    local_reader,
    parse_cpus,
)
from edgeopt.latency.meters import Window
from edgeopt.latency.protocol import Progress, Protocol, profile_device

CPU = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"
BOARD = devices.load("rpi4")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    """A Raspberry Pi 4, as its files show it."""
    write(
        tmp_path,
        {
            f"{CPU}/online": "0-3",
            f"{CPU}/cpu2/cpufreq/scaling_governor": "performance",
            f"{CPU}/cpu2/cpufreq/scaling_cur_freq": "1500000",
            f"{CPU}/cpu2/cpufreq/scaling_max_freq": "1500000",
            f"{THERMAL}/thermal_zone0/type": "cpu-thermal",
            f"{THERMAL}/thermal_zone0/temp": "61500",
            f"{THERMAL}/thermal_zone0/trip_point_0_type": "passive",
            f"{THERMAL}/thermal_zone0/trip_point_0_temp": "80000",
            f"{THERMAL}/cooling_device0/type": "cpufreq-cpu0",
            f"{THERMAL}/cooling_device0/cur_state": "0",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50000",
            "proc/loadavg": "0.10 0.20 0.30 1/100 4242",
        },
    )
    return tmp_path


def test_facts_of_a_board(pi: Path) -> None:
    facts = Monitor(local_reader(pi), 2).facts()
    assert facts == {
        "governor": "performance", "clock_khz": "1500000", "clock_limit_khz": "1500000",
        "temperature_c": "61.5", "temperature_limit_c": "80", "throttled": "no",
        "cpus_online": "0-3", "load_average": "0.10 0.20 0.30", "kernel": "unknown",
    }  # fmt: skip
    silent = Monitor(lambda path: None).facts()
    assert set(silent) == set(facts) and set(silent.values()) == {"unknown"}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (f"{THERMAL}/thermal_zone0/temp", "81000", "81 °C, its limit is 80 °C"),
        (f"{THERMAL}/cooling_device0/cur_state", "2", "its kernel slows the processor"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005", "under-voltage"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "0x4", "firmware throttles"),
        (f"{THERMAL}/thermal_zone0/temp", "nonsense", ""),
        (f"{THERMAL}/thermal_zone0/temp", "99999999", ""),
    ],
)
def test_throttling_shows(pi: Path, file: str, text: str, message: str) -> None:
    monitor = Monitor(local_reader(pi), 2)
    assert monitor.reading().throttled == ""
    write(pi, {file: text})
    found = monitor.reading().throttled
    assert message in found if message else found == ""


def test_absent_files_are_asked_for_once(pi: Path) -> None:
    asked: list[str] = []
    read = local_reader(pi)

    def counted(path: str) -> str | None:
        asked.append(path)
        return read(path)

    monitor = Monitor(counted, 2)
    monitor.reading()
    first = len(asked)
    monitor.reading()
    assert len(asked) - first == 4  # clock, temperature, cooling, the firmware's flags


def test_processors(pi: Path) -> None:
    assert parse_cpus("0-2,5,x,7-6") == [0, 1, 2, 5]
    assert parse_cpus(None) == []
    assert choose_cpu(local_reader(pi)) == 3
    assert choose_cpu(local_reader(pi), frozenset({0, 1})) == 1
    assert choose_cpu(lambda path: None) is None
    write(pi, {f"{CPU}/cpu{n}/cpu_capacity": "1024" if n in (1, 2) else "450" for n in range(4)})
    assert choose_cpu(local_reader(pi)) == 2


def test_governors() -> None:
    assert "ondemand" in governor_hint({"governor": "ondemand"})
    assert "cpupower frequency-set -g performance" in governor_hint({"governor": "powersave"})
    assert governor_hint({"governor": "performance"}) == governor_hint({}) == ""


class Heating:
    """A board whose clock is halved while it is too hot; it cools when it is left alone."""

    runtime, runtime_version, threads = "edgeopt", "1", 1

    def __init__(self, root: Path, change: Callable[[Heating], None]) -> None:
        self.root, self.change = root, change
        self.hot = False
        self.visits = 0
        self.slept: list[float] = []
        self.random = random.Random(2)

    def prepare(self, keys: Sequence[OpKey]) -> dict[OpKey, str]:
        return {}

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Window]:
        self.visits += 1
        if self.visits in (9, 14):
            self.hot = True
            self.change(self)
        for key in keys:
            value = truth_ns(key) * (2 if self.hot else 1) * self.random.uniform(1, 1.002)
            yield Window(key, (value, value, value))

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if sum(self.slept) > 10:
            self.hot = False
            self.change(self)


def by_temperature(board: Heating) -> None:
    write(board.root, {f"{THERMAL}/thermal_zone0/temp": "85000" if board.hot else "70000"})


def by_clock(board: Heating) -> None:
    write(
        board.root, {f"{CPU}/cpu2/cpufreq/scaling_cur_freq": "750000" if board.hot else "1500000"}
    )


@pytest.mark.parametrize("change", [by_temperature, by_clock])
def test_a_throttled_board_is_left_to_cool_and_its_visits_repeated(
    pi: Path, tmp_path: Path, change: Callable[[Heating], None]
) -> None:
    meter = Heating(pi, change)
    seen: list[Progress] = []
    result = profile_device(
        BOARD, many(24), meter, tmp_path / "j", protocol=Protocol(chunk=6, drift=1e9),
        monitor=Monitor(local_reader(pi), 2), sleep=meter.sleep, progress=seen.append,
    )  # fmt: skip
    assert result.throttled and meter.slept[:2] == [5.0, 10.0]
    for key, entry in result.table.entries.items():
        assert entry.median_ns == pytest.approx(truth_ns(key), rel=0.01)
    assert result.table.conditions["throttled_windows"] == str(result.throttled)
    assert any(event.startswith("throttled: ") for event in result.events)
    assert any(state.note.startswith("cooling for 5 s") for state in seen)
    kept = [visit for visit in result.anchors if visit.kept]
    assert len(kept) < len(result.anchors)


def test_a_board_that_never_cools_is_measured_all_the_same(pi: Path, tmp_path: Path) -> None:
    write(pi, {f"{THERMAL}/thermal_zone0/temp": "90000"})
    meter = Heating(pi, lambda board: None)
    result = profile_device(
        BOARD, many(6), meter, tmp_path / "j", sleep=meter.slept.append,
        protocol=Protocol(chunk=6, drift=1e9, cool_s=20.0, cool_repeats=2),
        monitor=Monitor(local_reader(pi), 2),
    )  # fmt: skip
    assert len(result.table.entries) == 6
    assert meter.slept[:4] == [5.0, 10.0, 5.0, 5.0]
    assert result.table.conditions["throttled"].startswith("90 °C")
    assert result.table.conditions["temperature_highest_c"] == "90.0"

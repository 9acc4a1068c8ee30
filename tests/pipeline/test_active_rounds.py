"""Measuring within a budget: rounds, resuming, and what cannot be measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import Outcome
from edgeopt.latency.meters.replay import ReplayMeter
from edgeopt.latency.protocol import Protocol, Result
from edgeopt.latency.select import estimates
from edgeopt.latency.table import LatencyTable, load_table
from edgeopt.pipeline.active import measure_actively
from edgeopt.pipeline.profile_networks import split

RECORDED = Path(__file__).parents[1] / "latency" / "recorded" / "zen3.latency.jsonl"
BOARD = devices.load("rpi4")
PRIOR = estimates(BOARD)
FAST = Protocol(chunk=64)


@pytest.fixture(scope="module")
def recorded() -> LatencyTable:
    return load_table(RECORDED)


@pytest.fixture(scope="module")
def usage(recorded: LatencyTable) -> dict[OpKey, float]:
    return dict.fromkeys(sorted(recorded.entries)[::3], 1.0)


class Timed(ReplayMeter):
    """Every visit takes a second of a clock of its own; dies after some."""

    def __init__(self, table: LatencyTable, dies_after: int = 10**9) -> None:
        super().__init__(table)
        object.__setattr__(self, "now", 0.0)
        object.__setattr__(self, "left", dies_after)

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Outcome]:
        object.__setattr__(self, "now", self.now + 1.0)  # type: ignore[attr-defined]
        object.__setattr__(self, "left", self.left - 1)  # type: ignore[attr-defined]
        if self.left < 0:  # type: ignore[attr-defined]
            raise BoardError("the cable was pulled")
        yield from super().visit(keys)

    def clock(self) -> float:
        return float(self.now)  # type: ignore[attr-defined]


def run(
    meter: Timed, usage: dict[OpKey, float], path: Path, budget_s: float | None, **more: object
) -> tuple[Result, list[list[OpKey]]]:
    rounds: list[list[OpKey]] = []
    result = measure_actively(
        BOARD, usage, meter, path, PRIOR, budget_s=budget_s, size=16, protocol=FAST,
        clock=meter.clock, after=lambda r: rounds.append(list(r.table.entries)), **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return result, rounds


def test_everything_is_measured_where_time_allows(
    recorded: LatencyTable, usage: dict[OpKey, float], tmp_path: Path
) -> None:
    result, rounds = run(Timed(recorded), usage, tmp_path / "j", None)
    assert set(result.table.entries) == set(usage) and not result.unfinished
    assert [len(found) for found in rounds][:3] == [16, 32, 48]
    for key, entry in result.table.entries.items():
        assert entry.median_ns == recorded.entries[key].median_ns


def test_a_short_budget_is_the_beginning_of_a_long_one(
    recorded: LatencyTable, usage: dict[OpKey, float], tmp_path: Path
) -> None:
    _, every = run(Timed(recorded), usage, tmp_path / "a", None)
    meter = Timed(recorded)
    result, rounds = run(meter, usage, tmp_path / "b", 40.0)
    measured = set(result.table.entries)
    assert 16 <= len(measured) < len(usage) and meter.clock() <= 50
    assert set(result.unfinished) == set(usage) - measured
    assert rounds[0] == every[0] and set(rounds[0]) <= measured


def test_a_run_that_was_cut_off_goes_on_as_it_would_have(
    recorded: LatencyTable, usage: dict[OpKey, float], tmp_path: Path
) -> None:
    _, whole = run(Timed(recorded), usage, tmp_path / "a", None)
    dying = Timed(recorded, dies_after=26)
    with pytest.raises(BoardError, match="the cable was pulled"):
        run(dying, usage, tmp_path / "b", None)
    again, rounds = run(Timed(recorded), usage, tmp_path / "b", None, resume=True)
    assert set(again.table.entries) == set(usage)
    before = len(rounds[0]) - 16
    assert before > 0 and before % 16 == 0  # nothing that was measured is measured again
    assert set(rounds[0]) == set(whole[before // 16])


def test_what_cannot_be_measured_is_passed_over(
    recorded: LatencyTable, usage: dict[OpKey, float], tmp_path: Path
) -> None:
    some = replace(recorded, entries={k: recorded.entries[k] for k in list(usage)[:30]})
    result, _ = run(Timed(some), usage, tmp_path / "j", None)
    assert set(result.table.entries) == set(list(usage)[:30])
    assert set(result.skipped) == set(list(usage)[30:]) and not result.unfinished
    with pytest.raises(InputError, match="can be measured: not in the recorded table"):
        run(Timed(replace(recorded, entries={})), usage, tmp_path / "k", None)


def test_subnets_are_fitted_or_held_out_whole() -> None:
    times = {f"{p} net{i}": ((), 1.0) for i in range(12) for p in ("f32", "i8")}
    inside, outside = split(times, 4)
    assert {name.partition(" ")[2] for name in inside} == {"net0", "net1", "net2", "net3"}
    assert not set(inside) & set(outside) and len(inside) + len(outside) == 24
    inside, outside = split(times, 16)  # time did not suffice for all of them
    assert len(inside) == len(outside) == 12
    alone = {f"f32 net{i}": ((), 1.0) for i in range(18)}  # the fewest, in one precision
    inside, outside = split(alone, 16)
    assert len(inside) >= 8 and len(outside) >= 9

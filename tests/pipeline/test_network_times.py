"""Whole networks timed on a machine that others use too."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from full_disk import file_size_limit

from edgeopt.core.errors import BoardError, InputError
from edgeopt.pipeline.network_times import (
    NetworkLog,
    ProgramNetworks,
    Rules,
    Visit,
    measure,
    read_visit,
)

TRUE_NS = {f"n{index}": 1e5 * (1 + index / 3) for index in range(8)}


class Shared:
    """A machine that somebody else slows by a third most of the time, for many visits on end."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.slow = True
        self.calls = 0

    def __call__(self, name: str) -> Visit:
        self.calls += 1
        samples, anchors = [], []
        for _ in range(20):
            if self.random.random() < 0.03:
                self.slow = self.random.random() < 0.7
            factor = 1.33 if self.slow else 1.0
            samples.append(TRUE_NS[name] * factor * self.random.uniform(1.0, 1.01))
            anchors.append(4650 * (1.4 if self.slow else 1.0) * self.random.uniform(1.0, 1.01))
        return Visit(tuple(samples), tuple(anchors))


def test_disturbed_runs_do_not_count() -> None:
    found = measure(tuple(TRUE_NS), Shared(), NetworkLog())
    for name, time in found.items():
        assert time.median_ns == pytest.approx(TRUE_NS[name], rel=0.01)
        assert time.visits >= 4 and time.disturbed > 0.2 and time.spread_ns < 0.01 * time.median_ns


def test_a_machine_never_at_its_best_is_taken_as_it_is() -> None:
    log = NetworkLog()
    log.add("n0", Visit((100.0,) * 5, (10.0,) * 5))
    for value in (140.0, 130.0, 150.0, 135.0, 160.0):
        log.add("n1", Visit((value,) * 5, (14.0,) * 5))
    rules = Rules(visits=3, max_visits=5)
    assert log.done("n1", rules) and not log.done("n0", rules)
    assert log.time("n1", rules).median_ns == 135.0


def test_what_was_measured_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "networks"
    log = NetworkLog(path, {"device": "pi"})
    log.open()
    first = Shared()
    for name in ("n0", "n1", "n0"):
        log.add(name, first(name))
    log.close()
    with path.open("ab") as stream:
        stream.write(b'{"network": "n2", "ns": [1')
    again = NetworkLog(path, {"device": "pi"})
    again.open()
    assert again.visits == log.visits and again.best_anchor_ns == log.best_anchor_ns
    again.add("n3", first("n3"))
    again.close()
    third = NetworkLog(path, {"device": "pi"})
    third.open()
    assert list(third.visits) == ["n0", "n1", "n3"]
    third.close(remove=True)
    assert not path.exists()


def test_journals_of_something_else_and_unwritable_ones(tmp_path: Path) -> None:
    log = NetworkLog(tmp_path / "j", {"device": "pi"})
    log.open()
    log.close()
    with pytest.raises(InputError, match="of another device, runtime or version"):
        NetworkLog(tmp_path / "j", {"device": "nano"}).open()
    with pytest.raises(InputError, match="cannot write the journal of networks"):
        NetworkLog(tmp_path / "absent" / "j").open()


def test_time_that_is_up() -> None:
    ticks = iter(range(100))
    found = measure(
        tuple(TRUE_NS), Shared(), NetworkLog(), until_s=5.0, clock=lambda: float(next(ticks))
    )
    assert len(found) == 5


def test_anchors_must_be_the_runs() -> None:
    with pytest.raises(BoardError, match="anchors that are not the runs'"):
        read_visit(json.dumps({"samples_ns": [1, 2], "anchors_ns": [1]}))
    with pytest.raises(BoardError, match="no usable times"):
        read_visit(json.dumps({"samples_ns": [1, 2], "anchors_ns": [1, -1]}))


def test_programs_are_asked_for_anchors() -> None:
    class Printer:
        def __init__(self) -> None:
            self.args: list[str] = []

        def run(self, args: object) -> object:
            self.args = list(args)  # type: ignore[call-overload]
            return iter(['{"samples_ns": [5, 6], ', '"anchors_ns": [1, 1]}'])

    program = Printer()
    visit = ProgramNetworks({"n": program}, cpu=1, threads=2)  # type: ignore[dict-item]
    assert visit("n") == Visit((5.0, 6.0), (1.0, 1.0))
    assert "--anchors" in program.args
    assert program.args[program.args.index("--threads") + 1] == "2"
    assert program.args[program.args.index("--cpu") + 1] == "1"


def test_a_visit_that_does_not_fit_is_said_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "networks"
    log = NetworkLog(path)
    log.open()
    log.add("n0", Visit((1.0, 2.0)))
    before = path.read_bytes()
    with (
        file_size_limit(len(before) + 9),
        pytest.raises(InputError, match=r"cannot write the journal of networks"),
    ):
        log.add("n1", Visit((3.0,)))
    log.add("n2", Visit((4.0,)))
    log.close()
    again = NetworkLog(path)
    again.open()
    again.close()
    assert again.visits == {"n0": [Visit((1.0, 2.0))], "n2": [Visit((4.0,))]}

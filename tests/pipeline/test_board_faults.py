"""Boards that vanish, hang, lie, fill up, crash: real programs over a link that misbehaves."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from faulty_link import LIES, Faults, connector

from edgeopt import devices
from edgeopt.core.errors import BoardError, BoardUnreachable
from edgeopt.core.kernels import OpKey
from edgeopt.devices.transports import open_link
from edgeopt.latency.conditions import Monitor
from edgeopt.latency.meters import Fault, Refused, Window
from edgeopt.latency.meters.program import ProgramMeter, fastest_ns
from edgeopt.latency.meters.session import BoardProgram, Session
from edgeopt.latency.meters.steady import Patience, Recovery, SteadyMeter
from edgeopt.latency.protocol import Protocol, Result, profile_device
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline import enumerate as kernels
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.kernel_programs import KernelPrograms

LOCAL = devices.load("local")
QUICK = Protocol(spread=1.0, drift=1e9, max_settle=3, chunk=8, max_windows=3)
SPACE = load_space("cifar")


@pytest.fixture(scope="module")
def keys() -> list[OpKey]:
    found = kernels.lowered(SPACE, SPACE.min_config(), "i8").keys
    return sorted(dict.fromkeys(key for key in found if key.op != "irb"), key=str)[:10]


@pytest.fixture(scope="module")
def program(
    keys: list[OpKey], needs_tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One static bench program with all kernels."""
    needs_tool("gcc")
    built: list[Path] = []

    class Kept:
        def __init__(self, path: Path) -> None:
            built.append(path)

        def run(self, args: Sequence[str]) -> object:
            raise AssertionError

    programs = KernelPrograms(
        LOCAL, (), tmp_path_factory.mktemp("programs"),
        StageCache(tmp_path_factory.mktemp("cache")), static=True, runs=Kept,
    )  # type: ignore[arg-type]  # fmt: skip
    programs.bench(keys)
    return built[0]


class Bench:
    """A measurement over a faulty board."""

    def __init__(self, program: Path, faults: Faults, **patience: object) -> None:
        self.faults = faults
        self.waited: list[float] = []
        self.session = Session(connector(lambda: open_link(LOCAL), faults))
        self.meter = SteadyMeter(
            ProgramMeter(
                lambda keys: (BoardProgram(self.session, program), {}), "1", samples=3, min_us=1,
                together=True, fastest_ns=lambda key: fastest_ns(LOCAL, key), cpu=0,
            ),
            Recovery(
                self.session.recover, Patience(**patience), sleep=self.waited.append,  # type: ignore[arg-type]
            ),
        )  # fmt: skip

    def profile(self, keys: Sequence[OpKey], journal: Path, *, resume: bool = False) -> Result:
        return profile_device(
            LOCAL, keys, self.meter, journal, protocol=QUICK, resume=resume,
            monitor=Monitor(self.session.read_text),
        )  # fmt: skip


def test_the_program_is_static_and_needs_nothing(program: Path) -> None:
    data = program.read_bytes()
    assert data[:5] == b"\x7fELF\x02"
    start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    kinds = {struct.unpack_from("<I", data, start + size * n)[0] for n in range(count)}
    assert 1 in kinds and 3 not in kinds  # loaded, and by no interpreter


def test_a_healthy_board(program: Path, keys: list[OpKey], tmp_path: Path) -> None:
    bench = Bench(program, Faults())
    result = bench.profile(keys, tmp_path / "j")
    bench.session.close()
    assert set(result.table.entries) == set(keys) and not result.events and not bench.waited
    assert result.table.conditions["governor"] == "unknown"
    assert bench.meter.meter.pinned is True  # type: ignore[attr-defined]


@pytest.mark.parametrize("lie", sorted(LIES))
def test_lies_are_named_and_measured_again(
    lie: str, program: Path, keys: list[OpKey], tmp_path: Path
) -> None:
    bench = Bench(program, Faults(seed=3, lie=0.4, lies=(lie,)), refusals=1000, tries=50)
    result = bench.profile(keys, tmp_path / "j")
    bench.session.close()
    assert lie in bench.faults.log
    assert set(result.table.entries) == set(keys)
    said = " ".join(result.events)
    expected = {
        "negative": "a negative time", "zero": "a time of zero", "nan": "not a number",
        "absurd": "times that cannot be", "impossible": "times that cannot be",
        "truncated": "not JSON", "twice": "a second result", "text": "not JSON",
        "other": "nobody asked for", "lost": "stopped without a time for",
    }  # fmt: skip
    assert expected[lie] in said
    honest = Bench(program, Faults())
    truth = honest.profile(keys, tmp_path / "k").table
    honest.session.close()
    for key, entry in result.table.entries.items():  # no lie got through
        assert entry.median_ns < 100 * truth.entries[key].median_ns
        assert entry.median_ns > truth.entries[key].median_ns / 100


def test_everything_at_once(program: Path, keys: list[OpKey], tmp_path: Path) -> None:
    faults = Faults(
        seed=11, vanish=0.2, hang=0.1, lie=0.3, full=0.2, refuse=0.3, restart=0.5
    )  # fmt: skip
    bench = Bench(program, faults, refusals=1000, tries=50, attempts=12)
    result = bench.profile(keys, tmp_path / "j")
    bench.session.close()
    assert {"vanish", "hang", "full", "refuse", "restart"} <= set(faults.log)
    assert set(result.table.entries) == set(keys) and not result.skipped
    assert "the board was restarted" in result.events
    assert bench.waited and bench.waited == [min(w, 60.0) for w in bench.waited]


def test_a_crashing_kernel_is_found_and_the_others_are_timed(
    program: Path, keys: list[OpKey], tmp_path: Path
) -> None:
    bad = keys[6]
    bench = Bench(program, Faults(crash_on=bad.digest))
    bench.meter.prepare(keys)
    outcomes = list(bench.meter.visit(keys))
    assert {o.key for o in outcomes if isinstance(o, Window)} == set(keys) - {bad}
    outcomes += bench.meter.visit(keys[:1])  # what is said once the board is known to work
    (refused,) = [o for o in outcomes if isinstance(o, Refused)]
    assert refused == Refused(bad, "the program was ended by signal 11")
    assert any(isinstance(o, Fault) for o in outcomes)
    result = bench.profile(keys, tmp_path / "j")
    assert set(result.table.entries) == set(keys) - {bad}
    assert dict(result.skipped) == {bad: "the program was ended by signal 11"}
    bench.session.close()


def test_a_crashing_anchor_is_replaced(program: Path, keys: list[OpKey], tmp_path: Path) -> None:
    healthy = Bench(program, Faults())
    anchor = OpKey.parse(healthy.profile(keys, tmp_path / "a").table.conditions["anchor"])
    healthy.session.close()
    bench = Bench(program, Faults(crash_on=anchor.digest))
    result = bench.profile(keys, tmp_path / "j")
    bench.session.close()
    assert set(result.table.entries) == set(keys) - {anchor}
    assert result.table.conditions["anchor"] != str(anchor)


def test_a_board_that_stays_away_loses_nothing(
    program: Path, keys: list[OpKey], tmp_path: Path
) -> None:
    bench = Bench(program, Faults(gone_after=8), attempts=6)
    journal = tmp_path / "j"
    with pytest.raises(BoardUnreachable, match="the board did not come back") as caught:
        bench.profile(keys, journal)
    bench.session.close()
    assert "--resume" in caught.value.hint
    assert bench.waited == [1.0, 2.0, 4.0, 8.0, 16.0]
    before = journal.read_bytes().count(b'"ns"')
    assert before > 0
    again = Bench(program, Faults())
    result = again.profile(keys, journal, resume=True)
    again.session.close()
    assert set(result.table.entries) == set(keys) and not journal.exists()
    assert sum(entry.windows for entry in result.table.entries.values()) >= before


def test_a_board_that_fails_at_everything_is_not_blamed_on_kernels(
    program: Path, keys: list[OpKey], tmp_path: Path
) -> None:
    bench = Bench(program, Faults(lie=1.0, lies=("text",)), refusals=3)
    with pytest.raises(BoardError, match="3 kernels in a row could not be timed: printed a line"):
        bench.profile(keys, tmp_path / "j")
    bench.session.close()
    assert b'"skip"' not in (tmp_path / "j").read_bytes()

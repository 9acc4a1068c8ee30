"""What a compiled network takes beyond its budget, and what the next search is asked for."""

from __future__ import annotations

import pytest

from edgeopt import devices
from edgeopt.core.estimates import Budget, Source
from edgeopt.pipeline import overruns
from edgeopt.pipeline.manifest import Figure


def figure(name: str, value: float, source: Source = Source.COMPUTED) -> Figure:
    return Figure(name, value, source, "")


def test_a_search_is_corrected_by_what_came_out() -> None:
    budget = Budget(latency_ns=1_000_000, ram_bytes=50_000)
    (found,) = overruns.excesses([figure("latency_ns", 2_000_000, Source.SIMULATED)], budget)
    assert found.text == "latency 2 ms where at most 1 ms was asked for"
    tighter = overruns.tightened(budget, [found], budget)
    assert tighter == Budget(latency_ns=490_000, ram_bytes=50_000)
    # Estimates that were far too low already are corrected on top of what was tightened.
    assert overruns.tightened(tighter, [found], budget).latency_ns == 240_100


def test_bytes_are_asked_for_more_closely() -> None:
    budget = Budget(flash_bytes=250_000)
    (found,) = overruns.excesses([figure("flash_bytes", 253_068)], budget)
    assert found.text == "flash 253,068 bytes where at most 250,000 bytes was asked for"
    tighter = overruns.tightened(budget, [found], budget).flash_bytes
    assert tighter is not None and 245_000 < tighter < 250_000 - (253_068 - 250_000)
    later = [overruns.tightened(budget, [found], budget, n).flash_bytes or 0 for n in (1, 2, 3)]
    assert later[0] > later[1] > later[2] > 0.9 * 250_000 * 250_000 / 253_068


def test_the_arena_is_the_ram_where_nothing_else_is_counted() -> None:
    budget = Budget(ram_bytes=40_000)
    assert [e.name for e in overruns.excesses([figure("arena_bytes", 40_001)], budget)] == [
        "ram_bytes"
    ]
    # a microcontroller's RAM has more in it
    both = [figure("arena_bytes", 39_000), figure("ram_bytes", 41_000)]
    assert [e.found for e in overruns.excesses(both, budget)] == [41_000]
    assert overruns.excesses([figure("arena_bytes", 40_000)], budget) == ()


def test_what_is_not_known_is_not_over() -> None:
    assert overruns.excesses([], Budget(flash_bytes=1, ram_bytes=1, latency_ns=1)) == ()
    assert overruns.excesses([figure("flash_bytes", 10**9)], Budget()) == ()


def test_a_network_over_its_budget_is_refused_with_its_figures() -> None:
    budget = Budget(flash_bytes=1000)
    overruns.check([figure("flash_bytes", 1000)], budget)
    with pytest.raises(overruns.OverBudgetError) as caught:
        overruns.check([figure("flash_bytes", 1001)], budget)
    refusal = overruns.refuse(caught.value.found, devices.load("rpi4"))
    assert refusal.exit_code == 3 and "1,001 bytes" in refusal.what
    assert "exact" in refusal.hint and "simulated" not in refusal.hint
    late = overruns.excesses([figure("latency_ns", 2)], Budget(latency_ns=1))
    assert "simulated" in overruns.refuse(late, devices.load("nucleo-l4r5zi")).hint


def test_a_latency_over_the_budget_is_noted_beside_the_network() -> None:
    figures = [figure("latency_ns", 1_300_000, Source.MEASURED), figure("flash_bytes", 10)]
    asked = Budget(latency_ns=1_200_000, flash_bytes=10)
    assert overruns.notes(figures, asked) == (
        "over the budget: latency 1.30 ms where at most 1.20 ms was asked for",
    )

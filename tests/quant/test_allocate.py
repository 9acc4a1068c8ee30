"""Bits by integer programming: optimal, within its budgets, and honest where there is no way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeopt.core.errors import InfeasibleError, InputError
from edgeopt.quant.allocate import Limit, allocate, average_limit, flash_limit, stored_bytes

WIDTHS = (2, 4, 8)


def table(seed: int, layers: int = 6) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    weights = {f"l{i}": int(rng.integers(10, 500)) for i in range(layers)}
    rows = {}
    for name in weights:
        two = rng.lognormal(0, 2)
        rows[name] = {2: two, 4: two * rng.uniform(0.02, 0.3), 8: two * rng.uniform(0, 0.01)}
    return rows, weights


@pytest.mark.parametrize("seed", range(6))
def test_no_other_plan_is_better(seed: int) -> None:
    rows, weights = table(seed)
    widths = dict.fromkeys(rows, WIDTHS)
    rng = np.random.default_rng(seed)
    slow = {name: {b: float(rng.integers(5, 50)) for b in WIDTHS} for name in rows}
    limits = [
        average_limit(weights, widths, 4.2),
        Limit("latency", slow, sum(sum(row.values()) for row in slow.values()) / 3),
    ]
    found = allocate(rows, limits)
    assert found.optimal
    best = np.inf
    for choice in itertools.product(WIDTHS, repeat=len(rows)):
        bits = dict(zip(rows, choice, strict=True))
        if all(limit.spent(bits) <= limit.most + 1e-9 for limit in limits):
            best = min(best, sum(rows[name][b] for name, b in bits.items()))
    assert found.sensitivity == pytest.approx(best, rel=1e-9)
    for limit in limits:
        assert found.spent[limit.name] <= limit.most + 1e-6


def test_flash_counts_packed_bytes() -> None:
    assert [stored_bytes(10, bits) for bits in (2, 3, 4, 8)] == [3, 5, 5, 10]
    rows, weights = table(1)
    widths = dict.fromkeys(rows, WIDTHS)
    full = sum(weights.values())
    limit = flash_limit(weights, widths, full // 2 + 100, fixed=100)
    found = allocate(rows, [limit])
    used = 100 + sum(stored_bytes(weights[n], b) for n, b in found.bits.items())
    assert used == found.spent["flash"] <= full // 2 + 100
    assert allocate(rows, [flash_limit(weights, widths, full)]).bits == dict.fromkeys(rows, 8)


def test_noise_below_zero_is_no_obstacle() -> None:
    rows = {"a": {2: 3.0, 8: -0.5}, "b": {2: -1.0, 8: 0.0}}
    limit = average_limit({"a": 10, "b": 10}, dict.fromkeys(rows, (2, 8)), 5.0)
    assert allocate(rows, [limit]).bits == {"a": 8, "b": 2}


def test_budgets_that_nothing_meets_name_the_nearest() -> None:
    rows, weights = table(0)
    widths = dict.fromkeys(rows, WIDTHS)
    least = sum(stored_bytes(count, 2) for count in weights.values())
    with pytest.raises(
        InfeasibleError, match=rf"no plan meets flash of at most 10 B: the least is {least}"
    ) as e:
        allocate(rows, [flash_limit(weights, widths, 10)])
    assert f"allow {least}" in e.value.hint and e.value.exit_code == 3
    with pytest.raises(InfeasibleError, match="average bits of at most 1: the least is 2"):
        allocate(rows, [average_limit(weights, widths, 1.0)])
    # Each can be met, but what is small is slow.
    slow = {name: {2: 100.0, 4: 50.0, 8: 10.0} for name in rows}
    limits = [Limit("latency", slow, 70.0), average_limit(weights, widths, 3.0)]
    with pytest.raises(
        InfeasibleError, match="no plan meets latency 70 ns and average bits 3 tog"
    ) as e:
        allocate(rows, limits)
    assert "allow latency" in e.value.hint and "average bits 8" in e.value.hint


def test_what_is_unknown_is_not_zero() -> None:
    rows, weights = table(0)
    limit = average_limit(weights, dict.fromkeys(rows, (4, 8)), 5.0)
    with pytest.raises(InputError, match=r"^layer 'l0': its average bits at 2 bits is not known"):
        allocate(rows, [limit])
    rows["l3"][4] = float("nan")
    with pytest.raises(InputError, match=r"^layer 'l3': its sensitivity at 4 bits is nan"):
        allocate(rows, [])
    with pytest.raises(InputError, match="no layers to choose bits for"):
        allocate({}, [])
    with pytest.raises(InputError, match=r"^layer 'a': has no width"):
        allocate({"a": {}}, [])

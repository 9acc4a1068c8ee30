"""Errors on held-out networks, and the interval that follows from them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from edgeopt.core.errors import InputError
from edgeopt.latency.truth import HeldOut, half_width, judge


def rows(count: int, spread: float, seed: int = 0) -> list[HeldOut]:
    source = random.Random(seed)
    found = []
    for index in range(count):
        measured = math.exp(source.uniform(10, 12))
        predicted = measured * math.exp(source.gauss(0, spread))
        found.append(HeldOut(f"net{index}", measured, predicted, 0.01))
    return found


def test_figures() -> None:
    found = judge([HeldOut(f"n{i}", 100.0 + i, (100.0 + i) * 1.02) for i in range(9)]
                  + [HeldOut("odd", 200.0, 150.0, 0.5)])  # fmt: skip
    assert found.worst == "odd" and found.worst_error == pytest.approx(0.25)
    assert found.within_5 == found.within_10 == pytest.approx(0.9)
    assert found.median_error == pytest.approx(0.02)
    assert found.mape == pytest.approx((9 * 0.02 + 0.25) / 10)
    assert found.interval == pytest.approx(math.log(200 / 150))


@pytest.mark.parametrize("count", [20, 50, 100])
def test_the_interval_holds_90_percent_of_networks_never_seen(count: int) -> None:
    held = []
    for seed in range(300):
        every = [row.log_ratio for row in rows(count + 40, 0.03, seed)]
        width = half_width(every[:count])
        held.append(np.mean([abs(value) <= width for value in every[count:]]))
    assert 0.89 <= float(np.mean(held)) <= 0.95


def test_covered_is_of_networks_left_out() -> None:
    found = judge(rows(50, 0.03))
    assert 0.85 <= found.covered <= 0.95
    inside = [abs(row.log_ratio) <= found.interval for row in found.rows]
    assert float(np.mean(inside)) >= found.covered


def test_too_few() -> None:
    with pytest.raises(InputError, match="9 held-out networks are too few"):
        judge(rows(9, 0.1))


@pytest.mark.parametrize("values", [(0.0, 1.0, 0.0), (1.0, math.nan, 0.0), (1.0, 1.0, -1.0)])
def test_impossible_rows(values: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="a held-out network cannot be") as caught:
        HeldOut("net", *values)
    assert caught.value.where == "net"

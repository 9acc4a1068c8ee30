"""Choosing activation ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core import activations, affine
from edgeopt.core.errors import InputError
from edgeopt.quant.ranges import METHODS, Function, Spread, check_method, choose, quant_of


def spread(values: np.ndarray, bins: int = 2048) -> Spread:
    counts, _ = np.histogram(values, bins, (values.min(), values.max()))
    return Spread(
        float(values.min()), float(values.max()), counts.astype(np.int64), int((values == 0).sum())
    )


def error(values: np.ndarray, low: float, high: float, reader: Function | None = None) -> float:
    """Mean squared error of quantizing ``values`` with a range, felt behind ``reader``."""
    quant = quant_of(low, high)
    stored = affine.quantize(values.astype(np.float32), quant.scale, quant.zero_point)
    back = affine.dequantize(stored, quant.scale, quant.zero_point)
    real = values.astype(np.float32)
    if reader is not None:
        back, real = (activations.apply(reader[0], v, reader[1]) for v in (back, real))
    return float(np.mean((back - real) ** 2))


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_zero_is_exact_and_ends_are_held(low: float, width: float) -> None:
    quant = quant_of(low, low + width)
    assert -128 <= quant.zero_point <= 127
    ends = np.array([min(low, 0), 0, max(low + width, 0)], np.float32)
    stored = affine.quantize(ends, quant.scale, quant.zero_point)
    back = affine.dequantize(stored, quant.scale, quant.zero_point)
    assert back[1] == 0
    assert np.abs(back - ends).max() <= quant.scale * 1.01


def test_a_tensor_of_zeros_is_held_exactly() -> None:
    quant = quant_of(0.0, 0.0)
    assert affine.dequantize(np.array([quant.zero_point], np.int8), quant.scale, 0)[0] == 0
    zeros = Spread(0.0, 0.0, np.array([5] + [0] * 7, np.int64), 5)
    for method in METHODS:
        assert choose(zeros, method, percentile=99.9) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_infinite_ranges_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        quant_of(bad if bad < 0 else -1.0, bad if not bad < 0 else 1.0)


def test_minmax_keeps_everything_and_zero() -> None:
    assert choose(spread(np.linspace(2, 5, 999)), "minmax", percentile=99.0) == (0.0, 5.0)


def test_percentile_drops_the_tails() -> None:
    values = np.concatenate([np.linspace(-1, 1, 100_000), [40.0, -30.0]])
    low, high = choose(spread(values, 4096), "percentile", percentile=99.9)
    assert -1.05 < low < -0.95
    assert 0.95 < high < 1.05


@pytest.mark.parametrize("seed", range(4))
def test_mse_is_near_the_best_of_all_ranges(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.laplace(0.3, 1, 40_000), rng.standard_normal(40) * 12])
    if seed % 2:
        values = np.maximum(values, 0)  # behind a relu
    found = error(values, *choose(spread(values), "mse", percentile=0))
    assert found < 1.001 * error(values, values.min(), values.max())
    shares = np.linspace(0.1, 1, 19)
    best = min(
        error(values, values.min() * a, values.max() * b)
        for a in (shares if values.min() < 0 else [1.0])
        for b in shares
    )
    assert found < 1.1 * best


def test_no_step_is_spent_where_the_reader_is_constant() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(-4, 3, 50_000)
    swish: Function = ("hardswish", {})
    for method in METHODS:
        low, high = choose(spread(values), method, percentile=99.99, reader=swish)
        assert low >= -3
        assert high > 2
    felt = error(values, *choose(spread(values), "mse", percentile=0, reader=swish), swish)
    blind = error(values, *choose(spread(values), "mse", percentile=0), swish)
    assert felt < blind
    gate: Function = ("hardsigmoid", {"alpha": 1 / 6, "beta": 0.5})
    low, high = choose(spread(values), "minmax", percentile=0, reader=gate)
    assert low == pytest.approx(-3)
    assert high == pytest.approx(3)


def test_unknown_method_is_suggested() -> None:
    with pytest.raises(InputError, match="unknown calibration method 'percentil'") as caught:
        check_method("percentil")
    assert caught.value.hint == "did you mean percentile?"

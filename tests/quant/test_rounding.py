"""Rounding with compensation: the objective it lessens, and what it may not do."""

from __future__ import annotations

import numpy as np
import pytest

from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import largest, nearest
from edgeopt.core.precision import LayerPrecision
from edgeopt.quant import rounding, scales


def problem(seed: int, groups: int = 2, outputs: int = 6, n: int = 70) -> tuple:
    """Weights, and A of inputs that hang together as those of a network do."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((groups, n, n)) / np.sqrt(n) + np.eye(n)
    rows = rng.standard_normal((groups, 300, n)) @ mixing
    weight = rng.standard_normal((groups, outputs, n)) * rng.lognormal(0, 0.5, (1, outputs, 1))
    return weight, rows, rows.transpose(0, 2, 1) @ rows / 300


def channel_scale(weight: np.ndarray, bits: int) -> np.ndarray:
    flat = weight.reshape(-1, weight.shape[2])
    return scales.fit(flat, LayerPrecision(bits)).scale.reshape(*weight.shape[:2], 1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_compensation_lessens_the_error_of_outputs(bits: int, seed: int) -> None:
    weight, rows, gram = problem(seed)
    scale, bound = channel_scale(weight, bits), largest(bits)
    plain = rounding.nearest(weight, scale, bits)
    found = rounding.compensated(weight, gram, scale, bits)
    refit, fitted_scale = rounding.fitted(weight, gram, scale, bits)
    for steps in (found, refit):
        assert np.array_equal(steps, nearest(steps, bits)) and np.abs(steps).max() <= bound

    def off(real: np.ndarray) -> float:
        return float((((weight - real) @ rows.transpose(0, 2, 1)) ** 2).sum() / 300)

    plain_off, off_found = off(plain * scale), off(found * scale)
    assert off_found == pytest.approx(rounding.error(weight, found * scale, gram))
    assert off_found < 0.9 * plain_off
    assert off(refit * fitted_scale) <= off_found * (1 + 1e-9)
    assert (fitted_scale > 0).all()
    if bits < 8:
        # No single step of one weight makes it better: the visits have ended at a minimum.
        done = rounding.compensated(weight, gram, scale, bits, sweeps=30)
        base = rounding.error(weight, done * scale, gram + 0.01 * np.eye(70) * np.einsum(
            "gii->g", gram)[:, None, None] / 70)  # fmt: skip
        rng = np.random.default_rng(0)
        for _ in range(50):
            g, o, j = (int(rng.integers(0, k)) for k in weight.shape)
            for step in (-2, 2) if bits == 2 else (-1, 1):
                other = done.copy()
                other[g, o, j] = np.clip(other[g, o, j] + step, -bound, bound)
                damped = gram + 0.01 * np.eye(70) * np.einsum("gii->g", gram)[:, None, None] / 70
                assert rounding.error(weight, other * scale, damped) >= base - 1e-9


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, _, gram = problem(1)
    gram = gram.copy()
    gram[:, 5:20, :] = gram[:, :, 5:20] = 0.0
    gram[1] = 0.0
    scale = channel_scale(weight, 4)
    found, fitted_scale = rounding.fitted(weight, gram, scale, 4)
    assert np.isfinite(found).all() and np.isfinite(fitted_scale).all()
    assert np.abs(found).max() <= 7


def test_matched_weights_make_up_for_changed_inputs() -> None:
    weight, rows, gram = problem(3, outputs=4, n=20)
    rng = np.random.default_rng(0)
    off = rows + 0.3 * rng.standard_normal(rows.shape)
    cross, gram_off = (rows.transpose(0, 2, 1) @ off / 300, off.transpose(0, 2, 1) @ off / 300)
    moved = rounding.matched(weight, cross, gram_off)
    wanted = rows @ weight.transpose(0, 2, 1)

    def error(w: np.ndarray) -> float:
        return float(((off @ w.transpose(0, 2, 1) - wanted) ** 2).mean())

    best = np.linalg.solve(gram_off, (weight @ cross).transpose(0, 2, 1)).transpose(0, 2, 1)
    assert error(moved) < 0.9 * error(weight)
    assert error(moved) < 1.01 * error(best)
    np.testing.assert_allclose(rounding.matched(weight, gram, gram), weight, atol=1e-9)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("granularity", "group"), [("tensor", 0), ("channel", 0), ("group", 4)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_scales_of_every_granularity(
    bits: int, granularity: str, group: int, symmetric: bool
) -> None:
    rng = np.random.default_rng(bits)
    weight = (rng.standard_normal((6, 8, 3, 3)) * rng.lognormal(0, 1, (6, 1, 1, 1)) + 0.3).astype(
        np.float32
    )
    precision = LayerPrecision(bits, 8, granularity, group, symmetric)
    values = scales.rows(weight, precision)
    assert values.shape == {"tensor": (1, 432), "channel": (6, 72), "group": (12, 36)}[granularity]
    found = {m: scales.fit(values, precision, m) for m in ("max", "mse")}
    errors = {}
    for method, grid in found.items():
        stored = grid.store(values)
        levels = 2**bits if bits == 2 or not symmetric else 2 * largest(bits) + 1
        assert len(np.unique(stored)) <= levels
        assert np.array_equal(grid.zero, np.rint(grid.zero))
        errors[method] = ((grid.real(stored) - values) ** 2).sum()
        if bits > 2 or not symmetric:  # zero stays zero
            assert (grid.real(grid.store(np.zeros_like(values))) == 0).all()
    assert errors["mse"] <= errors["max"]
    plain = scales.rounded(weight, precision)
    assert plain.shape == weight.shape and plain.dtype == np.float32


def test_more_scales_and_zero_points_lessen_the_error() -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((8, 16)) * rng.lognormal(0, 1, (8, 1)) + 1).astype(np.float32)

    def error(granularity: str, group: int = 0, *, symmetric: bool = True) -> float:
        precision = LayerPrecision(4, 8, granularity, group, symmetric)
        return float(((scales.rounded(weight, precision) - weight) ** 2).sum())

    assert error("group", 4) < error("channel") < error("tensor")
    assert error("channel", symmetric=False) < error("channel")


def test_groups_must_divide_the_inputs() -> None:
    with pytest.raises(InputError, match=r"^layer 'a': 10 inputs do not divide into groups of 4"):
        scales.rounded(
            np.ones((2, 10), np.float32), LayerPrecision(4, 8, "group", 4), where="layer 'a'"
        )


def test_channels_of_zeros_keep_a_scale() -> None:
    weight = np.zeros((3, 5), np.float32)
    weight[1] = 0.5
    least = scales.rounded(weight, LayerPrecision(2))
    assert np.abs(least[1]).min() > 0.4  # two bits have no zero
    assert 0 < np.abs(least[[0, 2]]).max() < 1e-5
    for bits in (4, 8):
        assert np.array_equal(scales.rounded(weight, LayerPrecision(bits)) != 0, weight != 0)
    assert np.array_equal(scales.rounded(np.zeros((2, 4), np.float32), LayerPrecision(4)),
                          np.zeros((2, 4)))  # fmt: skip

"""Weights and biases as integers."""

from __future__ import annotations

import numpy as np
import pytest

from edgeopt.core.errors import InputError
from edgeopt.quant import weights


def real(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return stored * scale.reshape((-1,) + (1,) * (stored.ndim - 1))


@pytest.mark.parametrize("method", weights.WEIGHT_METHODS)
def test_stored_weights_are_near(method: str) -> None:
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((6, 4, 3, 3)) * 10.0 ** rng.integers(-4, 3, (6, 1, 1, 1))).astype("f")
    stored, scale = weights.store(w, None, 0.1, method=method, where="layer")
    assert stored.min() >= -127
    error = np.abs(real(stored, scale) - w) / scale.reshape(-1, 1, 1, 1)
    assert error.max() <= 0.501 if method == "max" else error.mean() < 0.3


def test_least_squares_scales_are_no_worse_than_largest() -> None:
    w = np.random.default_rng(1).standard_normal((3, 100_000)).astype(np.float32)
    w[:, 0] = 6  # one outlier, which is cheaper to clip
    errors = []
    for method in ("max", "mse"):
        stored, scale = weights.store(w, None, 1.0, method=method, where="layer")
        errors.append(((real(stored, scale) - w) ** 2).sum(axis=1))
    assert (errors[1] <= errors[0] * 1.0001).all()
    assert errors[1].sum() < 0.8 * errors[0].sum()


def test_a_channel_of_zeros_stays_zero() -> None:
    w = np.ones((3, 5), np.float32)
    w[1] = 0
    stored, scale = weights.store(w, None, 1.0, method="max", where="layer")
    assert not stored[1].any()
    assert np.isfinite(scale).all()
    assert (scale > 0).all()


def test_a_dead_channel_keeps_its_bias() -> None:
    """Folded batch norm leaves weights of nothing beside a bias: int32 must hold it."""
    w = np.array([[1e-12, -1e-12], [1.0, 0.5]], np.float32)
    bias = np.array([3.0, -0.25], np.float32)
    stored, scale = weights.store(w, bias, 0.02, method="max", where="layer")
    steps, bias_scale = weights.store_bias(bias, 0.02, scale)
    np.testing.assert_allclose(steps * bias_scale, bias, rtol=1e-2 / 2)
    assert np.abs(steps.astype(np.int64)).max() <= 2**22
    assert np.abs(real(stored, scale)[0]).max() < 1e-3


def test_weights_that_are_not_finite_are_refused() -> None:
    for w, b in (([[np.nan]], [0.0]), ([[1.0]], [np.inf])):
        with pytest.raises(InputError, match=r"^head: weights are not finite") as caught:
            weights.store(
                np.array(w, np.float32), np.array(b, np.float32), 1.0, method="max", where="head"
            )
        assert "checkpoint" in caught.value.hint


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_shift_of_mean_is_what_the_layer_would_show(groups: int) -> None:
    rng = np.random.default_rng(groups)
    w = rng.standard_normal((8, 4 // groups, 1, 1)).astype(np.float32)
    stored, scale = weights.store(w, None, 1.0, method="max", where="layer")
    x = rng.standard_normal((50, 4)).astype(np.float32) + 1
    error = real(stored, scale) - w
    outputs = np.zeros((50, 8))
    for o in range(8):
        first = o // (8 // groups) * (4 // groups)
        outputs[:, o] = x[:, first : first + 4 // groups] @ error[o, :, 0, 0]
    found = weights.shift_of_mean(w, stored, scale, x.mean(axis=0), groups)
    np.testing.assert_allclose(found, outputs.mean(axis=0), atol=1e-6)

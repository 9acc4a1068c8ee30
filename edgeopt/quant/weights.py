"""Weights as integers: one symmetric int8 scale an output channel, int32 biases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeopt.core.affine import I8_MAX
from edgeopt.core.errors import InputError

Floats = npt.NDArray[np.float32]

WEIGHT_METHODS = ("max", "mse")

#: A stored bias stays below this, so that accumulators keep their low bits in a float32.
_BIAS_LIMIT = 2.0**22


def channel_scales(weight: Floats, method: str) -> Floats:
    """Scale [O] of weights [O, ...]: largest magnitude / 127, or the least squared error.

    A channel of zeros gets the median scale of the others.
    """
    flat = np.abs(weight.reshape(weight.shape[0], -1)).astype(np.float64)
    largest = flat.max(axis=1)
    if method == "mse":
        shares = np.linspace(1.0, 0.5, 26)
        error = np.stack([_error(flat, largest * share / I8_MAX) for share in shares])
        largest = largest * shares[np.argmin(error, axis=0)]
    elif method != "max":
        raise ValueError(f"unknown weight method {method!r}")
    tiny = float(np.finfo(np.float32).tiny) * I8_MAX
    alive = largest > tiny
    usual = float(np.median(largest[alive])) if alive.any() else 1.0
    scale: Floats = (np.where(alive, largest, usual) / I8_MAX).astype(np.float32)
    return scale


def _error(magnitudes: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> Floats:
    safe = np.where(scale > 0, scale, 1.0)[:, None]
    rounded = np.minimum(np.rint(magnitudes / safe), I8_MAX) * safe
    squared: Floats = ((rounded - magnitudes) ** 2).sum(axis=1).astype(np.float32)
    return squared


def store(
    weight: Floats, bias: Floats | None, scale_x: float, *, method: str, where: str
) -> tuple[npt.NDArray[np.int8], Floats]:
    """Stored weights and their scales, fine enough for the weights and coarse enough for the bias.

    Raises:
        InputError: weights or bias are not finite.
    """
    if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
        raise InputError(
            "weights are not finite", where=where, hint="the checkpoint holds NaN or infinity"
        )
    scale = channel_scales(weight, method)
    if bias is not None:
        least = np.abs(bias.astype(np.float64)) / (scale_x * _BIAS_LIMIT)
        scale = np.maximum(scale, least.astype(np.float32))
    shape = (-1,) + (1,) * (weight.ndim - 1)
    steps = np.clip(np.rint(weight / scale.reshape(shape)), -I8_MAX, I8_MAX)
    stored: npt.NDArray[np.int8] = steps.astype(np.int8)
    return stored, scale


def store_bias(
    bias: npt.NDArray[np.floating], scale_x: float, scale: Floats
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Stored int32 bias and its scale float32(s_x * s_w) [O]."""
    bias_scale = (np.float32(scale_x) * scale).astype(np.float32)
    steps = np.rint(bias.astype(np.float64) / bias_scale)
    limit = 2.0**30
    return np.clip(steps, -limit, limit).astype(np.int32), bias_scale


def shift_of_mean(
    weight: Floats, stored: npt.NDArray[np.int8], scale: Floats, mean: Floats, groups: int
) -> npt.NDArray[np.float64]:
    """How far rounding the weights moves the mean output of each channel [O].

    Args:
        weight: real weights [O, I / groups, ...].
        stored: their integers; real value ``scale[o] * stored[o, ...]``.
        scale: one scale a channel [O].
        mean: mean of each input channel [I] on the calibration images.
        groups: groups of a convolution.
    """
    shape = (-1,) + (1,) * (weight.ndim - 1)
    error = stored * scale.reshape(shape).astype(np.float64) - weight
    per_input = error.reshape(weight.shape[0], weight.shape[1], -1).sum(axis=2)
    outputs = weight.shape[0] // groups
    inputs = mean.astype(np.float64).reshape(groups, -1)
    found: npt.NDArray[np.float64] = np.einsum(
        "goi,gi->go", per_input.reshape(groups, outputs, -1), inputs
    ).reshape(-1)
    return found

"""Weights as integers: one symmetric scale an output channel, int32 biases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import NEARLY_ZERO, fits, is_odd, largest, nearest

Floats = npt.NDArray[np.float32]

WEIGHT_METHODS = ("max", "mse")

#: A stored bias stays below this, so that accumulators keep their low bits in a float32.
_BIAS_LIMIT = 2.0**22


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """A layer's weights as integers that somebody chose: real = ``scale[o] * weight[o, ...]``.

    Attributes:
        weight: [O, I / groups, ...] as in ONNX, in the symmetric range of ``bits``; odd if two.
        scale: [O]; the sign of a batch norm's factor may be in it.
        bits: of `edgeopt.core.lowbits.WEIGHT_BITS`.
        bias: [O], with what batch norm adds folded in; None where there is none.
    """

    weight: npt.NDArray[np.int8]
    scale: Floats
    bits: int
    bias: Floats | None = None

    def __post_init__(self) -> None:
        bound = largest(self.bits)
        outputs = self.weight.shape[:1]
        checks = (
            (self.weight.dtype == np.int8 and self.weight.ndim >= 2, "are no int8 [O, I, ...]"),
            (not self.weight.size or np.abs(self.weight.astype(np.int16)).max() <= bound,
             f"do not fit {self.bits} bits, +-{bound}"),
            (not is_odd(self.bits) or fits(self.weight, self.bits), "are not odd, as two bits are"),
            (self.scale.shape == outputs, f"have scales {list(self.scale.shape)}"),
            (bool(np.isfinite(self.scale).all()), "have a scale that is not finite"),
            (self.bias is None or self.bias.shape == outputs, "have a bias of another shape"),
            (self.bias is None or bool(np.isfinite(self.bias).all()), "have an infinite bias"),
        )  # fmt: skip
        for good, what in checks:
            if not good:
                raise InputError(
                    f"stored weights {list(self.weight.shape)} {what}", where="stored weights"
                )


def channel_scales(weight: Floats, method: str, bits: int = 8) -> Floats:
    """Scale [O] of weights [O, ...]: largest magnitude / 127, or the least squared error.

    A channel of zeros gets the median scale of the others; of odd integers, next to nothing.
    """
    bound = largest(bits)
    flat = np.abs(weight.reshape(weight.shape[0], -1)).astype(np.float64)
    reach = flat.max(axis=1)
    if method == "mse":
        shares = np.linspace(1.0, 0.5 if bits == 8 else 0.2, 26)
        error = np.stack([_error(flat, reach * share / bound, bits) for share in shares])
        reach = reach * shares[np.argmin(error, axis=0)]
    elif method != "max":
        raise ValueError(f"unknown weight method {method!r}")
    tiny = float(np.finfo(np.float32).tiny) * bound
    alive = reach > tiny
    usual = float(np.median(reach[alive])) if alive.any() else 1.0
    usual *= NEARLY_ZERO if is_odd(bits) else 1.0
    scale: Floats = (np.where(alive, reach, usual) / bound).astype(np.float32)
    return scale


def _error(
    magnitudes: npt.NDArray[np.float64], scale: npt.NDArray[np.float64], bits: int
) -> Floats:
    safe = np.where(scale > 0, scale, 1.0)[:, None]
    rounded = nearest(magnitudes / safe, bits) * safe
    squared: Floats = ((rounded - magnitudes) ** 2).sum(axis=1).astype(np.float32)
    return squared


def store(
    weight: Floats,
    bias: Floats | None,
    scale_x: float,
    *,
    method: str,
    where: str,
    bits: int = 8,
) -> tuple[npt.NDArray[np.int8], Floats]:
    """Stored weights and their scales, fine enough for the weights and coarse enough for the bias.

    Raises:
        InputError: weights or bias are not finite.
    """
    check_finite(weight, bias, where)
    scale = channel_scales(weight, method, bits)
    if bias is not None:
        scale = np.maximum(scale, _least_scale(bias, scale_x))
    shape = (-1,) + (1,) * (weight.ndim - 1)
    stored: npt.NDArray[np.int8] = nearest(weight / scale.reshape(shape), bits).astype(np.int8)
    return stored, scale


def check_finite(weight: Floats, bias: Floats | None, where: str) -> None:
    """Refuse weights and biases that are not finite.

    Raises:
        InputError: there is a NaN or an infinity.
    """
    if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
        raise InputError(
            "weights are not finite", where=where, hint="the checkpoint holds NaN or infinity"
        )


def _least_scale(bias: npt.NDArray[np.floating], scale_x: float) -> Floats:
    """The finest scales [O] with which a bias does not outgrow its accumulators."""
    found: Floats = (np.abs(bias.astype(np.float64)) / (scale_x * _BIAS_LIMIT)).astype(np.float32)
    return found


def take(given: StoredWeights, scale_x: float) -> tuple[npt.NDArray[np.int8], Floats]:
    """Given integers and their scales, all above zero: the integers take over a scale's sign.

    A channel whose bias would outgrow its accumulators, next to which its weights are nothing, is
    rounded to a coarser scale; a scale of zero stands for weights of zero, or nearly where two
    bits have none.
    """
    shape = (-1,) + (1,) * (given.weight.ndim - 1)
    scale = np.abs(given.scale).astype(np.float32)
    alive = scale > np.finfo(np.float32).tiny
    odd = is_odd(given.bits)
    sign = np.where(alive, np.sign(given.scale), 1 if odd else 0)
    signed = given.weight * sign.astype(np.int8).reshape(shape)
    usual = np.float32(np.median(scale[alive]) if alive.any() else 1.0)
    usual *= np.float32(NEARLY_ZERO if odd else 1.0)
    scale = np.where(alive, scale, usual).astype(np.float32)
    if given.bias is None:
        return signed.astype(np.int8), scale
    coarse = np.maximum(scale, _least_scale(given.bias, scale_x))
    ratio = np.where(coarse > scale, scale.astype(np.float64) / coarse, 1.0).reshape(shape)
    return nearest(signed * ratio, given.bits).astype(np.int8), coarse.astype(np.float32)


def store_bias(
    bias: npt.NDArray[np.floating], scale_x: float, scale: Floats
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Stored int32 bias and its scale float32(s_x * s_w) [O]."""
    bias_scale = (np.float32(scale_x) * scale).astype(np.float32)
    steps = np.rint(bias.astype(np.float64) / bias_scale)
    limit = 2.0**30
    return np.clip(steps, -limit, limit).astype(np.int32), bias_scale


def shift_of_mean(
    weight: Floats,
    stored: npt.NDArray[np.int8] | npt.NDArray[np.float64],
    scale: Floats,
    mean: Floats,
    groups: int,
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

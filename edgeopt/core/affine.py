"""Affine integer arithmetic, defined once.

The simulation in torch, the QDQ graphs and the generated kernels all compute what is written
here. Rounding is half to even (`numpy.rint`), floats are IEEE binary32 and every operation is
rounded to binary32 in the order written.

Accumulating operators (convolution, linear):

    bias' = bias - zero_point_x * sum(w)          (so padding is zero_point_x, folded once)
    acc   = sum(w * x_stored) + bias'             (int32)
    y     = clamp(rint(float32(acc) * m) + zero_point_y, lo, hi)
    m     = float32(float32(s_x * s_w) / s_y)     (one a channel)
    y     = lut[y + 128]                          (only with a table activation)

onnxruntime computes the same on all but rare ties of the last bit.

Processors without floating point take the sums to int8 in fixed point, as the functions that end
in ``_fixed`` say. A multiplier is the same binary32 number; its product with the sum is exact and
rounded once, half up, so results differ from those above only next to halves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

I8_MIN, I8_MAX = -128, 127

#: int8 + GRID is the same value as uint8, with its zero point moved alike. Sums and products add
#: the output's zero point before rounding, on that grid, as onnxruntime does.
GRID = 128

#: Layout of the int32 ``qparams`` constant, by kernel operator (int8 kernels).
#:   pointwise, conv2d, depthwise, linear: input zero point, output zero point, clamp lo, clamp hi
#:     (zero point and clamps before the table, if there is one)
#:   global_avgpool, avgpool, maxpool: the same four
#:   add, mul, scale: zero point a, zero point b, zero point out, clamp lo, clamp hi
#:   quantize, dequantize, activation, concat: none needed, or zero points in input order then out
QPARAMS = {
    "accumulate": ("zero_x", "zero_y", "lo", "hi"),
    "binary": ("zero_a", "zero_b", "zero_y", "lo", "hi"),
}


def requantize(
    acc: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.float32],
    zero_point: int,
    lo: int = I8_MIN,
    hi: int = I8_MAX,
) -> npt.NDArray[np.int8]:
    """Int32 accumulators [..., O] to int8 with one multiplier a channel [O] (or a scalar [])."""
    scaled = acc.astype(np.float32) * multiplier.astype(np.float32)
    shifted = np.rint(scaled).astype(np.float32) + np.float32(zero_point)
    stored: npt.NDArray[np.int8] = np.clip(shifted, lo, hi).astype(np.int8)
    return stored


#: Multipliers that fixed point can apply; all others would saturate almost every sum.
FIXED_MULTIPLIER_BELOW = 2.0**16


def requantize_fixed(
    acc: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.float32],
    zero_point: int,
    lo: int = I8_MIN,
    hi: int = I8_MAX,
) -> npt.NDArray[np.int8]:
    """`requantize` without floating point: y = clamp(floor(acc * m + 1/2) + zero_point, lo, hi).

    A binary32 multiplier is ``mantissa * 2 ** -shift`` with 24 bits of mantissa, so the product
    with int32 fits 64 bits and is exact: floor((acc * mantissa + 2 ** (shift - 1)) / 2 ** shift).

    Raises:
        ValueError: a multiplier is not a normal number in (0, 2 ** 16).
    """
    m = np.asarray(multiplier, np.float32)
    if not ((m >= np.finfo(np.float32).tiny) & (m < FIXED_MULTIPLIER_BELOW)).all():
        raise ValueError("a multiplier is out of the range of fixed point")
    stored_bits = np.atleast_1d(m).view(np.int32).astype(np.int64).reshape(m.shape)
    mantissa = (stored_bits & 0x7FFFFF) | 0x800000
    shift = np.minimum(150 - (stored_bits >> 23), 62)
    product = acc.astype(np.int64) * mantissa + (np.int64(1) << (shift - 1))
    stored: npt.NDArray[np.int8] = np.clip((product >> shift) + zero_point, lo, hi).astype(np.int8)
    return stored


def multiplier(
    scale_x: float, scale_w: npt.NDArray[np.float32], scale_y: float
) -> npt.NDArray[np.float32]:
    """Requantization factors, each step rounded to float32."""
    product = (np.float32(scale_x) * scale_w.astype(np.float32)).astype(np.float32)
    return (product / np.float32(scale_y)).astype(np.float32)


def quantize(real: npt.NDArray[np.float32], scale: float, zero_point: int) -> npt.NDArray[np.int8]:
    """QuantizeLinear to int8: clamp(rint(real / scale) + zero_point)."""
    steps = np.rint(real.astype(np.float32) / np.float32(scale)) + np.float32(zero_point)
    stored: npt.NDArray[np.int8] = np.clip(steps, I8_MIN, I8_MAX).astype(np.int8)
    return stored


def dequantize(
    stored: npt.NDArray[np.int8], scale: float, zero_point: int
) -> npt.NDArray[np.float32]:
    """DequantizeLinear: scale * (stored - zero_point), in float32."""
    shifted = (stored.astype(np.int32) - zero_point).astype(np.float32)
    return (shifted * np.float32(scale)).astype(np.float32)


def table(
    function: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    scale_in: float,
    zero_in: int,
    scale_out: float,
    zero_out: int,
) -> npt.NDArray[np.int8]:
    """The 256-entry table of an int8 activation; entry ``q + 128`` is the output for ``q``."""
    stored = np.arange(I8_MIN, I8_MAX + 1).astype(np.int8)
    real = function(dequantize(stored, scale_in, zero_in)).astype(np.float32)
    return quantize(real, scale_out, zero_out)


def offset_of_sum(
    factors: npt.NDArray[np.float32], zero_a: int, zero_b: int, zero_y: int
) -> np.float32:
    """The constant of `add`: the output's zero point less what the inputs' contribute.

    On the unsigned grid (stored + 128), where onnxruntime adds too.
    """
    right = np.float64(np.float32(factors[1] * np.float32(zero_b + GRID)))
    both = np.float32(np.float64(factors[0]) * (zero_a + GRID) + right)
    return np.float32(np.float32(zero_y + GRID) - both)


def add(
    a: npt.NDArray[np.int8],
    b: npt.NDArray[np.int8],
    factors: npt.NDArray[np.float32],
    zero_a: int,
    zero_b: int,
    zero_y: int,
    lo: int = I8_MIN,
    hi: int = I8_MAX,
) -> npt.NDArray[np.int8]:
    """Quantized sum; ``factors`` = float32(s_a / s_y), float32(s_b / s_y).

    y = clamp(rint(fma(a + 128, factors[0], fma(b + 128, factors[1], offset))) - 128): the zero
    point is added before rounding. float64 holds each product and sum exactly before it is
    rounded to float32 once, which is what a fused multiply-add does.
    """
    wide = factors.astype(np.float64)
    offset = np.float64(offset_of_sum(factors, zero_a, zero_b, zero_y))
    right = ((b.astype(np.int32) + GRID) * wide[1] + offset).astype(np.float32)
    shifted = ((a.astype(np.int32) + GRID) * wide[0] + right.astype(np.float64)).astype(np.float32)
    return _from_grid(shifted, lo, hi)


def fixed_factors(factors: npt.NDArray[np.float32]) -> tuple[int, int, int]:
    """The factors of `add_fixed` as integers, and the shift that belongs to them.

    The larger one gets 21 bits, so that sums of both products fit int32.

    Raises:
        ValueError: a factor is not in [0, 2 ** 16), or both are zero.
    """
    wide = np.asarray(factors, np.float64)
    largest = float(wide.max())
    if not (wide.min() >= 0 and 0 < largest < FIXED_MULTIPLIER_BELOW):
        raise ValueError(f"factors {wide.tolist()} are out of the range of fixed point")
    shift = min(20 - int(np.floor(np.log2(largest))), 30)
    a, b = (min(int(value), 2**21 - 1) for value in np.rint(wide * 2.0**shift))
    return a, b, shift


def add_fixed(
    a: npt.NDArray[np.int8],
    b: npt.NDArray[np.int8],
    factors: npt.NDArray[np.float32],
    zero_a: int,
    zero_b: int,
    zero_y: int,
    lo: int = I8_MIN,
    hi: int = I8_MAX,
) -> npt.NDArray[np.int8]:
    """`add` without floating point: rounded once, half up, with factors of 21 bits."""
    left, right, shift = fixed_factors(factors)
    total = (a.astype(np.int64) - zero_a) * left + (b.astype(np.int64) - zero_b) * right
    steps = (total + (1 << (shift - 1))) >> shift
    stored: npt.NDArray[np.int8] = np.clip(steps + zero_y, lo, hi).astype(np.int8)
    return stored


def mul_fixed(
    a: npt.NDArray[np.int8],
    b: npt.NDArray[np.int8],
    factor: np.float32,
    zero_a: int,
    zero_b: int,
    zero_y: int,
    lo: int = I8_MIN,
    hi: int = I8_MAX,
) -> npt.NDArray[np.int8]:
    """`mul` without floating point: `requantize_fixed` of the product."""
    product = (a.astype(np.int32) - zero_a) * (b.astype(np.int32) - zero_b)
    return requantize_fixed(product, np.asarray(factor, np.float32), zero_y, lo, hi)


def mul(
    a: npt.NDArray[np.int8],
    b: npt.NDArray[np.int8],
    factor: np.float32,
    zero_a: int,
    zero_b: int,
    zero_y: int,
    lo: int = I8_MIN,
    hi: int = I8_MAX,
) -> npt.NDArray[np.int8]:
    """Quantized product, broadcasting; ``factor`` = float32(float32(s_a * s_b) / s_y).

    y = clamp(rint((a - zero_a) * (b - zero_b) * factor + (zero_y + 128)) - 128).
    """
    product = (a.astype(np.int32) - zero_a) * (b.astype(np.int32) - zero_b)
    scaled = product.astype(np.float32) * np.float32(factor)
    return _from_grid(scaled + np.float32(zero_y + GRID), lo, hi)


def _from_grid(shifted: npt.NDArray[np.float32], lo: int, hi: int) -> npt.NDArray[np.int8]:
    steps = np.rint(shifted.astype(np.float32)) - np.float32(GRID)
    stored: npt.NDArray[np.int8] = np.clip(steps, lo, hi).astype(np.int8)
    return stored


def mean(
    x: npt.NDArray[np.int8],
    factor: np.float32,
    zero_x: int,
    zero_y: int,
) -> npt.NDArray[np.int8]:
    """Global average over H and W of [1,H,W,C]; ``factor`` = float32(float32(s_x / n) / s_y)."""
    acc = (x.astype(np.int32) - zero_x).sum(axis=(1, 2), keepdims=True).astype(np.int32)
    return requantize(acc, np.asarray(factor, np.float32), zero_y)


def exponentials(scale: float, length: int) -> npt.NDArray[np.int32]:
    """The table of `softmax`: e ** (-scale * d) for d = 0..255, in steps of 2 ** -bits.

    As many bits as let ``length`` of them add up in int32.
    """
    bits = min(22, 30 - max(length - 1, 0).bit_length())
    steps = np.exp(-float(np.float32(scale)) * np.arange(256.0)) * 2.0**bits
    return np.rint(steps).astype(np.int32)


def softmax(
    x: npt.NDArray[np.int8], table: npt.NDArray[np.int32], scale: float, zero: int, axis: int
) -> npt.NDArray[np.int8]:
    """Softmax of stored values along an axis; the input's scale is in ``table``.

    e = table[max(x) - x]
    y = clamp(rint(float32(e) * (1 / (float32(sum(e)) * scale))) + zero)
    """
    wide = x.astype(np.int32)
    e = table[wide.max(axis=axis, keepdims=True) - wide]
    total = e.sum(axis=axis, keepdims=True, dtype=np.int32).astype(np.float32)
    share = (np.float32(1) / (total * np.float32(scale)).astype(np.float32)).astype(np.float32)
    scaled = (e.astype(np.float32) * share).astype(np.float32)
    stored: npt.NDArray[np.int8] = np.clip(
        np.rint(scaled) + np.float32(zero), I8_MIN, I8_MAX
    ).astype(np.int8)
    return stored

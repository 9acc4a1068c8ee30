"""Weights of fewer than eight bits: made from the stored int8 ones, and packed into bytes.

One set of int8 weights serves every bit-width. The weights of b bits are the int8 ones rounded a
second time, to steps of ``2 ** (8 - b)`` (Double Rounding):

    W_8 = clamp(rint(w / s), -127, 127)
    W_b = clamp(rint(W_8 / step), -(2 ** (b - 1) - 1), 2 ** (b - 1) - 1),  real = W_b * (step * s)

with ``step = 2 ** (8 - b)`` unless a learned one is given. Rounding is half to even; ranges are
symmetric, so that a scale may change its sign. Kernels compute with W_b as they do with int8
weights, only their storage differs; so the arithmetic of `core.affine` holds as it stands.

Packing: little end first, ``8 / b`` weights a byte, each biased by ``2 ** (b - 1)`` and so
unsigned. A byte of four bits is ``(w0 + 8) | (w1 + 8) << 4``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError

Floats = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

#: Widths that a plan may ask for.
WEIGHT_BITS = (2, 3, 4, 8)
#: Widths that are packed for kernels; see docs/decisions/0018 for why three bits are not.
PACKED_BITS = (2, 4)


def largest(bits: int) -> int:
    """The largest magnitude of a weight: 127, 7, 3 or 1.

    Raises:
        InputError: weights cannot have so many bits.
    """
    if bits not in WEIGHT_BITS:
        raise InputError(
            f"weights of {bits} bits do not exist",
            hint=f"choose one of {', '.join(str(b) for b in WEIGHT_BITS)}",
        )
    return int(2 ** (bits - 1) - 1)


def limits(bits: int, symmetric: bool = True) -> tuple[int, int]:
    """The least and the largest integer; with zero points, all that the bits can say.

    Raises:
        InputError: weights cannot have so many bits.
    """
    bound = largest(bits)
    return (-bound if symmetric else -bound - 1), bound


def double_step(bits: int) -> float:
    """Steps of int8 weights in one of ``bits``, where none was learned."""
    return 2.0 ** (8 - bits)


def round_again(
    stored: npt.NDArray[np.integer],
    bits: int,
    step: Floats | float | None = None,
    zero: npt.NDArray[np.integer] | None = None,
) -> I8:
    """Weights of ``bits`` from those of eight.

    Args:
        stored: int8 weights [O, ...], less their zero point where they have one.
        bits: of `WEIGHT_BITS`.
        step: stored steps in one of the result's, for all, for each of [O], or broadcasting
            against the weights; `double_step` if None.
        zero: zero points of the result, shaped as ``step``: added, and all of the range is used.
    """
    if bits == 8 and step is None and zero is None:
        return stored.astype(np.int8)
    low, high = limits(bits, zero is None)
    steps = np.asarray(double_step(bits) if step is None else step, np.float32)
    whole = np.rint(stored.astype(np.float32) / _along(steps, stored))
    if zero is not None:
        whole = whole + _along(np.asarray(zero, np.float32), stored)
    rounded: I8 = np.clip(whole, low, high).astype(np.int8)
    return rounded


def _along(values: Floats, stored: npt.NDArray[np.integer]) -> Floats:
    """Values of output channels, so that they broadcast against the weights."""
    return values.reshape((-1,) + (1,) * (stored.ndim - 1)) if values.ndim == 1 else values


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` packed weights take."""
    per_byte = 8 // bits
    return -(-count // per_byte)


def pack(values: I8, bits: int) -> npt.NDArray[np.uint8]:
    """Weights in memory order as bytes; what fills the last byte stands for zero.

    Raises:
        ValueError: a weight does not fit, or the width is not packed.
    """
    _check_width(bits)
    bias, per_byte = 2 ** (bits - 1), 8 // bits
    flat = np.asarray(values, np.int8).reshape(-1).astype(np.int16) + bias
    if flat.size and (flat.min() < 0 or flat.max() >= 2 * bias):
        raise ValueError(f"a weight does not fit {bits} bits")
    padded = np.full(packed_bytes(flat.size, bits) * per_byte, bias, np.int16)
    padded[: flat.size] = flat
    shifts = np.arange(per_byte) * bits
    joined = (padded.reshape(-1, per_byte) << shifts).sum(axis=1)
    found: npt.NDArray[np.uint8] = joined.astype(np.uint8)
    return found


def unpack(stored: npt.NDArray[np.uint8], bits: int, count: int) -> I8:
    """What `pack` was given, flat.

    Raises:
        ValueError: there are too few bytes, or the width is not packed.
    """
    _check_width(bits)
    if stored.size < packed_bytes(count, bits):
        raise ValueError(f"{stored.size} bytes hold fewer than {count} weights of {bits} bits")
    bias, per_byte = 2 ** (bits - 1), 8 // bits
    shifts = np.arange(per_byte) * bits
    fields = (stored.reshape(-1, 1).astype(np.int16) >> shifts) & (2 * bias - 1)
    values: I8 = (fields.reshape(-1)[:count] - bias).astype(np.int8)
    return values


def _check_width(bits: int) -> None:
    if bits not in PACKED_BITS:
        raise ValueError(f"weights of {bits} bits are not packed")

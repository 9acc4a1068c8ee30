"""Weights of fewer than eight bits: made from the stored int8 ones, and packed into bytes.

One set of int8 weights serves every bit-width. The weights of b bits are the int8 ones rounded a
second time, to steps of ``2 ** (8 - b)`` (Double Rounding):

    W_8 = clamp(rint(w / s), -127, 127)
    W_b = clamp(rint(W_8 / step), -(2 ** (b - 1) - 1), 2 ** (b - 1) - 1),  real = W_b * (step * s)
    W_2 = 2 * clamp(floor(W_8 / step), -2, 1) + 1,                   real = W_2 * (step * s / 2)

with ``step = 2 ** (8 - b)`` unless a learned one is given. Rounding is half to even; ranges are
symmetric, so that a scale may change its sign. Two bits have no zero: -1, 0 and 1 would leave one
of four words unused; -3, -1, 1 and 3 are the middles of four equal steps, and without a learned
step the two uppermost bits of W_8 (decision 0023). Kernels compute with W_b as they do with int8
weights, only their storage differs; so the arithmetic of `core.affine` holds as it stands.

Packing: little end first, ``8 / b`` weights a byte, unsigned. A byte of four bits is
``(w0 + 8) | (w1 + 8) << 4``; a weight of two bits is stored as ``(w + 3) / 2``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError

Floats = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

#: Widths that a plan may ask for.
WEIGHT_BITS = (2, 3, 4, 8)
#: Widths that are packed for kernels; see docs/decisions/0018 for why three bits are not.
PACKED_BITS = (2, 4)
#: Where nothing but zeros is to be said by odd integers: the share of the usual scale they get.
NEARLY_ZERO = 2.0**-16


def largest(bits: int) -> int:
    """The largest magnitude of a weight: 127, 7, 3 or, of two bits, 3 too.

    Raises:
        InputError: weights cannot have so many bits.
    """
    if bits not in WEIGHT_BITS:
        raise InputError(
            f"weights of {bits} bits do not exist",
            hint=f"choose one of {', '.join(str(b) for b in WEIGHT_BITS)}",
        )
    return 3 if bits == 2 else int(2 ** (bits - 1) - 1)


def is_odd(bits: int, symmetric: bool = True) -> bool:
    """Whether weights are odd numbers: those of two bits without a zero point."""
    return bits == 2 and symmetric


def limits(bits: int, symmetric: bool = True) -> tuple[int, int]:
    """The least and the largest integer; with zero points, all that the bits can say.

    Raises:
        InputError: weights cannot have so many bits.
    """
    bound = largest(bits)
    return (-bound, bound) if symmetric else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def double_step(bits: int) -> float:
    """Steps of int8 weights in one of ``bits``, where none was learned."""
    return 2.0 ** (8 - bits)


def unit(bits: int, symmetric: bool = True) -> float:
    """What one more of an integer is in steps: odd integers are two to a step."""
    return 0.5 if is_odd(bits, symmetric) else 1.0


def nearest(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.floating]:
    """The closest integers of ``bits``, symmetric, to values in units of their scale."""
    bound = largest(bits)
    if is_odd(bits):
        found: npt.NDArray[np.floating] = 2 * np.clip(np.floor(values / 2), -2, 1) + 1
        return found
    whole: npt.NDArray[np.floating] = np.clip(np.rint(values), -bound, bound)
    return whole


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
    steps = np.asarray(double_step(bits) if step is None else step, np.float32)
    divided = stored.astype(np.float32) / _along(steps, stored)
    if zero is None:
        return nearest(divided / np.float32(unit(bits)), bits).astype(np.int8)
    whole = np.rint(divided) + _along(np.asarray(zero, np.float32), stored)
    rounded: I8 = np.clip(whole, *limits(bits, symmetric=False)).astype(np.int8)
    return rounded


def _along(values: Floats, stored: npt.NDArray[np.integer]) -> Floats:
    """Values of output channels, so that they broadcast against the weights."""
    return values.reshape((-1,) + (1,) * (stored.ndim - 1)) if values.ndim == 1 else values


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` packed weights take."""
    per_byte = 8 // bits
    return -(-count // per_byte)


def fits(values: npt.NDArray[Any], bits: int) -> bool:
    """Whether weights can be packed in ``bits``."""
    wide = np.asarray(values).astype(np.int32)
    if bits == 2:
        return bool(((wide % 2 == 1) & (np.abs(wide) <= 3)).all())
    return bool(((wide >= -(2 ** (bits - 1))) & (wide < 2 ** (bits - 1))).all())


def fields(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int16]:
    """Weights as unsigned numbers of ``bits``.

    Raises:
        ValueError: a weight does not fit, or the width is not packed.
    """
    _check_width(bits)
    if not fits(values, bits):
        raise ValueError(f"a weight does not fit {bits} bits")
    wide = np.asarray(values).astype(np.int16)
    found: npt.NDArray[np.int16] = (wide + 3) >> 1 if bits == 2 else wide + 2 ** (bits - 1)
    return found


def pack(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """Weights in memory order as bytes.

    Raises:
        ValueError: a weight does not fit, or the width is not packed.
    """
    return join(fields(np.asarray(values).reshape(-1), bits), bits)


def join(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """What `fields` gave, in memory order, as bytes; what fills the last is as 0 of four bits."""
    per_byte = 8 // bits
    padded = np.full(packed_bytes(values.size, bits) * per_byte, 2 ** (bits - 1), np.int16)
    padded[: values.size] = values.reshape(-1)
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
    shifts = np.arange(8 // bits) * bits
    found = (stored.reshape(-1, 1).astype(np.int16) >> shifts) & (2**bits - 1)
    flat = found.reshape(-1)[:count]
    values: I8 = (2 * flat - 3 if bits == 2 else flat - 2 ** (bits - 1)).astype(np.int8)
    return values


def _check_width(bits: int) -> None:
    if bits not in PACKED_BITS:
        raise ValueError(f"weights of {bits} bits are not packed")

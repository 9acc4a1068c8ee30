"""Bias and multiplier of an output channel in one word, where memory for constants is short.

A channel of an accumulating kernel has an int32 bias and a binary32 multiplier (`core.affine`):
eight bytes, next to some tens of weights. Not every pair of them fits four bytes, but those that
are chosen for it do, and what is chosen differs by less than quantization itself:

    bit 31         lowest bit of the multiplier's mantissa
    bits 30 to 26  its exponent as binary32 has it, less 100: multipliers are in [2**-27, 2**5)
    bits 25 to 17  the upper nine bits of the mantissa; the tenth is 1, and all others are 0
    bit 16         whether the bias is coarse
    bits 15 to 0   bias / 2**t, signed

where t follows from the multiplier, so that the bias is known to 1/128 of an output step, or to
1/16 where it is coarse: t = min(max(B - exponent, 0), 7), the exponent as binary32 has it, B = 120
or 123. Seven at most, because kernels that hold activations as uint8 fold 128 times the sum of the
weights into the bias, which so remains a multiple of 2**t.

The lowest bit of the mantissa makes the multipliers dense enough: float32(float32(s_x * s_w) / s_y)
skips a binary32 number here and there as s_w takes its neighbours, but hardly two in a row.

The tenth is 1 for the sake of halves. A sum times k * 2**-n, k odd and of eleven bits, is an exact
half only where it is 512 steps or more, far beyond int8. Were k even, one activation in some ten
thousand would be, and arithmetic that rounds on the way, as float execution of a QDQ model does,
might take the other side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeopt.core import affine

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]

#: Sums of kernels whose activations are uint8 have this times the weights' sum besides.
OFFSETS = (0, affine.GRID)
#: B above, and the bias's largest step as a power of two.
_FINE, _COARSE, _MOST_SHIFT = 120, 123, 7
_SMALLEST, _LARGEST = -(2**15), 2**15 - 1
#: Place of the bit that is always 1 in binary32; bits of the smallest exponent, and of the first
#: that is too large.
_ONE, _FIRST, _END = 13, 100 << 23, 132 << 23
#: Multipliers tried for a channel, in steps of the nine bits; the first is almost always reached.
_STEPS_AWAY = (0, 1, -1, 2, -2, 3, -3, 4, -4)
#: Scales tried for a multiplier, in units of their last place.
_UNITS_AWAY = (0, 1, -1, 2, -2)


def bias_steps(multiplier: Numbers, *, coarse: bool) -> Longs:
    """2**t of each channel: what its bias is a multiple of."""
    exponent = _bits(multiplier) >> 23
    shift = np.clip((_COARSE if coarse else _FINE) - exponent, 0, _MOST_SHIFT)
    found: Longs = np.left_shift(np.int64(1), shift)
    return found


def _bits(multiplier: Numbers) -> Longs:
    found: Longs = np.ascontiguousarray(multiplier, np.float32).view(np.int32).astype(np.int64)
    return found


def _in_steps(bias: Numbers, multiplier: Numbers, *, coarse: bool) -> Longs:
    """Biases in their steps; what is none of a word's is 2**16."""
    steps = bias_steps(multiplier, coarse=coarse)
    whole, rest = np.divmod(bias.astype(np.int64), steps)
    fit = (rest == 0) & (whole >= _SMALLEST) & (whole <= _LARGEST)
    found: Longs = np.where(fit, whole, 1 << 16)
    return found


def _fit(bias: Numbers, multiplier: Numbers) -> npt.NDArray[np.bool_]:
    bits = _bits(multiplier)
    good: npt.NDArray[np.bool_] = (bits & ((2 << _ONE) - 2)) == 1 << _ONE
    good &= (bits >= _FIRST) & (bits < _END)
    known = [_in_steps(bias, multiplier, coarse=coarse) for coarse in (False, True)]
    good &= (known[0] < 1 << 16) | (known[1] < 1 << 16)
    return good


def fits(bias: Numbers, multiplier: Numbers) -> bool:
    """Whether biases and multipliers [O] have words."""
    return bool(_fit(bias, multiplier).all())


def words(bias: Numbers, multiplier: Numbers) -> Ints:
    """Biases and multipliers [O] as words [O]; 0 for channels of zeros, which only pad others.

    Raises:
        ValueError: a channel has none.
    """
    pads = (bias == 0) & (multiplier == 0)
    if not (_fit(bias, multiplier) | pads).all():
        raise ValueError("a bias or multiplier needs more than a word")
    fine, coarse = (_in_steps(bias, multiplier, coarse=coarse) for coarse in (False, True))
    rough = fine == 1 << 16
    bits = _bits(multiplier)
    upper = (bits - _FIRST) >> _ONE & ~1 | rough
    found = (bits & 1) << 31 | upper << 16 | np.where(rough, coarse, fine) & 0xFFFF
    return np.where(pads, 0, found).astype(np.uint32).view(np.int32)


def widened(packed: Ints) -> tuple[Ints, Floats]:
    """Biases and multipliers [O] of words [O]: what kernels compute from them."""
    word = np.ascontiguousarray(packed, np.int32).view(np.uint32).astype(np.int64)
    bits = (word >> 16 & 0x7FFF | 1) << _ONE | word >> 31
    multiplier = (bits + _FIRST).astype(np.int32).view(np.float32)
    fine, coarse = (bias_steps(multiplier, coarse=coarse) for coarse in (False, True))
    steps = np.where(word >> 16 & 1, coarse, fine)
    low = word.astype(np.uint16).view(np.int16)
    return (low * steps).astype(np.int32), multiplier


def weight_scales(scale_x: float, scale_w: Floats, scale_y: float) -> Floats | None:
    """The nearest scales of weights [O] whose multipliers have words; None if one has none near.

    All but some in a thousand differ from those given by at most 1 in 1024, half a step of nine
    bits; no one by more than 1 in 100.
    """
    given = _bits(affine.multiplier(scale_x, scale_w, scale_y))
    nearest = given >> _ONE + 1 << _ONE + 1 | 1 << _ONE
    found = np.zeros(scale_w.shape, np.float32)
    open_ = np.ones(scale_w.shape, bool)
    ratio = np.float64(np.float32(scale_y)) / np.float64(np.float32(scale_x))
    for steps in _STEPS_AWAY:
        for last in (0, 1):
            bits = nearest + (steps << _ONE + 1) + last
            alive = (bits >= _FIRST) & (bits < _END)
            target = np.where(alive, bits, _FIRST).astype(np.int32).view(np.float32)
            begin = (target.astype(np.float64) * ratio).astype(np.float32).view(np.int32)
            for units in _UNITS_AWAY:
                scale = (begin + np.int32(units)).view(np.float32)
                hit = alive & open_ & (affine.multiplier(scale_x, scale, scale_y) == target)
                hit &= np.isfinite(scale) & (scale > 0)
                found[hit] = scale[hit]
                open_ &= ~hit
        if not open_.any():
            return found
    return None


def biases(
    real: npt.NDArray[np.float64], sums: Longs, zero_x: int, multiplier: Floats
) -> Ints | None:
    """The biases nearest to ``real`` that have words once zero points are folded in.

    Args:
        real: biases wanted [O], in units of the sums: real bias / (s_x * s_w).
        sums: of each channel's weights [O].
        zero_x: of the input, as int8.
        multiplier: of each channel [O], with a word.

    Returns:
        None if one would not fit, in any of the kernels' ways to hold activations.
    """
    inside = zero_x * sums
    wanted = np.clip(real - inside, -(2.0**40), 2.0**40)
    found = np.zeros(real.shape, np.int64)
    open_ = np.ones(real.shape, bool)
    for coarse in (False, True):
        steps = bias_steps(multiplier, coarse=coarse)
        folded = (np.rint(wanted / steps) * steps).astype(np.int64)
        fit = np.abs(folded + inside) < 2**30
        for offset in OFFSETS:
            fit &= _fit(folded - offset * sums, multiplier)
        found = np.where(open_ & fit, folded + inside, found)
        open_ &= ~fit
    return None if open_.any() else found.astype(np.int32)

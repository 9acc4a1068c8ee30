"""Bias and multiplier in one word: what has one, what comes back, and how near scales are to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.core import affine, narrow

Drawn = list[tuple[int, int, bool]]
#: Bits of multipliers that words hold, biases in steps, and whether those are coarse.
BITS = st.integers(0, 2**14 - 1).map(lambda upper: (100 << 23) + (upper << 14) + (1 << 13))
multipliers = st.builds(lambda bits, last: bits | last, BITS, st.integers(0, 1))
steps = st.integers(-(2**15), 2**15 - 1)
channels = st.lists(st.tuples(multipliers, steps, st.booleans()), min_size=1, max_size=12)


def of(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    multiplier = np.array([bits for bits, _, _ in drawn], np.int32).view(np.float32)
    fine, coarse = (narrow.bias_steps(multiplier, coarse=coarse) for coarse in (False, True))
    step = np.where([rough for _, _, rough in drawn], coarse, fine)
    bias = np.array([step for _, step, _ in drawn], np.int64) * step
    return bias.astype(np.int32), multiplier


@settings(max_examples=300)
@given(drawn=channels)
def test_what_fits_comes_back_as_it_was(drawn: Drawn) -> None:
    bias, multiplier = of(drawn)
    assert narrow.fits(bias, multiplier)
    packed = narrow.words(bias, multiplier)
    assert packed.dtype == np.int32
    found = narrow.widened(packed)
    np.testing.assert_array_equal(found[0], bias)
    np.testing.assert_array_equal(found[1].view(np.int32), multiplier.view(np.int32))


@settings(max_examples=300)
@given(packed=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8))
def test_every_word_means_something(packed: list[int]) -> None:
    words = np.array(packed, np.int32)
    bias, multiplier = narrow.widened(words)
    assert ((multiplier >= 2.0**-27) & (multiplier < 32)).all()
    assert narrow.fits(bias, multiplier)
    again = narrow.widened(narrow.words(bias, multiplier))  # coarse biases may be fine as well
    np.testing.assert_array_equal(again[0], bias)
    np.testing.assert_array_equal(again[1], multiplier)


@given(drawn=channels)
def test_a_bias_is_known_to_a_part_of_a_step_or_exactly(drawn: Drawn) -> None:
    _, multiplier = of(drawn)
    for coarse, part in ((False, 1 / 64), (True, 1 / 8)):
        step = narrow.bias_steps(multiplier, coarse=coarse)
        assert ((step == 1) | (step * multiplier < part)).all()
        assert ((step >= 1) & (step <= 128)).all()


ODD = 1 << 13


@pytest.mark.parametrize(
    ("bias", "bits"),
    [
        (1, 100 << 23 | ODD),  # not a multiple of 128
        (128 << 15, 100 << 23 | ODD),  # one step too many
        (-(128 << 15) - 128, 100 << 23 | ODD),
        (1, 122 << 23 | ODD | 2),  # a bit between
        (0, 122 << 23 | ODD | 4096),
        (0, 122 << 23),  # even
        (0, 122 << 23 | 2 * ODD),
        (0, 99 << 23 | ODD),  # too small
        (0, 132 << 23 | ODD),  # too large
        (0, -1),  # negative, not a number
        (1, 0),  # zero
    ],
)
def test_what_does_not_fit_is_refused(bias: int, bits: int) -> None:
    both = np.array([120 << 23 | ODD, bits], np.int32).view(np.float32)
    given_ = np.array([0, bias], np.int32), both
    assert not narrow.fits(*given_)
    with pytest.raises(ValueError, match="more than a word"):
        narrow.words(*given_)


def test_channels_that_are_not_there_are_words_of_zero() -> None:
    bits = np.array([120 << 23 | ODD, 0], np.int32)
    bias, multiplier = np.array([4, 0], np.int32), bits.view(np.float32)
    packed = narrow.words(bias, multiplier)
    assert packed[0] != 0 and packed[1] == 0
    assert not narrow.fits(bias, multiplier)  # a real channel of multiplier 0 has none


reals = st.floats(1e-3, 0.3).map(lambda value: float(np.float32(value)))


@settings(max_examples=200)
@given(
    x=reals, y=reals, w=st.lists(st.floats(2.0**-16, 2.0**-6, width=32), min_size=1, max_size=16)
)  # fmt: skip
def test_scales_are_found_next_to_those_wanted(x: float, y: float, w: list[float]) -> None:
    wanted = np.array(w, np.float32)
    found = narrow.weight_scales(x, wanted, y)
    assert found is not None
    np.testing.assert_allclose(found, wanted, rtol=0.01)
    multiplier = affine.multiplier(x, found, y)
    assert narrow.fits(np.zeros(len(w), np.int32), multiplier)


def test_products_with_odd_mantissas_are_halves_nowhere_near_int8() -> None:
    sums = np.arange(1, 2**20, dtype=np.float64)
    rng = np.random.default_rng(0)
    odd = (rng.integers(112, 127, 40) << 23) + (rng.integers(0, 512, 40) << 14) + (1 << 13)
    for multiplier in odd.astype(np.int32).view(np.float32).astype(np.float64):
        products = sums[: int(256 / multiplier)] * multiplier
        assert not (products % 1 == 0.5).any()
    short = np.float64(9 / 256)
    assert ((sums[: int(256 / short)] * short) % 1 == 0.5).any()


def test_no_scale_is_made_up_where_multipliers_are_out_of_range() -> None:
    assert narrow.weight_scales(0.1, np.array([0.01, 33.0], np.float32), 0.1) is None
    assert narrow.weight_scales(1e-6, np.array([1e-6], np.float32), 1.0) is None


@settings(max_examples=200)
@given(drawn=channels, zero=st.integers(-128, 127), seed=st.integers(0, 2**32 - 1))
def test_biases_fit_however_activations_are_held(drawn: Drawn, zero: int, seed: int) -> None:
    _, multiplier = of(drawn)
    rng = np.random.default_rng(seed)
    sums = rng.integers(-500, 500, len(drawn))
    real = rng.uniform(-1, 1, len(drawn)) * 2.0 ** rng.uniform(0, 22)
    found = narrow.biases(real, sums, zero, multiplier)
    fine, coarse = (narrow.bias_steps(multiplier, coarse=coarse) for coarse in (False, True))
    reach = np.abs(real - zero * sums) + 128 * np.abs(sums)
    if found is None:
        assert (reach + coarse >= 2**15 * coarse).any()
        return
    finely = reach + fine < 2**15 * fine
    assert (np.abs(found - real) <= np.where(finely, fine, coarse) / 2).all()
    for offset in narrow.OFFSETS:
        assert narrow.fits((found - (zero + offset) * sums).astype(np.int32), multiplier)

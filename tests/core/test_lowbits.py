"""Weights of few bits: rounded from int8 ones, packed, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeopt.core import lowbits
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey

STORED = hnp.arrays(np.int8, st.integers(0, 70), elements=st.integers(-127, 127))


@given(st.data(), st.sampled_from(lowbits.PACKED_BITS))
def test_packing_is_undone(data: st.DataObject, bits: int) -> None:
    one = st.sampled_from([-3, -1, 1, 3]) if bits == 2 else st.integers(-8, 7)
    values = data.draw(hnp.arrays(np.int8, st.integers(0, 70), elements=one))
    assert lowbits.fits(values, bits)
    packed = lowbits.pack(values, bits)
    assert packed.size == lowbits.packed_bytes(values.size, bits)
    assert np.array_equal(lowbits.unpack(packed, bits, values.size), values)


def test_bytes_are_as_documented() -> None:
    four = lowbits.pack(np.array([-7, 3, 7], np.int8), 4)
    assert four.tolist() == [(-7 + 8) | (3 + 8) << 4, (7 + 8) | 8 << 4]
    two = lowbits.pack(np.array([-1, -3, 1, 3], np.int8), 2)
    assert two.tolist() == [1 | 0 << 2 | 2 << 4 | 3 << 6]


@pytest.mark.parametrize("bits", [3, 8])
def test_other_widths_are_not_packed(bits: int) -> None:
    with pytest.raises(ValueError, match="not packed"):
        lowbits.pack(np.zeros(4, np.int8), bits)


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 4 bits"):
        lowbits.pack(np.array([8], np.int8), 4)
    for value in (0, 2, -2, 5, -5, -128):
        assert not lowbits.fits(np.array([1, value], np.int8), 2)
        with pytest.raises(ValueError, match="does not fit 2 bits"):
            lowbits.pack(np.array([1, value], np.int8), 2)
    with pytest.raises(ValueError, match="fewer than 9"):
        lowbits.unpack(np.zeros(4, np.uint8), 4, 9)


@given(STORED, st.sampled_from(lowbits.WEIGHT_BITS))
def test_rounded_again_is_in_range_and_near(stored: np.ndarray, bits: int) -> None:
    found = lowbits.round_again(stored, bits)
    bound, step = lowbits.largest(bits), lowbits.double_step(bits)
    assert np.abs(found.astype(int)).max(initial=0) <= bound
    unit = lowbits.unit(bits) * step
    inside = np.abs(stored.astype(int)) <= bound * unit
    error = np.abs(found * unit - stored)[inside]
    assert error.max(initial=0) <= step / 2
    turned = lowbits.round_again(-stored, bits)
    whole = stored % step == 0 if bits == 2 else np.zeros(stored.shape, bool)
    assert np.array_equal(turned[~whole], -found[~whole])
    if bits == 2:  # the two uppermost bits of eight
        assert np.array_equal((found + 3) >> 1, (stored.astype(np.int16) + 128) >> 6)


def test_steps_may_differ_by_channel() -> None:
    stored = np.array([[40, -40], [40, -40]], np.int8)
    found = lowbits.round_again(stored, 2, np.array([64.0, 90.0], np.float32))
    assert found.tolist() == [[1, -1], [1, -1]]
    found = lowbits.round_again(3 * stored.astype(np.int16), 2, np.array([64.0, 130.0], np.float32))
    assert found.tolist() == [[3, -3], [1, -1]]


@given(
    hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-300, 300)),
    st.sampled_from(lowbits.WEIGHT_BITS),
)
def test_the_nearest_is_no_further_than_any_other(values: np.ndarray, bits: int) -> None:
    bound = lowbits.largest(bits)
    every = np.arange(-bound, bound + 1, 2 if bits == 2 else 1)
    found = lowbits.nearest(values, bits)
    assert np.isin(found, every).all()
    assert np.array_equal(np.abs(values - found), np.abs(values[:, None] - every).min(1))


def test_unknown_widths_are_named() -> None:
    with pytest.raises(InputError, match="weights of 5 bits do not exist"):
        lowbits.largest(5)


def test_keys_say_how_weights_are_stored() -> None:
    shapes = {"in_shape": (4, 4, 8), "out_shape": (4, 4, 8), "dtype": "i8", "out_dtype": "i8"}
    key = OpKey("pointwise", weight_bits=4, **shapes)  # type: ignore[arg-type]
    assert str(key).endswith(" weight_bits=4") and OpKey.parse(str(key)) == key
    assert key.weight_type == "w4" and key.precision == "i8"
    assert "weight_bits" not in str(OpKey("pointwise", **shapes))  # type: ignore[arg-type]


@pytest.mark.parametrize("op,dtype,bits", [("pointwise", "f32", 4), ("add", "i8", 4),
                                           ("pointwise", "i8", 3)])  # fmt: skip
def test_keys_refuse_weights_that_no_kernel_has(op: str, dtype: str, bits: int) -> None:
    with pytest.raises(InputError, match=f"weights of {bits} bits in {op}"):
        OpKey(op, (4, 4, 8), (4, 4, 8), dtype, dtype, weight_bits=bits)

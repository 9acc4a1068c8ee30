from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core.errors import InputError
from edgeopt.core.kernels import KERNEL_OPS, OpKey

dims = st.integers(1, 256)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=12)
keys = st.builds(
    OpKey,
    op=st.sampled_from(sorted(KERNEL_OPS)),
    in_shape=st.tuples(dims, dims, dims),
    out_shape=st.tuples(dims, dims, dims) | st.tuples(dims),
    dtype=st.sampled_from(["f32", "i8"]),
    out_dtype=st.sampled_from(["f32", "i8"]),
    kernel=st.tuples(dims, dims),
    strides=st.tuples(dims, dims),
    pads=st.tuples(dims, dims, dims, dims),
    groups=dims,
    activation=words,
    residual=st.booleans(),
    residual_activation=words,
    inputs=st.integers(1, 9),
    variant=st.just("") | words,
)


@given(keys)
def test_text_reads_back(key: OpKey) -> None:
    assert OpKey.parse(str(key)) == key


@given(keys, keys)
def test_digests_differ_exactly_where_keys_do(a: OpKey, b: OpKey) -> None:
    assert (a == b) == (a.digest == b.digest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pointwize in_shape=1 out_shape=1", "unknown kernel operator"),
        ("add in_shape=1", "in_shape and out_shape are required"),
        ("add in_shape=1 out_shape=1 colour=red", "'colour=red' is not a known field"),
        ("add in_shape=1 out_shape=1 in_shape=2", "is not a known field"),
        ("add in_shape=-1 out_shape=1", "out of range"),
        ("add in_shape=99999x99999x99999 out_shape=1", "out of range"),
        ("add in_shape=1 out_shape=1 kernel=3", "needs 2 numbers"),
        ("add in_shape=1 out_shape=1 residual=yes", "is 0 or 1"),
        ("add in_shape=1 out_shape=1 activation=a/b", "characters outside"),
        ("add in_shape=" + "9" * 99 + " out_shape=1", "too long"),
        ("add in_shape=1 out_shape=1 groups=x", "groups=x"),
    ],
)
def test_bad_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        OpKey.parse(text)


def test_work_of_a_pointwise_kernel() -> None:
    key = OpKey("pointwise", (16, 16, 24), (16, 16, 96), residual=True)
    assert key.macs == 16 * 16 * 24 * 96
    assert key.weight_count == 24 * 96
    assert key.activation_bytes == 4 * (16 * 16 * 24 + 2 * 16 * 16 * 96)

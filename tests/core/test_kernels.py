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
    op=st.sampled_from(sorted(KERNEL_OPS - {"irb"})),
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
) | st.builds(
    OpKey, op=st.just("irb"), in_shape=st.tuples(dims, dims, dims),
    out_shape=st.tuples(dims, dims, dims), kernel=st.tuples(dims, dims), residual=st.booleans(),
    variant=st.builds("e{}.{}".format, dims, words),
)  # fmt: skip


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
        ("irb in_shape=8x8x8 out_shape=8x8x8 variant=e0.relu", "describes no block"),
        ("irb in_shape=8x8x8 out_shape=8x8x8 variant=e8", "describes no block"),
        ("irb in_shape=64x8 out_shape=8x8x8 variant=e8.relu", "describes no block"),
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


def test_a_block_is_its_parts() -> None:
    key = OpKey.parse(
        "irb in_shape=8x6x16 out_shape=4x3x16 kernel=3x3 strides=2x2 pads=1x1x1x1 residual=1 "
        "residual_activation=relu variant=e24.clip_-1.0_1.0"
    )
    assert [str(part) for part in key.parts] == [
        "pointwise in_shape=8x6x16 out_shape=8x6x24 activation=clip_-1.0_1.0",
        "depthwise in_shape=8x6x24 out_shape=4x3x24 kernel=3x3 strides=2x2 pads=1x1x1x1 groups=24 "
        "activation=clip_-1.0_1.0",
        "pointwise in_shape=4x3x24 out_shape=4x3x16 residual=1 residual_activation=relu",
    ]
    assert key.macs == 8 * 6 * 16 * 24 + 4 * 3 * 24 * 9 + 4 * 3 * 24 * 16
    assert key.weight_count == 16 * 24 + 24 * 9 + 24 * 16
    assert key.activation_bytes == 4 * (8 * 6 * 16 + 2 * 4 * 3 * 16)
    assert OpKey("pointwise", (4, 4, 8), (4, 4, 8)).parts == ()

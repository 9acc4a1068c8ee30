"""Layouts: lazy transposes and reshapes against numpy's eager ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.graph.layout import (
    Layout,
    channels_last,
    conversion,
    plain,
    to_onnx,
    to_physical,
)

Shape = tuple[int, ...]


@st.composite
def cut(draw: st.DrawFn, total: int) -> Shape:
    """Some shape of ``total`` elements."""
    shape: list[int] = []
    while total > 1:
        divisors = [d for d in range(2, total + 1) if total % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        total //= shape[-1]
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return tuple(shape) or (1,)


@st.composite
def layouts(draw: st.DrawFn, total: int) -> Layout:
    view = draw(cut(total))
    return Layout(view, tuple(draw(st.permutations(range(len(view))))))


totals = st.sampled_from([1, 6, 8, 12, 24, 30, 36])


@settings(max_examples=300, deadline=None)
@given(totals.flatmap(lambda n: st.tuples(layouts(n), layouts(n))))
def test_conversion_moves_every_element_to_its_place(pair: tuple[Layout, Layout]) -> None:
    source, target = pair
    value = np.arange(math.prod(source.view))
    memory = to_physical(value, source).reshape(-1)
    for shape, perm in conversion(source, target):
        memory = memory.reshape(shape).transpose(perm).reshape(-1)
    np.testing.assert_array_equal(memory, to_physical(value, target).reshape(-1))
    unmoved = np.array_equal(
        to_physical(value, source).reshape(-1), to_physical(value, target).reshape(-1)
    )
    assert (not conversion(source, target)) == unmoved


@settings(max_examples=300, deadline=None)
@given(totals.flatmap(lambda n: st.tuples(layouts(n), cut(n), st.randoms())))
def test_a_transposed_value_lies_in_the_same_memory(case: tuple[Layout, Shape, object]) -> None:
    layout, shape, random = case
    perm = list(range(len(shape)))
    random.shuffle(perm)
    value = np.arange(math.prod(shape)).reshape(shape)
    moved = layout.transposed(shape, tuple(perm))
    if moved is None:
        return
    turned = value.transpose(perm)
    np.testing.assert_array_equal(
        to_physical(value, layout).reshape(-1), to_physical(turned, moved).reshape(-1)
    )
    np.testing.assert_array_equal(to_onnx(to_physical(turned, moved), moved, turned.shape), turned)


def test_the_usual_layouts() -> None:
    assert channels_last((1, 3, 4, 5)).physical == (1, 4, 5, 3)
    assert channels_last((1, 3, 5)) == plain((1, 3, 5))
    assert channels_last((1, 1, 4, 5)).is_plain and channels_last((1, 9, 1, 1)).is_plain
    assert conversion(plain((1, 3, 4, 5)), channels_last((1, 3, 4, 5))) == [((1, 3, 20), (0, 2, 1))]
    with pytest.raises(ValueError, match="does not permute"):
        Layout((1, 2), (0, 0))


def test_ways_there_and_back_cancel() -> None:
    """Two views that cut the elements differently may still hold them alike."""
    assert not conversion(Layout((3, 4, 3), (2, 0, 1)), Layout((4, 3, 3), (2, 0, 1)))
    assert len(conversion(Layout((3, 4, 3), (2, 0, 1)), Layout((4, 9), (1, 0)))) > 0

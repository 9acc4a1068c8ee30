"""Tile choices as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core.choice import FORMS, MODEL, Choice
from edgeopt.core.errors import InputError

CHOICES = st.builds(
    lambda tile, order, split, band, form: Choice(*tile, order, split, band, form),
    st.one_of(st.just((0, 0)), st.tuples(st.integers(1, 99), st.integers(1, 99))),
    st.sampled_from(["", "p", "r"]),
    st.integers(0, 64),
    st.integers(0, 4096),
    st.sampled_from(FORMS),
)


@given(CHOICES)
def test_text_and_choice_are_inverses(choice: Choice) -> None:
    assert Choice.parse(str(choice)) == choice
    assert str(choice).isalnum()


def test_the_text_is_short() -> None:
    assert str(MODEL) == "model"
    assert str(Choice(6, 2, "p", 4, 7)) == "6x2ps4b7"
    assert str(Choice(band=2, form="w4")) == "b2w4"


@pytest.mark.parametrize(
    "text", ["", "6", "6x", "x2", "6x2q", "b7s4", "6x2 ", "6x2p\n", "1000x1", "w3", "dw2"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is not a tile choice|a tile cannot be"):
        Choice.parse(text)


def test_half_a_tile_is_refused() -> None:
    with pytest.raises(InputError, match="a tile cannot be"):
        Choice(pixels=3)

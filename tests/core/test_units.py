from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core.errors import InputError
from edgeopt.core.units import (
    parse_duration_ns,
    parse_share,
    parse_size_bytes,
    show_duration,
    show_size,
)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("10ms", 10_000_000), ("1.5 s", 1_500_000_000), ("7ns", 7), ("2us", 2000), ("2µs", 2000)],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration_ns(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KB", 64_000), ("64KiB", 65_536), ("64K", 65_536), ("100", 100), ("1.5MB", 1_500_000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "10", "ms", "-1ms", "1e3ms", "10 parsecs", "0ms", "9" * 40])
def test_bad_durations_say_how_to_write_one(text: str) -> None:
    with pytest.raises(InputError, match=r"10ms"):
        parse_duration_ns(text)


@pytest.mark.parametrize("text", ["64XB", "kb", "0KB", "nan"])
def test_bad_sizes_say_how_to_write_one(text: str) -> None:
    with pytest.raises(InputError, match=r"256KB"):
        parse_size_bytes(text)


@pytest.mark.parametrize(("text", "share"), [("0.85", 0.85), ("85%", 0.85), ("1", 1.0)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["85", "-1%", "nan", "x"])
def test_bad_shares(text: str) -> None:
    with pytest.raises(InputError, match="85%"):
        parse_share(text)


@given(st.integers(1, 10**12))
def test_shown_durations_are_within_half_a_percent(nanoseconds: int) -> None:
    shown = parse_duration_ns(show_duration(nanoseconds))
    assert abs(shown - nanoseconds) <= 0.005 * nanoseconds


@given(st.integers(1, 10**12))
def test_shown_sizes_are_within_half_a_percent(size: int) -> None:
    assert abs(parse_size_bytes(show_size(size)) - size) <= 0.005 * size

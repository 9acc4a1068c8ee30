"""SIGKILL at random moments of a real measurement: `--resume` loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.profile_kills import MODEL, measure


@pytest.mark.slow
def test_random_kills_lose_nothing(needs_tool: Callable[[str], str]) -> None:
    needs_tool("gcc")
    # Twenty of them are in benchmarks/profile_kills.py.
    found = measure(2, MODEL, seed=4, show=False)
    assert [(kill.lost, kill.same_keys) for kill in found] == [(0, True)] * 2

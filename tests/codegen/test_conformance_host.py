"""The conformance suite on this machine: all of it with AVX2, a sample with SSE2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_schedules import conv_keys

from edgeopt.core.kernels import OpKey
from tests.emulated import machines, shapes
from tests.emulated.machines import BY_NAME

pytestmark = pytest.mark.usefixtures("host_is_x86_64_v3")
AVX2, SSE2 = BY_NAME["avx2"], BY_NAME["sse2"]


@pytest.mark.parametrize("half", [0, 1])
def test_every_class_with_avx2(half: int, tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    machines.run(AVX2, shapes.whole(AVX2.target)[half::2], tmp_path, needs_tool)


def test_every_class_with_sse2(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    machines.run(SSE2, shapes.sample(SSE2.target, 1), tmp_path, needs_tool)


@pytest.mark.usefixtures("always_divided")
def test_tilings_and_threads(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    keys = (*shapes.VARIED, *map(shapes.as_int8, shapes.VARIED), *shapes.FEW_BITS)
    machines.run(AVX2, machines.variants(keys, AVX2), tmp_path, needs_tool)


@settings(max_examples=2, phases=[Phase.generate])
@given(st.lists(conv_keys(), min_size=16, max_size=16), st.integers(0, 1000))
def test_any_convolution_keeps_to_its_tensors(
    tmp_path_factory: pytest.TempPathFactory,
    needs_tool: Callable[[str], str],
    keys: list[OpKey],
    seed: int,
) -> None:
    keys = [shapes.readable(key, AVX2.target) for key in keys]
    machines.run(AVX2, keys, tmp_path_factory.mktemp("any"), needs_tool, seed)

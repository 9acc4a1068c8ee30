"""The conformance suite on 64-bit Arm under qemu: plain NEON, dot products, matrices."""

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

MACHINES = tuple(BY_NAME[name] for name in ("neon", "dotprod", "i8mm"))


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_every_class(
    machine: machines.Machine, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    keys = shapes.sample(machine.target, machines.MACHINES.index(machine))
    machines.run(machine, keys, tmp_path, needs_tool)


@pytest.mark.usefixtures("always_divided")
def test_tilings_and_threads(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    machine = MACHINES[0]
    keys = (*shapes.VARIED[::2], *map(shapes.as_int8, shapes.VARIED), *shapes.FEW_BITS)
    machines.run(machine, machines.variants(keys, machine), tmp_path, needs_tool)


@settings(max_examples=2, phases=[Phase.generate])
@given(st.lists(conv_keys(), min_size=16, max_size=16), st.integers(0, 1000))
def test_any_convolution(
    tmp_path_factory: pytest.TempPathFactory,
    needs_tool: Callable[[str], str],
    keys: list[OpKey],
    seed: int,
) -> None:
    keys = [shapes.readable(key, MACHINES[1].target) for key in keys]
    machines.run(MACHINES[1], keys, tmp_path_factory.mktemp("any"), needs_tool, seed)

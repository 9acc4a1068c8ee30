"""The conformance suite on processors with AVX-512 and VNNI, emulated by bochs."""

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

#: Machine -> the precision whose kernels differ from those of another machine here.
PRECISION = {
    "avx512": "", "avx512vnni": "", "avx512vl": "i8", "avxvnni": "i8", "avx512vbmi": "i8",
}  # fmt: skip
MACHINES = tuple(BY_NAME[name] for name in PRECISION)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_every_class(
    machine: machines.Machine, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    keys = shapes.sample(machine.target, machines.MACHINES.index(machine), PRECISION[machine.name])
    machines.run(machine, keys, tmp_path, needs_tool)


@pytest.mark.usefixtures("always_divided")
def test_tilings_and_threads(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    machine = BY_NAME["avx512vnni"]
    keys = (*shapes.VARIED[::2], *map(shapes.as_int8, shapes.VARIED), *shapes.FEW_BITS)
    machines.run(machine, machines.variants(keys, machine), tmp_path, needs_tool)


@settings(max_examples=2, phases=[Phase.generate])
@given(st.lists(conv_keys(), min_size=24, max_size=24), st.integers(0, 1000))
def test_any_convolution(
    tmp_path_factory: pytest.TempPathFactory,
    needs_tool: Callable[[str], str],
    keys: list[OpKey],
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    machines.run(BY_NAME["avx512vnni"], keys, folder, needs_tool, seed)

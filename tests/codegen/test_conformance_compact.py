"""The conformance suite for x86-64 where flash counts more than time: kernels call functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.emulated import machines, shapes

NAMES = (
    "avx2", "sse2", "avx512", "avx512vnni", "avx512vl", "avxvnni", "avx1", "sse2_only",
    "avx512vbmi",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_int8_class(
    name: str, tmp_path: Path, needs_tool: Callable[[str], str], host_is_x86_64_v3: None
) -> None:
    usual = machines.BY_NAME[name]
    machine = replace(usual, target=replace(usual.target, compact=True, narrow=True))
    if name == "avx2":
        keys = shapes.whole(machine.target)
    else:
        keys = shapes.sample(machine.target, machines.MACHINES.index(usual), "i8")
    integer = [key for key in keys if key.dtype == key.out_dtype == "i8"]
    assert integer
    machines.run(machine, integer, tmp_path, needs_tool)

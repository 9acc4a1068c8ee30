"""The conformance suite on x86-64 without AVX2: nothing newer than the target is executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.emulated import machines, shapes


@pytest.mark.parametrize("name", ["avx1", "sse2_only"])
def test_every_class(name: str, tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    machine = machines.BY_NAME[name]
    keys = shapes.sample(machine.target, machines.MACHINES.index(machine))
    machines.run(machine, keys, tmp_path, needs_tool)

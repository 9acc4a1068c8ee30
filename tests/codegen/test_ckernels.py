"""Kernels in C: parity with the reference for every template, shape class and core."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import c_harness as harness
import pytest

from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import shapes

TARGETS = {
    "m0": harness.CORTEX_M0, "m4": harness.CORTEX_M4F, "m4 without fpu": harness.CORTEX_M4,
}  # fmt: skip


def keys_of(name: str) -> list[OpKey]:
    found = []
    for key in shapes.CLASSES[name]:
        if key.op == "irb" or "log" in key.variant or (key.op == "activation" and key.residual):
            continue
        found.append(harness.integer(key))
    return harness.with_packed(found)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_kernels_equal_the_reference(
    target: TargetSpec, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    keys = dict.fromkeys(key for name in shapes.CLASSES for key in keys_of(name))
    flags = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
    harness.check(list(keys), target, tmp_path, *flags, compiler=needs_tool("gcc"))

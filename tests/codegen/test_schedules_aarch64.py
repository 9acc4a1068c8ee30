"""Parity of the same templates on 64-bit Arm, under emulation, with and without dot products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import kernel_harness as harness
import pytest
from test_schedules import CONVS, FLOAT_ONLY, OTHERS, as_int8

from edgeopt.core.target import TargetSpec


@pytest.mark.parametrize("target", [harness.NEON, harness.DOTPROD], ids=["neon", "dotprod"])
def test_kernels_agree_under_emulation(
    target: TargetSpec, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    gcc, qemu = needs_tool("aarch64-linux-gnu-gcc"), needs_tool("qemu-aarch64")
    keys = [as_int8(key) for key in (*CONVS[::2], *OTHERS[1::2])]
    if target is harness.NEON:
        keys += [*CONVS[1::2], *OTHERS[::2], *FLOAT_ONLY[::2]]
    keys = list(dict.fromkeys(keys))
    results = harness.run_emulated(keys, target, tmp_path, gcc, qemu)
    for key, (got, want) in zip(keys, results, strict=True):
        harness.check(key, got, want)

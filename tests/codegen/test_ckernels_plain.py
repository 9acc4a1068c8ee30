"""Plain kernels where there is neither DSP nor FPU: every level of optimisation, both compilers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import c_harness
import micro
import numpy as np
import pytest

from edgeopt.codegen.machines import MACHINES, Machine
from edgeopt.codegen.toolchain import Compiler

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import shapes

KEYS = c_harness.with_packed(
    c_harness.integer(key)
    for key in (
        shapes.pointwise((3, 3), 21, 7), shapes.conv((7, 6), (3, 8), stride=(2, 2)),
        shapes.depthwise((5, 6), 16), shapes.linear(70, 11),
        shapes.conv((6, 7), (8, 5), dilation=(2, 2)), shapes.conv((6, 6), (8, 16), groups=2),
    )
)  # fmt: skip


@pytest.fixture(params=["m0", "rv32"])
def machine(request: pytest.FixtureRequest, needs_tool: Callable[[str], str]) -> Machine:
    return micro.need_machine(MACHINES[request.param], needs_tool)


@pytest.mark.parametrize("flags", ["-O0", "-Os", "-O3 -fno-omit-frame-pointer"])
def test_any_level_of_optimisation(machine: Machine, tmp_path: Path, flags: str) -> None:
    micro.check(KEYS, machine, tmp_path, flags=flags.split())


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_clang_makes_the_same_for_cortex_m0(
    needs_tool: Callable[[str], str], tmp_path: Path, level: str
) -> None:
    machine = micro.need_machine(MACHINES["m0"], needs_tool)
    headers = micro.newlib_headers(machine)
    by_clang = Compiler(
        (needs_tool("clang"), f"--target={machine.target.triple}"), machine.target.arch, "",
        ("-mcpu=cortex-m0plus", "-mfloat-abi=soft", "-isystem", str(headers)),
    )  # fmt: skip
    micro.check(KEYS, machine, tmp_path, flags=(level,), compiler=by_clang)


def test_fixed_point_over_the_whole_range(machine: Machine, tmp_path: Path) -> None:
    """Multipliers from those that round every sum to nothing to those that saturate most."""
    count = 96
    rng = np.random.default_rng(3)
    key = c_harness.integer(shapes.pointwise((5, 7), 4, count))
    exponents = rng.uniform(-40, 15.9, count)
    exponents[:8] = [-126, -60, -34, -33, -32, -3, -2, -1]
    constants = {
        "w": rng.integers(-128, 128, (count, 1, 1, 4)).astype(np.int8),
        "b": rng.integers(-(2**30), 2**30, count).astype(np.int32),
        "multiplier": np.exp2(exponents).astype(np.float32),
        "qparams": np.array([-128, 3, -128, 127], np.int32),
    }
    constants["b"][::3] = rng.integers(-300, 300, count)[::3]
    inputs = rng.integers(-128, 128, (5, 7, 4)).astype(np.int8)
    micro.check([key], machine, tmp_path, cases={key: ([inputs], constants)})

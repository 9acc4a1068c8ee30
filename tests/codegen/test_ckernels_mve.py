"""Kernels for cores with vectors: by other compilers, at any level, and what they cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import c_harness
import micro
import numpy as np
import pytest

from edgeopt.codegen import ckernels
from edgeopt.codegen.machines import MACHINES, Machine
from edgeopt.codegen.toolchain import Compiler
from edgeopt.core.errors import ToolError
from edgeopt.core.kernels import OpKey

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import shapes

M55 = MACHINES["m55"]
#: Instructions of CMSIS-NN's functions on the same core, counted in the same way.
CMSIS_NN = {"pointwise": 365_645, "depthwise": 446_273, "conv2d": 1_343_195}


@pytest.fixture
def m55(needs_tool: Callable[[str], str]) -> Machine:
    return micro.need_machine(M55, needs_tool)


def small(machine: Machine) -> Machine:
    """The same with kernels for little flash."""
    return replace(machine, target=replace(machine.target, compact=True, narrow=True))


def i8(keys: Sequence[OpKey]) -> list[OpKey]:
    return [c_harness.integer(key) for key in keys]


#: What the loops differ by: vectors in a row of inputs, channels and rows that are left over,
#: windows that leave the map, columns that are too far for a load to move on by.
KEYS = i8([
    *(shapes.pointwise((3, 3), inputs, 6) for inputs in (3, 16, 21, 32, 48, 61)),
    shapes.linear(70, 11), shapes.conv((7, 6), (3, 8), stride=(2, 2)),
    shapes.conv((6, 5), (16, 9)), shapes.conv((7, 9), (1, 12), (5, 4)),
    shapes.conv((6, 7), (8, 5), dilation=(2, 2)), shapes.depthwise((5, 6), 16),
    shapes.depthwise((7, 5), 20), shapes.depthwise((6, 6), 30), shapes.depthwise((4, 3), 144),
    shapes.depthwise((9, 8), 11, stride=(2, 2)), shapes.depthwise((8, 8), 24, (5, 5)),
    shapes.depthwise((6, 6), 18, (2, 2)), shapes.depthwise((6, 7), 16, (1, 5)),
    shapes.depthwise((7, 7), 4, (7, 7)), shapes.depthwise((9, 8), 41, stride=(2, 2)),
    shapes.depthwise((9, 11), 24, (5, 5), stride=(2, 2)), shapes.depthwise((7, 7), 19, (7, 7)),
    shapes.depthwise((13, 9), 35, (7, 7), stride=(2, 2)),
    shapes.pool("global_avgpool", (20, 20), 21, (1, 1)),
    shapes.same("add", (3, 5, 7), inputs=2), shapes.same("mul", (3, 5, 7), inputs=2),
    shapes.same("activation", (3, 5, 7), activation="hardswish"),
])  # fmt: skip


@pytest.mark.parametrize("flags", ["-O1", "-Os", "-O3 -fno-omit-frame-pointer"])
def test_any_level_of_optimisation(m55: Machine, tmp_path: Path, flags: str) -> None:
    assert all(ckernels.select(key, m55.target).name.startswith("mve_") for key in KEYS)
    keys = c_harness.with_packed(KEYS)
    for machine, folder in ((m55, tmp_path / "usual"), (small(m55), tmp_path / "small")):
        micro.check(keys, machine, folder, flags=flags.split())


def test_clang_makes_the_same(
    m55: Machine, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    clang = needs_tool("clang")
    headers = micro.newlib_headers(m55)
    by_clang = Compiler(
        (clang, f"--target={m55.target.triple}"), m55.target.arch, "",
        ("-mcpu=cortex-m55", "-mfloat-abi=hard", "-isystem", str(headers)),
    )  # fmt: skip
    keys = c_harness.with_packed(KEYS)
    for machine, folder in ((m55, tmp_path / "usual"), (small(m55), tmp_path / "small")):
        micro.check(keys, machine, folder, flags=("-O2",), compiler=by_clang)


def test_without_optimisation_the_compiler_says_what_is_wrong(m55: Machine, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="vector kernels need optimization, -O1 or more"):
        micro.check(KEYS[:1], m55, tmp_path, flags=("-O0",))


def test_sums_at_the_limits(m55: Machine, tmp_path: Path) -> None:
    """The largest sums, halves, and multipliers that saturate."""
    key = c_harness.integer(shapes.pointwise((2, 4), 16, 8))
    constants = {
        "w": np.full((8, 1, 1, 16), -128, np.int8),
        "b": np.array([2**31 - 2**18 - 1, -(2**31) + 2**18, 0, 1, 2, 3, -1, -3], np.int32),
        "multiplier": np.array([1e-3, 0.7, 0.5, 0.5, 0.5, 0.25, 0.5, 1e6], np.float32),
        "qparams": np.array([0, 3, -128, 127], np.int32),
    }
    inputs = np.zeros((2, 4, 16), np.int8)
    inputs[0, 1:] = [[-128], [127], [1]]
    micro.check([key], m55, tmp_path, cases={key: ([inputs], constants)})


def test_fewer_instructions_than_cmsis_nn(m55: Machine, tmp_path: Path) -> None:
    """The goal is 0.9 of them; what was reached leaves room for other versions of gcc."""
    size = (24, 24)
    keys = i8([shapes.pointwise(size, 32, 32), shapes.depthwise(size, 32),
               shapes.conv(size, (32, 32))])  # fmt: skip
    found = micro.check(keys, m55, tmp_path, flags=("-O2", "-fno-schedule-insns"))
    for key, share in zip(keys, (0.4, 0.4, 0.75), strict=True):
        assert found[key] < share * CMSIS_NN[key.op], f"{key}: {found[key]}"


def test_what_is_not_woven_is_still_computed(m55: Machine) -> None:
    """Windows and maps beyond what the vector templates take have a plain one."""
    wide = c_harness.integer(shapes.depthwise((3, 30), 8, (1, 17)))
    deep = c_harness.integer(shapes.depthwise((2, 2), 4100))
    apart = replace(c_harness.integer(shapes.depthwise((9, 9), 8)), dilations=(2, 2))
    for key in (wide, deep, apart):
        assert ckernels.select(key, m55.target).name.startswith("c_")

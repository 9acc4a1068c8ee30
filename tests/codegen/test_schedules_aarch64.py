"""Parity of the same templates on 64-bit Arm, under emulation: plain, dot products, matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest
from test_schedules import CONVS, FLOAT_ONLY, OTHERS, as_int8, conv

from edgeopt import devices
from edgeopt.codegen.schedules.depthwise import DEPTHWISE
from edgeopt.codegen.schedules.gemm import GEMM
from edgeopt.codegen.schedules.gemm_plan import suited
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

TARGETS = [harness.NEON, harness.DOTPROD, harness.I8MM]
IDS = ["neon", "dotprod", "i8mm"]

#: Runs of eight, sixteen and padded ones; pixels, outputs and panels that leave rests.
SUMS = (
    *(OpKey("pointwise", (3, 3, k), (3, 3, 20)) for k in (3, 8, 24, 47, 192, 200)),
    OpKey("pointwise", (5, 5, 32), (5, 5, 13)),
    OpKey("pointwise", (1, 7, 32), (1, 7, 1), activation="hardswish"),
    OpKey("pointwise", (1, 1, 48), (1, 1, 9)),
    OpKey("linear", (136,), (33,)),
    OpKey("linear", (344,), (33,)),
    conv("conv2d", 5, 16, 6, 3),
    conv("conv2d", 7, 8, 16, 1, stride=2, pad=0),
    conv("conv2d", 4, 32, 8, 3, groups=2),
    OpKey(
        "conv2d",
        (4, 4, 24),
        (4, 4, 9),
        kernel=(3, 3),
        pads=(2, 2, 2, 2),
        dilations=(2, 2),
        groups=3,
    ),
    conv("depthwise", 9, 24, 24, 3, groups=24, stride=2),
    conv("depthwise", 6, 40, 40, 5, groups=40),
)


def run(
    keys: list[OpKey],
    target: TargetSpec,
    folder: Path,
    needs_tool: Callable[[str], str],
    make: Callable[[OpKey, int], harness.Case] | None = None,
) -> None:
    gcc, qemu = needs_tool("aarch64-linux-gnu-gcc"), needs_tool("qemu-aarch64")
    keys = list(dict.fromkeys(keys))
    results = harness.run_emulated(keys, target, folder, gcc, qemu, make=make)
    for key, (got, want) in zip(keys, results, strict=True):
        harness.check(key, got, want)


@pytest.mark.parametrize("target", TARGETS, ids=IDS)
def test_kernels_agree_under_emulation(
    target: TargetSpec, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    keys = [as_int8(key) for key in CONVS[:: 1 if target is harness.I8MM else 2]]
    if target is not harness.I8MM:
        keys += [as_int8(key) for key in OTHERS[1::2]]
    if target is harness.NEON:
        keys += [*CONVS[1::2], *OTHERS[::2], *FLOAT_ONLY[::2]]
    run(keys, target, tmp_path, needs_tool)


@pytest.mark.parametrize("target", TARGETS, ids=IDS)
@pytest.mark.parametrize("least", [-127, -128])
def test_extreme_products_do_not_overflow(
    target: TargetSpec, least: int, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    """Sixteen bits hold two products of weights from -127 on, but not two of -128."""

    def extreme(key: OpKey, seed: int) -> harness.Case:
        inputs, constants = harness.case(key, seed)
        rng = np.random.default_rng(seed)
        w = constants["w"]
        constants["w"] = rng.choice(np.array([least, least, least, 127], np.int8), w.shape)
        x = rng.choice(np.array([-128, -128, -128, 127], np.int8), inputs[0].shape)
        return [x, *inputs[1:]], constants

    run([as_int8(key) for key in SUMS], target, tmp_path, needs_tool, extreme)


@pytest.mark.parametrize(
    ("key", "apart", "meeting"),
    [
        (OpKey("pointwise", (3, 3, 192), (3, 3, 8)), (3, 12), (3, 11)),
        (OpKey("pointwise", (3, 3, 32), (3, 3, 8)), (3, 11), (8, 10)),
    ],
    ids=["along", "pairs"],
)
def test_packer_tells_whether_sums_fit_sixteen_bits(
    key: OpKey, apart: tuple[int, int], meeting: tuple[int, int]
) -> None:
    key = as_int8(key)
    _, constants = harness.case(key, 0)
    w = np.full_like(constants["w"], -127)
    flags = []
    for places in ((), apart, meeting):
        w[5, ..., list(places)] = -128
        flags.append(int(GEMM.pack(key, harness.NEON, {**constants, "w": w})["qparams"][4]))
        w[5] = -127
    assert flags == [0, 0, 1]


def test_depthwise_packer_tells_as_well() -> None:
    key = as_int8(conv("depthwise", 5, 20, 20, 3, groups=20))
    _, constants = harness.case(key, 0)
    w = np.full_like(constants["w"], -127).reshape(20, 9)
    flags = []
    for places in ([], [1, 2], [2, 3]):
        w[17, places] = -128
        given = {**constants, "w": w.reshape(constants["w"].shape)}
        flags.append(int(DEPTHWISE.pack(key, harness.NEON, given)["qparams"][4]))
        w[17] = -127
    assert flags == [0, 0, 1]


def test_boards_choose_their_instructions() -> None:
    """What the shipped profiles declare decides how int8 is summed."""
    for name, short, long in (("rpi4", "pair8", "along"), ("rpi5", "quad", "quad")):
        target = devices.load(name).target
        for channels, mode in ((32, short), (512, long)):
            key = as_int8(OpKey("pointwise", (7, 7, channels), (7, 7, 64)))
            isa = isa_of(target)
            assert isa is not None and isa.by_element
            assert suited(key, isa).dot == mode
    matrices = devices.load("rpi5").target
    matrices = replace(matrices, features=matrices.features | {"i8mm"})
    isa = isa_of(matrices)
    assert isa is not None
    assert suited(as_int8(OpKey("pointwise", (7, 7, 32), (7, 7, 64))), isa).dot == "matrix"
    assert suited(as_int8(OpKey("linear", (32,), (64,))), isa).dot == "quad"

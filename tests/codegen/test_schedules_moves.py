"""Kernels that combine, move or reduce: parity with `codegen.reference` on every kind and type."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest

from edgeopt.codegen import build, schedules
from edgeopt.codegen.reference import run_kernel
from edgeopt.core.kernels import Kernel, OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.pipeline.kernel_constants import constants_of

MAP, ONE = (5, 3, 21), (1, 1, 21)

FLOATS = (
    *(OpKey(op, MAP, MAP, inputs=2) for op in ("sub", "div", "max", "min")),
    OpKey("sub", MAP, MAP, inputs=2, variant="channel", activation="relu"),
    OpKey("add", MAP, MAP, inputs=2, variant="channel"),
    OpKey("add", MAP, MAP, inputs=2, variant="pixel"),
    OpKey("mul", MAP, MAP, inputs=2, variant="pixel"),
    OpKey("max", MAP, MAP, variant="full"),
    OpKey("prelu", MAP, MAP, variant="channel"),
    OpKey("reduce", MAP, ONE, variant="sum"),
    OpKey("reduce", MAP, ONE, variant="max"),
    OpKey("reduce", (7, 7, 40), (1, 1, 40), variant="min"),
    OpKey("slice", MAP, (5, 3, 9), variant="start0-0-4"),
    OpKey("slice", MAP, (2, 3, 21), variant="start2-0-0"),
    OpKey("slice", MAP, (3, 2, 21), variant="start0-0-0.step2-2-1"),
    OpKey("slice", MAP, (5, 3, 7), variant="start0-0-1.step1-1-3"),
    OpKey("slice", (40,), (13,), variant="start5"),
    OpKey("pad", MAP, (8, 3, 21), variant="pad1-0-0.2-0-0"),
    OpKey("pad", MAP, (5, 6, 21), variant="pad0-3-0.0-0-0"),
    OpKey("pad", MAP, (7, 4, 42), variant="pad1-1-9.1-0-12"),
    OpKey("gather", MAP, (5, 3, 8), variant="axis2"),
    OpKey("gather", MAP, (9, 3, 21), variant="axis0"),
    OpKey("resize", MAP, (7, 2, 21), variant="index"),
    OpKey("resize", MAP, (10, 7, 21), variant="linear"),
    OpKey("resize", (4, 3, 9), (8, 9, 9)),
    *(OpKey("activation", MAP, MAP, activation=n) for n in ("erf", "exp", "abs", "mish", "sqrt")),
    OpKey("softmax", (33,), (33,), variant="log"),
    OpKey("softmax", (4, 5, 9), (4, 5, 9), variant="axis1.log"),
    OpKey("softmax", (4, 5, 9), (4, 5, 9), variant="axis0"),
    OpKey("avgpool", (9, 9, 21), (5, 5, 21), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    OpKey("avgpool", (8, 9, 21), (4, 5, 21), kernel=(2, 2), strides=(2, 2)),
)  # fmt: skip
INTEGERS = tuple(
    replace(key, dtype="i8", out_dtype="i8", activation="none")
    for key in FLOATS
    if not key.variant.endswith("log") and key.op != "activation"
)
KEYS = FLOATS + INTEGERS


def case(key: OpKey, seed: int) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Random inputs, and constants in range."""
    rng = np.random.default_rng(seed)
    shapes = [key.in_shape] * key.inputs
    if key.inputs == 2 and key.variant == "channel":
        shapes[1] = key.in_shape[-1:]
    elif key.inputs == 2 and key.variant == "pixel":
        shapes[1] = key.in_shape[:-1]
    if key.dtype == "i8":
        inputs = [rng.integers(-128, 128, shape).astype(np.int8) for shape in shapes]
    else:
        inputs = [(rng.standard_normal(shape) * 2).astype(np.float32) for shape in shapes]
    if key.activation == "sqrt":
        inputs = [np.abs(values) for values in inputs]
    return inputs, {name: np.asarray(v) for name, v in constants_of(key, seed).items()}


def reference(key: OpKey, inputs: list[np.ndarray], constants: dict[str, np.ndarray]) -> np.ndarray:
    return run_kernel(Kernel("k", key, (), "y", constants), inputs)


@pytest.fixture(scope="module", params=[harness.HOST, harness.AVX512], ids=["avx2", "avx512"])
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
    host_is_x86_64_v3: None,
) -> tuple[TargetSpec, ctypes.CDLL]:  # fmt: skip
    target: TargetSpec = request.param
    if target is harness.AVX512 and "avx512_vnni" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the machine has no AVX-512 VNNI: run on a processor that has it")
    folder = tmp_path_factory.mktemp("kernels")
    return target, harness.link(build.compile_kernels(KEYS, target), folder)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_parity(key: OpKey, built: tuple[TargetSpec, ctypes.CDLL]) -> None:
    target, library = built
    for seed in range(3):
        inputs, constants = case(key, seed)
        got = harness.run(library, key, target, inputs, constants)
        harness.check(key, got, reference(key, inputs, constants))


@pytest.mark.parametrize("target", [harness.NEON, harness.DOTPROD], ids=["neon", "dotprod"])
def test_parity_on_aarch64(
    target: TargetSpec, tmp_path: Path, needs_tool: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gcc, qemu = needs_tool("aarch64-linux-gnu-gcc"), needs_tool("qemu-aarch64")
    monkeypatch.setattr(harness, "case", case)
    monkeypatch.setattr(harness, "reference", reference)
    results = harness.run_emulated(KEYS, target, tmp_path, gcc, qemu)
    for key, (got, want) in zip(KEYS, results, strict=True):
        harness.check(key, got, want)


@pytest.mark.parametrize(
    ("op", "shape", "variant"),
    [
        ("slice", (5, 3, 30), "start0-0-4"),
        ("slice", MAP, "start0-0"),
        ("pad", MAP, "pad0-0-0.0-0-x"),
        ("pad", MAP, "pad1-0-0.0-0-0"),
        ("gather", (5, 3, 8), "axis3"),
        ("gather", (4, 3, 21), "axis1"),
        ("resize", (6, 7, 21), ""),
        ("softmax", MAP, "axis7"),
        ("reduce", ONE, "mean"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_have_no_template(
    op: str, shape: tuple[int, ...], variant: str
) -> None:
    assert schedules.select(OpKey(op, MAP, shape, variant=variant), harness.HOST) is None

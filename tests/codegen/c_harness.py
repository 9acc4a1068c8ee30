"""Kernels in C, compiled for this machine and run through ctypes, beside the numpy reference."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from kernel_harness import DTYPES, aligned, with_words

from edgeopt.codegen import ckernels
from edgeopt.codegen.reference import run_kernel
from edgeopt.core.kernels import Kernel, OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.pipeline.kernel_constants import constants_of

GUARD = 64
#: What bundles promise to compile under without a warning.
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")


def core(arch: str, *features: str) -> TargetSpec:
    """A microcontroller."""
    return TargetSpec(
        arch=arch, triple=f"{arch}-none-eabi", mcpu=arch, features=frozenset(features),
        vector_bits=32, vector_registers=0, l1d_bytes=0, l2_bytes=0, cores=1,
    )  # fmt: skip


CORTEX_M0 = core("armv6m")
CORTEX_M4F = core("armv7em", "dsp", "vfp4d16sp")
CORTEX_M4 = core("armv7em", "dsp")
RISCV = core("riscv32", "m", "c")


def shapes_of(key: OpKey) -> list[tuple[int, ...]]:
    """Shapes of a key's inputs."""
    shapes = [key.in_shape] * key.inputs
    if key.op == "scale" or (key.inputs == 2 and key.variant == "channel"):
        shapes[1] = key.in_shape[-1:]
    elif key.inputs == 2 and key.variant == "pixel":
        shapes[1] = key.in_shape[:-1]
    if key.op == "concat":
        axis, sizes = ckernels.moving.concat_parts(key)
        shapes = [(*key.in_shape[:axis], n, *key.in_shape[axis + 1 :]) for n in sizes]
    return shapes


Case = tuple[list[np.ndarray], dict[str, np.ndarray]]


def case(key: OpKey, seed: int, *, words: bool = False) -> Case:
    """Random inputs and constants, clamps and zero points among them.

    With ``words`` biases and multipliers have such, of all sizes.
    """
    rng = np.random.default_rng(seed)
    inputs = [
        rng.integers(-128, 128, shape).astype(np.int8) if key.dtype == "i8"
        else (rng.standard_normal(shape) * 2).astype(np.float32)
        for shape in shapes_of(key)
    ]  # fmt: skip
    constants = {name: np.array(value) for name, value in constants_of(key, seed).items()}
    clamped = key.op in ("pointwise", "conv2d", "depthwise", "linear", "add", "mul", "scale")
    if clamped and seed % 2:
        low, high = sorted(int(v) for v in rng.integers(-128, 128, 2))
        constants["qparams"][-2:] = low, high
    if words and "b" in constants:
        constants = with_words(constants, seed)
    return inputs, constants


def expected(key: OpKey, given: Case, target: TargetSpec) -> np.ndarray:
    """What `codegen.reference` says."""
    kernel = Kernel("k", key, (), "y", given[1])
    return run_kernel(kernel, given[0], fixed=not ckernels.isa_of(target).fpu)


def build(
    keys: Sequence[OpKey], target: TargetSpec, folder: Path, *flags: str, compiler: str = "gcc"
) -> ctypes.CDLL:
    """The kernels as a shared library of this machine."""
    path = folder / "kernels.c"
    path.write_text(ckernels.source(keys, target))
    library = folder / "kernels.so"
    command = [compiler, *WARNINGS, "-O1", "-fPIC", "-shared", *flags, "-o", str(library)]
    done = subprocess.run([*command, str(path), "-lm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    return ctypes.CDLL(str(library))


def run(library: ctypes.CDLL, key: OpKey, target: TargetSpec, given: Case) -> np.ndarray:
    """Call a kernel; nothing may be written but the output and the scratch."""
    template = ckernels.select(key, target)
    function = template.function(key, target)
    packed = template.pack(key, target, given[1])
    sizes = sum(packed[arg.name].nbytes for arg in function.args if arg.kind == "const")
    assert sizes == template.packed_bytes(key, target)
    inputs = iter(given[0])
    call: dict[str, np.ndarray] = {}
    for arg in function.args:
        if arg.kind == "input":
            call[arg.name] = aligned(next(inputs))
        elif arg.kind == "const":
            call[arg.name] = aligned(packed[arg.name])
        elif arg.kind == "output":
            call[arg.name] = aligned(
                np.full(math.prod(key.out_shape) + GUARD, 77, DTYPES[key.out_dtype])
            )
        else:
            call[arg.name] = aligned(np.full(function.scratch_bytes + GUARD, 0xA5, np.uint8))
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in call.values()]
    assert getattr(library, function.symbol)(*pointers) == 0
    size = math.prod(key.out_shape)
    assert (call["y"][size:] == 77).all(), f"{key} wrote past its output"
    if "scratch" in call:
        assert (call["scratch"][function.scratch_bytes :] == 0xA5).all(), f"{key}: past its scratch"
    return call["y"][:size].reshape(key.out_shape)


def check(
    keys: Sequence[OpKey], target: TargetSpec, folder: Path, *flags: str, compiler: str = "gcc"
) -> None:
    """Every kernel equals the reference, bit for bit."""
    library = build(keys, target, folder, *flags, compiler=compiler)
    for seed, key in enumerate(keys):
        given = case(key, seed, words=target.narrow)
        found, wanted = run(library, key, target, given), expected(key, given, target)
        wrong = int((found != wanted).sum())
        assert not wrong, f"{key}: {wrong} of {wanted.size} differ"


def with_packed(keys: Iterable[OpKey]) -> list[OpKey]:
    """int8 kernels, and those of them that read packed weights, of 4 and 2 bits in turns."""
    found: list[OpKey] = []
    for key in keys:
        found.append(key)
        if key.op in ckernels.packed.OPERATORS and key.dtype == "i8":
            found.append(replace(key, weight_bits=(4, 2)[len(found) // 2 % 2]))
    return list(dict.fromkeys(found))


def integer(key: OpKey) -> OpKey:
    """The same kernel as quantized networks have it."""
    if key.op in ("quantize", "dequantize"):
        return key
    activation = "none" if key.activation.split("_")[0] in ("none", "relu", "relu6") else "lut"
    return replace(
        key, dtype="i8", out_dtype="i8", residual=False, residual_activation="none",
        activation=activation,
    )  # fmt: skip

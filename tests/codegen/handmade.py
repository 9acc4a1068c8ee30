"""A network whose kernels are written by hand in C: tests the generated C without a compiler stack.

x f32[1,4,4,3] -> scale by w0 and add b -> t -> u = t + x (residual) -> y = sum over space [1,3]
and q i8[1,3] = lut of (i8) input k
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from edgeopt.codegen.abi import Arg, KernelFunction, symbol_of
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.core.kernels import Buffer, Kernel, KernelGraph, MemoryPlan, OpKey
from edgeopt.core.network import Array, Quant, Tensor

AFFINE = OpKey("mul", (4, 4, 3), (4, 4, 3), variant="affine")
RESIDUAL = OpKey("add", (4, 4, 3), (4, 4, 3), inputs=2)
POOL = OpKey("global_avgpool", (4, 4, 3), (3,))
TABLE = OpKey("activation", (3,), (3,), dtype="i8", out_dtype="i8", variant="lut")

SOURCE = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>
int32_t {affine}(const float *x, const float *w, const float *b, float *y, void *scratch);
int32_t {residual}(const float *a, const float *b, float *y, void *scratch);
int32_t {pool}(const float *x, float *y, void *scratch);
int32_t {table}(const int8_t *x, const int8_t *lut, int8_t *y, void *scratch);
int32_t {affine}(const float *x, const float *w, const float *b, float *y, void *scratch) {{
    float *work = (float *)scratch;
    int i;
    for (i = 0; i < 48; ++i) work[i] = x[i] * w[i % 3];
    for (i = 0; i < 48; ++i) y[i] = work[i] + b[i % 3];
    return 0;
}}
int32_t {residual}(const float *a, const float *b, float *y, void *scratch) {{
    int i;
    (void)scratch;
    for (i = 0; i < 48; ++i) y[i] = a[i] + b[i];
    return 0;
}}
int32_t {pool}(const float *x, float *y, void *scratch) {{
    int i, c;
    (void)scratch;
    for (c = 0; c < 3; ++c) {{
        y[c] = 0.0f;
        for (i = 0; i < 16; ++i) y[c] += x[3 * i + c];
    }}
    return 0;
}}
int32_t {table}(const int8_t *x, const int8_t *lut, int8_t *y, void *scratch) {{
    int i;
    (void)scratch;
    for (i = 0; i < 3; ++i) y[i] = lut[x[i] + 128];
    return 0;
}}
"""


def kernel_source(prefix: str) -> str:
    keys = {"affine": AFFINE, "residual": RESIDUAL, "pool": POOL, "table": TABLE}
    return SOURCE.format(**{name: prefix + symbol_of(key) for name, key in keys.items()})


def kernel_object(prefix: str, folder: Path, compiler: str = "gcc", *flags: str) -> bytes:
    """The kernels as an object, as the real builder hands them over."""
    (folder / "kernels.c").write_text(kernel_source(prefix))
    subprocess.run(
        [compiler, "-O2", "-fPIC", *flags, "-c", "kernels.c", "-o", "kernels.o"],
        cwd=folder, check=True,
    )  # fmt: skip
    return (folder / "kernels.o").read_bytes()


def function(key: OpKey, *args: Arg, scratch_bytes: int = 0) -> KernelFunction:
    return KernelFunction(
        key, symbol_of(key), (*args, Arg("scratch", "scratch", "u8")), scratch_bytes, "hand"
    )


FUNCTIONS = (
    function(
        AFFINE, Arg("input", "x", "f32"), Arg("const", "w", "f32"), Arg("const", "b", "f32"),
        Arg("output", "y", "f32"), scratch_bytes=192,
    ),
    function(
        RESIDUAL, Arg("input", "a", "f32"), Arg("input", "b", "f32"), Arg("output", "y", "f32")
    ),
    function(POOL, Arg("input", "x", "f32"), Arg("output", "y", "f32")),
    function(
        TABLE, Arg("input", "x", "i8"), Arg("const", "lut", "i8"), Arg("output", "y", "i8")
    ),
)  # fmt: skip

WEIGHTS: tuple[dict[str, Array], ...] = (
    {"w": np.array([0.1, -2.5, 3e-41], np.float32), "b": np.array([-0.0, 1 / 3, 7], np.float32)},
    {},
    {},
    {"lut": np.arange(127, -129, -1).astype(np.int8)},
)


def graph(x: str = "x", k: str = "k", y: str = "y", q: str = "q") -> KernelGraph:
    return KernelGraph(
        name="hand",
        tensors={
            x: Tensor(x, (1, 4, 4, 3)),
            k: Tensor(k, (1, 3), "i8", Quant(float(np.float32(0.1)), -3)),
            "t": Tensor("t", (1, 4, 4, 3)),
            "u": Tensor("u", (1, 4, 4, 3)),
            "pooled": Tensor("pooled", (1, 1, 1, 3)),
            y: Tensor(y, (1, 3)),
            q: Tensor(q, (1, 3), "i8", Quant(0.5, 4)),
        },
        kernels=(
            Kernel("affine", AFFINE, (x,), "t", sources=("mul",)),
            Kernel("residual", RESIDUAL, ("t", x), "u"),
            Kernel("pool", POOL, ("u",), "pooled"),
            Kernel("table", TABLE, (k,), q),
        ),
        inputs=(x, k),
        outputs=(y, q),
        aliases={y: "pooled"},
    )


def plan() -> MemoryPlan:
    return MemoryPlan(
        buffers=(
            Buffer("t", 0, 192, 0, 1),
            Buffer("u", 0, 192, 1, 2),  # in place over t
            Buffer("scratch:affine", 192, 192, 0, 0),
        ),
        arena_bytes=384,
        lower_bound_bytes=384,
        alignment_bytes=64,
    )


def vectors(
    count: int = 3, seed: int = 0, x: str = "x", k: str = "k", y: str = "y", q: str = "q"
) -> TestVectors:
    """Random inputs with outputs computed by numpy."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((count, 1, 4, 4, 3)).astype(np.float32)
    codes = rng.integers(-128, 128, (count, 1, 3)).astype(np.int8)
    w, b = WEIGHTS[0]["w"], WEIGHTS[0]["b"]
    summed = (maps * w + b + maps).astype(np.float64).sum(axis=(2, 3)).astype(np.float32)
    table = WEIGHTS[3]["lut"]
    return TestVectors({x: maps, k: codes}, {y: summed, q: table[codes.astype(int) + 128]})

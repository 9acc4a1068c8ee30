"""Running compiled kernels through ctypes, beside a plain numpy reference of their keys."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeopt.codegen import build, schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.schedules import winograd_plan
from edgeopt.core import activations, affine, narrow
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

HOST = TargetSpec(
    arch="x86_64", triple="x86_64-linux-gnu", mcpu="x86-64-v3",
    features=frozenset({"avx2", "fma"}), vector_bits=256, vector_registers=16,
    l1d_bytes=32768, l2_bytes=524288, cores=1,
)  # fmt: skip
NEON = TargetSpec(
    arch="aarch64", triple="aarch64-linux-gnu", mcpu="cortex-a72", features=frozenset({"neon"}),
    vector_bits=128, vector_registers=32, l1d_bytes=32768, l2_bytes=1048576, cores=1,
)  # fmt: skip
DOTPROD = TargetSpec(
    arch="aarch64", triple="aarch64-linux-gnu", mcpu="cortex-a76",
    features=frozenset({"neon", "dotprod"}), vector_bits=128, vector_registers=32,
    l1d_bytes=65536, l2_bytes=524288, cores=1,
)  # fmt: skip

I8MM = TargetSpec(
    arch="aarch64", triple="aarch64-linux-gnu", mcpu="cortex-a78c",
    features=frozenset({"neon", "dotprod", "i8mm"}), vector_bits=128, vector_registers=32,
    l1d_bytes=65536, l2_bytes=524288, cores=1,
)  # fmt: skip
AVX512 = TargetSpec(
    arch="x86_64", triple="x86_64-linux-gnu", mcpu="cascadelake",
    features=frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq",
                        "avx512vnni"}),
    vector_bits=512, vector_registers=32, l1d_bytes=32768, l2_bytes=1048576, cores=1,
)  # fmt: skip
Case = tuple[list[np.ndarray], dict[str, np.ndarray]]
DTYPES = {"f32": np.float32, "i8": np.int8}
#: Operators that `case` and `reference` know.
PLAIN = frozenset(
    {"pointwise", "depthwise", "conv2d", "linear", "maxpool", "avgpool", "global_avgpool", "add",
     "mul", "scale", "activation", "softmax", "concat", "copy", "transpose", "resize", "quantize",
     "dequantize"}
)  # fmt: skip


def aligned(array: np.ndarray, alignment: int = 64) -> np.ndarray:
    """A copy whose data starts at a multiple of ``alignment``."""
    raw = np.zeros(array.nbytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def link(data: bytes, folder: Path) -> ctypes.CDLL:
    """Load an object as a shared library."""
    obj, shared = folder / "kernels.o", folder / "kernels.so"
    obj.write_bytes(data)
    subprocess.run(
        ["gcc", "-shared", "-o", str(shared), str(obj), "-lm"], check=True, capture_output=True
    )
    return ctypes.CDLL(str(shared))


def arguments(
    key: OpKey,
    target: TargetSpec,
    inputs: Sequence[np.ndarray],
    constants: Mapping[str, np.ndarray],
    choice: Choice = MODEL,
) -> list[np.ndarray]:
    """Every pointer of the kernel's call, in order, as arrays."""
    template = schedules.select(key, target, choice)
    assert template is not None
    function = template.function(key, target)
    packed = template.pack(key, target, constants)
    given = list(inputs)
    call = []
    for arg in function.args:
        if arg.kind in ("input", "residual"):
            call.append(aligned(given.pop(0)))
        elif arg.kind == "const":
            call.append(aligned(packed[arg.name]))
        elif arg.kind == "output":
            guard = np.full(math.prod(key.out_shape) + 64, 77, DTYPES[key.out_dtype])
            call.append(aligned(guard))
        elif arg.kind == "scratch":
            rubbish = np.random.default_rng(5).integers(0, 255, function.scratch_bytes)
            call.append(aligned(rubbish.astype(np.uint8)))
    assert not given
    assert sum(packed[a.name].nbytes for a in function.args if a.kind == "const") == (
        template.packed_bytes(key, target)
    )
    return call


def run(
    library: ctypes.CDLL,
    key: OpKey,
    target: TargetSpec,
    inputs: Sequence[np.ndarray],
    constants: Mapping[str, np.ndarray],
    choice: Choice = MODEL,
) -> np.ndarray:
    """Call the kernel once; checks that nothing is written past the output."""
    call = arguments(key, target, inputs, constants, choice)
    kinds = [a.kind for a in schedules.select(key, target).function(key, target).args]
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in call]
    assert getattr(library, symbol_of(key, choice))(*pointers) == 0
    output = call[kinds.index("output")]
    size = math.prod(key.out_shape)
    assert (output[size:] == 77).all(), "the kernel wrote past its output"
    return output[:size].reshape(key.out_shape)


def case(key: OpKey, seed: int) -> Case:
    """Random inputs and constants of a key."""
    rng = np.random.default_rng(seed)
    integer = key.dtype == "i8"
    shapes = [key.in_shape] * key.inputs
    if key.op == "scale":
        shapes[1] = key.in_shape[-1:]
    if key.op == "concat":
        axis, sizes = concat_parts(key)
        shapes = [(*key.in_shape[:axis], n, *key.in_shape[axis + 1 :]) for n in sizes]
    if key.residual:
        shapes.append(key.out_shape)

    def values(shape: tuple[int, ...]) -> np.ndarray:
        if integer:
            return rng.integers(-128, 128, shape).astype(np.int8)
        return (rng.standard_normal(shape) * 2).astype(np.float32)

    inputs = [values(shape) for shape in shapes]
    constants: dict[str, np.ndarray] = {}
    out = key.out_shape[-1]
    zero = lambda: int(rng.integers(-128, 128))  # noqa: E731
    if key.op in ("pointwise", "conv2d", "depthwise", "linear"):
        shape = (out, key.in_shape[-1] // key.groups)
        if key.op != "linear":
            shape = (out, *key.kernel, key.in_shape[-1] // key.groups)
        fan = math.prod(shape[1:])
        if integer:
            most = 1 << (key.weight_bits or 8) - 1
            constants["w"] = rng.integers(-most, most, shape).astype(np.int8)
            if key.weight_bits == 2:
                constants["w"] = 2 * constants["w"] + np.int8(1)
            constants["b"] = rng.integers(-5000, 5000, out).astype(np.int32)
            spread = 60 / (74 * 74 * math.sqrt(fan))
            constants["multiplier"] = (rng.uniform(0.5, 1.5, out) * spread).astype(np.float32)
            constants["qparams"] = qparams(key, rng, (zero(), zero()))
            if schedules.template.is_table(key.activation):
                constants["lut"] = rng.integers(-128, 128, 256).astype(np.int8)
        else:
            constants["w"] = (rng.standard_normal(shape) / math.sqrt(fan)).astype(np.float32)
            constants["b"] = rng.standard_normal(out).astype(np.float32)
    elif key.op in ("add", "mul", "scale"):
        if key.inputs == 1:
            shape = key.in_shape if key.variant == "full" else key.in_shape[-1:]
            constants["c"] = values(shape)
        if integer:
            constants["qparams"] = qparams(key, rng, (zero(), zero(), zero()))
            if key.op == "add":
                constants["factors"] = rng.uniform(0.1, 0.9, 2).astype(np.float32)
            else:
                constants["multiplier"] = np.array([rng.uniform(0.003, 0.02)], np.float32)
    elif key.op in ("global_avgpool", "avgpool") and integer:
        n = math.prod(key.in_shape[:2] if key.op == "global_avgpool" else key.kernel)
        constants["multiplier"] = np.array([rng.uniform(0.8, 2.0) / n], np.float32)
        constants["qparams"] = qparams(key, rng, (zero(), zero()))
    elif key.op == "activation" and integer:
        constants["lut"] = rng.integers(-128, 128, 256).astype(np.int8)
    elif key.op == "concat" and integer and not key.variant.endswith(".same"):
        constants["factors"] = rng.uniform(0.3, 1.2, key.inputs).astype(np.float32)
        zeros = [zero() for _ in range(key.inputs + 1)]
        constants["qparams"] = np.array(zeros, np.int32)
    elif key.op in ("quantize", "dequantize"):
        constants["scale"] = np.array([rng.uniform(0.01, 0.1)], np.float32)
        constants["qparams"] = np.array([zero()], np.int32)
    return inputs, constants


def with_words(constants: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Constants of an accumulating kernel, changed a little so that channels have words.

    Biases are of all sizes that do.
    """
    rng = np.random.default_rng(seed)
    bits = constants["multiplier"].view(np.int32) & ~0x3FFF | 0x2000
    multiplier = (bits | rng.integers(0, 2, bits.shape, np.int32)).view(np.float32)
    sums = constants["w"].reshape(len(constants["w"]), -1).astype(np.int64).sum(axis=1)
    zero = int(constants["qparams"][0])
    most = 2.0**15 * narrow.bias_steps(multiplier, coarse=True) - np.abs(sums) * 128 - 128
    wanted = most * rng.choice((-1, 1), bits.shape) * 2.0 ** -rng.uniform(0, 12, bits.shape)
    wanted += zero * sums
    b = narrow.biases(wanted, sums, zero, multiplier)
    assert b is not None
    return {**constants, "b": b, "multiplier": multiplier}


def qparams(key: OpKey, rng: np.random.Generator, zeros: tuple[int, ...]) -> np.ndarray:
    low, high = -128, 127
    if key.activation != "none":
        low, high = sorted(int(v) for v in rng.integers(-128, 128, 2))
    return np.array([*zeros, low, high], np.int32)


def concat_parts(key: OpKey) -> tuple[int, list[int]]:
    axis, sizes = key.variant.removesuffix(".same").split(".")
    return int(axis.removeprefix("axis")), [int(n) for n in sizes.split("-")]


def windows(key: OpKey, x: np.ndarray, pad: float, dtype: type) -> np.ndarray:
    """Input windows [oh, ow, kh, kw, C]."""
    top, left, bottom, right = key.pads
    padded = np.pad(x.astype(dtype), ((top, bottom), (left, right), (0, 0)), constant_values=pad)
    (kh, kw), (sh, sw), (dh, dw) = key.kernel, key.strides, key.dilations
    out_h, out_w = key.out_shape[:2]
    result = np.empty((out_h, out_w, kh, kw, x.shape[-1]), dtype)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (out_h - 1) * sh + 1, sh)
            cols = slice(j * dw, j * dw + (out_w - 1) * sw + 1, sw)
            result[:, :, i, j] = padded[rows, cols]
    return result


def activate(text: str, x: np.ndarray) -> np.ndarray:
    if text == "none":
        return x
    function, attrs = activations.parse_text(text)
    return activations.apply(function, x.astype(np.float32), attrs)


def reference(
    key: OpKey, inputs: Sequence[np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What the kernel must compute: float64 sums for f32, `core.affine` for int8."""
    x = inputs[0]
    if key.op in ("pointwise", "conv2d", "depthwise", "linear"):
        return _accumulating(key, inputs, constants)
    if key.dtype == "i8":
        return _integer(key, inputs, constants)
    if key.op == "quantize":
        zero = int(constants["qparams"][0])
        return affine.quantize(x, float(constants["scale"][0]), zero)
    if key.op in ("add", "mul", "scale"):
        other = inputs[1] if key.inputs == 2 else constants["c"]
        y = activate(key.activation, x + other if key.op == "add" else x * other)
        if key.residual:
            y = activate(key.residual_activation, y + inputs[-1])
        return y
    if key.op == "activation":
        return activate(key.activation, x)
    if key.op == "global_avgpool":
        return x.mean(axis=(0, 1), dtype=np.float64).reshape(key.out_shape)
    if key.op == "maxpool":
        return windows(key, x, -np.inf, np.float32).max(axis=(2, 3))
    if key.op == "avgpool":
        total = windows(key, x, 0, np.float64).sum(axis=(2, 3))
        count = windows(key, np.ones_like(x), float(key.variant == "include"), np.float64)
        return total / count.sum(axis=(2, 3))
    if key.op == "softmax":
        axis = int(key.variant.removeprefix("axis")) if key.variant else -1
        e = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)
    return _moving(key, inputs)


def _moving(key: OpKey, inputs: Sequence[np.ndarray]) -> np.ndarray:
    x = inputs[0]
    if key.op == "copy":
        return x.reshape(key.out_shape)
    if key.op == "concat":
        return np.concatenate(inputs, axis=concat_parts(key)[0])
    if key.op == "transpose":
        return x.transpose([int(p) for p in key.variant.removeprefix("perm").split("-")])
    if key.op == "resize":
        rows, cols = (o // i for o, i in zip(key.out_shape[:2], key.in_shape[:2], strict=True))
        return x.repeat(rows, axis=0).repeat(cols, axis=1)
    raise AssertionError(key.op)


def _accumulating(
    key: OpKey, inputs: Sequence[np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray:
    integer = key.dtype == "i8"
    dtype = np.int64 if integer else np.float64
    w, bias = constants["w"].astype(dtype), constants["b"].astype(dtype)
    zero = int(constants["qparams"][0]) if integer else 0
    if key.op == "linear":
        acc = (inputs[0].astype(dtype) - zero) @ w.T + bias
    else:
        found = windows(key, inputs[0], zero, dtype) - zero
        groups = key.groups
        found = found.reshape(*found.shape[:4], groups, -1)
        per_group = w.reshape(groups, -1, *w.shape[1:])
        acc = np.einsum("hwijgc,goijc->hwgo", found, per_group)
        acc = acc.reshape(key.out_shape) + bias
    if not integer:
        y = activate(key.activation, acc)
        if key.residual:
            y = activate(key.residual_activation, y + inputs[-1])
        return y
    _, zero_y, low, high = (int(v) for v in constants["qparams"])
    y = affine.requantize(acc.astype(np.int32), constants["multiplier"], zero_y, low, high)
    return constants["lut"][y.astype(np.int32) + 128] if "lut" in constants else y


def _integer(
    key: OpKey, inputs: Sequence[np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray:
    x = inputs[0]
    q = [int(v) for v in constants.get("qparams", ())]
    if key.op == "add":
        other = inputs[1] if key.inputs == 2 else constants["c"]
        return affine.add(x, other, constants["factors"], *q)
    if key.op in ("mul", "scale"):
        other = inputs[1] if key.inputs == 2 else constants["c"]
        return affine.mul(x, other, constants["multiplier"][0], *q)
    if key.op == "activation":
        return constants["lut"][x.astype(np.int32) + 128]
    if key.op == "dequantize":
        return affine.dequantize(x, float(constants["scale"][0]), q[0])
    if key.op == "global_avgpool":
        acc = (x.astype(np.int32) - q[0]).sum(axis=(0, 1)).reshape(key.out_shape)
        return affine.requantize(acc.astype(np.int32), constants["multiplier"], *q[1:])
    if key.op == "avgpool":
        acc = (windows(key, x, q[0], np.int32) - q[0]).sum(axis=(2, 3)).astype(np.int32)
        return affine.requantize(acc, constants["multiplier"], *q[1:])
    if key.op == "maxpool":
        return windows(key, x, -128, np.int8).max(axis=(2, 3))
    if key.op == "concat" and "factors" in constants:
        parts = []
        for part, factor, zero in zip(inputs, constants["factors"], q[:-1], strict=True):
            parts.append(affine.requantize(part.astype(np.int32) - zero, factor, q[-1]))
        return np.concatenate(parts, axis=concat_parts(key)[0])
    return _moving(key, inputs)


def check(key: OpKey, got: np.ndarray, want: np.ndarray) -> None:
    """Bit-exact for integers, 1e-5 of the larger of one and the value for floats.

    3x3 convolutions in Winograd's domain have thrice that; `test_winograd` bounds them tightly.
    """
    if key.out_dtype == "i8" or key.dtype == "i8":
        assert got.dtype == want.dtype
        wrong = int((got != want).sum())
        assert wrong == 0, f"{key}: {wrong} of {got.size} elements differ"
        return
    error = np.abs(got - want) / np.maximum(1.0, np.abs(want))
    bound = 3e-5 if winograd_plan.applies(key) else 1e-5
    assert error.max() <= bound, f"{key}: relative error {error.max():.2e}"


_EMULATED = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
{declarations}
int main(int argc, char **argv) {{
  (void)argc;
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  for (;;) {{
    int32_t head[3]; /* kernel, pointers, which of them is the output */
    if (fread(head, 4, 3, in) != 3) break;
    void *p[10] = {{0}};
    int32_t size[10];
    for (int i = 0; i < head[1]; i++) {{
      if (fread(&size[i], 4, 1, in) != 1) return 2;
      p[i] = aligned_alloc(64, (size_t)(size[i] + 127) / 64 * 64);
      if (fread(p[i], 1, (size_t)size[i], in) != (size_t)size[i]) return 2;
    }}
    int32_t status = 0;
    switch (head[0]) {{
{cases}
    }}
    if (status) return 3;
    fwrite(p[head[2]], 1, (size_t)size[head[2]], out);
    for (int i = 0; i < head[1]; i++) free(p[i]);
  }}
  fclose(out);
  return 0;
}}
"""


def run_emulated(
    keys: Sequence[OpKey],
    target: TargetSpec,
    folder: Path,
    gcc: str,
    qemu: str,
    seed: int = 0,
    make: Callable[[OpKey, int], Case] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Run every kernel under qemu: (what it computed, what it must)."""
    (folder / "kernels.o").write_bytes(build.compile_kernels(keys, target))
    declarations, cases, blobs, wanted = [], [], [], []
    for index, key in enumerate(keys):
        inputs, constants = (make or case)(key, seed + index)
        call = arguments(key, target, inputs, constants)
        template = schedules.select(key, target)
        assert template is not None
        args = template.function(key, target).args
        types = ", ".join(["void *"] * len(args))
        declarations.append(f"int32_t {symbol_of(key)}({types});")
        passed = ", ".join(f"p[{i}]" for i in range(len(args)))
        cases.append(f"    case {index}: status = {symbol_of(key)}({passed}); break;")
        place = [arg.kind for arg in args].index("output")
        blobs.append(np.array([index, len(args), place], np.int32).tobytes())
        for array in call:
            blobs.append(np.array([array.nbytes], np.int32).tobytes() + array.tobytes())
        wanted.append((key, len(call[place]), reference(key, inputs, constants)))
    source = _EMULATED.format(declarations="\n".join(declarations), cases="\n".join(cases))
    (folder / "main.c").write_text(source)
    (folder / "in.bin").write_bytes(b"".join(blobs))
    program = str(folder / "main")
    subprocess.run(
        [gcc, "-static", "-o", program, str(folder / "main.c"), str(folder / "kernels.o"), "-lm"],
        check=True, capture_output=True,
    )  # fmt: skip
    cpu = "cortex-a76" if "dotprod" in target.features else "cortex-a72"
    cpu = "max" if "i8mm" in target.features else cpu
    subprocess.run(
        [qemu, "-cpu", cpu, program, str(folder / "in.bin"), str(folder / "out.bin")], check=True
    )
    data, results = (folder / "out.bin").read_bytes(), []
    for key, length, want in wanted:
        kind = DTYPES[key.out_dtype]
        got = np.frombuffer(data, kind, length)
        data = data[got.nbytes :]
        size = math.prod(key.out_shape)
        assert (got[size:] == 77).all(), f"{key}: the kernel wrote past its output"
        results.append((got[:size].reshape(key.out_shape), want))
    assert not data
    return results

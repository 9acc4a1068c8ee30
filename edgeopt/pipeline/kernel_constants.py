"""Made-up constants for kernels that are only timed: right types and shapes, harmless values."""

from __future__ import annotations

import math

import numpy as np

from edgeopt.codegen.schedules.pooling import is_uneven
from edgeopt.core import narrow
from edgeopt.core.affine import exponentials
from edgeopt.core.kernels import OpKey
from edgeopt.core.lowbits import largest, nearest
from edgeopt.core.network import Array

#: Kernels whose weights have the shape of a convolution.
_CONVOLUTIONS = ("pointwise", "depthwise", "conv2d")


def constants_of(key: OpKey, seed: int = 0) -> dict[str, Array]:
    """Constants as lowering would hand them over (see `edgeopt.codegen.schedules`).

    Float values keep the size of activations about the same from layer to layer, so that a chain
    of such kernels meets neither infinities nor subnormal numbers, which would change its timing.
    """
    random = np.random.default_rng([seed, int(key.digest, 16)])
    integer = key.precision == "i8"
    if key.op in (*_CONVOLUTIONS, "linear"):
        return _accumulating(key, random, integer)
    if key.op == "irb":
        return {
            name + suffix: value
            for part, suffix in zip(key.parts, ("1", "d", "2"), strict=True)
            for name, value in _accumulating(part, random, integer).items()
        }
    found: dict[str, Array] = {}
    if key.op in ("add", "mul", "scale"):
        if key.inputs == 1:
            shape = key.in_shape if key.variant == "full" else key.in_shape[-1:]
            found["c"] = (
                random.integers(-128, 128, shape).astype(np.int8)
                if integer
                else random.uniform(0.5, 1.5, shape).astype(np.float32)
            )
        if integer:
            found["qparams"] = np.array([3, -5, 1, -128, 127], np.int32)
            if key.op == "add":
                found["factors"] = np.array([0.7, 0.6], np.float32)
            else:
                found["multiplier"] = np.array([0.01], np.float32)
    elif key.op in ("global_avgpool", "avgpool") and integer:
        count = math.prod(key.in_shape[:2] if key.op == "global_avgpool" else key.kernel)
        counts = range(1, count + 1) if is_uneven(key) else (count,)
        found["multiplier"] = np.array([1.0 / n for n in counts], np.float32)
        found["qparams"] = np.array([3, -5, -128, 127], np.int32)
    elif key.op == "activation" and integer:
        found["lut"] = random.integers(-128, 128, 256).astype(np.int8)
    elif key.op == "concat" and integer and not key.variant.endswith(".same"):
        found["factors"] = np.full(key.inputs, 0.8, np.float32)
        found["qparams"] = np.zeros(key.inputs + 1, np.int32)
    elif key.op in ("quantize", "dequantize"):
        found["scale"] = np.array([0.05], np.float32)
        found["qparams"] = np.array([3], np.int32)
    elif key.op in ("sub", "div", "max", "min", "prelu"):
        if key.inputs == 1:
            shape = key.in_shape if key.variant == "full" else key.in_shape[-1:]
            found["c"] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        if integer:
            found["scales"] = np.array([0.05, 0.04, 0.06][: key.inputs + 1], np.float32)
            found["qparams"] = np.array([3, -5, 1][: key.inputs + 1], np.int32)
    elif key.op == "reduce" and integer and key.variant == "sum":
        found["multiplier"] = np.array([0.02], np.float32)
        found["qparams"] = np.array([3, -5, -128, 127], np.int32)
    elif key.op == "softmax" and integer:
        found["table"] = exponentials(0.1, max(key.in_shape))
        found["scale"] = np.array([1 / 256], np.float32)
        found["qparams"] = np.array([-128], np.int32)
    elif key.op == "pad":
        found["value"] = np.array([3], np.int8 if integer else np.float32)
    elif key.op in ("gather", "resize"):
        found |= _indices(key, random)
    return found


def _indices(key: OpKey, random: np.random.Generator) -> dict[str, Array]:
    """Tables of indices in range, and weights of neighbours."""
    if key.op == "gather":
        axis = int(key.variant.removeprefix("axis"))
        index = random.integers(0, key.in_shape[axis], key.out_shape[axis])
        return {"index": index.astype(np.int32)}
    if not key.variant:
        return {}
    times = 2 if key.variant == "linear" else 1
    lines = [
        np.sort(random.integers(0, size, out)).astype(np.int32)
        for size, out in zip(key.in_shape[:2], key.out_shape[:2], strict=True)
        for _ in range(times)
    ]
    found: dict[str, Array] = {"index": np.concatenate(lines)}
    if times == 2:
        shares = [random.uniform(0, 1, out).astype(np.float32) for out in key.out_shape[:2]]
        pairs = [part for share in shares for part in (share, 1 - share)]
        found["share"] = np.concatenate(pairs).astype(np.float32)
        if key.dtype == "i8":
            found["scales"] = np.array([0.05, 0.04], np.float32)
            found["qparams"] = np.array([3, -5], np.int32)
    return found


def _accumulating(key: OpKey, random: np.random.Generator, integer: bool) -> dict[str, Array]:
    outputs = key.out_shape[-1]
    shape: tuple[int, ...] = (outputs, key.in_shape[-1] // key.groups)
    if key.op != "linear":
        shape = (outputs, *key.kernel, key.in_shape[-1] // key.groups)
    fan = math.prod(shape[1:])
    if not integer:
        return {
            "w": (random.standard_normal(shape) * math.sqrt(1.5 / fan)).astype(np.float32),
            "b": (random.standard_normal(outputs) * 0.1).astype(np.float32),
        }
    bits = key.weight_bits or 8
    drawn = random.uniform(-largest(bits) - 1, largest(bits) + 1, shape)
    w = nearest(drawn, bits).astype(np.int8)
    about = np.full(outputs, 1 / (74 * math.sqrt(fan)), np.float32)
    multiplier = (about.view(np.int32) & ~0x3FFF | 0x2000).view(np.float32)
    sums = w.reshape(outputs, -1).astype(np.int64).sum(axis=1)
    # constants that have words (`core.narrow`), as those of networks
    b = narrow.biases(random.uniform(-1000, 1000, outputs), sums, 3, multiplier)
    assert b is not None
    found: dict[str, Array] = {
        "w": w,
        "b": b,
        "multiplier": multiplier,
        "qparams": np.array([3, -5, -128, 127], np.int32),
    }
    if key.activation == "lut":
        found["lut"] = random.integers(-128, 128, 256).astype(np.int8)
    return found


def input_bytes_of(key: OpKey) -> list[int]:
    """Sizes of the activation inputs, the residual last."""
    width = {"f32": 4, "i8": 1, "u8": 1, "i32": 4, "i64": 8}
    whole = math.prod(key.in_shape) * width[key.dtype]
    sizes = [whole] * key.inputs
    if key.op == "scale" or (key.inputs == 2 and key.variant == "channel"):
        sizes = [whole, key.in_shape[-1] * width[key.dtype]]
    elif key.inputs == 2 and key.variant == "pixel":
        sizes = [whole, whole // key.in_shape[-1]]
    elif key.op == "concat":
        sizes = [math.prod(key.out_shape) * width[key.dtype]] * key.inputs
    if key.residual:
        sizes.append(math.prod(key.out_shape) * width[key.out_dtype])
    return sizes

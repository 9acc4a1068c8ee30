"""Kernels that combine, move or reduce, by their keys and constants alone, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgeopt.codegen import refops
from edgeopt.codegen.refops import Numbers
from edgeopt.core import activations, affine, moves
from edgeopt.core.kernels import Kernel
from edgeopt.core.network import Quant


def activated(text: str, x: Numbers) -> npt.NDArray[np.float32]:
    """The activation that a key names."""
    real = np.asarray(x, np.float32)
    if text == "none":
        return real
    function, attrs = activations.parse_text(text)
    return activations.apply(function, real, attrs)


def _second(kernel: Kernel, inputs: list[Numbers]) -> tuple[Numbers, Numbers]:
    """The first operand in the key's shape, and the second lined up with it."""
    key = kernel.key
    a = inputs[0].reshape(key.in_shape)
    b = inputs[1] if len(inputs) == 2 else kernel.constants["c"]
    if key.variant == "pixel":
        return a, b.reshape((*key.in_shape[:-1], 1))
    return a, b.reshape(key.in_shape) if b.size == a.size else b.reshape(-1)


def _binary(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key, c = kernel.key, kernel.constants
    a, b = _second(kernel, inputs)
    if key.dtype == "f32":
        a32, b32 = a.astype(np.float32), b.astype(np.float32)
        return activated(key.activation, a32 + b32 if key.op == "add" else a32 * b32)
    zero_a, zero_b, zero_y, lo, hi = (int(v) for v in np.asarray(c["qparams"], np.int32))
    a8, b8 = a.astype(np.int8), b.astype(np.int8)
    if key.op == "add":
        factors = c["factors"].astype(np.float32)
        add = affine.add_fixed if refops.fixed_point() else affine.add
        return add(a8, b8, factors, zero_a, zero_b, zero_y, lo, hi)
    factor = np.float32(c["multiplier"][0])
    mul = affine.mul_fixed if refops.fixed_point() else affine.mul
    return mul(a8, b8, factor, zero_a, zero_b, zero_y, lo, hi)


def _pair(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key = kernel.key
    x = [value[None] for value in _second(kernel, inputs)]
    quants = _quants(kernel)
    if len(inputs) == 1 and quants:  # a constant operand is a real number
        x = [x[0]]
        c = kernel.constants["c"]
        constants = {"c": c.reshape(key.in_shape) if c.size > key.in_shape[-1] else c.reshape(-1)}
    else:
        constants = {}
    y = moves.compute(key.op, {}, constants, x, (1, *key.out_shape), quants)
    return y if key.out_dtype == "i8" else activated(key.activation, y)


def _quants(kernel: Kernel) -> list[Quant]:
    c = kernel.constants
    if "scales" not in c:
        return []
    scales, zeros = np.asarray(c["scales"], np.float32), np.asarray(c["qparams"], np.int32)
    return [Quant(float(s), int(z)) for s, z in zip(scales, zeros, strict=True)]


def _concat(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key, c = kernel.key, kernel.constants
    axis_text, sizes = key.variant.split(".")[:2]
    axis = int(axis_text.removeprefix("axis"))
    rest = key.in_shape
    parts = []
    for index, (value, size) in enumerate(zip(inputs, sizes.split("-"), strict=True)):
        part = value.reshape((*rest[:axis], int(size), *rest[axis + 1 :]))
        if "factors" in c:
            zeros = np.asarray(c["qparams"], np.int32)
            centred = part.astype(np.int32) - zeros[index]
            part = refops.requantized(centred, c["factors"][index], int(zeros[-1]))
        parts.append(part)
    return np.concatenate(parts, axis)


def _softmax(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key, c = kernel.key, kernel.constants
    x = inputs[0].reshape(key.in_shape)
    parts = [part for part in key.variant.split(".") if part]
    axis = next((int(part[4:]) for part in parts if part.startswith("axis")), -1)
    if key.dtype == "f32":
        return refops.softmax(x, axis, log="log" in parts)
    table = np.asarray(c["table"], np.int32)
    zero = int(np.asarray(c["qparams"], np.int32)[0])
    return affine.softmax(x.astype(np.int8), table, float(c["scale"].item()), zero, axis)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-"))


def _slice(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key = kernel.key
    start, _, step = key.variant.partition(".")
    starts = _numbers(start.removeprefix("start"))
    steps = _numbers(step.removeprefix("step")) if step else (1,) * len(starts)
    x = inputs[0].reshape(key.in_shape)
    return moves.slice_of(x[None], (0, *starts), (1, *steps), (1, *key.out_shape))


def _pad(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key = kernel.key
    begins, ends = (_numbers(part) for part in key.variant.removeprefix("pad").split("."))
    value = kernel.constants["value"].item()
    return moves.pad(inputs[0].reshape(key.in_shape), begins, ends, value)


def _gather(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key = kernel.key
    index = np.asarray(kernel.constants["index"], np.int64)
    return np.take(inputs[0].reshape(key.in_shape), index, int(key.variant.removeprefix("axis")))


def _resize(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key, shape = kernel.key, (1, *kernel.key.out_shape)
    attrs = {"mode": "linear" if key.variant == "linear" else "nearest"}
    x = [inputs[0].reshape((1, *key.in_shape))]
    return moves.compute("resize", attrs, kernel.constants, x, shape, _quants(kernel))


def _reduce(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key, c = kernel.key, kernel.constants
    x = inputs[0].reshape((1, *key.in_shape))
    if key.dtype == "i8" and key.variant == "sum":
        zero_x, zero_y, lo, hi = (int(v) for v in np.asarray(c["qparams"], np.int32))
        total = (x.astype(np.int32) - zero_x).sum(axis=(1, 2)).astype(np.int32)
        return refops.requantized(total, c["multiplier"], zero_y, lo, hi)
    return moves.compute("reduce", {"how": key.variant}, {}, [x], (1, *key.out_shape))


KERNELS: Mapping[str, Callable[[Kernel, list[Numbers]], Numbers]] = {
    **dict.fromkeys(("add", "mul", "scale"), _binary),
    **dict.fromkeys(moves.PAIRS, _pair),
    "concat": _concat,
    "softmax": _softmax,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "resize": _resize,
    "reduce": _reduce,
}

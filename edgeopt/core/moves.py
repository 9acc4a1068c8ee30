"""Operators that move numbers or combine them one by one, in numpy: defined once.

Slices, gathers, pads and resizes; sums, maxima and minima over maps; differences, quotients and
the like. On int8 what moves numbers moves them as they are stored. What computes does so in
float32 in between, as a model says it: every input is dequantized, the result quantized, each step
rounded on its own (`core.affine`); only sums stay in int32 until they are requantized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgeopt.core import affine
from edgeopt.core.network import Array, Quant

Numbers = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]

#: Kinds of operators (and kernels) that `compute` knows.
KINDS = frozenset(
    {"slice", "gather", "pad", "resize", "reduce", "sub", "div", "max", "min", "prelu"}
)

#: Functions of two numbers that integers take by way of float32.
PAIRS: Mapping[str, Callable[[Any, Any], Any]] = {
    "sub": np.subtract, "div": np.divide, "max": np.maximum, "min": np.minimum,
    "prelu": lambda x, slope: np.where(x < 0, x * slope, x),
}  # fmt: skip


def compute(
    kind: str,
    attrs: Mapping[str, Any],
    constants: Mapping[str, Array],
    x: Sequence[Numbers],
    out_shape: tuple[int, ...],
    quants: Sequence[Quant | None] = (),
) -> Numbers:
    """One operator on arrays whose first axis is the batch.

    Args:
        kind: one of `KINDS`.
        attrs: as `core.network` has them.
        constants: likewise.
        x: the inputs.
        out_shape: of one result; the batch may be larger.
        quants: of int8 inputs in order, then of the output.
    """
    if kind in PAIRS:
        return _pair(kind, x, constants, quants)
    if kind == "slice":
        return slice_of(x[0], attrs["starts"], attrs["steps"], out_shape)
    if kind == "gather":
        return np.take(x[0], np.asarray(constants["index"], np.int64), axis=attrs["axis"])
    if kind == "pad":
        quant = quants[0] if quants else None
        return pad(x[0], attrs["begins"], attrs["ends"], stored_value(attrs["value"], quant))
    if kind == "resize":
        if attrs["mode"] == "linear":
            return _linear(x[0], constants, out_shape, quants)
        return nearest(x[0], constants.get("index"), out_shape)
    return _reduce(x[0], attrs["how"], quants)


def slice_of(
    x: Numbers, starts: Sequence[int], steps: Sequence[int], out_shape: Sequence[int]
) -> Numbers:
    """Every so many-th element of each axis but the first, from a start on."""
    spans = [
        slice(start, start + (size - 1) * step + 1, step)
        for start, step, size in zip(starts, steps, out_shape, strict=True)
    ]
    if len(x) != 1:
        spans[0] = slice(None)
    return x[tuple(spans)]


def stored_value(value: float, quant: Quant | None) -> float:
    """What a real number is stored as."""
    if quant is None:
        return value
    one = np.asarray([value], np.float32)
    return int(affine.quantize(one, quant.scale, quant.zero_point)[0])


def pad(x: Numbers, begins: Sequence[int], ends: Sequence[int], value: float) -> Numbers:
    """Surround with one value."""
    amounts = list(zip(begins, ends, strict=True))
    return np.pad(x, amounts, constant_values=np.asarray(value, x.dtype))


def nearest(x: Numbers, index: Array | None, out_shape: Sequence[int]) -> Numbers:
    """Rows and columns repeated, by whole factors or by a table."""
    height, width = out_shape[1:3]
    if index is None:
        rows = np.arange(height) * x.shape[1] // height
        columns = np.arange(width) * x.shape[2] // width
    else:
        rows, columns = np.split(np.asarray(index, np.int64).reshape(-1), [height])
    return x[:, rows][:, :, columns]


def bilinear(x: F32, index: Array, share: Array, out_shape: Sequence[int]) -> F32:
    """Four neighbours weighted and added up in the order that onnxruntime does, each rounded."""
    height, width = out_shape[1:3]
    cuts = [height, 2 * height, 2 * height + width]
    up, down, left, right = np.split(np.asarray(index, np.int64).reshape(-1), cuts)
    weights = np.split(np.asarray(share, np.float32).reshape(-1), cuts)
    high, low = (weight[:, None, None] for weight in weights[:2])
    here, beside = (weight[None, :, None] for weight in weights[2:])
    total = (here * high) * x[:, up][:, :, left]
    total = total + (beside * high) * x[:, up][:, :, right]
    total = total + (here * low) * x[:, down][:, :, left]
    result: F32 = total + (beside * low) * x[:, down][:, :, right]
    return result


def _linear(
    x: Numbers, constants: Mapping[str, Array], out_shape: Sequence[int],
    quants: Sequence[Quant | None],
) -> Numbers:  # fmt: skip
    real = _real(x, quants[0] if quants else None)
    result = bilinear(real, constants["index"], constants["share"], out_shape)
    return _stored(result, quants[-1] if quants else None)


def _reduce(x: Numbers, how: str, quants: Sequence[Quant | None]) -> Numbers:
    if how != "sum":
        best: Numbers = (np.max if how == "max" else np.min)(x, axis=(1, 2), keepdims=True)
        return best
    quant, to = (quants[0], quants[-1]) if quants else (None, None)
    if quant is None or to is None:
        total = x.astype(np.float64).sum(axis=(1, 2), keepdims=True)
        return np.asarray(total, np.float32)
    whole = (x.astype(np.int32) - quant.zero_point).sum(axis=(1, 2), keepdims=True)
    factor = np.asarray(np.float32(quant.scale) / np.float32(to.scale), np.float32)
    return affine.requantize(whole.astype(np.int32), factor, to.zero_point)


def _real(x: Numbers, quant: Quant | None) -> F32:
    if quant is None:
        return x.astype(np.float32)
    return affine.dequantize(x.astype(np.int8), quant.scale, quant.zero_point)


def _stored(real: F32, quant: Quant | None) -> Numbers:
    return real if quant is None else affine.quantize(real, quant.scale, quant.zero_point)


def _pair(
    kind: str, x: Sequence[Numbers], constants: Mapping[str, Array],
    quants: Sequence[Quant | None],
) -> Numbers:  # fmt: skip
    known = list(quants) or [None] * 3
    left = _real(x[0], known[0])
    right = _real(x[1], known[1]) if len(x) == 2 else np.asarray(constants["c"], np.float32)
    with np.errstate(all="ignore"):
        result = PAIRS[kind](left, aligned(right, left))
    return _stored(cast(F32, np.asarray(result, np.float32)), known[-1])


def aligned(right: Numbers, left: Numbers) -> Numbers:
    """A second operand of one number a channel lined up with a map."""
    if left.ndim == 4 and right.ndim == 2:
        return right[:, None, None, :]
    return right

"""Operators in numpy, as plainly as speed allows: the arithmetic under `codegen.reference`.

Feature maps are [1,H,W,C]. Sums are taken in float64: for float networks that makes the reference
more exact than anything compared with it, for integer networks it is exact (below 2^53) and uses
the fast matrix product that numpy has only for floats.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeopt.core import affine

Numbers = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]


def pad_map(x: Numbers, pads: tuple[int, ...], value: float) -> Numbers:
    """Pad [1,H,W,C] by (top, left, bottom, right)."""
    top, left, bottom, right = pads
    if not any(pads):
        return x
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def _taps(x: Numbers, geometry: Mapping[str, Any], out_hw: tuple[int, int]) -> list[Numbers]:
    """For each kernel position in row order, the inputs that meet it: [1,OH,OW,C] each."""
    (kh, kw), (sh, sw), (dh, dw) = geometry["kernel"], geometry["strides"], geometry["dilations"]
    oh, ow = out_hw
    return [
        x[:, i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw, :]
        for i in range(kh)
        for j in range(kw)
    ]


def out_size(shape: tuple[int, ...], geometry: Mapping[str, Any]) -> tuple[int, int]:
    """Output height and width of a convolution or pooling, rounding down."""
    (kh, kw), (sh, sw), (dh, dw) = geometry["kernel"], geometry["strides"], geometry["dilations"]
    top, left, bottom, right = geometry["pads"]
    return (
        (shape[1] + top + bottom - dh * (kh - 1) - 1) // sh + 1,
        (shape[2] + left + right - dw * (kw - 1) - 1) // sw + 1,
    )


def accumulate_conv(
    x: Numbers, w: Numbers, geometry: Mapping[str, Any], pad_value: float = 0
) -> F64:
    """Sums of products of a convolution in float64; ``w`` [O,kh,kw,I/groups]."""
    hw = out_size(x.shape, geometry)
    groups, outputs = geometry["groups"], w.shape[0]
    padded = pad_map(x, geometry["pads"], pad_value).astype(np.float64)
    weights = w.astype(np.float64)
    taps = _taps(padded, geometry, hw)
    if groups == x.shape[-1] == outputs:
        flat = weights.reshape(outputs, -1)
        acc = np.zeros((1, *hw, outputs))
        for index, tap in enumerate(taps):
            acc += tap * flat[:, index]
        return acc
    per_group = x.shape[-1] // groups
    columns = np.stack(taps, axis=3)  # [1,OH,OW,taps,C]
    parts = []
    for group in range(groups):
        span = slice(group * per_group, (group + 1) * per_group)
        rows = columns[..., span].reshape(hw[0] * hw[1], -1)
        matrix = weights[group * outputs // groups : (group + 1) * outputs // groups]
        parts.append(rows @ matrix.reshape(matrix.shape[0], -1).T)
    return np.concatenate(parts, axis=1).reshape(1, *hw, outputs)


def accumulate_linear(x: Numbers, w: Numbers) -> F64:
    """Sums of products of [1,I] with ``w`` [O,I]."""
    product: F64 = x.astype(np.float64) @ w.astype(np.float64).T
    return product


def pool(x: Numbers, attrs: Mapping[str, Any], out_hw: tuple[int, int]) -> F64:
    """Maximum pooling; padding never wins."""
    geometry = {"dilations": (1, 1), **attrs}
    padded = pad_map(x.astype(np.float64), _grown(x, geometry, out_hw), -np.inf)
    best: F64 = np.maximum.reduce(_taps(padded, geometry, out_hw))
    return best


def average(x: F64, attrs: Mapping[str, Any], out_hw: tuple[int, int]) -> tuple[F64, F64]:
    """Sums of an average pooling, and how many elements each is divided by [1,OH,OW,1]."""
    geometry = {"dilations": (1, 1), **attrs}
    pads = _grown(x, geometry, out_hw)
    total: F64 = np.add.reduce(_taps(pad_map(x, pads, 0), geometry, out_hw))
    ones = np.ones((*x.shape[:3], 1))
    if attrs.get("count_include_pad"):
        ones = pad_map(ones, geometry["pads"], 1)
        pads = tuple(a - b for a, b in zip(pads, geometry["pads"], strict=True))
    count: F64 = np.add.reduce(_taps(pad_map(ones, pads, 0), geometry, out_hw))
    return total, count


def _grown(
    x: Numbers, geometry: Mapping[str, Any], out_hw: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Pads, the lower right enlarged where rounding up makes windows hang over the edge."""
    (kh, kw), (sh, sw) = geometry["kernel"], geometry["strides"]
    top, left, bottom, right = geometry["pads"]
    return (
        top,
        left,
        max(bottom, (out_hw[0] - 1) * sh + kh - top - x.shape[1]),
        max(right, (out_hw[1] - 1) * sw + kw - left - x.shape[2]),
    )


def softmax(x: Numbers, axis: int, *, log: bool = False) -> npt.NDArray[np.float32]:
    """Softmax with the maximum taken out first, or its logarithm."""
    wide = x.astype(np.float64)
    wide = wide - wide.max(axis=axis, keepdims=True)
    total = np.exp(wide).sum(axis=axis, keepdims=True)
    return np.asarray(wide - np.log(total) if log else np.exp(wide) / total, np.float32)


@functools.lru_cache(maxsize=64)
def _session(payload: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])


def run_onnx(payload: bytes, inputs: list[Numbers]) -> list[Numbers]:
    """Run a one-node ONNX model through onnxruntime, unoptimised, on one thread."""
    session = _session(payload)
    names = [item.name for item in session.get_inputs()]
    outputs: list[Numbers] = session.run(None, dict(zip(names, inputs, strict=True)))
    return outputs


def integer_accumulator(total: F64) -> npt.NDArray[np.int32]:
    """Exact sums as the int32 that kernels hold.

    Raises:
        OverflowError: a sum does not fit; a kernel would wrap around.
    """
    if total.size and np.abs(total).max() >= 2**31:
        raise OverflowError("an integer accumulator does not fit 32 bits")
    return total.astype(np.int32)


def requantized(
    acc: npt.NDArray[np.int32],
    multiplier: Numbers,
    zero: int,
    lo: int = affine.I8_MIN,
    hi: int = affine.I8_MAX,
) -> I8:
    """`affine.requantize` for constants of any numpy type, or `affine.requantize_fixed`."""
    compute = affine.requantize_fixed if fixed_point() else affine.requantize
    return compute(acc, np.asarray(multiplier, np.float32), zero, lo, hi)


_FIXED: ContextVar[bool] = ContextVar("fixed point", default=False)


def fixed_point() -> bool:
    """Whether kernels are to be computed as on a processor without floating point."""
    return _FIXED.get()


@contextlib.contextmanager
def arithmetic(*, fixed: bool) -> Iterator[None]:
    """Choose between both ways to requantize for what runs inside."""
    token = _FIXED.set(fixed)
    try:
        yield
    finally:
        _FIXED.reset(token)

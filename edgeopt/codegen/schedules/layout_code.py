"""Emission of kernels that move elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.emit import Buffer, Builder, Expr, bcast, cast, dtype_of
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.layout import (
    concat_parts,
    nested_axes,
    pads_of,
    permutation,
    slice_of,
)
from edgeopt.codegen.schedules.mathfn import Requantizer
from edgeopt.codegen.schedules.resize_code import bilinear
from edgeopt.codegen.schedules.stage import copy_run
from edgeopt.codegen.schedules.template import elements


def emit(function: KernelFunction, isa: Isa, consts: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    sizes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
    if key.op == "concat":
        parts = concat_parts(key)
        assert parts is not None
        rest = elements(key.out_shape) // key.out_shape[parts[0]]
        sizes |= {f"x{i}": rest * part for i, part in enumerate(parts[1])}
    b = Builder(function, sizes | dict(consts))
    width = isa.lanes * (4 if key.dtype == "i8" else 1)
    _EMIT[key.op](b, function, isa, width)
    return b.finish()


def _run(b: Builder, source: Buffer, at: Expr, to: Expr, count: int, width: int) -> None:
    copy_run(b, source, at, b["y"], to, count, dtype_of(b["y"])[0], False, width)


def _copy(b: Builder, function: KernelFunction, isa: Isa, width: int) -> None:
    _run(b, b["x0"], 0, 0, elements(function.key.in_shape), width)


def _concat(b: Builder, function: KernelFunction, isa: Isa, width: int) -> None:
    key = function.key
    found = concat_parts(key)
    assert found is not None
    axis, parts = found
    outer = math.prod(key.out_shape[:axis])
    inner = math.prod(key.out_shape[axis + 1 :])
    total = key.out_shape[axis] * inner
    rescale = key.dtype == "i8" and not key.variant.endswith(".same")
    if rescale:
        zero_y = b.bind(b.load(b["qparams"], key.inputs), "zero")
        requantize = Requantizer(b, isa, zero_y, b.bind(-128), b.bind(127))
    start, units = 0, b.units(outer)
    for i, part in enumerate(parts):
        count = part * inner
        if rescale:
            zero = b.bind(b.load(b["qparams"], i), "zero")
            factor = b.bind(b.load(b["factors"], i), "factor")
        with units.loop(outer, "o") as o:
            at, to = o * count, o * total + start
            if not rescale:
                _run(b, b[f"x{i}"], at, to, count, width)
            else:
                _rescaled(b, b[f"x{i}"], at, to, count, isa.lanes, zero, factor, requantize)
        start += count


def _rescaled(
    b: Builder, source: Buffer, at: Expr, to: Expr, count: int, lanes: int, zero: Expr,
    factor: Expr, requantize: Requantizer,
) -> None:  # fmt: skip
    full, rest = divmod(count, lanes)

    def one(offset: Expr, valid: int) -> None:
        stored = cast(b.load_some(source, at + offset, valid, lanes), "int32")
        steps = cast(stored - bcast(zero, lanes), "float32") * bcast(factor, lanes)
        b.store_some(b["y"], to + offset, b.bind(requantize(steps)), valid)

    if full:
        with b.loop(full, "v") as v:
            one(v * lanes, lanes)
    if rest:
        one(full * lanes, rest)


def _transpose(b: Builder, function: KernelFunction, isa: Isa, width: int) -> None:
    key = function.key
    axes = permutation(key)
    assert axes is not None
    strides = [math.prod(key.in_shape[i + 1 :]) for i in range(len(key.in_shape))]
    # Trailing axes that stay in place move as one run.
    kept = len(axes)
    while kept and axes[kept - 1] == kept - 1:
        kept -= 1
    run = math.prod(key.out_shape[kept:])

    def nest(depth: int, at: Expr, to: Expr) -> None:
        if depth == kept:
            _run(b, b["x0"], at, to, run, width)
            return
        step = math.prod(key.out_shape[depth + 1 :])
        units = b.units(key.out_shape[depth], divided=depth == 0)
        with units.loop(key.out_shape[depth], "t") as index:
            nest(depth + 1, at + index * strides[axes[depth]], to + index * step)

    nest(0, 0, 0)


def _resize(b: Builder, function: KernelFunction, isa: Isa, width: int) -> None:
    key = function.key
    if key.variant == "linear":
        bilinear(b, function, isa)
        return
    height, cols, channels = key.in_shape
    if key.variant == "index":
        rows, columns = key.out_shape[:2]
        with b.units(rows).loop(rows, "oh") as oh:
            line = b.bind(b.load(b["index"], oh), "row")
            with b.loop(columns, "ow") as ow:
                at = (line * cols + b.load(b["index"], rows + ow)) * channels
                _run(b, b["x0"], b.bind(at, "at"), (oh * columns + ow) * channels, channels, width)
        return
    up, across = key.out_shape[0] // height, key.out_shape[1] // cols
    with b.units(height).loop(height, "ih") as row, b.loop(up, "up") as above:
        line = (row * up + above) * (cols * across * channels)
        with b.loop(cols, "iw") as col, b.loop(across, "across") as beside:
            to = line + (col * across + beside) * channels
            _run(b, b["x0"], (row * cols + col) * channels, to, channels, width)


def _slice(b: Builder, function: KernelFunction, isa: Isa, width: int) -> None:
    key = function.key
    found = slice_of(key)
    assert found is not None
    starts, steps = found
    rank, kept = len(key.in_shape), nested_axes(key)
    run = math.prod(key.out_shape[kept:])
    strides = [math.prod(key.in_shape[i + 1 :]) for i in range(rank)]
    first = sum(start * stride for start, stride in zip(starts, strides, strict=True))

    def nest(depth: int, at: Expr, to: Expr) -> None:
        if depth == kept:
            _run(b, b["x0"], at, to, run, width)
            return
        step = math.prod(key.out_shape[depth + 1 :])
        units = b.units(key.out_shape[depth], divided=depth == 0)
        with units.loop(key.out_shape[depth], "s") as index:
            nest(depth + 1, at + index * (steps[depth] * strides[depth]), to + index * step)

    nest(0, first, 0)


def _pad(b: Builder, function: KernelFunction, isa: Isa, width: int) -> None:
    key = function.key
    found = pads_of(key)
    assert found is not None
    begins, ends = found
    value = b.bind(b.load(b["value"], 0), "value")
    rank = len(key.in_shape)
    kept = rank  # inner axes without padding move as one run
    while kept and not begins[kept - 1] and not ends[kept - 1]:
        kept -= 1

    def fill(to: Expr, count: int) -> None:
        full, rest = divmod(count, width)
        if full:
            with b.loop(full, "v") as v:
                b.store(b["y"], to + v * width, bcast(value, width))
        with b.loop(rest, "v") as v:
            b.store(b["y"], to + full * width + v, value)

    def nest(depth: int, at: Expr, to: Expr) -> None:
        inner = math.prod(key.out_shape[depth + 1 :])
        source = math.prod(key.in_shape[depth + 1 :])
        fill(to, begins[depth] * inner)
        to = to + begins[depth] * inner
        size = key.in_shape[depth]
        if depth + 1 >= kept:
            _run(b, b["x0"], at, to, size * source, width)
        else:
            with b.loop(size, "p") as index:
                nest(depth + 1, at + index * source, to + index * inner)
        fill(to + size * inner, ends[depth] * inner)

    if kept:
        nest(0, 0, 0)
    else:
        _run(b, b["x0"], 0, 0, elements(key.in_shape), width)


def _gather(b: Builder, function: KernelFunction, isa: Isa, width: int) -> None:
    key = function.key
    axis = int(key.variant.removeprefix("axis"))
    outer, inner = math.prod(key.in_shape[:axis]), math.prod(key.in_shape[axis + 1 :])
    size, count = key.in_shape[axis], key.out_shape[axis]
    with b.units(outer).loop(outer, "o") as o, b.loop(count, "g") as g:
        at = b.bind((o * size + b.load(b["index"], g)) * inner, "at")
        _run(b, b["x0"], at, (o * count + g) * inner, inner, width)


_EMIT: Mapping[str, Callable[[Builder, KernelFunction, Isa, int], None]] = {
    "copy": _copy,
    "concat": _concat,
    "transpose": _transpose,
    "resize": _resize,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
}

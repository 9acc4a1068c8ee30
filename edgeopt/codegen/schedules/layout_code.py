"""Emission of kernels that move elements."""

from __future__ import annotations

import math
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.emit import Buffer, Builder, Expr, bcast, cast
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.layout import concat_parts, permutation
from edgeopt.codegen.schedules.mathfn import Requantizer
from edgeopt.codegen.schedules.stage import copy_run
from edgeopt.codegen.schedules.template import elements


def emit(function: KernelFunction, isa: Isa) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    sizes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
    if key.op == "concat":
        parts = concat_parts(key)
        assert parts is not None
        rest = elements(key.out_shape) // key.out_shape[parts[0]]
        sizes |= {f"x{i}": rest * part for i, part in enumerate(parts[1])}
    b = Builder(function, {**sizes, "factors": key.inputs, "qparams": key.inputs + 1})
    width = isa.lanes * (4 if key.dtype == "i8" else 1)
    {"copy": _copy, "concat": _concat, "transpose": _transpose, "resize": _resize}[key.op](
        b, function, isa, width
    )
    return b.finish()


def _run(b: Builder, source: Buffer, at: Expr, to: Expr, count: int, width: int) -> None:
    copy_run(b, source, at, b["y"], to, count, b.function.key.dtype, False, width)


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
    height, cols, channels = key.in_shape
    up, across = key.out_shape[0] // height, key.out_shape[1] // cols
    with b.units(height).loop(height, "ih") as row, b.loop(up, "up") as above:
        line = (row * up + above) * (cols * across * channels)
        with b.loop(cols, "iw") as col, b.loop(across, "across") as beside:
            to = line + (col * across + beside) * channels
            _run(b, b["x0"], (row * cols + col) * channels, to, channels, width)

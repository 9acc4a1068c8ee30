"""Emission of inverted residual blocks: three kernels' loops around one row at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import depthwise_plan, gemm_plan
from edgeopt.codegen.schedules.depthwise_f32 import ring_row
from edgeopt.codegen.schedules.emit import Builder, Expr, View, tirx
from edgeopt.codegen.schedules.gemm_code import product
from edgeopt.codegen.schedules.irb import ring_bytes, row_parts
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import elements
from edgeopt.core.kernels import OpKey

Plans = tuple[gemm_plan.Plan, depthwise_plan.Plan, gemm_plan.Plan]


def emit(function: KernelFunction, plans: Plans, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    first, middle, last = row_parts(key)
    shapes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
    b = Builder(function, {**sizes, **shapes, "residual": shapes["y"]})
    wide_row = elements(first.out_shape)
    ring = b.scratch_view("f32", 0, key.kernel[0] * wide_row)
    between = b.scratch_view("f32", ring_bytes(key), elements(last.in_shape))
    with b.loop(key.out_shape[0], "oh") as row:
        made, needed = _rows(b, key, row)
        with b.loop(b.bind(needed - made, "rows"), "row") as new:
            at = b.bind(made + new, "at")
            x = View(b["x0"], at * elements(first.in_shape))
            place = View(ring, tirx.truncmod(at, key.kernel[0]) * wide_row)
            with b.naming(x0=x, y=place, weights=b["weights1"], bias=b["bias1"]):
                product(b, first, plans[0], isa)
        with b.naming(x0=ring, y=between, weights=b["weightsd"], bias=b["biasd"]):
            ring_row(b, middle, plans[1], isa, row)
        out = b.bind(row * elements(last.out_shape), "out")
        names = {"x0": between, "y": View(b["y"], out)}
        if key.residual:
            names["residual"] = View(b["residual"], out)
        with b.naming(**names, weights=b["weights2"], bias=b["bias2"]):
            product(b, last, plans[2], isa)
    return b.finish()


def _rows(b: Builder, key: OpKey, row: Expr) -> tuple[Expr, Expr]:
    """How many widened rows the rows before needed, and how many this one needs."""
    height, zero = tirx.IntImm("int32", key.in_shape[0]), tirx.IntImm("int32", 0)
    first = key.kernel[0] - key.pads[0]  # that the first row needs; padding may be all it meets
    needed = b.bind(tirx.min(tirx.max(row * key.strides[0] + first, zero), height), "needed")
    if isinstance(row, int):
        return zero, needed
    before = tirx.min(tirx.max((row - 1) * key.strides[0] + first, zero), height)
    return b.bind(tirx.Select(row == 0, zero, before), "made"), needed

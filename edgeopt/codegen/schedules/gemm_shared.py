"""Matrix products of int8 as calls of functions that kernels of many shapes share.

What such a function computes is a panel: some vectors of output channels of all pixels of a staged
chunk. The last tile of pixels ends where the pixels end and computes some of them twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import packing
from edgeopt.codegen.schedules.emit import Builder, Expr, cast, tirx
from edgeopt.codegen.schedules.gemm_plan import Plan, Window
from edgeopt.codegen.schedules.gemm_reduce import reduce
from edgeopt.codegen.schedules.gemm_run import Run
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer
from edgeopt.codegen.schedules.shared import Panel, Stage, of_stage, panels
from edgeopt.codegen.schedules.shared_code import address, begin, call, look_up, widened
from edgeopt.codegen.schedules.stage import copy_run
from edgeopt.codegen.schedules.template import elements, is_table


def panel(function: Panel, isa: Isa) -> Any:
    """The code of a panel: strides and how often the inner loop runs are parameters."""
    pixels, vectors, lanes = function.pixels, function.vectors, isa.lanes
    weights = "i8" if function.bits == 8 else "u8"
    pointers = {
        "x": isa.stage_dtype, "weights": weights, "bias": "i32", "multiplier": "f32",
        "qparams": "i32", "y": "i8",
    }  # fmt: skip
    b = begin(function, pointers, ("cols", "x_step", "whole", "turn", "y_step"))
    # 64 bits as addresses have, or LLVM extends every product by itself
    wide = {name: b.bind(cast(value, "int64")) for name, value in b.extents.items()}
    cols, x_step, turn, y_step = (wide[name] for name in ("cols", "x_step", "turn", "y_step"))
    whole = b.bind(tirx.max(wide["whole"], tirx.IntImm("int64", 1)))  # LLVM need not ask if it is 0
    zero, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in (1, 2, 3))
    requantize = Requantizer(b, isa, zero, low, high)
    plan = _plan(function, isa, x_step)
    with b.steps(tirx.IntImm("int64", 0), cols, tirx.IntImm("int64", pixels)) as tile:
        col = tile if pixels == 1 else b.bind(tirx.min(tile, cols - pixels), "col")
        acc = b.registers(pixels * vectors, "int32", lanes)
        for n in range(vectors):
            bias = b.bind(b.load(b["bias"], n * lanes, lanes))
            for m in range(pixels):
                acc[m * vectors + n] = bias
        at = b.bind(col * x_step, "at")
        run = Run(whole, turn, function.rest)
        reduce(b, isa, plan, b["x"], True, acc, at, 0, pixels, vectors, run=run)
        scales = [b.bind(b.load(b["multiplier"], n * lanes, lanes)) for n in range(vectors)]
        steps = [cast(acc[i], "float32") * scales[i % vectors] for i in range(pixels * vectors)]
        apart = 2 * vectors * lanes  # stands for the step between pixels
        places = [
            (m * apart + n * lanes, lanes if n < vectors - 1 else function.last)
            for m in range(pixels)
            for n in range(vectors)
        ]

        def offset_of(place: int, apart: int = apart) -> Expr:
            return place // apart * y_step + place % apart

        base = b.bind(col * y_step, "base")
        requantize.store(b["y"], base, places, steps, offset_of=offset_of)
    return b.finish()


def stage(function: Stage, isa: Isa) -> Any:
    """The code of `shared.Stage`."""
    dtype, flip = isa.stage_dtype, isa.unsigned
    b = begin(function, {"x0": "i8", "to": dtype}, ("count", "width"))
    count, step = (b.bind(cast(b.extents[name], "int64")) for name in ("count", "width"))
    width = 2 * function.lanes
    whole = b.bind(count - tirx.truncmod(count, width))
    zero, short = tirx.IntImm("int64", 0), tirx.truncdiv(step, width // 8)
    for start, end, by, length in ((zero, whole, step, width), (whole, count, short, 8)):
        with b.steps(start, end, by) as at:
            copy_run(b, b["x0"], at, b["to"], at, length, dtype, flip, length)
    return b.finish()


def _plan(function: Panel, isa: Isa, x_step: Expr) -> Plan:
    """What the inner loop must know."""
    window = Window(
        out_rows=1, out_cols=function.pixels, row_stride=0, col_stride=x_step,
        taps_h=1, tap_h_stride=0, taps_w=1, tap_w_stride=0, run=0, run_packed=0,
        group_stride=0,
    )  # fmt: skip
    return Plan(
        window=window, stage=None, band=1, groups=1, outputs=function.vectors * isa.lanes,
        reduction=0, pixels=function.pixels, vectors=function.vectors, panel_outer=True, split=1,
        pack=isa.pack, lanes=isa.lanes, bits=function.bits,
    )  # fmt: skip


def emit(kernel: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    key, window, staged = kernel.key, plan.window, plan.stage
    assert staged is not None
    shapes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
    b = Builder(kernel, {**sizes, **shapes})
    b.keep_loops()
    widened(b)
    source = b.scratch_view(staged.dtype, 0, staged.elements)
    cols, lanes = window.out_cols, plan.lanes
    chunk = cols * window.run
    with b.loop(window.out_rows, "band") as band:
        x = b["x0"]
        for copy in of_stage(plan, isa):
            call(b, copy, address(x, band * chunk), address(source), chunk, 2 * copy.lanes)
        if not of_stage(plan, isa):
            copy_run(b, x, band * chunk, source, 0, chunk, staged.dtype, isa.unsigned, 2 * lanes)
        for start, times, function, run in panels(plan, isa):
            with b.loop(times, "panel") as step:
                channel = b.bind((start + step * function.vectors) * lanes, "channel")
                to = channel
                if plan.overlaps:
                    to = b.bind(tirx.min(channel, plan.outputs - lanes), "to")
                at: Expr = channel * plan.reduction
                if plan.is_packed:
                    before = start // plan.vectors * packing.panel_bytes(plan, isa, plan.vectors)
                    at = before + step * packing.panel_bytes(plan, isa, function.vectors)
                call(
                    b, function, address(source), address(b["weights"], at),
                    address(b["bias"], channel), address(b["multiplier"], channel),
                    address(b["qparams"]), address(b["y"], band * (cols * plan.outputs) + to),
                    cols, window.run, run.whole, run.turn, plan.outputs,
                )  # fmt: skip
    if is_table(key.activation):
        look_up(b, key, isa, 0, elements(key.out_shape))
    return b.finish()

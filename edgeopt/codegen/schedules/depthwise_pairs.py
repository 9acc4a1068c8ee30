"""Emission of int8 depthwise convolutions for processors that multiply and add int16 pairs.

Where flash is limited, a row of the output is computed by functions that kernels share
(`shared.Row`): of layers that differ in height and channels alone, each is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.depthwise_parts import axis_of, block_runs
from edgeopt.codegen.schedules.depthwise_plan import Plan
from edgeopt.codegen.schedules.depthwise_tile import Layer, Tiler
from edgeopt.codegen.schedules.depthwise_tiles import of_any_width, tiles_of
from edgeopt.codegen.schedules.emit import Buffer, Builder, Expr, cast
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer
from edgeopt.codegen.schedules.shared import Row, rows
from edgeopt.codegen.schedules.shared_code import address, begin, call, look_up, widened
from edgeopt.codegen.schedules.stage import fill_run
from edgeopt.codegen.schedules.template import elements, is_table
from edgeopt.core.kernels import OpKey


def row(function: Row, isa: Isa) -> Any:
    """The code of a row of some blocks of channels: heights and channels are parameters."""
    pointers = {
        "x0": "i8", "outside": "i8", "weights": "i8", "bias": "i32", "multiplier": "f32",
        "qparams": "i32", "y": "i8",
    }  # fmt: skip
    if not function.plan.pad_bytes:
        del pointers["outside"]
    any_width = function.plan.any_width
    names = ("at", "height", "channels", "blocks", *(("width", "tiles") if any_width else ()))
    b = begin(function, pointers, names)
    key, extents = function.key, b.extents
    pad, requantize = _constants(b, isa)
    outside = b["outside"] if function.plan.pad_bytes else None
    # 64 bits as addresses have, or LLVM extends every product by itself
    channels = b.bind(cast(extents["channels"], "int64"))
    layer = _layer(key, channels, extents["height"], extents.get("width", key.in_shape[1]))
    tiler = Tiler(b, isa, layer, function.plan.lanes, outside, pad, requantize)
    every = tiles_of(key, function.plan)
    if any_width:
        every = [of_any_width(key, function.plan, extents["tiles"])]
    with b.loop(extents["blocks"], "block") as block:
        for tiles in every:
            with b.loop(tiles.times, "ow") as run:
                tiler.tile(tiles, 0, extents["at"], run, block, function.valid)
    return b.finish()


def _layer(key: OpKey, channels: Expr, height: Expr, width: Expr) -> Layer:
    return Layer(
        key.kernel, key.strides, key.dilations, key.pads[1], channels, width * channels, height
    )


def _constants(b: Builder, isa: Isa) -> tuple[Expr, Requantizer]:
    zero_x, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(4))
    return b.bind(cast(zero_x, "int8"), "pad"), Requantizer(b, isa, zero_y, low, high)


def emit(function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    b = Builder(function, {**sizes, "x0": elements(key.in_shape), "y": elements(key.out_shape)})
    widened(b)
    outside: Buffer = None
    if plan.pad_bytes:
        outside = b.scratch_view("i8", 0, plan.pad_bytes)
        pad = b.bind(cast(b.load(b["qparams"], 0), "int8"), "pad")
        fill_run(b, outside, 0, key.in_shape[1] * key.in_shape[2], pad)
    shares = plan.shared and function.parts == 1
    (_shared if shares else _own)(b, key, plan, isa, outside)
    return b.finish()


def _shared(b: Builder, key: OpKey, plan: Plan, isa: Isa, outside: Buffer) -> None:
    """Calls for each row."""
    b.keep_loops()
    line = key.out_shape[1] * key.out_shape[2]
    padding = [] if outside is None else [address(outside)]
    widths = (key.in_shape[1], key.out_shape[1] // plan.pixels) if plan.any_width else ()
    with b.loop(key.out_shape[0], "oh") as row:
        at = b.bind(row * key.strides[0] - key.pads[0], "at")
        for start, times, function in rows(key, plan):
            first = start * plan.lanes
            call(
                b, function, address(b["x0"], first), *padding,
                address(b["weights"], 2 * plan.slots * first), address(b["bias"], first),
                address(b["multiplier"], first), address(b["qparams"]),
                address(b["y"], row * line + first), at, *key.in_shape[::2], times,
                *widths,
            )  # fmt: skip
        if is_table(key.activation):
            look_up(b, key, isa, row * line, line)


def _own(b: Builder, key: OpKey, plan: Plan, isa: Isa, outside: Buffer) -> None:
    """Tiles made for the kernel; of one that is divided, this part's."""
    pad, requantize = _constants(b, isa)
    layer = _layer(key, key.in_shape[2], key.in_shape[0], key.in_shape[1])
    tiler = Tiler(b, isa, layer, plan.lanes, outside, pad, requantize)
    parts = b.function.parts
    axis = axis_of(key, plan, isa, parts) if parts > 1 else "rows"
    runs = block_runs(key, plan)
    row_units = b.units(key.out_shape[0], divided=axis == "rows")
    block_units = b.units(sum(times for _, times, _, _ in runs), divided=axis == "blocks")
    line = key.out_shape[1] * key.out_shape[2]
    with row_units.loop(key.out_shape[0], "oh") as row:
        at = b.bind(row * key.strides[0] - key.pads[0], "at")
        unit = 0
        for start, times, _, valid in runs:
            with block_units.loop(times, "c", start=unit) as step:
                for tiles in tiles_of(key, plan):
                    with b.loop(tiles.times, "ow") as run:
                        tiler.tile(tiles, row * line, at, run, start + step, valid)
            unit += times
        if is_table(key.activation):
            look_up(b, key, isa, row * line, line)

"""Emission of int8 depthwise convolutions.

A block of channels of a band of rows is copied to scratch, padded, so that the taps read it
without borders. Products of two taps are added in 16 bits (smull, smlal) before they are widened,
unless the packer found two weights of -128 that would meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import table
from edgeopt.codegen.schedules.depthwise_parts import axis_of
from edgeopt.codegen.schedules.depthwise_plan import Plan
from edgeopt.codegen.schedules.emit import (
    Builder,
    Expr,
    Registers,
    bcast,
    cast,
    intrinsic,
    part,
    tirx,
)
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer
from edgeopt.codegen.schedules.template import elements, is_table


def emit(function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    return _Emitter(function, plan, isa, sizes).run()


class _Emitter:
    def __init__(
        self, function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]
    ) -> None:
        key = function.key
        self.key, self.plan, self.isa = key, plan, isa
        self.padded = any(key.pads)
        self.keeps_rows = False
        b = Builder(function, {**sizes, "x0": elements(key.in_shape), "y": elements(key.out_shape)})
        self.b = b
        self.stage_buffer = b.scratch_view("i8", 0, plan.stage_elements)
        zero_x, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(4))
        self.exact = b.bind(b.load(b["qparams"], 4), "exact")
        self.pad = b.bind(cast(zero_x, "int8"), "pad")
        self.requantize = Requantizer(b, isa, zero_y, low, high)
        axis = axis_of(key, plan, isa, function.parts) if function.parts > 1 else "rows"
        self.row_units = b.units(key.out_shape[0], divided=axis == "rows")
        self.block_units = b.units(plan.blocks, divided=axis == "blocks")

    def run(self) -> Any:
        b, key, plan = self.b, self.key, self.plan
        out_h = key.out_shape[0]
        whole, rest = divmod(key.in_shape[2], plan.lanes)
        # Padding is the same for every block of channels: columns, and with one band rows.
        self.keeps_rows = plan.band == out_h and self.row_units.high == out_h
        if self.padded:
            pad = bcast(self.pad, plan.lanes)
            with b.loop(plan.stage_elements // plan.lanes, "v") as v:
                b.store(self.stage_buffer, v * plan.lanes, pad)
        for start, times, valid in ((0, whole, plan.lanes), (whole, 1, rest)):
            if not times or not valid:
                continue
            with self.block_units.loop(times, "c", start=start) as step:
                block = start + step
                with self.row_units.runs(plan.band, "band") as (first, count):
                    self.stage(block, first, count, valid)
                    with b.loop(count, "oh") as row:
                        self.row(block, first, row, valid)
        if is_table(key.activation):
            with self.row_units.runs(1 if b.function.parts > 1 else out_h, "row") as (row, count):
                line = key.out_shape[1] * key.out_shape[2]
                table.apply(b, self.isa, b["y"], b["y"], row * line, count * line)
        return b.finish()

    def stage(self, block: Expr, first: Expr, count: Expr, valid: int) -> None:
        """Copy and pad one block of channels of the band's input rows."""
        b, key, plan = self.b, self.key, self.plan
        _, width, channels = key.in_shape
        height, left = key.in_shape[0], key.pads[1]
        copied = min(width, plan.cols - left)
        pad = bcast(self.pad, plan.lanes)
        rows: Expr = plan.rows
        if not isinstance(count, int):
            rows = b.bind(rows - (plan.band - count) * key.strides[0], "staged")
        with b.loop(rows, "row") as row:
            at = b.bind(first * key.strides[0] + row - key.pads[0], "at")
            to = b.bind(row * (plan.cols * plan.lanes) + left * plan.lanes, "to")
            inside = b.bind(tirx.And(at >= 0, at < height), "inside")
            with b.when(inside), b.loop(copied, "col") as col:
                place = (at * width + col) * channels + block * plan.lanes
                loaded = b.load_some(b["x0"], place, valid, plan.lanes)
                b.store(self.stage_buffer, to + col * plan.lanes, loaded)
            if not self.keeps_rows:
                with b.when(tirx.Not(inside)), b.loop(copied, "col") as col:
                    b.store(self.stage_buffer, to + col * plan.lanes, pad)

    def row(self, block: Expr, first: Expr, row: Expr, valid: int) -> None:
        b, plan = self.b, self.plan
        full, rest = divmod(self.key.out_shape[1], plan.pixels)
        for start, times, pixels in ((0, full, plan.pixels), (full * plan.pixels, 1, rest)):
            if times and pixels:
                with b.loop(times, "ow") as col:
                    self.tile(block, first, row, start + col * plan.pixels, pixels, valid)

    def tile(self, block: Expr, first: Expr, row: Expr, col: Expr, pixels: int, valid: int) -> None:
        b, key, plan = self.b, self.key, self.plan
        lanes, channels = plan.lanes, key.in_shape[2]
        fours = 2 * -(-valid // 8)  # vectors of int32 that hold the channels
        row_width = plan.cols * lanes
        x_at = b.bind(row * key.strides[0] * row_width + col * key.strides[1] * lanes, "x_at")
        taps = key.kernel[0] * key.kernel[1]
        bias = [b.bind(b.load(b["bias"], block * lanes + 4 * n, 4)) for n in range(fours)]
        acc = b.registers(pixels * fours, "int32", 4)
        for m in range(pixels):
            for n in range(fours):
                acc[m * fours + n] = bias[n]
        w_at = b.bind(block * (taps * lanes), "w_at")
        with b.when(self.exact == 0):
            self.taps(acc, range(key.kernel[0]), x_at, w_at, pixels, fours, together=True)
        with b.when(self.exact != 0), b.loop(key.kernel[0], "kh") as kh:
            below = x_at + kh * (key.dilations[0] * row_width)
            w_row = w_at + kh * (key.kernel[1] * lanes)
            self.taps(acc, range(1), below, w_row, pixels, fours, together=False)
        place = ((first + row) * key.out_shape[1] + col) * channels + block * lanes
        scales = [b.bind(b.load(b["multiplier"], block * lanes + 4 * n, 4)) for n in range(fours)]
        steps = [cast(acc[i], "float32") * scales[i % fours] for i in range(pixels * fours)]
        places = [
            (m * channels + 4 * n, min(valid - 4 * n, 4))
            for m in range(pixels)
            for n in range(fours)
        ]
        self.requantize.store(b["y"], place, places, steps)

    def taps(
        self, acc: Registers, rows: range, x_at: Expr, w_at: Expr, pixels: int, fours: int, *,
        together: bool,
    ) -> None:  # fmt: skip
        """Some rows of the kernel; with ``together`` two products are added in 16 bits."""
        b, key, lanes, width = self.b, self.key, self.plan.lanes, 4 * fours
        products: dict[tuple[int, int], Expr] = {}

        def widen(m: int, h: int) -> None:
            product = products.pop((m, h))
            for n in (2 * h, 2 * h + 1):
                wide = cast(part(product, 4 * (n % 2), 4), "int32")
                acc[m * fours + n] = acc[m * fours + n] + wide

        for r in rows:
            x_row = x_at + r * (key.dilations[0] * self.plan.cols * lanes)
            columns = {
                m * key.strides[1] + kw * key.dilations[1]
                for m in range(pixels)
                for kw in range(key.kernel[1])
            }
            held = {
                column: b.bind(b.load(self.stage_buffer, x_row + column * lanes, width))
                for column in sorted(columns)
            }
            for kw in range(key.kernel[1]):
                tap = r * key.kernel[1] + kw
                w = b.bind(b.load(b["weights"], w_at + tap * lanes, width))
                for m in range(pixels):
                    x = held[m * key.strides[1] + kw * key.dilations[1]]
                    for h in range(fours // 2):
                        product = intrinsic(
                            "llvm.aarch64.neon.smull.v8i16", "int16x8",
                            part(x, 8 * h, 8), part(w, 8 * h, 8),
                        )  # fmt: skip
                        open_one = (m, h) in products
                        if open_one:
                            product = products[m, h] + product
                        products[m, h] = b.bind(product)
                        if open_one or not together:
                            widen(m, h)
        for m, h in list(products):
            widen(m, h)

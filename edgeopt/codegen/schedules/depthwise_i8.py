"""Emission of int8 depthwise convolutions.

A block of channels of a band of rows is widened to int16 in scratch, padded, so that the taps
read it without borders.
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
    join,
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
        self.half = plan.lanes // 2  # int32 lanes of one accumulator
        self.padded = any(key.pads)
        self.keeps_rows = False
        b = Builder(function, {**sizes, "x0": elements(key.in_shape), "y": elements(key.out_shape)})
        self.b = b
        self.stage_buffer = b.scratch_view("i16", 0, plan.stage_elements)
        zero_x, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(4))
        self.pad = b.bind(cast(zero_x, "int16"), "pad")
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
        """Widen and pad one block of channels of the band's input rows."""
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
                b.store(self.stage_buffer, to + col * plan.lanes, cast(loaded, "int16"))
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
        b, key, plan, half = self.b, self.key, self.plan, self.half
        lanes, channels = plan.lanes, key.in_shape[2]
        row_width = plan.cols * plan.lanes
        x_at = b.bind(row * key.strides[0] * row_width + col * key.strides[1] * plan.lanes, "x_at")
        pairs = -(-key.kernel[0] // 2)
        bias = [b.bind(b.load(b["bias"], block * lanes + h * half, half)) for h in range(2)]
        acc = b.registers(pixels * 2, "int32", half)
        for m in range(pixels):
            acc[2 * m], acc[2 * m + 1] = bias
        w_at = block * pairs * (key.kernel[1] * lanes * 2)
        with b.loop(pairs, "pair") as pair:
            down = key.dilations[0] * row_width
            x_row = x_at + pair * 2 * down
            w_row = w_at + pair * (key.kernel[1] * lanes * 2)
            self.single_taps(acc, x_row, down, w_row, pixels)
        place = ((first + row) * key.out_shape[1] + col) * channels + block * lanes
        scale = b.bind(b.load(b["multiplier"], block * lanes, lanes))
        for m in range(pixels):
            total = join([acc[2 * m], acc[2 * m + 1]])
            value = self.requantize(b.bind(cast(total, "float32") * scale))
            b.store_some(b["y"], place + m * channels, b.bind(value), valid)

    def meeting_columns(self, pixels: int) -> list[tuple[int, list[tuple[int, int]]]]:
        """For each input column of a tile, the (pixel, kernel column) it meets."""
        key = self.key
        meets: dict[int, list[tuple[int, int]]] = {}
        for m in range(pixels):
            for kw in range(key.kernel[1]):
                column = m * key.strides[1] + kw * key.dilations[1]
                meets.setdefault(column, []).append((m, kw))
        return sorted(meets.items())

    def single_taps(self, acc: Registers, x_at: Expr, down: int, w_at: Expr, pixels: int) -> None:
        """Two rows of the kernel, ``down`` apart; past the last row weights are zero."""
        b, key, half, lanes = self.b, self.key, self.half, self.plan.lanes
        for r in range(2):
            weights = [
                b.bind(b.load(b["weights"], w_at + (2 * kw + r) * lanes, lanes))
                for kw in range(key.kernel[1])
            ]
            for column, meets in self.meeting_columns(pixels):
                x = b.bind(b.load(self.stage_buffer, x_at + r * down + column * lanes, lanes))
                for m, kw in meets:
                    for h in range(2):
                        left = cast(part(x, h * half, half), "int32")
                        right = cast(part(weights[kw], h * half, half), "int32")
                        acc[2 * m + h] = acc[2 * m + h] + left * right

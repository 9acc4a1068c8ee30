"""Emission of int8 depthwise convolutions.

A block of channels of a band of rows is widened to int16 in scratch, padded, so that the taps
read it without borders. Where the processor has a pairwise int16 multiply-add, two vertically
neighbouring inputs are interleaved in registers once and serve every horizontal tap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import table
from edgeopt.codegen.schedules.depthwise import Plan, lane_order, pairs_rows
from edgeopt.codegen.schedules.emit import (
    Builder,
    Expr,
    Registers,
    bcast,
    cast,
    const,
    intrinsic,
    join,
    part,
    shuffle,
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
        self.pairs = pairs_rows(isa)
        self.order = lane_order(isa)
        b = Builder(function, {**sizes, "x0": elements(key.in_shape), "y": elements(key.out_shape)})
        self.b = b
        self.stage_buffer = b.scratch_view("i16", 0, plan.stage_elements)
        zero_x, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(4))
        self.pad = b.bind(cast(zero_x, "int16"), "pad")
        self.requantize = Requantizer(b, isa, zero_y, low, high)

    def run(self) -> Any:
        b, key, plan = self.b, self.key, self.plan
        out_h = key.out_shape[0]
        whole, rest = divmod(key.in_shape[2], plan.lanes)
        for start, times, valid in ((0, whole, plan.lanes), (whole, 1, rest)):
            if not times or not valid:
                continue
            with b.loop(times, "c") as step:
                block = start + step
                with b.loop(-(-out_h // plan.band), "band") as band:
                    first = band * plan.band
                    count = plan.band
                    if out_h % plan.band:
                        limit = tirx.IntImm("int32", plan.band)
                        count = b.bind(tirx.min(limit, out_h - first), "rows")
                    self.stage(block, first, valid)
                    with b.loop(count, "oh") as row:
                        self.row(block, first, row, valid)
        if is_table(key.activation):
            table.apply(b, self.isa, b["y"], b["y"], 0, elements(key.out_shape))
        return b.finish()

    def stage(self, block: Expr, first: Expr, valid: int) -> None:
        """Widen and pad one block of channels of the band's input rows."""
        b, key, plan = self.b, self.key, self.plan
        height, width, channels = key.in_shape
        lanes, left = plan.lanes, key.pads[1]
        copied = min(width, plan.cols - left)
        fill = bcast(self.pad, lanes)
        with b.loop(plan.rows, "row") as row:
            at = b.bind(first * key.strides[0] + row - key.pads[0], "at")
            to = b.bind(row * (plan.cols * lanes), "to")
            outside = tirx.Or(at < 0, at >= height)
            with b.when(outside), b.loop(plan.cols, "col") as col:
                b.store(self.stage_buffer, to + col * lanes, fill)
            with b.when(tirx.Not(outside)):
                for col in (*range(left), *range(left + copied, plan.cols)):
                    b.store(self.stage_buffer, to + col * lanes, fill)
                with b.loop(copied, "col") as col:
                    place = (at * width + col) * channels + block * lanes
                    value = b.load_some(b["x0"], place, valid, lanes)
                    b.store(self.stage_buffer, to + (left + col) * lanes, cast(value, "int16"))

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
        acc = b.registers(pixels * 2, "int32", half)
        bias = b.bind(b.load(b["bias"], block * lanes, lanes))
        low, high = self.halves(bias)
        for m in range(pixels):
            acc[2 * m], acc[2 * m + 1] = low, high
        x_at = b.bind((row * key.strides[0] * plan.cols + col * key.strides[1]) * lanes, "x_at")
        pairs = -(-key.kernel[0] // 2)
        for pair in range(pairs):
            w_at = (block * pairs + pair) * (key.kernel[1] * lanes * 2)
            self.pair_taps(acc, x_at, w_at, pair, pixels)
        place = ((first + row) * key.out_shape[1] + col) * channels + block * lanes
        scale = b.bind(b.load(b["multiplier"], block * lanes, lanes))
        if self.requantize.packs:
            scales = self.halves(scale)
            places = [(m * channels + h * 8, valid - 8 * h) for m in range(pixels) for h in (0, 1)]
            steps = [cast(acc[i], "float32") * scales[i % 2] for i in range(2 * pixels)]
            self.requantize.store(b["y"], place, places, steps, paired=True)
            return
        for m in range(pixels):
            total = self.whole(acc[2 * m], acc[2 * m + 1])
            value = self.requantize(b.bind(cast(total, "float32") * scale))
            b.store_some(b["y"], place + m * channels, b.bind(value), valid)

    def pair_taps(self, acc: Registers, x_at: Expr, w_at: Expr, pair: int, pixels: int) -> None:
        """Two rows of the kernel."""
        b, key, plan, half = self.b, self.key, self.plan, self.half
        lanes, stride, dilation = plan.lanes, key.strides[1], key.dilations[1]
        single = 2 * pair + 1 >= key.kernel[0]
        meets: dict[int, list[tuple[int, int]]] = {}
        for m in range(pixels):
            for kw in range(key.kernel[1]):
                meets.setdefault(m * stride + kw * dilation, []).append((m, kw))
        weights = {}
        for kw in range(key.kernel[1]):
            at = w_at + kw * lanes * 2
            weights[kw] = [b.load(b["weights"], at + h * lanes, lanes) for h in range(2)]
        for column in sorted(meets):
            rows = []
            for r in range(1 if single else 2):
                down = (2 * pair + r) * key.dilations[0] * plan.cols
                at = x_at + (down + column) * lanes
                rows.append(b.bind(b.load(self.stage_buffer, at, lanes)))
            if single:
                rows.append(const(0, "int16", lanes))
            if self.pairs:
                low, high = (b.bind(v) for v in self.interleave(rows[0], rows[1]))
            for m, kw in meets[column]:
                if self.pairs:
                    acc[2 * m] = acc[2 * m] + self.madd(low, weights[kw][0])
                    acc[2 * m + 1] = acc[2 * m + 1] + self.madd(high, weights[kw][1])
                    continue
                for r in range(1 if single else 2):
                    for h in range(2):
                        x = cast(part(rows[r], h * half, half), "int32")
                        w = cast(part(weights[kw][r], h * half, half), "int32")
                        acc[2 * m + h] = acc[2 * m + h] + x * w

    # -- how lanes are paired: within 128-bit halves, as the interleaving instructions do ----

    def halves(self, value: Expr) -> tuple[Expr, Expr]:
        low, high = self.order
        return self.b.bind(shuffle([value], list(low))), self.b.bind(shuffle([value], list(high)))

    def whole(self, low: Expr, high: Expr) -> Expr:
        first, second = self.order
        back = [0] * self.plan.lanes
        for position, channel in enumerate((*first, *second)):
            back[channel] = position
        if not self.pairs:
            return join([low, high])
        return shuffle([low, high], back)

    def interleave(self, upper: Expr, lower: Expr) -> tuple[Expr, Expr]:
        lanes = self.plan.lanes
        pairs = [[i for c in channels for i in (c, lanes + c)] for channels in self.order]
        return shuffle([upper, lower], pairs[0]), shuffle([upper, lower], pairs[1])

    def madd(self, x: Expr, w: Expr) -> Expr:
        name = {
            4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd",
            16: "llvm.x86.avx512.pmaddw.d.512",
        }[self.half]  # fmt: skip
        return intrinsic(name, f"int32x{self.half}", x, w)

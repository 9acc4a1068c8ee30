"""Emission of int8 depthwise convolutions for processors that multiply and add int16 pairs.

The input is read where it lies. Two rows of the kernel at a time, the channels of one column are
widened and interleaved in registers, so that one instruction does two taps; of a last odd row,
two columns are. Where rows can lie outside the map they are read from a row of padding in
scratch; columns outside are known when the tile is emitted, and are vectors of padding.

Channels are taken two vectors at a time: interleaving works within 128 bits, so that of each
eight channels the first vector gets four and the second the others. What is left, if it is not
more than one vector, is taken in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import table
from edgeopt.codegen.schedules.depthwise_parts import axis_of, block_runs
from edgeopt.codegen.schedules.depthwise_plan import Plan, column_runs, lane_order
from edgeopt.codegen.schedules.emit import (
    Buffer,
    Builder,
    Expr,
    Registers,
    bcast,
    cast,
    intrinsic,
    part,
    shuffle,
    tirx,
)
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer
from edgeopt.codegen.schedules.stage import fill_run
from edgeopt.codegen.schedules.template import elements, is_table

#: A row of the input: the buffer to read, and the index of its first element.
Row = tuple[Buffer, Expr]


def emit(function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    return _Emitter(function, plan, isa, sizes).run()


class _Emitter:
    def __init__(
        self, function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]
    ) -> None:
        key = function.key
        self.key, self.plan, self.isa = key, plan, isa
        b = Builder(function, {**sizes, "x0": elements(key.in_shape), "y": elements(key.out_shape)})
        self.b = b
        self.order = lane_order(plan.lanes)
        self.vectors = 2
        self.line = key.in_shape[1] * key.in_shape[2]
        zero_x, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(4))
        self.pad = b.bind(cast(zero_x, "int8"), "pad")
        self.requantize = Requantizer(b, isa, zero_y, low, high)
        self.outside: Buffer = None
        if plan.pad_bytes:
            self.outside = b.scratch_view("i8", 0, plan.pad_bytes)
            fill_run(b, self.outside, 0, self.line, self.pad)
        axis = axis_of(key, plan, isa, function.parts) if function.parts > 1 else "rows"
        self.runs = block_runs(key, plan)
        count = sum(times for _, times, _, _ in self.runs)
        self.row_units = b.units(key.out_shape[0], divided=axis == "rows")
        self.block_units = b.units(count, divided=axis == "blocks")

    def run(self) -> Any:
        b, key = self.b, self.key
        with self.row_units.loop(key.out_shape[0], "oh") as row:
            at = b.bind(row * key.strides[0] - key.pads[0], "at")
            unit = 0
            for start, times, _, valid in self.runs:
                with self.block_units.loop(times, "c", start=unit) as step:
                    for low, runs, pixels in column_runs(key, self.plan):
                        with b.loop(runs, "ow") as run:
                            col = low + run * pixels
                            self.tile(row, at, low, col, pixels, start + step, valid)
                unit += times
            if is_table(key.activation):
                out = key.out_shape[1] * key.out_shape[2]
                table.apply(b, self.isa, b["y"], b["y"], row * out, out)
        return b.finish()

    def tile(
        self, row: Expr, at: Expr, low: int, col: Expr, pixels: int, block: Expr, valid: int
    ) -> None:
        """Neighbouring pixels of an output row, one block of channels; ``low`` is the first."""
        b, key, lanes = self.b, self.key, self.plan.lanes
        channels, (down, _) = key.in_shape[2], key.dilations
        self.vectors = 2 if valid > lanes // 2 else 1
        pairs, odd = divmod(key.kernel[0], 2)
        slot = 2 * lanes  # weights of one pair of taps
        acc = b.registers(pixels * self.vectors, "int32", lanes // 2)
        bias = self.halves("bias", block)
        for m in range(pixels):
            for v in range(self.vectors):
                acc[m * self.vectors + v] = bias[v]
        x_col = (col * key.strides[1] - key.pads[1]) * channels + block * lanes
        x_col = b.bind(x_col, "x_col")
        w_at = b.bind(block * (self.plan.slots * slot), "w_at")
        first = low * key.strides[1] - key.pads[1]
        if pairs:
            with b.loop(pairs, "pair") as pair:
                rows = [self.row(at + (2 * pair + r) * down, f"row{r}") for r in range(2)]
                w_row = w_at + pair * (key.kernel[1] * slot)
                self.two_rows(acc, rows, x_col, first, w_row, pixels, valid)
        if odd:
            last = self.row(at + 2 * pairs * down, "row")
            w_row = w_at + pairs * key.kernel[1] * slot
            self.one_row(acc, last, x_col, first, w_row, pixels, valid)
        place = (row * key.out_shape[1] + col) * channels + block * lanes
        self.store(acc, place, self.halves("multiplier", block), pixels, valid)

    def store(
        self, acc: Registers, place: Expr, scales: list[Expr], pixels: int, valid: int
    ) -> None:
        """Requantize and store the pixels of a tile."""
        b, channels, half = self.b, self.key.in_shape[2], self.plan.lanes // 2
        count = self.vectors
        steps = [cast(acc[i], "float32") * scales[i % count] for i in range(pixels * count)]
        if count == 1 or self.requantize.packs:
            places = [
                (m * channels + v * half, valid - v * half)
                for m in range(pixels)
                for v in range(count)
            ]
            self.requantize.store(b["y"], place, places, steps, paired=count == 2)
            return
        back = [self.order.index(channel) for channel in range(2 * half)]
        for m in range(pixels):
            whole = shuffle([b.bind(step) for step in steps[2 * m : 2 * m + 2]], back)
            value = self.requantize(b.bind(whole))
            b.store_some(b["y"], place + m * channels, b.bind(value), valid)

    def halves(self, name: str, block: Expr) -> list[Expr]:
        """A constant a channel, as the vectors of a pixel."""
        b, lanes = self.b, self.plan.lanes
        whole = b.bind(b.load(b[name], block * lanes, lanes))
        if self.vectors == 1:
            return [b.bind(part(whole, 0, lanes // 2))]
        parts = self.order[: lanes // 2], self.order[lanes // 2 :]
        return [b.bind(shuffle([whole], channels)) for channels in parts]

    def row(self, index: Expr, name: str) -> Row:
        """An input row, or the row of padding."""
        b = self.b
        if self.outside is None:
            return b["x0"], b.bind(index * self.line, name)
        index = b.bind(index, "at")
        inside = tirx.And(index >= 0, index < self.key.in_shape[0])
        return b.either(inside, b["x0"], index * self.line, self.outside, self.line, name), 0

    def two_rows(
        self, acc: Registers, rows: list[Row], x_col: Expr, first: int, w_at: Expr,
        pixels: int, valid: int,
    ) -> None:  # fmt: skip
        """Two rows of the kernel: every input column meets its taps."""
        key = self.key
        weights = [self.weights(w_at, kw) for kw in range(key.kernel[1])]
        meets: dict[int, list[tuple[int, int]]] = {}
        for m in range(pixels):
            for kw in range(key.kernel[1]):
                column = m * key.strides[1] + kw * key.dilations[1]
                meets.setdefault(column, []).append((m, kw))
        for column in sorted(meets):
            upper, lower = (self.pixel(row, x_col, first, column, valid) for row in rows)
            self.add(acc, self.pair(upper, lower), weights, meets[column])

    def one_row(
        self, acc: Registers, row: Row, x_col: Expr, first: int, w_at: Expr,
        pixels: int, valid: int,
    ) -> None:  # fmt: skip
        """One row of the kernel, two of its columns at a time; after an odd last one comes none."""
        key = self.key
        taps, apart = key.kernel[1], key.dilations[1]
        weights = [self.weights(w_at, t) for t in range(-(-taps // 2))]
        meets: dict[int, list[tuple[int, int]]] = {}
        partners = set()
        for m in range(pixels):
            for t in range(len(weights)):
                column = m * key.strides[1] + 2 * t * apart
                meets.setdefault(column, []).append((m, t))
                if 2 * t + 1 < taps:
                    partners.add(column)
        loaded: dict[int, Expr] = {}
        for column in sorted(meets):
            for c in (column, column + apart) if column in partners else (column,):
                if c not in loaded:
                    loaded[c] = self.pixel(row, x_col, first, c, valid)
            left = loaded[column]
            pair = self.pair(left, loaded[column + apart] if column in partners else left)
            self.add(acc, pair, weights, meets[column])

    def add(
        self, acc: Registers, x: list[Expr], weights: list[list[Expr]],
        meets: list[tuple[int, int]],
    ) -> None:  # fmt: skip
        """Add a column to the pixels whose taps it meets."""
        for m, tap in meets:
            for v in range(self.vectors):
                index = m * self.vectors + v
                acc[index] = acc[index] + self.madd(x[v], weights[tap][v])

    def weights(self, at: Expr, slot: int) -> list[Expr]:
        """The pairs of weights of a tap."""
        b, width = self.b, self.plan.lanes
        start = at + slot * (2 * width)
        return [b.bind(b.load(b["weights"], start + v * width, width)) for v in range(self.vectors)]

    def pixel(self, row: Row, x_col: Expr, first: int, column: int, valid: int) -> Expr:
        """The channels of a tile's input column, or padding."""
        b = self.b
        lanes = self.plan.lanes * self.vectors // 2
        kind = "int16" if self.vectors == 2 else "int8"
        if not 0 <= first + column < self.key.in_shape[1]:
            return bcast(cast(self.pad, kind), lanes)
        buffer, start = row
        at = start + x_col + column * self.key.in_shape[2]
        return b.bind(cast(b.load_some(buffer, at, valid, lanes), kind))

    def pair(self, first: Expr, second: Expr) -> list[Expr]:
        """Two columns as vectors of int16 pairs."""
        b, lanes = self.b, self.plan.lanes
        if self.vectors == 1:
            order = [i for lane in range(lanes // 2) for i in (lane, lanes // 2 + lane)]
            return [b.bind(cast(shuffle([first, second], order), "int16"))]
        order = [i for lane in self.order for i in (lane, lanes + lane)]
        return [b.bind(shuffle([first, second], order[i : i + lanes])) for i in (0, lanes)]

    def madd(self, x: Expr, w: Expr) -> Expr:
        lanes = self.plan.lanes // 2
        name = {
            4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd",
            16: "llvm.x86.avx512.pmaddw.d.512",
        }[lanes]  # fmt: skip
        return intrinsic(name, f"int32x{lanes}", x, w)

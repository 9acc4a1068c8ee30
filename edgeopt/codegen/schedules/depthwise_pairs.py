"""Emission of int8 depthwise convolutions for processors that multiply and add int16 pairs.

The input is read where it lies. Two rows of the kernel at a time, the vectors of one column are
interleaved and widened in registers, so that one instruction does two taps; of a last odd row,
two columns are. Where rows can lie outside the map they are read from a row of padding in
scratch; columns outside are known when the tile is emitted, and are vectors of padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import table
from edgeopt.codegen.schedules.depthwise_parts import axis_of, block_runs
from edgeopt.codegen.schedules.depthwise_plan import Plan, column_runs
from edgeopt.codegen.schedules.emit import (
    Buffer,
    Builder,
    Expr,
    Registers,
    bcast,
    cast,
    intrinsic,
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
        """Neighbouring pixels of an output row, one vector of channels; ``low`` is the first."""
        b, key, lanes = self.b, self.key, self.plan.lanes
        channels, (down, _) = key.in_shape[2], key.dilations
        pairs, odd = divmod(key.kernel[0], 2)
        slot = 2 * lanes  # weights of one vector of pairs of taps
        acc = b.registers(pixels, "int32", lanes)
        bias = b.bind(b.load(b["bias"], block * lanes, lanes))
        for m in range(pixels):
            acc[m] = bias
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
            self.one_row(acc, last, x_col, first, w_at + pairs * key.kernel[1] * slot, valid)
        scale = b.bind(b.load(b["multiplier"], block * lanes, lanes))
        place = (row * key.out_shape[1] + col) * channels + block * lanes
        places = [(m * channels, valid) for m in range(pixels)]
        steps = [cast(acc[m], "float32") * scale for m in range(pixels)]
        self.requantize.store(b["y"], place, places, steps)

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
            x = self.pair(upper, lower)
            for m, kw in meets[column]:
                acc[m] = acc[m] + self.madd(x, weights[kw])

    def one_row(
        self, acc: Registers, row: Row, x_col: Expr, first: int, w_at: Expr, valid: int
    ) -> None:
        """One row of the kernel, two of its columns at a time; after an odd last one comes none."""
        key = self.key
        taps, apart = key.kernel[1], key.dilations[1]
        weights = [self.weights(w_at, t) for t in range(-(-taps // 2))]
        meets: dict[int, list[tuple[int, int]]] = {}
        partners = set()
        for m in range(len(acc)):
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
            x = self.pair(left, loaded[column + apart] if column in partners else left)
            for m, t in meets[column]:
                acc[m] = acc[m] + self.madd(x, weights[t])

    def weights(self, at: Expr, slot: int) -> Expr:
        """A vector of pairs of weights."""
        width = 2 * self.plan.lanes
        return self.b.bind(self.b.load(self.b["weights"], at + slot * width, width))

    def pixel(self, row: Row, x_col: Expr, first: int, column: int, valid: int) -> Expr:
        """A vector of channels of a tile's input column, or of padding."""
        b, lanes = self.b, self.plan.lanes
        if not 0 <= first + column < self.key.in_shape[1]:
            return bcast(self.pad, lanes)
        buffer, start = row
        at = start + x_col + column * self.key.in_shape[2]
        return b.bind(b.load_some(buffer, at, valid, lanes))

    def pair(self, first: Expr, second: Expr) -> Expr:
        """Two int8 vectors as one of int16 pairs."""
        lanes = self.plan.lanes
        order = [i for lane in range(lanes) for i in (lane, lanes + lane)]
        return self.b.bind(cast(shuffle([first, second], order), "int16"))

    def madd(self, x: Expr, w: Expr) -> Expr:
        lanes = self.plan.lanes
        name = {
            4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd",
            16: "llvm.x86.avx512.pmaddw.d.512",
        }[lanes]  # fmt: skip
        return intrinsic(name, f"int32x{lanes}", x, w)

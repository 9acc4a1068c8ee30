"""Emission of int8 depthwise convolutions for processors that multiply and add int16 pairs.

The input is read where it lies. Two rows of the kernel at a time, the channels of one column are
widened and interleaved in registers, so that one instruction does two taps; of a last odd row,
two columns are. Where rows can lie outside the map they are read from a row of padding in
scratch. Columns outside are known when the tile is emitted, and are vectors of padding; where
all tiles of a row share one loop, the first and the last read the row of padding (`tiles_of`).

Channels are taken two vectors at a time: interleaving works within 128 bits, so that of each
eight channels the first vector gets four and the second the others. What is left, if it is not
more than one vector, is taken in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeopt.codegen.abi import KernelFunction
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
from edgeopt.codegen.schedules.shared_code import look_up
from edgeopt.codegen.schedules.stage import fill_run
from edgeopt.codegen.schedules.template import elements, is_table
from edgeopt.core.kernels import OpKey

#: A row of the input as a tile meets it: for a column of the tile the buffer to read and the index
#: of the column's first element, or None for padding.
Row = Callable[[int], tuple[Buffer, Expr] | None]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles along a row that share their code: ``times`` of them from output column ``low``."""

    low: int
    times: int
    pixels: int

    def outside(self, key: OpKey) -> list[set[int]]:
        """The tiles in which an input column lies outside the map, for each column of a tile."""
        step = self.pixels * key.strides[1]
        low = self.low * key.strides[1] - key.pads[1]
        width = (self.pixels - 1) * key.strides[1] + (key.kernel[1] - 1) * key.dilations[1] + 1
        return [
            {n for n in range(self.times) if not 0 <= low + n * step + column < key.in_shape[1]}
            for column in range(width)
        ]


def tiles_of(key: OpKey, plan: Plan) -> list[Tiles]:
    """One loop over all tiles of a row where they are equal and a row of padding is at hand.

    The first and the last tile then read columns outside the map from there, which is decided as
    the kernel runs: half the code or less. Two tiles of few taps are left apart, which would get
    a tenth slower; where there are more of either it makes no difference.
    """
    apart = [Tiles(*run) for run in column_runs(key, plan)]
    count, rest = divmod(key.out_shape[1], plan.pixels)
    if len(apart) < (2 if key.kernel[1] > 3 else 3) or rest or not plan.pad_bytes:
        return apart
    together = Tiles(0, count, plan.pixels)
    outside = together.outside(key)
    fits = len(outside) <= key.in_shape[1]
    return [together] if fits and all(o in ({0}, {count - 1}, set()) for o in outside) else apart


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
        self.tiles = tiles_of(key, plan)
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
                    for tiles in self.tiles:
                        with b.loop(tiles.times, "ow") as run:
                            self.tile(tiles, row, at, run, start + step, valid)
                unit += times
            if is_table(key.activation):
                out = key.out_shape[1] * key.out_shape[2]
                look_up(b, key, self.isa, row * out, out)
        return b.finish()

    def tile(self, tiles: Tiles, row: Expr, at: Expr, run: Expr, block: Expr, valid: int) -> None:
        """Neighbouring pixels of an output row, one block of channels."""
        b, key, lanes = self.b, self.key, self.plan.lanes
        channels, (down, _) = key.in_shape[2], key.dilations
        pixels = tiles.pixels
        self.vectors = 2 if valid > lanes // 2 else 1
        pairs, odd = divmod(key.kernel[0], 2)
        slot = 2 * lanes  # weights of one pair of taps
        acc = b.registers(pixels * self.vectors, "int32", lanes // 2)
        bias = self.halves("bias", block)
        for m in range(pixels):
            for v in range(self.vectors):
                acc[m * self.vectors + v] = bias[v]
        col = tiles.low + run * pixels
        x_col = (col * key.strides[1] - key.pads[1]) * channels + block * lanes
        x_col = b.bind(x_col, "x_col")
        w_at = b.bind(block * (self.plan.slots * slot), "w_at")

        def row_of(index: Expr) -> Row:
            return self.row(index, tiles, run, x_col)

        if pairs:
            with b.loop(pairs, "pair") as pair:
                rows = [row_of(at + (2 * pair + r) * down) for r in range(2)]
                w_row = w_at + pair * (key.kernel[1] * slot)
                self.two_rows(acc, rows, w_row, pixels, valid)
        if odd:
            last = row_of(at + 2 * pairs * down)
            w_row = w_at + pairs * key.kernel[1] * slot
            self.one_row(acc, last, w_row, pixels, valid)
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

    def row(self, index: Expr, tiles: Tiles, run: Expr, x_col: Expr) -> Row:
        """An input row, or the row of padding, whose columns outside the map are padding."""
        b, key = self.b, self.key
        channels = key.in_shape[2]
        buffer, start = b["x0"], b.bind(index * self.line, "row")
        if self.outside is not None:
            index = b.bind(index, "at")
            inside = tirx.And(index >= 0, index < key.in_shape[0])
            buffer = b.either(inside, b["x0"], start, self.outside, self.line, "row")
            start = 0
        outside = tiles.outside(key)
        everywhere = set(range(tiles.times))
        edges: dict[int, Buffer] = {}  # by tile: the row, or padding in that tile
        for end in sorted({min(o) for o in outside if o and o != everywhere}):
            elsewhere = run > 0 if end == 0 else run < tiles.times - 1
            edges[end] = b.either(
                elsewhere, buffer, start + x_col, self.outside, len(outside) * channels, "edge"
            )

        def spot(column: int) -> tuple[Buffer, Expr] | None:
            if not outside[column]:
                return buffer, start + x_col + column * channels
            if outside[column] == everywhere:
                return None
            return edges[min(outside[column])], column * channels

        return spot

    def two_rows(
        self, acc: Registers, rows: list[Row], w_at: Expr, pixels: int, valid: int
    ) -> None:
        """Two rows of the kernel: every input column meets its taps."""
        key = self.key
        weights = [self.weights(w_at, kw) for kw in range(key.kernel[1])]
        meets: dict[int, list[tuple[int, int]]] = {}
        for m in range(pixels):
            for kw in range(key.kernel[1]):
                column = m * key.strides[1] + kw * key.dilations[1]
                meets.setdefault(column, []).append((m, kw))
        for column in sorted(meets):
            upper, lower = (self.pixel(row, column, valid) for row in rows)
            self.add(acc, self.pair(upper, lower), weights, meets[column])

    def one_row(self, acc: Registers, row: Row, w_at: Expr, pixels: int, valid: int) -> None:
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
                    loaded[c] = self.pixel(row, c, valid)
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
        """The pairs of weights of a tap, widened."""
        b, width = self.b, self.plan.lanes
        start = at + slot * (2 * width)
        return [
            b.bind(cast(b.load(b["weights"], start + v * width, width), "int16"))
            for v in range(self.vectors)
        ]

    def pixel(self, row: Row, column: int, valid: int) -> Expr:
        """The channels of a tile's input column, or padding."""
        b = self.b
        lanes = self.plan.lanes * self.vectors // 2
        kind = "int16" if self.vectors == 2 else "int8"
        spot = row(column)
        if spot is None:
            return bcast(cast(self.pad, kind), lanes)
        return b.bind(cast(b.load_some(*spot, valid, lanes), kind))

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

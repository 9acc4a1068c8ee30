"""Emission of one tile of an int8 depthwise convolution by pairs of taps.

The input is read where it lies. Two rows of the kernel at a time, the channels of one column are
widened and interleaved in registers, so that one instruction does two taps; of a last odd row,
two columns are. Where rows can lie outside the map they are read from a row of padding in
scratch. Columns outside in all tiles of a run are vectors of padding; those that are outside in
the first or the last only are read from the row of padding there.

Channels are taken two vectors at a time: interleaving works within 128 bits, so that of each
eight channels the first vector gets four and the second the others. What is left, if it is not
more than one vector, is taken in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeopt.codegen.schedules.depthwise_plan import lane_order, slots_of
from edgeopt.codegen.schedules.depthwise_tiles import Edge, Tiles
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

#: A row of the input as a tile meets it: for a column of the tile the buffer to read and the index
#: of the column's first element, or None for padding.
Row = Callable[[int], tuple[Buffer, Expr] | None]


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution; what is an expression may be known only as the kernel runs."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    left: int  # columns of padding before the first
    channels: Expr
    line: Expr  # elements of an input row
    height: Expr  # input rows


class Tiler:
    """Emits tiles of a layer, from and to the buffers of a builder."""

    def __init__(
        self, b: Builder, isa: Isa, layer: Layer, lanes: int, outside: Buffer, pad: Expr,
        requantize: Requantizer,
    ) -> None:  # fmt: skip
        """``lanes``: channels of a block; ``outside``: a row of padding, or None without any."""
        self.b, self.isa, self.layer, self.lanes = b, isa, layer, lanes
        self.outside, self.pad, self.requantize = outside, pad, requantize
        self.order = lane_order(lanes)
        self.vectors = 2

    def tile(self, tiles: Tiles, start: Expr, at: Expr, run: Expr, block: Expr, valid: int) -> None:
        """Neighbouring pixels of an output row, one block of channels.

        Args:
            tiles: the run of tiles.
            start: of the output row.
            at: the input row that the kernel's first meets.
            run: which tile.
            block: which channels.
            valid: how many of them there are.
        """
        b, layer, lanes = self.b, self.layer, self.lanes
        channels, down = layer.channels, layer.dilations[0]
        pixels = tiles.pixels
        self.vectors = 2 if valid > lanes // 2 else 1
        pairs, odd = divmod(layer.kernel[0], 2)
        slot = 2 * lanes  # weights of one pair of taps
        acc = b.registers(pixels * self.vectors, "int32", lanes // 2)
        bias = self.halves("bias", block)
        for m in range(pixels):
            for v in range(self.vectors):
                acc[m * self.vectors + v] = bias[v]
        col = tiles.low + run * pixels
        x_col = (col * layer.strides[1] - layer.left) * channels + block * lanes
        x_col = b.bind(x_col, "x_col")
        w_at = b.bind(block * (slots_of(layer.kernel) * slot), "w_at")

        def row_of(index: Expr) -> Row:
            return self.row(index, tiles, run, x_col)

        if pairs:
            with b.loop(pairs, "pair") as pair:
                rows = [row_of(at + (2 * pair + r) * down) for r in range(2)]
                w_row = w_at + pair * (layer.kernel[1] * slot)
                self.two_rows(acc, rows, w_row, pixels, valid)
        if odd:
            last = row_of(at + 2 * pairs * down)
            w_row = w_at + pairs * layer.kernel[1] * slot
            self.one_row(acc, last, w_row, pixels, valid)
        place = b.bind(start + col * channels + block * lanes, "place")
        self.store(acc, place, self.halves("multiplier", block), pixels, valid)

    def store(
        self, acc: Registers, place: Expr, scales: list[Expr], pixels: int, valid: int
    ) -> None:
        """Requantize and store the pixels of a tile."""
        b, channels, half = self.b, self.layer.channels, self.lanes // 2
        count = self.vectors
        steps = [cast(acc[i], "float32") * scales[i % count] for i in range(pixels * count)]
        if count == 1 or self.requantize.packs:
            apart = channels if isinstance(channels, int) else 4 * self.lanes
            places = [
                (m * apart + v * half, valid - v * half)
                for m in range(pixels)
                for v in range(count)
            ]

            def offset_of(offset: int) -> Expr:
                return offset // apart * channels + offset % apart

            self.requantize.store(
                b["y"], place, places, steps, paired=count == 2,
                offset_of=None if isinstance(channels, int) else offset_of,
            )  # fmt: skip
            return
        back = [self.order.index(channel) for channel in range(2 * half)]
        for m in range(pixels):
            whole = shuffle([b.bind(step) for step in steps[2 * m : 2 * m + 2]], back)
            value = self.requantize(b.bind(whole))
            b.store_some(b["y"], place + m * channels, b.bind(value), valid)

    def halves(self, name: str, block: Expr) -> list[Expr]:
        """A constant a channel, as the vectors of a pixel."""
        b, lanes = self.b, self.lanes
        whole = b.bind(b.load(b[name], block * lanes, lanes))
        if self.vectors == 1:
            return [b.bind(part(whole, 0, lanes // 2))]
        parts = self.order[: lanes // 2], self.order[lanes // 2 :]
        return [b.bind(shuffle([whole], channels)) for channels in parts]

    def row(self, index: Expr, tiles: Tiles, run: Expr, x_col: Expr) -> Row:
        """An input row, or the row of padding, whose columns outside the map are padding."""
        b, layer = self.b, self.layer
        buffer, start = b["x0"], b.bind(index * layer.line, "row")
        if self.outside is not None:
            index = b.bind(index, "at")
            inside = tirx.And(index >= 0, index < layer.height)
            buffer = b.either(inside, b["x0"], start, self.outside, layer.line, "row")
            start = 0
        edges: dict[Edge, tuple[int, Buffer]] = {}  # the first column, and the row or padding
        ends: tuple[tuple[Edge, Expr], ...] = (("first", run > 0), ("last", run < tiles.times - 1))
        for end, elsewhere in ends:
            if end in tiles.edges:
                column = tiles.edges.index(end)
                at = start + x_col + column * layer.channels
                chosen = b.either(elsewhere, buffer, at, self.outside, layer.line, "edge")
                edges[end] = column, chosen

        def spot(column: int) -> tuple[Buffer, Expr] | None:
            edge = tiles.edges[column]
            if not edge:
                return buffer, start + x_col + column * layer.channels
            if edge == "always":
                return None
            first, chosen = edges[edge]
            return chosen, (column - first) * layer.channels

        return spot

    def two_rows(
        self, acc: Registers, rows: list[Row], w_at: Expr, pixels: int, valid: int
    ) -> None:
        """Two rows of the kernel: every input column meets its taps."""
        layer = self.layer
        weights = [self.weights(w_at, kw) for kw in range(layer.kernel[1])]
        meets: dict[int, list[tuple[int, int]]] = {}
        for m in range(pixels):
            for kw in range(layer.kernel[1]):
                column = m * layer.strides[1] + kw * layer.dilations[1]
                meets.setdefault(column, []).append((m, kw))
        for column in sorted(meets):
            upper, lower = (self.pixel(row, column, valid) for row in rows)
            self.add(acc, self.pair(upper, lower), weights, meets[column])

    def one_row(self, acc: Registers, row: Row, w_at: Expr, pixels: int, valid: int) -> None:
        """One row of the kernel, two of its columns at a time; after an odd last one comes none."""
        layer = self.layer
        taps, apart = layer.kernel[1], layer.dilations[1]
        weights = [self.weights(w_at, t) for t in range(-(-taps // 2))]
        meets: dict[int, list[tuple[int, int]]] = {}
        partners = set()
        for m in range(pixels):
            for t in range(len(weights)):
                column = m * layer.strides[1] + 2 * t * apart
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
        b, width = self.b, self.lanes
        start = at + slot * (2 * width)
        return [
            b.bind(cast(b.load(b["weights"], start + v * width, width), "int16"))
            for v in range(self.vectors)
        ]

    def pixel(self, row: Row, column: int, valid: int) -> Expr:
        """The channels of a tile's input column, or padding."""
        b = self.b
        lanes = self.lanes * self.vectors // 2
        kind = "int16" if self.vectors == 2 else "int8"
        spot = row(column)
        if spot is None:
            return bcast(cast(self.pad, kind), lanes)
        return b.bind(cast(b.load_some(*spot, valid, lanes), kind))

    def pair(self, first: Expr, second: Expr) -> list[Expr]:
        """Two columns as vectors of int16 pairs."""
        b, lanes = self.b, self.lanes
        if self.vectors == 1:
            order = [i for lane in range(lanes // 2) for i in (lane, lanes // 2 + lane)]
            return [b.bind(cast(shuffle([first, second], order), "int16"))]
        order = [i for lane in self.order for i in (lane, lanes + lane)]
        return [b.bind(shuffle([first, second], order[i : i + lanes])) for i in (0, lanes)]

    def madd(self, x: Expr, w: Expr) -> Expr:
        """The sums of pairs of products."""
        lanes = self.lanes // 2
        name = {
            4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd",
            16: "llvm.x86.avx512.pmaddw.d.512",
        }[lanes]  # fmt: skip
        return intrinsic(name, f"int32x{lanes}", x, w)

"""Emission of the int8 convolution that `winograd_i8_plan` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import gemm_reduce, shared_code, table
from edgeopt.codegen.schedules.emit import Builder, Expr, cast, const, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer
from edgeopt.codegen.schedules.stage import copy_run, fill_run
from edgeopt.codegen.schedules.template import elements, is_table
from edgeopt.codegen.schedules.winograd_i8_plan import PRODUCTS, SIDE, Plan


def emit(function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    return _Emitter(function, plan, isa, sizes).run()


class _Emitter:
    def __init__(
        self, function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]
    ) -> None:
        key = function.key
        self.key, self.plan, self.isa = key, plan, isa
        shapes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
        self.b = b = Builder(function, {**sizes, **shapes})
        shared_code.widened(b)
        staged = plan.stage_elements(key.in_shape[-1])
        inputs = PRODUCTS * plan.input_stride
        self.staged = b.scratch_view("i16", 0, staged)
        self.inputs = b.scratch_view("i16", 2 * staged, inputs)
        self.sums = b.scratch_view("i32", 2 * (staged + inputs), PRODUCTS * plan.sum_stride)
        zero_x, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(4))
        self.pad = b.bind(cast(zero_x, "int16"), "pad")
        self.requantize = Requantizer(b, isa, zero_y, low, high)
        by_band = plan.bands >= function.parts
        self.band_units = b.units(plan.bands, divided=by_band)
        self.panel_units = b.units(plan.panels, divided=not by_band)

    def run(self) -> Any:
        b, key, plan = self.b, self.key, self.plan
        product, lanes = plan.product, self.isa.lanes
        full, rest = divmod(product.output_vectors, product.vectors)
        if product.outputs % lanes and not rest:
            full, rest = full - 1, product.vectors
        with self.band_units.loop(plan.bands, "band") as band:
            first = b.bind(band * plan.band, "first")
            self.stage(first)
            self.transform_in()
            with self.panel_units.loop(full, "panel") as panel:
                self.panel(first, panel * product.vectors, product.vectors, lanes)
            if rest:
                vector = full * product.vectors
                with self.panel_units.loop(1, "panel", start=full):
                    valid = product.outputs - (product.output_vectors - 1) * lanes
                    self.panel(first, vector, rest, valid)
            if is_table(key.activation):
                self.look_up(first)
        return b.finish()

    def look_up(self, first: Expr) -> None:
        """Apply the table to the rows of a band."""
        b, key, plan = self.b, self.key, self.plan
        line = key.out_shape[1] * key.out_shape[2]
        rows = b.bind(
            tirx.min(tirx.IntImm("int32", 2 * plan.band), key.out_shape[0] - 2 * first), "rows"
        )
        with b.loop(rows, "row") as row:
            table.apply(b, self.isa, b["y"], b["y"], (2 * first + row) * line, line)

    def stage(self, first: Expr) -> None:
        """Copy the band's input rows with their padding, widened."""
        b, key, plan = self.b, self.key, self.plan
        height, width, in_c = key.in_shape
        left = key.pads[1]
        copied = min(width, plan.stage_cols - left)
        right = plan.stage_cols - left - copied
        line = plan.stage_cols * in_c
        with b.loop(plan.stage_rows, "row") as row:
            at = b.bind(2 * first + row - key.pads[0], "at")
            to = b.bind(row * line, "to")
            outside = tirx.Or(at < 0, at >= height)
            with b.when(outside):
                fill_run(b, self.staged, to, line, self.pad)
            with b.when(tirx.Not(outside)):
                fill_run(b, self.staged, to, left * in_c, self.pad)
                copy_run(
                    b, b["x0"], at * (width * in_c), self.staged, to + left * in_c,
                    copied * in_c, "i16", False, 2 * self.isa.lanes,
                )  # fmt: skip
                fill_run(b, self.staged, to + (left + copied) * in_c, right * in_c, self.pad)

    def transform_in(self) -> None:
        """B^T d B of every tile, a vector of channels at a time."""
        b, plan, lanes = self.b, self.plan, 2 * self.isa.lanes
        in_c = self.key.in_shape[-1]
        line = plan.stage_cols * in_c
        with (
            b.loop(plan.band, "tr") as row,
            b.loop(plan.tile_cols, "tc") as col,
            b.loop(plan.channels // lanes, "c") as c,
        ):
            at = b.bind(row * (2 * line) + col * (2 * in_c) + c * lanes, "at")
            to = b.bind((row * plan.tile_cols + col) * plan.channels + c * lanes, "to")
            lines: list[list[Expr]] = [[] for _ in range(SIDE)]
            for j in range(SIDE):
                given = [
                    b.bind(b.load(self.staged, at + i * line + j * in_c, lanes))
                    for i in range(SIDE)
                ]
                for kept, value in zip(lines, self.before(given), strict=True):
                    kept.append(value)
            for i, values in enumerate(lines):
                for j, value in enumerate(self.before(values)):
                    b.store(self.inputs, to + (i * SIDE + j) * plan.input_stride, value)

    def before(self, d: Sequence[Expr]) -> list[Expr]:
        """B^T d."""
        return [self.b.bind(v) for v in (d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1])]

    # -- one panel of output channels ---------------------------------------------------------

    def panel(self, first: Expr, vector: Expr, vectors: int, valid: int) -> None:
        """All products of a panel, then back; ``valid`` are the outputs of its last vector."""
        b, plan = self.b, self.plan
        product, lanes = plan.product, self.isa.lanes
        width = vectors * lanes
        full, rest = divmod(plan.tiles, product.pixels)
        start = b.bind(vector * (lanes * product.reduction * PRODUCTS), "panel_at")
        with b.loop(PRODUCTS, "product") as number:
            at = b.bind(number * plan.input_stride, "at")
            weights = b.bind(start + number * (width * product.reduction), "w_at")
            to = b.bind(number * plan.sum_stride, "to")
            # While the first tile is multiplied, the weights of the next product are asked for.
            runs = [(0, 1, product.pixels), (1, full, product.pixels), (full, full + 1, rest)]
            for begin, end, tiles in runs if full else [(0, 1, rest)]:
                if end <= begin or not tiles:
                    continue
                ahead = None if begin else b.bind(weights + width * product.reduction, "ahead")
                with b.loop(end - begin, "tiles") as run:
                    tile = begin * product.pixels + run * tiles
                    acc = b.registers(tiles * vectors, "int32", lanes)
                    for i in range(tiles * vectors):
                        acc[i] = const(0, "int32", lanes)
                    gemm_reduce.reduce(
                        b, self.isa, product, self.inputs, True, acc,
                        b.bind(at + tile * plan.channels, "x_at"), weights, tiles, vectors, ahead,
                    )  # fmt: skip
                    place = b.bind(to + tile * width, "place")
                    for i in range(tiles * vectors):
                        b.store(self.sums, place + i * lanes, acc[i])
        out_w = self.key.out_shape[1]
        pairs, odd = divmod(out_w, 2)
        with b.loop(plan.band, "tr") as row:
            for begin, times, cols in ((0, pairs, 2), (pairs, 1, odd)):
                if times and cols:
                    with b.loop(times, "tc") as col:
                        self.tile_out(first, row, begin + col, vector, vectors, cols, valid)

    def tile_out(
        self, first: Expr, row: Expr, col: Expr, vector: Expr, vectors: int, cols: int, valid: int
    ) -> None:
        """A^T p A of one tile, which is four times its sums; then what follows them."""
        b, plan, lanes = self.b, self.plan, self.isa.lanes
        out_h, out_w, out_c = self.key.out_shape
        at = b.bind((row * plan.tile_cols + col) * (vectors * lanes), "at")
        outputs: list[list[list[Expr]]] = []  # [vector][row][column]
        for n in range(vectors):
            lines: list[list[Expr]] = [[], []]
            for j in range(SIDE):
                given = [
                    b.bind(
                        b.load(self.sums, at + (i * SIDE + j) * plan.sum_stride + n * lanes, lanes)
                    )
                    for i in range(SIDE)
                ]
                for kept, value in zip(lines, self.after(given), strict=True):
                    kept.append(value)
            channel = (vector + n) * lanes
            bias = b.bind(b.load(b["bias"], channel, lanes))
            scale = b.bind(b.load(b["multiplier"], channel, lanes))
            two = const(2, "int32", lanes)
            outputs.append(
                [
                    [
                        b.bind(cast(tirx.shift_right(value, two) + bias, "float32") * scale)
                        for value in self.after(line)[:cols]
                    ]
                    for line in lines
                ]
            )
        top = b.bind(2 * (first + row), "top")
        place = b.bind((top * out_w + col * 2) * out_c + vector * lanes, "place")
        places = [
            (j * out_c + n * lanes, lanes if n < vectors - 1 else valid)
            for j in range(cols)
            for n in range(vectors)
        ]
        for i in range(2):
            steps = [outputs[n][i][j] for j in range(cols) for n in range(vectors)]
            with b.when(top + i < out_h):
                self.requantize.store(b["y"], place + i * out_w * out_c, places, steps)

    def after(self, p: Sequence[Expr]) -> list[Expr]:
        """A^T p."""
        b = self.b
        return [b.bind(p[0] + (p[1] + p[2])), b.bind((p[1] - p[2]) + p[3])]

"""Emission of the convolution that `winograd_plan` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import gemm_plan, gemm_reduce
from edgeopt.codegen.schedules.emit import Builder, Expr, const, tirx
from edgeopt.codegen.schedules.gemm_parts import panel_sizes
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import activate
from edgeopt.codegen.schedules.stage import copy_run, fill_run
from edgeopt.codegen.schedules.template import elements
from edgeopt.codegen.schedules.winograd_plan import POINTS, Plan


def emit(function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    return _Emitter(function, plan, isa, sizes).run()


class _Emitter:
    def __init__(
        self, function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]
    ) -> None:
        key = function.key
        shapes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
        shapes["residual"] = shapes["y"]
        self.key, self.plan, self.isa = key, plan, isa
        self.b = Builder(function, {**sizes, **shapes})
        staged = plan.stage_elements(key.in_shape[-1])
        inputs = plan.products * plan.input_stride
        self.staged = self.b.scratch_view("f32", 0, staged)
        self.inputs = self.b.scratch_view("f32", 4 * staged, inputs)
        self.results = self.b.scratch_view(
            "f32", 4 * (staged + inputs), plan.products * plan.output_stride
        )
        by_band = plan.bands >= function.parts
        self.band_units = self.b.units(plan.bands, divided=by_band)
        self.panel_units = self.b.units(len(panel_sizes(plan.product)), divided=not by_band)

    def run(self) -> Any:
        b, plan = self.b, self.plan
        with self.band_units.loop(plan.bands, "band") as band:
            first = b.bind(band * plan.band, "first")
            self.stage(first)
            self.transform_in()
            with b.loop(plan.products, "product") as product:
                self.multiply(product)
            self.transform_out(first)
        return b.finish()

    def stage(self, first: Expr) -> None:
        """Copy the band's input rows with their padding."""
        b, key, plan = self.b, self.key, self.plan
        height, width, in_c = key.in_shape
        left = key.pads[1]
        copied = min(width, plan.stage_cols - left)
        line = plan.stage_cols * in_c
        zero = const(0.0)
        with b.loop(plan.stage_rows, "row") as row:
            at = b.bind(first * plan.outputs_side + row - key.pads[0], "at")
            to = b.bind(row * line, "to")
            outside = tirx.Or(at < 0, at >= height)
            with b.when(outside):
                fill_run(b, self.staged, to, line, zero)
            with b.when(tirx.Not(outside)):
                fill_run(b, self.staged, to, left * in_c, zero)
                copy_run(
                    b, b["x0"], at * (width * in_c), self.staged, to + left * in_c,
                    copied * in_c, "f32", False, self.isa.lanes,
                )  # fmt: skip
                rest = plan.stage_cols - left - copied
                fill_run(b, self.staged, to + (left + copied) * in_c, rest * in_c, zero)

    def transform_in(self) -> None:
        """B^T d B of every tile, a vector of channels at a time."""
        b, plan, lanes = self.b, self.plan, self.isa.lanes
        in_c, m, side = self.key.in_shape[-1], plan.outputs_side, plan.side
        line = plan.stage_cols * in_c
        with (
            b.loop(plan.band, "tr") as row,
            b.loop(plan.tile_cols, "tc") as col,
            b.loop(plan.channels // lanes, "c") as c,
        ):
            at = b.bind(row * (m * line) + col * (m * in_c) + c * lanes, "at")
            to = b.bind((row * plan.tile_cols + col) * plan.channels + c * lanes, "to")
            lines: list[list[Expr]] = [[] for _ in range(side)]
            for j in range(side):
                given = [
                    b.bind(b.load(self.staged, at + i * line + j * in_c, lanes))
                    for i in range(side)
                ]
                for kept, value in zip(lines, self.before(given), strict=True):
                    kept.append(value)
            for i, values in enumerate(lines):
                for j, value in enumerate(self.before(values)):
                    b.store(self.inputs, to + (i * side + j) * plan.input_stride, value)

    def multiply(self, product: Expr) -> None:
        """One product of the band: [tiles, channels] by [channels, outputs]."""
        b, plan = self.b, self.plan.product
        full, rest = divmod(plan.window.out_cols, plan.pixels)
        panels, last = divmod(plan.output_vectors, plan.vectors)
        for begin, times, vectors in ((0, panels, plan.vectors), (panels, 1, last)):
            if not times or not vectors:
                continue
            with self.panel_units.loop(times, "panel", start=begin) as panel:
                vector = b.bind(begin * plan.vectors + panel * vectors, "vector")
                ahead = min(
                    gemm_plan.tiles_ahead(plan, self.isa, vectors, self.plan.products), full
                )
                for low, high, pixels in ((0, ahead, plan.pixels), (ahead, full, plan.pixels),
                                          (full, full + 1, rest)):  # fmt: skip
                    if high > low and pixels:
                        with b.loop(high - low, "tiles") as tiles:
                            index = low + tiles
                            line = index if high == ahead else None
                            self.tile(product, index * plan.pixels, pixels, vector, vectors, line)

    def tile(
        self, product: Expr, first: Expr, pixels: int, vector: Expr, vectors: int,
        index: Expr | None,
    ) -> None:  # fmt: skip
        """One tile; with ``index``, ask for that share of the panel that comes next."""
        b, plan, lanes = self.b, self.plan.product, self.isa.lanes
        split = plan.split
        acc = b.registers(split * pixels * vectors, "float32", lanes)
        for i in range(split * pixels * vectors):
            acc[i] = const(0.0, "float32", lanes)
        at = product * self.plan.input_stride + first * self.plan.channels
        weights = (product * plan.output_vectors + vector) * (lanes * plan.reduction)
        weights, ahead = b.bind(weights, "w_at"), None
        if index is not None:
            ahead = weights + vectors * lanes * plan.reduction
            ahead = b.bind(ahead + index * (plan.reduction * gemm_reduce.LINE_FLOATS), "ahead")
        gemm_reduce.reduce(
            b, self.isa, plan, self.inputs, False, acc, b.bind(at, "at"), weights, pixels,
            vectors, ahead,
        )  # fmt: skip
        wide = plan.output_vectors * lanes
        to = b.bind(product * self.plan.output_stride + first * wide + vector * lanes, "to")
        for m in range(pixels):
            for n in range(vectors):
                value = acc[m * vectors + n]
                for s in range(1, split):
                    value = value + acc[(s * pixels + m) * vectors + n]
                b.store(self.results, to + m * wide + n * lanes, b.bind(value))

    def transform_out(self, first: Expr) -> None:
        """A^T p A of every tile, then bias, activation and residual."""
        plan = self.plan
        product, lanes = plan.product, self.isa.lanes
        panels, last = divmod(product.output_vectors, product.vectors)
        ragged = product.outputs % lanes
        if ragged and not last:
            panels, last = panels - 1, product.vectors
        with self.panel_units.loop(panels, "panel") as panel:
            self.panel_out(first, panel * product.vectors, product.vectors, lanes)
        if last:
            vector = panels * product.vectors
            with self.panel_units.loop(1, "panel", start=panels):
                self.panel_out(first, vector, last - bool(ragged), lanes)
                self.panel_out(first, vector + last - 1, int(bool(ragged)), ragged)

    def panel_out(self, first: Expr, vector: Expr, vectors: int, valid: int) -> None:
        b, plan = self.b, self.plan
        out_w, m = self.key.out_shape[1], plan.outputs_side
        full, rest = divmod(out_w, m)
        if not vectors:
            return
        with b.loop(plan.band, "tr") as row:
            for start, times, cols in ((0, full, m), (full, 1, rest)):
                if not times or not cols:
                    continue
                with b.loop(times, "tc") as col, b.loop(vectors, "n") as n:
                    self.tile_out(first, row, start + col, vector + n, cols, valid)

    def tile_out(
        self, first: Expr, row: Expr, col: Expr, vector: Expr, cols: int, valid: int
    ) -> None:
        b, plan, key, lanes = self.b, self.plan, self.key, self.isa.lanes
        out_h, out_w, out_c = key.out_shape
        m, side = plan.outputs_side, plan.side
        wide = plan.product.output_vectors * lanes
        at = b.bind((row * plan.tile_cols + col) * wide + vector * lanes, "at")
        lines: list[list[Expr]] = [[] for _ in range(m)]
        for j in range(side):
            given = [
                b.bind(b.load(self.results, at + (i * side + j) * plan.output_stride, lanes))
                for i in range(side)
            ]
            for kept, value in zip(lines, self.after(given), strict=True):
                kept.append(value)
        bias = b.bind(b.load(b["bias"], vector * lanes, lanes))
        top = b.bind((first + row) * m, "top")
        place = b.bind((top * out_w + col * m) * out_c + vector * lanes, "place")
        for i, values in enumerate(lines):
            inside = tirx.const(True, "bool") if self.whole() else top + i < out_h
            with b.when(inside):
                for j, value in enumerate(self.after(values)[:cols]):
                    self.finish(value + bias, place + (i * out_w + j) * out_c, valid)

    def whole(self) -> bool:
        """Whether bands end where the map does."""
        return self.key.out_shape[0] == self.plan.bands * self.plan.band * self.plan.outputs_side

    def finish(self, value: Expr, place: Expr, count: int) -> None:
        b, key, lanes = self.b, self.key, self.isa.lanes
        value = activate(b, key.activation, b.bind(value))
        if key.residual:
            value = value + b.load_some(b["residual"], place, count, lanes)
            value = activate(b, key.residual_activation, b.bind(value))
        b.store_some(b["y"], place, b.bind(value), count)

    # -- transforms in one dimension ---------------------------------------------------------

    def before(self, d: Sequence[Expr]) -> list[Expr]:
        """B^T d."""
        b, c = self.b, self.number
        if len(d) == 4:
            return [b.bind(v) for v in (d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1])]
        p, q = POINTS
        both, product = p * p + q * q, p * p * q * q
        found = [b.bind(d[0] * c(product) + (d[4] - d[2] * c(both)))]
        for point, other in ((p, q), (q, p)):
            even = b.bind(d[4] - d[2] * c(other * other))
            odd = b.bind(d[3] - d[1] * c(other * other))
            found += [b.bind(even + odd * c(point)), b.bind(even - odd * c(point))]
        return [*found, b.bind(d[1] * c(product) + (d[5] - d[3] * c(both)))]

    def after(self, p: Sequence[Expr]) -> list[Expr]:
        """A^T p."""
        b, c = self.b, self.number
        if len(p) == 4:
            return [b.bind(p[0] + (p[1] + p[2])), b.bind((p[1] - p[2]) + p[3])]
        u, v = POINTS
        sums = b.bind(p[1] + p[2]), b.bind(p[3] + p[4])
        steps = b.bind(p[1] - p[2]), b.bind(p[3] - p[4])
        return [
            b.bind(p[0] + sums[0] + sums[1]),
            b.bind(steps[0] * c(u) + steps[1] * c(v)),
            b.bind(sums[0] * c(u * u) + sums[1] * c(v * v)),
            b.bind(steps[0] * c(u**3) + (steps[1] * c(v**3) + p[5])),
        ]

    def number(self, value: float) -> Expr:
        return const(value, "float32", self.isa.lanes)

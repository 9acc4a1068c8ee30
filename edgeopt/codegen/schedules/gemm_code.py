"""Emission of the tiled matrix product that `gemm_plan` describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import gemm_along, packing, shared_code, table
from edgeopt.codegen.schedules.emit import (
    Builder,
    Expr,
    cast,
    const,
    tirx,
)
from edgeopt.codegen.schedules.gemm_parts import axis_of, panel_sizes, tile_sizes
from edgeopt.codegen.schedules.gemm_plan import Plan, tiles_ahead
from edgeopt.codegen.schedules.gemm_reduce import LINE_FLOATS, reduce
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer, activate
from edgeopt.codegen.schedules.stage import copy_run, fill_run
from edgeopt.codegen.schedules.template import elements, is_table
from edgeopt.core.kernels import OpKey


def emit(function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    shapes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
    b = Builder(function, {**sizes, **shapes, "residual": shapes["y"]})
    shared_code.widened(b)
    product(b, key, plan, isa)
    if key.dtype == "i8":
        b.keep_loops()
    return b.finish()


def product(b: Builder, key: OpKey, plan: Plan, isa: Isa) -> None:
    """The product of a key, on the builder's buffers of the usual names."""
    _Emitter(b, key, plan, isa).run()


class _Emitter:
    def __init__(self, b: Builder, key: OpKey, plan: Plan, isa: Isa) -> None:
        self.key, self.plan, self.isa = key, plan, isa
        self.integer = key.dtype == "i8"
        self.b = b
        self.source = self.b["x0"]
        if plan.stage is not None:
            self.source = self.b.scratch_view(plan.stage.dtype, 0, plan.stage.elements)
        parts = b.function.parts
        axis = axis_of(key, plan, isa, parts) if parts > 1 else "rows"
        self.axis = axis
        self.row_units = self.b.units(plan.window.out_rows, divided=axis == "rows")
        self.tile_units = self.b.units(len(tile_sizes(plan)), divided=axis == "tiles")
        self.panel_units = self.b.units(len(panel_sizes(plan)), divided=axis == "panels")
        self.exact: Expr | None = None
        if self.integer:
            zero_x, zero_y, low, high = (
                self.b.bind(self.b.load(self.b["qparams"], i), "q") for i in range(4)
            )
            self.zero_x = zero_x
            self.requantize = Requantizer(self.b, isa, zero_y, low, high)
            if not plan.is_packed:
                self.exact = gemm_along.exact_flag(self.b, isa)

    def run(self) -> None:
        b, plan = self.b, self.plan
        with self.row_units.runs(plan.band, "band") as (first, count):
            if plan.stage is not None:
                self.stage(first, count)
            with b.loop(plan.groups, "group") as group:
                self.tiles(group, first, count)
        if self.integer and is_table(self.key.activation):
            self.look_up()

    def look_up(self) -> None:
        """Apply the table to what this part has computed."""
        b, window = self.b, self.plan.window
        if b.function.parts == 1:
            shared_code.look_up(b, self.key, self.isa, 0, elements(self.key.out_shape))
            return
        pixel = self.plan.groups * self.plan.outputs
        full, rest = divmod(window.out_cols, self.plan.pixels)
        tiles = [(0, full, self.plan.pixels), (full, 1, rest)]
        if self.axis == "rows":
            tiles = [(0, 1, window.out_cols)]
        with self.row_units.loop(window.out_rows, "row") as row:
            for start, times, pixels in tiles:
                if times and pixels:
                    with self.tile_units.loop(times, "ow", start=start) as col:
                        at = row * window.out_cols + start * self.plan.pixels + col * pixels
                        table.apply(b, self.isa, b["y"], b["y"], at * pixel, pixels * pixel)

    # -- staging ---------------------------------------------------------------------------

    def stage(self, first: Expr, count: Expr) -> None:
        b, key, stage = self.b, self.key, self.plan.stage
        assert stage is not None
        dtype = {"f32": "float32", "i16": "int16", "i8": "int8"}[stage.dtype]
        flip = self.integer and self.isa.unsigned
        lanes = self.isa.lanes * (2 if dtype == "int16" else 4 if dtype == "int8" else 1)
        in_c = key.in_shape[-1]
        if (
            stage.rows == 1
            and key.kernel == (1, 1)
            and not any(key.pads)
            and (key.strides == (1, 1))
        ):
            self.stage_flat(first, dtype, flip, lanes)
            return
        height, width = key.in_shape[0], key.in_shape[1]
        pad = self.pad_value(dtype, flip)
        copied = min(width, stage.cols - stage.left)
        right = stage.cols - stage.left - copied
        rows: Expr = stage.rows
        if not isinstance(count, int):
            rows = b.bind(stage.rows - (self.plan.band - count) * key.strides[0], "staged")
        with b.loop(rows, "row") as row:
            at = b.bind(first * key.strides[0] + row - stage.top, "at")
            to = b.bind(row * (stage.cols * in_c), "to")
            outside = tirx.Or(at < 0, at >= height)
            with b.when(outside):
                fill_run(b, self.source, to, stage.cols * in_c, pad)
            with b.when(tirx.Not(outside)):
                fill_run(b, self.source, to, stage.left * in_c, pad)
                copy_run(
                    b, b["x0"], at * (width * in_c), self.source, to + stage.left * in_c,
                    copied * in_c, dtype, flip, lanes,
                )  # fmt: skip
                end = to + (stage.left + copied) * in_c
                fill_run(b, self.source, end, right * in_c, pad)

    def stage_flat(self, first: Expr, dtype: str, flip: bool, lanes: int) -> None:
        b, stage = self.b, self.plan.stage
        assert stage is not None
        in_c = self.key.in_shape[-1]
        if stage.channels == in_c:
            at = first * (stage.cols * in_c)
            copy_run(b, b["x0"], at, self.source, 0, stage.cols * in_c, dtype, flip, lanes)
            return
        with b.loop(stage.cols, "pixel") as pixel:
            at = (first * stage.cols + pixel) * in_c
            to = pixel * stage.channels
            copy_run(b, b["x0"], at, self.source, to, in_c, dtype, flip, lanes)

    def pad_value(self, dtype: str, flip: bool) -> Expr:
        if not self.integer:
            return const(0.0)
        value = tirx.bitwise_xor(self.zero_x, tirx.const(-128, "int32")) if flip else self.zero_x
        return self.b.bind(cast(value, dtype), "pad")

    # -- tiles -----------------------------------------------------------------------------

    def tiles(self, group: Expr, first: Expr, count: Expr) -> None:
        b, plan = self.b, self.plan
        if plan.panel_outer:
            for panel in self.panels():
                with panel as (vector, vectors, valid):
                    chosen = [(vector, vectors, valid)]
                    ahead = 0 if self.integer else tiles_ahead(plan, self.isa, vectors)
                    if ahead and isinstance(count, int) and count > 1:
                        self.columns(group, first, 0, chosen, ahead)
                        with b.loop(count - 1, "oh") as row:
                            self.columns(group, first, row + 1, chosen)
                        continue
                    with b.loop(count, "oh") as row:
                        self.columns(group, first, row, chosen, ahead if count == 1 else 0)
        else:
            with b.loop(count, "oh") as row:
                self.columns(group, first, row, None)

    def columns(
        self, group: Expr, first: Expr, row: Expr, panel: list[tuple[Expr, int, int]] | None,
        ahead: int = 0,
    ) -> None:  # fmt: skip
        """The tiles of one row; the first ``ahead`` ask for the panel that comes next."""
        plan = self.plan
        full, rest = divmod(plan.window.out_cols, plan.pixels)
        ahead = min(ahead, full)
        runs = ((0, ahead, plan.pixels), (ahead, full, plan.pixels), (full, full + 1, rest))
        for low, high, pixels in runs:
            if low == high or not pixels:
                continue
            with self.tile_units.loop(high - low, "ow", start=low) as col:
                at = (low + col) * plan.pixels
                line = low + col if high == ahead else None
                if panel is not None:
                    for vector, vectors, valid in panel:
                        self.tile(group, first, row, at, pixels, vector, vectors, valid, line)
                else:
                    for choice in self.panels():
                        with choice as (vector, vectors, valid):
                            self.tile(group, first, row, at, pixels, vector, vectors, valid)

    def panels(self) -> Iterator[Any]:
        """Loops over panels: context managers of (first vector, vectors, outputs in it)."""
        plan = self.plan
        full, rest = divmod(plan.output_vectors, plan.vectors)
        ragged = plan.outputs % plan.lanes != 0
        if ragged and not rest:
            full, rest = full - 1, plan.vectors
        if full:
            yield self._panel_loop(full)
        if rest:
            yield self._last_panel(full, rest)

    @contextmanager
    def _panel_loop(self, full: int) -> Iterator[tuple[Expr, int, int]]:
        vectors = self.plan.vectors
        with self.panel_units.loop(full, "panel") as panel:
            yield panel * vectors, vectors, vectors * self.plan.lanes

    @contextmanager
    def _last_panel(self, full: int, vectors: int) -> Iterator[tuple[Expr, int, int]]:
        first = full * self.plan.vectors
        with self.panel_units.loop(1, "panel", start=full):
            yield first, vectors, self.plan.outputs - first * self.plan.lanes

    def tile(
        self, group: Expr, first: Expr, row: Expr, col: Expr, pixels: int,
        vector: Expr, vectors: int, valid: int, line: Expr | None = None,
    ) -> None:  # fmt: skip
        """One tile; with ``line``, ask for that share of the panel that comes next."""
        b, plan, window = self.b, self.plan, self.plan.window
        local = row if plan.stage is not None else first + row
        base = local * window.row_stride + col * window.col_stride + group * window.group_stride
        channel = (group * plan.output_vectors + vector) * plan.lanes
        weights = channel * plan.reduction
        of_run = plan.window.run_packed * vectors * plan.lanes
        if plan.is_packed:
            weights = group * packing.group_bytes(plan, self.isa)
            whole = packing.panel_bytes(plan, self.isa, plan.vectors)
            if isinstance(vector, int):
                weights = weights + vector // plan.vectors * whole
            else:
                weights = weights + tirx.truncdiv(vector, plan.vectors) * whole
            of_run = packing.run_bytes(plan, self.isa, vectors)
        name = "int32" if self.integer else "float32"
        split = plan.split
        bias = [
            b.bind(b.load(b["bias"], channel + n * plan.lanes, plan.lanes)) for n in range(vectors)
        ]
        along = self.integer and self.isa.dot in ("along", "matrix")
        if along:
            tile = gemm_along.Tile(b, self.isa, pixels, vectors, self.exact, plan.bits)
            tile.start(bias)
        else:
            acc = b.registers(split * pixels * vectors, name, plan.lanes)
            for s in range(split):
                for m in range(pixels):
                    for n in range(vectors):
                        zero = const(0, name, plan.lanes)
                        acc[(s * pixels + m) * vectors + n] = zero if s else bias[n]
        with b.loop(window.taps_h, "kh") as kh, b.loop(window.taps_w, "kw") as kw:
            at = base + kh * window.tap_h_stride + kw * window.tap_w_stride
            step = (kh * window.taps_w + kw) * of_run
            if along:
                tile.reduce(self.source, at, window.col_stride, weights + step, window.run_packed)
            else:
                ahead = None
                if line is not None:
                    ahead = weights + vectors * plan.lanes * plan.reduction
                    done = line * plan.reduction + (kh * window.taps_w + kw) * window.run_packed
                    ahead = b.bind(ahead + done * LINE_FLOATS, "ahead")
                given = (self.source, self.integer, acc, at, weights + step, pixels, vectors)
                if self.exact is None:
                    reduce(b, self.isa, plan, *given, ahead)
                else:
                    with b.when(self.exact == 0):
                        reduce(b, self.isa, plan, *given)
                    with b.when(self.exact != 0):
                        reduce(b, self.isa, plan, *given, together=False)
        out = (first + row) * window.out_cols + col
        pixel = plan.groups * plan.outputs
        out = out * pixel + group * plan.outputs + vector * plan.lanes
        places = [
            (m * pixel + n * plan.lanes, min(valid - n * plan.lanes, plan.lanes))
            for m in range(pixels)
            for n in range(vectors)
        ]
        if self.integer:
            scales = [
                b.bind(b.load(b["multiplier"], channel + n * plan.lanes, plan.lanes))
                for n in range(vectors)
            ]
            sums = tile.totals() if along else [acc[i] for i in range(pixels * vectors)]
            steps = [cast(v, "float32") * scales[i % vectors] for i, v in enumerate(sums)]
            self.requantize.store(b["y"], out, places, steps)
            return
        for i, (offset, some) in enumerate(places):
            value = acc[i]
            for s in range(1, split):
                value = value + acc[s * pixels * vectors + i]
            self.finish(value, out + offset, some)

    def finish(self, value: Expr, place: Expr, count: int) -> None:
        """Activation, residual and store of one float vector."""
        b, key, lanes = self.b, self.key, self.plan.lanes
        value = activate(b, key.activation, b.bind(value))
        if key.residual:
            value = value + b.load_some(b["residual"], place, count, lanes)
            value = activate(b, key.residual_activation, b.bind(value))
        b.store_some(b["y"], place, b.bind(value), count)

"""Emission of float depthwise convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.depthwise_parts import axis_of, block_runs
from edgeopt.codegen.schedules.depthwise_plan import Plan, column_runs
from edgeopt.codegen.schedules.emit import Builder, Expr, Registers, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import activate
from edgeopt.codegen.schedules.template import elements
from edgeopt.core.kernels import OpKey


def emit(function: KernelFunction, plan: Plan, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    shapes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
    b = Builder(function, {**sizes, **shapes, "residual": shapes["y"]})
    _Emitter(b, key, plan, isa).run()
    return b.finish()


def ring_row(b: Builder, key: OpKey, plan: Plan, isa: Isa, row: Expr) -> None:
    """One output row, to the start of ``y``; of ``x0`` the last rows are there, in turn.

    Input row ``r`` lies in place ``r`` modulo the kernel's height.
    """
    emitter = _Emitter(b, key, plan, isa)
    emitter.ring = key.kernel[0]
    emitter.row(row, 0)


class _Emitter:
    #: rows that the input holds at a time, each in the place of the one before; 0: all of them
    ring = 0

    def __init__(self, b: Builder, key: OpKey, plan: Plan, isa: Isa) -> None:
        self.key, self.plan, self.isa = key, plan, isa
        self.b = b
        parts = b.function.parts
        axis = axis_of(key, plan, isa, parts) if parts > 1 else "rows"
        self.runs = block_runs(key, plan)
        count = sum(times for _, times, _, _ in self.runs)
        self.row_units = b.units(key.out_shape[0], divided=axis == "rows")
        self.block_units = b.units(count, divided=axis == "blocks")

    def run(self) -> None:
        with self.row_units.loop(self.key.out_shape[0], "oh") as row:
            self.row(row, row)

    def row(self, row: Expr, place: Expr) -> None:
        """One output row, stored as row ``place``."""
        b, key = self.b, self.key
        # Kernel rows that meet the map: first .. first + count.
        at = b.bind(row * key.strides[0] - key.pads[0], "at")
        first, count = self.kernel_rows(at)
        window = place, at, first, count
        columns = column_runs(key, self.plan)
        if self.streams():
            for low, runs, pixels in columns:
                with b.loop(runs, "ow") as run:
                    for vector, vectors, valid in self.blocks():
                        col = low + run * pixels
                        self.tile(*window, low, col, pixels, vector, vectors, valid)
        else:
            for vector, vectors, valid in self.blocks():
                for low, runs, pixels in columns:
                    with b.loop(runs, "ow") as run:
                        col = low + run * pixels
                        self.tile(*window, low, col, pixels, vector, vectors, valid)

    def streams(self) -> bool:
        """Whether all channels of some columns come before the next columns.

        Then memory is read in order, as processors fetch it ahead; but the weights of all
        channels are read for each tile, which must not cost more than the order gains.
        """
        key = self.key
        weights = 4 * key.kernel[0] * key.kernel[1] * key.in_shape[2]
        return weights <= self.isa.l1d_bytes // 4 and 4 * elements(key.in_shape) > self.isa.l2_bytes

    def blocks(self) -> Iterator[tuple[Expr, int, int]]:
        """Loops over blocks of channels: (first vector, vectors, channels of the last)."""
        unit = 0
        for start, times, vectors, valid in self.runs:
            with self.block_units.loop(times, "c", start=unit) as block:
                yield start + block * vectors, vectors, valid
            unit += times

    def kernel_rows(self, at: Expr) -> tuple[Expr, Expr]:
        b, key = self.b, self.key
        taps, dilation, height = key.kernel[0], key.dilations[0], key.in_shape[0]
        if not key.pads[0] and not key.pads[2]:
            return 0, taps
        if dilation == 1:
            low = tirx.max(tirx.IntImm("int32", 0), 0 - at)
            high = tirx.min(tirx.IntImm("int32", taps), height - at)
        else:
            low = tirx.max(tirx.IntImm("int32", 0), tirx.truncdiv(0 - at + dilation - 1, dilation))
            high = tirx.min(
                tirx.IntImm("int32", taps),
                tirx.truncdiv(height - at + dilation - 1, dilation),
            )
        first = b.bind(low, "first")
        return first, b.bind(high - first, "taps")

    def tile(
        self, row: Expr, at: Expr, first: Expr, count: Expr, low: int, col: Expr, pixels: int,
        vector: Expr, vectors: int, valid: int,
    ) -> None:  # fmt: skip
        b, key, plan = self.b, self.key, self.plan
        width, channels, lanes = key.in_shape[1], key.in_shape[2], plan.lanes
        taps = key.kernel[0] * key.kernel[1]
        acc = b.registers(pixels * vectors, "float32", lanes)
        for v in range(vectors):
            bias = b.bind(b.load(b["bias"], (vector + v) * lanes, lanes))
            for m in range(pixels):
                acc[m * vectors + v] = bias
        x_col = col * key.strides[1] - key.pads[1]

        def kernel_row(tap_row: Expr) -> None:
            x_row = at + tap_row * key.dilations[0]
            if self.ring:
                x_row = tirx.truncmod(x_row, self.ring)
            x_at = b.bind((x_row * width + x_col) * channels + vector * lanes, "x_at")
            w_at = b.bind((vector * taps + tap_row * key.kernel[1]) * lanes, "w_at")
            self.row_taps(acc, x_at, w_at, low, pixels, vectors, valid)

        def some_rows() -> None:
            with b.loop(count, "kh") as kh:
                kernel_row(b.bind(first + kh, "tap"))

        if self.isa.by_element and not isinstance(count, int) and key.kernel[0] <= 5:
            # Where every row of the kernel meets the map, all are written out.
            with b.when(count == key.kernel[0]):
                for r in range(key.kernel[0]):
                    kernel_row(r)
            with b.when(count != key.kernel[0]):
                some_rows()
        else:
            some_rows()
        place = (row * key.out_shape[1] + col) * channels + vector * lanes
        for m in range(pixels):
            for v in range(vectors):
                value = activate(b, key.activation, b.bind(acc[m * vectors + v]))
                spot = place + m * channels + v * lanes
                if key.residual:
                    value = value + b.load_some(b["residual"], spot, valid, lanes)
                    value = activate(b, key.residual_activation, b.bind(value))
                b.store_some(b["y"], spot, b.bind(value), valid)

    def row_taps(
        self, acc: Registers, x_at: Expr, w_at: Expr, low: int, pixels: int, vectors: int,
        valid: int,
    ) -> None:  # fmt: skip
        """One row of the kernel: every input column is loaded once and meets its taps."""
        b, key, plan = self.b, self.key, self.plan
        lanes, channels, taps = plan.lanes, key.in_shape[2], key.kernel[0] * key.kernel[1]
        stride, dilation = key.strides[1], key.dilations[1]
        start = low * stride - key.pads[1]
        meets: dict[int, list[tuple[int, int]]] = {}
        for m in range(pixels):
            for kw in range(key.kernel[1]):
                column = m * stride + kw * dilation
                if 0 <= start + column < key.in_shape[1]:
                    meets.setdefault(column, []).append((m, kw))
        for v in range(vectors):
            weights = {
                kw: b.bind(b.load(b["weights"], w_at + (v * taps + kw) * lanes, lanes))
                for kw in range(key.kernel[1])
            }
            for column in sorted(meets):
                at = x_at + column * channels + v * lanes
                x = b.bind(b.load_some(b["x0"], at, valid, lanes))
                for m, kw in meets[column]:
                    index = m * vectors + v
                    acc[index] = acc[index] + x * weights[kw]

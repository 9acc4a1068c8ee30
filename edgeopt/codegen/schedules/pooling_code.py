"""Emission of pooling kernels."""

from __future__ import annotations

from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.emit import Builder, Expr, Registers, bcast, cast, const, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer
from edgeopt.codegen.schedules.pooling import WHOLE, block_runs, is_uneven, units_of
from edgeopt.codegen.schedules.shared import Average, of_average
from edgeopt.codegen.schedules.shared_code import address, begin, call
from edgeopt.codegen.schedules.template import elements


def emit(function: KernelFunction, isa: Isa) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    called = of_average(key, isa, function.parts) if key.op == "global_avgpool" else ()
    if not called:
        return _Emitter(function, isa).run()
    sizes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
    b = Builder(function, {**sizes, "multiplier": 1, "qparams": 4})
    pointers = [address(b[name]) for name in ("x0", "multiplier", "qparams", "y")]
    call(b, called[0], *pointers, key.in_shape[0] * key.in_shape[1], key.in_shape[2])
    return b.finish()


def average(function: Average, isa: Isa) -> Any:
    """The code of `shared.Average`: the last vector ends where the channels end."""
    lanes, vectors = function.lanes, function.vectors
    width = lanes * vectors
    pointers = {"x0": "i8", "multiplier": "f32", "qparams": "i32", "y": "i8"}
    b = begin(function, pointers, ("pixels", "channels"))
    pixels, channels = b.extents["pixels"], b.extents["channels"]
    zero_x, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(4))
    requantize = Requantizer(b, isa, zero_y, low, high)
    factor = b.bind(b.load(b["multiplier"], 0), "factor")
    zeros = b.bind(zero_x * pixels, "zeros")
    groups = b.bind(tirx.truncdiv(channels + (width - 1), width), "groups")
    with b.loop(groups, "group") as group:
        at = b.bind(tirx.min(group * width, channels - width), "at")
        acc = b.registers(vectors, "int32", lanes)
        for v in range(vectors):
            acc[v] = bcast(-zeros, lanes)
        begin_at = cast(at, "int64")
        apart = b.bind(cast(channels, "int64"))
        with b.steps(begin_at, begin_at + pixels * apart, apart) as from_here:
            for v in range(vectors):
                x = b.load(b["x0"], from_here + v * lanes, lanes)
                acc[v] = acc[v] + cast(x, "int32")
        steps = [cast(acc[v], "float32") * bcast(factor, lanes) for v in range(vectors)]
        places = [(v * lanes, lanes) for v in range(vectors)]
        requantize.store(b["y"], at, places, steps)
    return b.finish()


class _Emitter:
    def __init__(self, function: KernelFunction, isa: Isa) -> None:
        key = function.key
        sizes = {"x0": elements(key.in_shape), "y": elements(key.out_shape)}
        self.key, self.lanes = key, isa.lanes
        self.integer = key.dtype == "i8"
        uneven = is_uneven(key)
        factors = key.kernel[0] * key.kernel[1] if uneven else 1
        self.b = Builder(function, {**sizes, "multiplier": factors, "qparams": 4})
        #: what is kept of the values met: "max", "min" or "sum"
        self.how = "max" if key.op == "maxpool" else key.variant if key.op == "reduce" else "sum"
        self.uneven = uneven
        b = self.b
        whole = key.op in WHOLE
        self.row_units = b.units(key.out_shape[0], divided=not whole)
        self.block_units = b.units(units_of(key, isa), divided=whole)
        if self.integer and self.how == "sum":
            self.zero_x, zero_y, low, high = (
                b.bind(b.load(b["qparams"], i), "q") for i in range(4)
            )
            self.requantize = Requantizer(b, isa, zero_y, low, high)
            self.factor: Expr = None  # that of a window, where they differ
            if not uneven:
                self.factor = b.bind(b.load(b["multiplier"], 0), "factor")

    def run(self) -> Any:
        b, key = self.b, self.key
        height, width, _ = key.in_shape
        if key.op in WHOLE:
            if self.integer:
                b.keep_loops()
            self.pool(0, 0, 0, 1, height * width, height * width)
            return b.finish()
        out_w = key.out_shape[1]
        with self.row_units.loop(key.out_shape[0], "oh") as row:
            top, rows = self.clip(row * key.strides[0] - key.pads[0], key.kernel[0], height)
            with b.loop(out_w, "ow") as col:
                left, cols = self.clip(col * key.strides[1] - key.pads[1], key.kernel[1], width)
                taps = b.bind(rows * cols, "taps")
                whole = not self.uneven
                count: Expr = key.kernel[0] * key.kernel[1] if whole else taps
                self.pool(row * out_w + col, top, left, rows, cols, count, taps)
        return b.finish()

    def clip(self, start: Expr, taps: int, limit: int) -> tuple[Expr, Expr]:
        """The part of a window that lies on the map: first index and number."""
        b = self.b
        start = b.bind(start, "start")
        first = b.bind(tirx.max(start, tirx.IntImm("int32", 0)), "first")
        last = tirx.min(start + taps, tirx.IntImm("int32", limit))
        return first, b.bind(last - first, "count")

    def pool(
        self, pixel: Expr, top: Expr, left: Expr, rows: Expr, cols: Expr, count: Expr,
        taps: Expr | None = None,
    ) -> None:  # fmt: skip
        b, key = self.b, self.key
        channels, width = key.in_shape[2], key.in_shape[1]
        if self.uneven and self.integer:
            assert taps is not None
            self.factor = b.bind(b.load(b["multiplier"], taps - 1), "factor")
        unit = 0
        for channel, times, vectors, valid in block_runs(channels, self.lanes):
            with self.block_units.loop(times, "c", start=unit) as step:
                at = channel + step * (vectors * self.lanes)
                acc = b.registers(vectors, "float32" if not self.integer else "int32", self.lanes)
                for v in range(vectors):
                    acc[v] = self.start()
                with b.loop(rows, "kh") as kh, b.loop(cols, "kw") as kw:
                    x_at = ((top + kh) * width + left + kw) * channels + at
                    self.gather(acc, x_at, vectors, valid)
                for v in range(vectors):
                    value = self.finish(acc[v], count, taps if taps is not None else count)
                    place = pixel * channels + at + v * self.lanes
                    b.store_some(b["y"], place, b.bind(value), valid)
            unit += times

    def start(self) -> Expr:
        if self.how == "sum":
            return const(0, "int32" if self.integer else "float32", self.lanes)
        if self.integer:
            return const(-128 if self.how == "max" else 127, "int32", self.lanes)
        limit = float("-inf") if self.how == "max" else float("inf")
        return const(limit, "float32", self.lanes)

    def gather(self, acc: Registers, at: Expr, vectors: int, valid: int) -> None:
        b = self.b
        for v in range(vectors):
            x = b.load_some(b["x0"], at + v * self.lanes, valid, self.lanes)
            if self.integer:
                x = cast(x, "int32")
            x = b.bind(x)
            if self.how == "sum":
                acc[v] = acc[v] + x
            else:
                acc[v] = (tirx.max if self.how == "max" else tirx.min)(acc[v], x)

    def finish(self, value: Expr, count: Expr, taps: Expr) -> Expr:
        if self.how != "sum":
            return cast(value, "int8") if self.integer else value
        if self.key.op == "reduce" and not self.integer:
            return value
        if not self.integer:
            if isinstance(count, int):
                return value * const(1.0 / count, "float32", self.lanes)
            return value / bcast(cast(count, "float32"), self.lanes)
        # Padding counts as zero, so only the taps on the map carry the zero point.
        total = value - bcast(self.zero_x * taps, self.lanes)
        return self.requantize(cast(total, "float32") * bcast(self.factor, self.lanes))

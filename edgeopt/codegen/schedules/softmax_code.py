"""Emission of softmax."""

from __future__ import annotations

import math
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.emit import Builder, Expr, bcast, cast, const, part, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer, exp, log, unfused
from edgeopt.codegen.schedules.softmax import axis_of, is_log
from edgeopt.codegen.schedules.template import elements


def emit(function: KernelFunction, isa: Isa) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    axis = axis_of(key)
    assert axis is not None
    count = elements(key.in_shape)
    b = Builder(function, {"x0": count, "y": count, "table": 256, "scale": 1, "qparams": 1})
    outer, length = math.prod(key.in_shape[:axis]), key.in_shape[axis]
    inner = math.prod(key.in_shape[axis + 1 :])
    integer = _Integer(b, isa, length, inner) if key.dtype == "i8" else None
    log = is_log(key)
    with b.loop(outer, "o") as o:
        base = o * (length * inner)
        if integer is not None:
            with b.loop(inner, "v") as v:
                integer.row(base + v)
        elif inner == 1:
            _along(b, base, length, isa.lanes, log)
        else:
            full, rest = divmod(inner, isa.lanes)
            with b.loop(full, "v") as v:
                _across(b, base + v * isa.lanes, length, inner, isa.lanes, log)
            with b.loop(rest, "v") as v:
                _across(b, base + full * isa.lanes + v, length, inner, 1, log)
    return b.finish()


class _Integer:
    """Rows of int8, as `core.affine.softmax` has them."""

    def __init__(self, b: Builder, isa: Isa, length: int, stride: int) -> None:
        self.b, self.length, self.stride = b, length, stride
        self.e = b.scratch_view("i32", 0, length)
        zero = b.bind(b.load(b["qparams"], 0), "zero")
        self.scale = b.bind(b.load(b["scale"], 0), "scale")
        self.requantize = Requantizer(b, isa, zero, b.bind(-128), b.bind(127))

    def row(self, base: Expr) -> None:
        b = self.b
        state = b.registers(2, "int32", 1)
        state[0] = const(-128, "int32")
        state[1] = const(0, "int32")
        with b.loop(self.length, "i") as i:
            state[0] = tirx.max(state[0], cast(b.load(b["x0"], base + i * self.stride), "int32"))
        largest = b.bind(state[0])
        with b.loop(self.length, "i") as i:
            distance = largest - cast(b.load(b["x0"], base + i * self.stride), "int32")
            e = b.bind(b.load(b["table"], distance))
            b.store(self.e, i, e)
            state[1] = state[1] + e
        total = unfused(cast(state[1], "float32") * self.scale)
        share = b.bind(const(1.0) / total)
        with b.loop(self.length, "i") as i:
            step = unfused(cast(b.load(self.e, i), "float32") * share)
            b.store(b["y"], base + i * self.stride, b.bind(self.requantize(step)))


def _across(b: Builder, base: Expr, length: int, stride: int, lanes: int, logarithm: bool) -> None:
    """Neighbouring columns at once."""
    state = b.registers(2, "float32", lanes)
    state[0] = b.load(b["x0"], base, lanes)
    state[1] = const(0.0, lanes=lanes)
    with b.loop(length, "i") as i:
        state[0] = tirx.max(state[0], b.load(b["x0"], base + i * stride, lanes))
    with b.loop(length, "i") as i:
        at = base + i * stride
        value = b.bind(exp(b, b.load(b["x0"], at, lanes) - state[0]))
        b.store(b["y"], at, value)
        state[1] = state[1] + value
    if logarithm:
        shift = b.bind(log(b, b.bind(state[1])))
    with b.loop(length, "i") as i:
        at = base + i * stride
        if logarithm:
            b.store(b["y"], at, (b.load(b["x0"], at, lanes) - state[0]) - shift)
        else:
            b.store(b["y"], at, b.load(b["y"], at, lanes) / state[1])


def _along(b: Builder, base: Expr, length: int, lanes: int, logarithm: bool) -> None:
    """One row of neighbouring elements."""
    full, rest = divmod(length, lanes)
    done = full * lanes
    largest = b.registers(1, "float32", 1)
    largest[0] = b.load(b["x0"], base)
    total = b.registers(1, "float32", 1)
    total[0] = const(0.0)
    wide = b.registers(2, "float32", lanes)
    if full:
        wide[0] = b.load(b["x0"], base, lanes)
        wide[1] = const(0.0, lanes=lanes)
        with b.loop(full, "v") as v:
            wide[0] = tirx.max(wide[0], b.load(b["x0"], base + v * lanes, lanes))
        top = b.bind(wide[0])
        for lane in range(lanes):
            largest[0] = tirx.max(largest[0], part(top, lane, 1))
    with b.loop(rest, "v") as v:
        largest[0] = tirx.max(largest[0], b.load(b["x0"], base + done + v))
    top = b.bind(largest[0])
    if full:
        with b.loop(full, "v") as v:
            at = base + v * lanes
            value = b.bind(exp(b, b.load(b["x0"], at, lanes) - bcast(top, lanes)))
            b.store(b["y"], at, value)
            wide[1] = wide[1] + value
        sums = b.bind(wide[1])
        for lane in range(lanes):
            total[0] = total[0] + part(sums, lane, 1)
    with b.loop(rest, "v") as v:
        value = b.bind(exp(b, b.load(b["x0"], base + done + v) - top))
        b.store(b["y"], base + done + v, value)
        total[0] = total[0] + value
    if logarithm:
        shift = b.bind(log(b, b.bind(total[0])))
        with b.loop(full, "v") as v:
            at = base + v * lanes
            moved = b.load(b["x0"], at, lanes) - bcast(top, lanes)
            b.store(b["y"], at, moved - bcast(shift, lanes))
        with b.loop(rest, "v") as v:
            at = base + done + v
            b.store(b["y"], at, (b.load(b["x0"], at) - top) - shift)
        return
    scale = b.bind(const(1.0) / total[0])
    with b.loop(full, "v") as v:
        at = base + v * lanes
        b.store(b["y"], at, b.load(b["y"], at, lanes) * bcast(scale, lanes))
    with b.loop(rest, "v") as v:
        b.store(b["y"], base + done + v, b.load(b["y"], base + done + v) * scale)

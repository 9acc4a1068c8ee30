"""Emission of float softmax."""

from __future__ import annotations

import math
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.emit import Builder, Expr, bcast, const, part, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import exp
from edgeopt.codegen.schedules.softmax import axis_of
from edgeopt.codegen.schedules.template import elements


def emit(function: KernelFunction, isa: Isa) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    axis = axis_of(key)
    assert axis is not None
    count = elements(key.in_shape)
    b = Builder(function, {"x0": count, "y": count})
    outer, length = math.prod(key.in_shape[:axis]), key.in_shape[axis]
    inner = math.prod(key.in_shape[axis + 1 :])
    with b.loop(outer, "o") as o:
        base = o * (length * inner)
        if inner == 1:
            _along(b, base, length, isa.lanes)
        else:
            full, rest = divmod(inner, isa.lanes)
            with b.loop(full, "v") as v:
                _across(b, base + v * isa.lanes, length, inner, isa.lanes)
            with b.loop(rest, "v") as v:
                _across(b, base + full * isa.lanes + v, length, inner, 1)
    return b.finish()


def _across(b: Builder, base: Expr, length: int, stride: int, lanes: int) -> None:
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
    with b.loop(length, "i") as i:
        at = base + i * stride
        b.store(b["y"], at, b.load(b["y"], at, lanes) / state[1])


def _along(b: Builder, base: Expr, length: int, lanes: int) -> None:
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
    scale = b.bind(const(1.0) / total[0])
    with b.loop(full, "v") as v:
        at = base + v * lanes
        b.store(b["y"], at, b.load(b["y"], at, lanes) * bcast(scale, lanes))
    with b.loop(rest, "v") as v:
        b.store(b["y"], base + done + v, b.load(b["y"], base + done + v) * scale)

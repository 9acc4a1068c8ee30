"""Emission of elementwise kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules import table
from edgeopt.codegen.schedules.elementwise import PAIRS
from edgeopt.codegen.schedules.emit import Builder, Expr, bcast, cast, const, dtype_of, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer, activate, fused, unfused
from edgeopt.codegen.schedules.shared import Sweep, of_sweep
from edgeopt.codegen.schedules.shared_code import address, begin, call
from edgeopt.codegen.schedules.template import elements
from edgeopt.core.affine import GRID
from edgeopt.core.kernels import OpKey

#: Computes some elements: (their index, index along the channels, lanes, how many).
Body = Callable[[Expr, Expr, int, int], None]


def emit(function: KernelFunction, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    count = elements(key.in_shape)
    channels = key.in_shape[-1]
    by_channel = key.op == "scale" or key.variant in ("channel", "pixel")
    second = count // channels if key.variant == "pixel" else channels if by_channel else count
    b = Builder(function, {"x0": count, "x1": second, "residual": count, "y": count} | dict(sizes))
    if key.op == "activation" and key.dtype == "i8":
        length = -(-count // (64 * function.parts)) * 64
        full, rest = divmod(count, length)
        units = b.units(full + bool(rest))
        with units.loop(full, "block") as block:
            table.apply(b, isa, b["x0"], b["y"], block * length, length)
        if rest:
            with units.loop(1, "block", start=full):
                table.apply(b, isa, b["x0"], b["y"], full * length, rest)
        return b.finish()
    called = of_sweep(key, isa, function.parts)
    if called:
        _call(b, key, called[0])
        return b.finish()
    body, vectors = _float(b, key), 1
    if key.op in PAIRS and key.dtype == "i8":
        body, vectors = _by_float(b, isa, key), 4
    elif "i8" in (key.dtype, key.out_dtype):
        # four vectors of int32 fill one of int8
        body, vectors = _integer(b, isa, key), 1 if key.op == "dequantize" else 4
    if by_channel and channels != count:
        pixels = count // channels
        with b.units(pixels).loop(pixels, "pixel") as pixel:
            _sweep(b, isa.lanes, vectors, channels, pixel * channels, body, divided=False)
    else:
        _sweep(b, isa.lanes, vectors, count, 0, body, divided=True)
    return b.finish()


def _sweep(
    b: Builder, lanes: int, vectors: int, count: int, base: Expr, body: Body, *, divided: bool
) -> None:
    """Whole groups of vectors in a loop, then what is left."""
    width = lanes * vectors
    full, rest = divmod(count, width)
    units = b.units(full + bool(rest), divided=divided)
    if full:
        with units.loop(full, "v") as v:
            body(base + v * width, v * width, lanes, width)
    if rest:
        with units.loop(1, "v", start=full):
            body(base + full * width, full * width, lanes, rest)


def _call(b: Builder, key: OpKey, function: Sweep) -> None:
    channels = key.in_shape[-1]
    runs = elements(key.in_shape) // channels if key.op == "scale" else 1
    names = ("x0", "x1", "factors" if key.op == "add" else "multiplier", "qparams", "y")
    pointers = [address(b[name]) for name in names]
    width = function.vectors * function.lanes
    call(b, function, *pointers, runs, elements(key.in_shape) // runs, width)


def sweep(function: Sweep, isa: Isa) -> Any:
    """The code of `shared.Sweep`."""
    factor = "factors" if function.op == "add" else "multiplier"
    pointers = {"x0": "i8", "x1": "i8", factor: "f32", "qparams": "i32", "y": "i8"}
    b = begin(function, pointers, ("runs", "length", "width"))
    length, width = (b.bind(cast(b.extents[name], "int64")) for name in ("length", "width"))
    body = _integer(b, isa, function.key)
    with b.loop(b.extents["runs"], "run") as run:
        base = b.bind(cast(run, "int64") * length, "base")
        with b.steps(tirx.IntImm("int64", 0), length, width) as at:
            body(base + at, at, function.lanes, function.vectors * function.lanes)
    return b.finish()


def _operands(b: Builder, key: OpKey) -> Callable[[Expr, Expr, int, int], tuple[Expr, Expr]]:
    by_channel = key.op == "scale" or key.variant == "channel"
    other = b["x1"] if key.inputs == 2 else b["c"]

    def load(at: Expr, channel: Expr, lanes: int, valid: int) -> tuple[Expr, Expr]:
        left = b.load_some(b["x0"], at, valid, lanes)
        if key.variant == "pixel":
            pixel = tirx.floordiv(at - channel, tirx.IntImm("int32", key.in_shape[-1]))
            return left, bcast(b.load(other, pixel), lanes)
        return left, b.load_some(other, channel if by_channel else at, valid, lanes)

    return load


def _float(b: Builder, key: OpKey) -> Body:
    operands = None if key.op in ("activation", "quantize", "dequantize") else _operands(b, key)

    def body(at: Expr, channel: Expr, lanes: int, valid: int) -> None:
        if operands is None:
            value = b.load_some(b["x0"], at, valid, lanes)
        else:
            left, right = operands(at, channel, lanes, valid)
            value = _combine(b, key.op, left, right)
        value = activate(b, key.activation, b.bind(value))
        if key.residual:
            value = unfused(value) + b.load_some(b["residual"], at, valid, lanes)
            value = activate(b, key.residual_activation, b.bind(value))
        b.store_some(b["y"], at, b.bind(value), valid)

    return body


def _combine(b: Builder, op: str, left: Expr, right: Expr) -> Expr:
    """One operation on floats."""
    if op in ("add", "sub"):
        return left + right if op == "add" else left - right
    if op in ("max", "min"):
        return (tirx.max if op == "max" else tirx.min)(left, right)
    if op == "div":
        return left / right
    if op == "prelu":
        left = b.bind(left)
        lanes = dtype_of(left)[1]
        return tirx.Select(left < const(0, "float32", lanes), unfused(left * right), left)
    return left * right


def _by_float(b: Builder, isa: Isa, key: OpKey) -> Body:
    """Dequantize, combine, quantize: every step rounded as it would be on its own."""
    operands = _operands(b, key)
    scales = [b.bind(b.load(b["scales"], i), "scale") for i in range(key.inputs + 1)]
    zeros = [b.bind(b.load(b["qparams"], i), "zero") for i in range(key.inputs + 1)]
    requantize = Requantizer(b, isa, zeros[-1], b.bind(-128), b.bind(127))

    def real(stored: Expr, index: int, lanes: int) -> Expr:
        steps = cast(stored, "int32") - bcast(zeros[index], lanes)
        return b.bind(unfused(cast(steps, "float32") * bcast(scales[index], lanes)))

    def body(at: Expr, channel: Expr, lanes: int, count: int) -> None:
        places = [(offset, min(count - offset, lanes)) for offset in range(0, count, lanes)]
        steps = []
        for offset, valid in places:
            left, right = operands(at + offset, channel + offset, lanes, valid)
            left = real(left, 0, lanes)
            right = real(right, 1, lanes) if key.inputs == 2 else right
            steps.append(_combine(b, key.op, left, right) / bcast(scales[-1], lanes))
        requantize.store(b["y"], at, places, steps)

    return body


def _integer(b: Builder, isa: Isa, key: OpKey) -> Body:
    if key.op == "quantize":
        return _quantize(b, isa)
    if key.op == "dequantize":
        return _dequantize(b)
    zero_a, zero_b, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(5))
    # Zero points are added before rounding, on the unsigned grid (see `core.affine.GRID`).
    requantize = Requantizer(b, isa, b.bind(-GRID), low, high)
    operands = _operands(b, key)
    name, count = ("factors", 2) if key.op == "add" else ("multiplier", 1)
    factors = [b.bind(b.load(b[name], i), "factor") for i in range(count)]
    offset = cast(zero_y + GRID, "float32")
    if key.op == "add":
        right = unfused(factors[1] * cast(zero_b + GRID, "float32"))
        offset = offset - fused(factors[0], cast(zero_a + GRID, "float32"), right)
    offset = b.bind(offset, "offset")

    def one(at: Expr, channel: Expr, lanes: int, valid: int) -> Expr:
        left, right = operands(at, channel, lanes, valid)
        left, right = cast(left, "int32"), cast(right, "int32")
        # Every operation is rounded on its own, as the arithmetic is defined.
        if key.op == "add":
            grid = bcast(GRID, lanes)
            inner = fused(
                cast(right + grid, "float32"), bcast(factors[1], lanes), bcast(offset, lanes)
            )
            return fused(cast(left + grid, "float32"), bcast(factors[0], lanes), inner)
        product = (left - bcast(zero_a, lanes)) * (right - bcast(zero_b, lanes))
        scaled = unfused(cast(product, "float32") * bcast(factors[0], lanes))
        return scaled + bcast(offset, lanes)

    def body(at: Expr, channel: Expr, lanes: int, count: int) -> None:
        places = [(offset, min(count - offset, lanes)) for offset in range(0, count, lanes)]
        steps = [one(at + offset, channel + offset, lanes, valid) for offset, valid in places]
        requantize.store(b["y"], at, places, steps)

    return body


def _quantize(b: Builder, isa: Isa) -> Body:
    zero = b.bind(b.load(b["qparams"], 0), "zero")
    scale = b.bind(b.load(b["scale"], 0), "scale")
    requantize = Requantizer(b, isa, zero, b.bind(-128), b.bind(127))

    def body(at: Expr, channel: Expr, lanes: int, count: int) -> None:
        places = [(offset, min(count - offset, lanes)) for offset in range(0, count, lanes)]
        steps = [
            b.load_some(b["x0"], at + offset, valid, lanes) / bcast(scale, lanes)
            for offset, valid in places
        ]
        requantize.store(b["y"], at, places, steps)

    return body


def _dequantize(b: Builder) -> Body:
    zero = b.bind(b.load(b["qparams"], 0), "zero")
    scale = b.bind(b.load(b["scale"], 0), "scale")

    def body(at: Expr, channel: Expr, lanes: int, count: int) -> None:
        stored = cast(b.load_some(b["x0"], at, count, lanes), "int32") - bcast(zero, lanes)
        b.store_some(b["y"], at, cast(stored, "float32") * bcast(scale, lanes), count)

    return body

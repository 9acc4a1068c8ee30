"""Emission of elementwise kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.emit import Builder, Expr, bcast, cast
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer, activate, lookup, unfused
from edgeopt.codegen.schedules.template import elements

#: Computes one vector: (element index, index along the channels, lanes wanted, lanes valid).
Body = Callable[[Expr, Expr, int, int], None]


def emit(function: KernelFunction, isa: Isa, sizes: Mapping[str, int]) -> Any:
    """The kernel as a PrimFunc."""
    key = function.key
    count = elements(key.in_shape)
    channels = key.in_shape[-1]
    by_channel = key.op == "scale" or (key.inputs == 1 and key.variant == "channel")
    b = Builder(
        function,
        {"x0": count, "x1": channels if by_channel else count, "residual": count, "y": count}
        | dict(sizes),
    )
    body = _integer(b, function) if "i8" in (key.dtype, key.out_dtype) else _float(b, function)
    if by_channel and channels != count:
        with b.loop(count // channels, "pixel") as pixel:
            _sweep(b, isa.lanes, channels, pixel * channels, body)
    else:
        _sweep(b, isa.lanes, count, 0, body)
    return b.finish()


def _sweep(b: Builder, lanes: int, count: int, base: Expr, body: Body) -> None:
    full, rest = divmod(count, lanes)
    if full:
        with b.loop(full, "v") as v:
            body(base + v * lanes, v * lanes, lanes, lanes)
    if rest:
        body(base + full * lanes, full * lanes, lanes, rest)


def _operands(
    b: Builder, function: KernelFunction
) -> Callable[[Expr, Expr, int, int], tuple[Expr, Expr]]:
    key = function.key
    by_channel = key.op == "scale" or key.variant == "channel"
    other = b["x1"] if key.inputs == 2 else b["c"]

    def load(at: Expr, channel: Expr, lanes: int, valid: int) -> tuple[Expr, Expr]:
        left = b.load_some(b["x0"], at, valid, lanes)
        return left, b.load_some(other, channel if by_channel else at, valid, lanes)

    return load


def _float(b: Builder, function: KernelFunction) -> Body:
    key = function.key
    operands = _operands(b, function) if key.op != "activation" else None

    def body(at: Expr, channel: Expr, lanes: int, valid: int) -> None:
        if operands is None:
            value = b.load_some(b["x0"], at, valid, lanes)
        else:
            left, right = operands(at, channel, lanes, valid)
            value = left + right if key.op == "add" else left * right
        value = activate(b, key.activation, b.bind(value))
        if key.residual:
            value = unfused(value) + b.load_some(b["residual"], at, valid, lanes)
            value = activate(b, key.residual_activation, b.bind(value))
        b.store_some(b["y"], at, b.bind(value), valid)

    return body


def _integer(b: Builder, function: KernelFunction) -> Body:
    key = function.key
    if key.op == "activation":
        return _table(b)
    if key.op == "quantize":
        return _quantize(b)
    if key.op == "dequantize":
        return _dequantize(b)
    zero_a, zero_b, zero_y, low, high = (b.bind(b.load(b["qparams"], i), "q") for i in range(5))
    requantize = Requantizer(b, zero_y, low, high)
    operands = _operands(b, function)
    names = (
        [b.load(b["factors"], i) for i in range(2)]
        if key.op == "add"
        else [b.load(b["multiplier"], 0)]
    )
    factors = [b.bind(name, "factor") for name in names]

    def body(at: Expr, channel: Expr, lanes: int, valid: int) -> None:
        left, right = operands(at, channel, lanes, valid)
        left = cast(left, "int32") - bcast(zero_a, lanes)
        right = cast(right, "int32") - bcast(zero_b, lanes)
        if key.op == "add":
            # Each product is rounded on its own, as the arithmetic is defined.
            steps = unfused(cast(left, "float32") * bcast(factors[0], lanes)) + unfused(
                cast(right, "float32") * bcast(factors[1], lanes)
            )
        else:
            steps = cast(left * right, "float32") * bcast(factors[0], lanes)
        b.store_some(b["y"], at, b.bind(requantize(steps)), valid)

    return body


def _table(b: Builder) -> Body:
    def body(at: Expr, channel: Expr, lanes: int, valid: int) -> None:
        index = b.bind(cast(b.load_some(b["x0"], at, valid, lanes), "int32"))
        b.store_some(b["y"], at, lookup(b, b["lut"], index), valid)

    return body


def _quantize(b: Builder) -> Body:
    zero = b.bind(b.load(b["qparams"], 0), "zero")
    scale = b.bind(b.load(b["scale"], 0), "scale")
    requantize = Requantizer(b, zero, b.bind(-128), b.bind(127))

    def body(at: Expr, channel: Expr, lanes: int, valid: int) -> None:
        real = b.load_some(b["x0"], at, valid, lanes)
        b.store_some(b["y"], at, b.bind(requantize(real / bcast(scale, lanes))), valid)

    return body


def _dequantize(b: Builder) -> Body:
    zero = b.bind(b.load(b["qparams"], 0), "zero")
    scale = b.bind(b.load(b["scale"], 0), "scale")

    def body(at: Expr, channel: Expr, lanes: int, valid: int) -> None:
        stored = cast(b.load_some(b["x0"], at, valid, lanes), "int32") - bcast(zero, lanes)
        b.store_some(b["y"], at, cast(stored, "float32") * bcast(scale, lanes), valid)

    return body

"""Emission of bilinear resizes: the arithmetic of `core.moves.bilinear`, on vectors of channels."""

from __future__ import annotations

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.schedules.emit import Builder, Expr, bcast, cast
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.mathfn import Requantizer, unfused


def bilinear(b: Builder, function: KernelFunction, isa: Isa) -> None:
    """Four neighbours, weighted; int8 by way of float32."""
    key = function.key
    integer = key.dtype == "i8"
    cols, channels = key.in_shape[1:]
    rows, columns = key.out_shape[:2]
    lanes = isa.lanes
    if integer:
        scale, to = (b.bind(b.load(b["scales"], i), "scale") for i in range(2))
        zero, zero_y = (b.bind(b.load(b["qparams"], i), "zero") for i in range(2))
        requantize = Requantizer(b, isa, zero_y, b.bind(-128), b.bind(127))

    def real(at: Expr, valid: int) -> Expr:
        value = b.load_some(b["x0"], at, valid, lanes)
        if not integer:
            return value
        steps = cast(value, "int32") - bcast(zero, lanes)
        return unfused(cast(steps, "float32") * bcast(scale, lanes))

    with b.units(rows).loop(rows, "oh") as oh:
        lines = [b.bind(b.load(b["index"], oh + i * rows), "line") for i in range(2)]
        heights = [b.bind(b.load(b["share"], oh + i * rows), "height") for i in range(2)]
        with b.loop(columns, "ow") as ow:
            places = [b.bind(b.load(b["index"], 2 * rows + ow + i * columns)) for i in range(2)]
            widths = [b.bind(b.load(b["share"], 2 * rows + ow + i * columns)) for i in range(2)]
            corners = [
                (b.bind((line * cols + place) * channels), b.bind(unfused(weight * share)))
                for line, share in zip(lines, heights, strict=True)
                for place, weight in zip(places, widths, strict=True)
            ]
            base = (oh * columns + ow) * channels

            def mix(offset: Expr, valid: int, corners: list[tuple[Expr, Expr]] = corners) -> Expr:
                total = None
                for at, weight in corners:
                    term = unfused(real(at + offset, valid) * bcast(weight, lanes))
                    total = term if total is None else unfused(total + term)
                return total

            def put(offset: Expr, valid: int, base: Expr = base) -> None:
                value = b.bind(mix(offset, valid))
                if integer:
                    value = b.bind(requantize(value / bcast(to, lanes)))
                b.store_some(b["y"], base + offset, value, valid)

            full, rest = divmod(channels, lanes)
            if full:
                with b.loop(full, "v") as v:
                    put(v * lanes, lanes)
            if rest:
                put(full * lanes, rest)

"""Copying input rows into scratch: padded, widened, or offset to unsigned."""

from __future__ import annotations

from edgeopt.codegen.schedules.emit import NAMES, Buffer, Builder, Expr, bcast, cast, const, tirx


def copy_run(
    b: Builder,
    source: Buffer,
    at: Expr,
    target: Buffer,
    to: Expr,
    count: int,
    dtype: str,
    flip: bool,
    lanes: int,
) -> None:
    """Copy ``count`` neighbouring elements, converting to ``dtype``.

    ``flip`` adds 128 to int8 values, as a processor that multiplies unsigned by signed needs.
    """
    dtype = NAMES.get(dtype, dtype)

    def convert(value: Expr, width: int) -> Expr:
        if flip:
            value = tirx.bitwise_xor(value, const(-128, "int8", width))
        return value if dtype in ("float32", "int8") else cast(value, dtype)

    full, rest = divmod(count, lanes)
    if full:
        with b.loop(full, "v") as v:
            value = b.load(source, at + v * lanes, lanes)
            b.store(target, to + v * lanes, convert(value, lanes))
    done = full * lanes
    width = lanes
    while rest:
        width //= 2
        if rest >= width:
            value = b.load(source, at + done, width)
            b.store(target, to + done, convert(value, width))
            done += width
            rest -= width


def fill_run(b: Builder, target: Buffer, to: Expr, count: Expr | int, value: Expr) -> None:
    """Store one scalar ``count`` times."""
    if isinstance(count, int) and count <= 0:
        return
    lanes = 8
    if isinstance(count, int):
        full, rest = divmod(count, lanes)
        if full:
            with b.loop(full, "v") as v:
                b.store(target, to + v * lanes, bcast(value, lanes))
        if rest:
            with b.loop(rest, "v") as v:
                b.store(target, to + full * lanes + v, value)
        return
    with b.loop(count, "v") as v:
        b.store(target, to + v, value)

"""Emission of functions that kernels share, and of calls of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeopt.codegen.abi import Arg
from edgeopt.codegen.schedules import table
from edgeopt.codegen.schedules.emit import Buffer, Builder, Expr, cast, const, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.shared import WIDEN_AT_ONCE, Shared, Widen, of_table
from edgeopt.core.kernels import OpKey

#: Elements that buffers of unknown length are declared with: more than any has.
_MANY = 1 << 28


@dataclass(frozen=True, slots=True)
class Interface:
    """Symbol and parameters of a shared function, as `Builder` wants them."""

    symbol: str
    args: tuple[Arg, ...]
    scratch_bytes: int = 0
    parts: int = 1


def begin(function: Shared, pointers: Mapping[str, str], extents: Sequence[str]) -> Builder:
    """A shared function under construction: pointers, by the type they point to, and numbers."""
    args = [Arg("const", name, dtype) for name, dtype in pointers.items()]
    args += [Arg("extent", name, "i32") for name in extents]
    b = Builder(Interface(function.symbol, tuple(args)), dict.fromkeys(pointers, _MANY))
    b.keep_loops()
    return b


def call(b: Builder, function: Shared, *arguments: Expr) -> None:
    """Call a shared function; arguments are numbers, or pointers of `address`."""
    values = [tirx.IntImm("int32", a) if isinstance(a, int) else a for a in arguments]
    b.emit(tirx.Evaluate(tirx.call_extern("int32", function.symbol, *values)))


def address(buffer: Buffer, at: Expr = 0) -> Expr:
    """A pointer to an element."""
    return tirx.address_of(tirx.BufferLoad(buffer, [at]))


def table_of(function: Shared, isa: Isa) -> Any:
    """The code of `shared.LookUp`."""
    b = begin(function, {"y": "i8", "lut": "i8"}, ("count", "width"))
    count, width = (b.bind(cast(b.extents[name], "int64")) for name in ("count", "width"))
    table.apply_eights(b, isa, b["y"], count, width)
    return b.finish()


def widen() -> Any:
    """The code of `shared.Widen`: biases, and behind all of them multipliers."""
    function, lanes = Widen(), WIDEN_AT_ONCE
    b = begin(function, {"words": "i32", "to": "i32"}, ("count",))
    count = b.bind(cast(b.extents["count"], "int64"))

    def number(value: int) -> Expr:
        return const(value, "int32", lanes)

    # Counts are whole eights, which LLVM does not know: so it cannot unroll. Nor does it see that
    # this is above zero, or it would divide to find out how often the loop goes round.
    step = b.bind(tirx.truncmod(count, tirx.IntImm("int64", lanes)) + lanes)
    with b.steps(tirx.IntImm("int64", 0), count, step) as at:
        word = b.bind(b.load(b["words"], at, lanes))
        whole = tirx.bitwise_or(tirx.bitwise_and(word, number(0x7FFF0000)), number(0x10000))
        # an arithmetic shift brings -1 where the lowest bit is set
        last = tirx.shift_right(word, number(31))
        multiplier = b.bind(tirx.shift_right(whole, number(3)) + number(100 << 23) - last)
        exponent = tirx.shift_right(multiplier, number(23))
        # -1 where bit 16 is set, which makes 123 of 120
        rough = tirx.shift_right(tirx.shift_left(word, number(15)), number(31))
        finest = tirx.bitwise_or(number(120), tirx.bitwise_and(rough, number(3)))
        shift = tirx.min(tirx.max(finest - exponent, number(0)), number(7))
        low = tirx.shift_right(tirx.shift_left(word, number(16)), number(16))
        b.store(b["to"], at, tirx.shift_left(low, b.bind(shift)))
        b.store(b["to"], count + at, multiplier)
    return b.finish()


def widened(b: Builder) -> None:
    """Of a kernel whose constants are words: its biases and multipliers, in scratch."""
    if not any(arg.name == "words" for arg in b.function.args):
        return
    channels = b.elements("words")
    start = b.function.scratch_bytes // b.function.parts - 8 * channels
    to = b.scratch_view("i32", start, 2 * channels)
    call(b, Widen(), address(b["words"]), address(to), channels)
    b.name("bias", b.scratch_view("i32", start, channels))
    b.name("multiplier", b.scratch_view("f32", start + 4 * channels, channels))


def look_up(b: Builder, key: OpKey, isa: Isa, start: Expr, count: int) -> None:
    """Apply an activation's table to some of what a kernel has computed."""
    called = of_table(key, isa, b.function.parts, count)
    for function in called:
        call(b, function, address(b["y"], start), address(b["lut"]), count, table.AT_ONCE)
    if not called:
        table.apply(b, isa, b["y"], b["y"], start, count)

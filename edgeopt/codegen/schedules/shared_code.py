"""Emission of functions that kernels share, and of calls of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeopt.codegen.abi import Arg
from edgeopt.codegen.schedules import table
from edgeopt.codegen.schedules.emit import Buffer, Builder, Expr, cast, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.shared import Shared, of_table
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


def look_up(b: Builder, key: OpKey, isa: Isa, start: Expr, count: int) -> None:
    """Apply an activation's table to some of what a kernel has computed."""
    called = of_table(key, isa, b.function.parts, count)
    for function in called:
        call(b, function, address(b["y"], start), address(b["lut"]), count, table.AT_ONCE)
    if not called:
        table.apply(b, isa, b["y"], b["y"], start, count)

"""256-entry tables of int8 activations: their layout in memory and their vector look-up.

A processor with byte shuffles looks up 16 entries at a time, so a table costs it 16 shuffles a
vector. On x86-64 entry rows are stored as exclusive-ors with the row before: of the running
exclusive-or of all rows at an index that falls by 16 each time, a shuffle contributes only while
that index is not negative, which leaves exactly the right row. Processors that permute the bytes
of two vectors of 512 bits look 128 entries up at a time, from plain tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.codegen.schedules.isa import Isa
from edgeopt.core.network import Array

if TYPE_CHECKING:
    from edgeopt.codegen.schedules.emit import Builder, Expr

_ROW = 16
#: Bytes that `apply_eights` looks up in a step.
AT_ONCE = 64


def pack(isa: Isa, lut: Array) -> Array:
    """A table (entry ``q + 128`` for input ``q``) as `apply` reads it."""
    # rotated so that the bits of q, read as unsigned, are the index
    entries = np.roll(np.ascontiguousarray(lut, np.int8), -128)
    if not isa.byte_shuffle or isa.byte_permute or isa.arch == "aarch64":
        return entries
    rows = entries.reshape(2, 8, _ROW)
    chained = rows.copy()
    chained[:, 1:] ^= rows[:, :-1]
    return chained.reshape(-1)


def apply(b: Builder, isa: Isa, source: Any, target: Any, start: Expr, count: int) -> None:
    """Look up ``count`` neighbouring bytes of ``source`` at ``start`` into ``target``."""
    if not isa.byte_shuffle:
        with b.loop(count, "entry") as i:
            b.store(target, start + i, _scalar(b, source, start + i))
        return
    rows = _rows(b, isa)
    lanes = rows.lanes
    start_at = 0
    for vectors in (2, 1) if lanes < AT_ONCE else (1,):  # two share the loads of the rows
        times = (count - start_at) // (lanes * vectors)
        with b.loop(times, "entries") as step:
            at = b.bind(start + start_at + step * (lanes * vectors), "at")
            indices = [b.bind(b.load(source, at + v * lanes, lanes)) for v in range(vectors)]
            for v, value in enumerate(rows.look_up(indices)):
                b.store(target, at + v * lanes, value)
        start_at += times * lanes * vectors
    rest = count - start_at
    if rest:
        at = b.bind(start + start_at, "at")
        value = rows.look_up([b.load_some(source, at, rest, lanes)])[0]
        b.store_some(target, at, value, rest)


def apply_eights(b: Builder, isa: Isa, target: Any, count: Expr, width: Expr) -> None:
    """Look up ``count`` bytes in place, a multiple of eight that is known as it runs.

    ``width`` is `AT_ONCE`, of which LLVM must not know.
    """
    from edgeopt.codegen.schedules.emit import tirx

    rows = _rows(b, isa)
    whole = b.bind(count - tirx.truncmod(count, AT_ONCE))
    zero, short = tirx.IntImm("int64", 0), tirx.truncdiv(width, AT_ONCE // 8)
    runs = ((zero, whole, width, rows.lanes), (whole, count, short, 8))
    for start, end, by, lanes in runs:
        with b.steps(start, end, by) as step:
            places = [step + v * lanes for v in range(AT_ONCE // lanes if lanes > 8 else 1)]
            found = [b.bind(b.load_some(target, at, lanes, rows.lanes)) for at in places]
            for at, value in zip(places, rows.look_up(found), strict=True):
                b.store_some(target, at, value, lanes)


def _scalar(b: Builder, source: Any, at: Expr) -> Expr:
    from edgeopt.codegen.schedules.emit import cast, reinterpret

    index = cast(reinterpret(b.load(source, at), "uint8", 1), "int32")
    return b.load(b["lut"], index)


def _rows(b: Builder, isa: Isa) -> _Rows | _Halves:
    if isa.byte_permute:
        return _Halves(b)
    return _Rows(b, isa, 16 if isa.arch == "aarch64" else 64 if isa.lanes == 16 else 32)


class _Halves:
    """The table's halves in two vectors of 512 bits each, ready to be permuted."""

    lanes = 64

    def __init__(self, b: Builder) -> None:
        self._b = b
        self._quarters = [b.bind(b.load(b["lut"], 64 * q, 64), "quarter") for q in range(4)]

    def look_up(self, indices: list[Expr]) -> list[Expr]:
        """The entries of some vectors of indices."""
        from edgeopt.codegen.schedules.emit import const, intrinsic, tirx

        b, found = self._b, []
        zero = const(0, "int8", self.lanes)
        for index in indices:
            halves = [
                b.bind(
                    intrinsic(
                        "llvm.x86.avx512.vpermi2var.qi.512", "int8x64",
                        self._quarters[2 * half], index, self._quarters[2 * half + 1],
                    )
                )
                for half in range(2)
            ]  # fmt: skip
            found.append(b.bind(tirx.Select(index < zero, halves[1], halves[0])))
        return found


class _Rows:
    """The table's rows, ready to be shuffled."""

    def __init__(self, b: Builder, isa: Isa, lanes: int) -> None:
        from edgeopt.codegen.schedules.emit import join

        self._b, self._arm, self.lanes = b, isa.arch == "aarch64", lanes
        self._rows = []
        for r in range(16):
            row = b.bind(b.load(b["lut"], r * _ROW, _ROW), "row")
            if not self._arm:
                row = b.bind(join([row] * (lanes // _ROW)), "row")
            self._rows.append(row)

    def look_up(self, indices: list[Expr]) -> list[Expr]:
        """The entries of some vectors of indices."""
        if self._arm:
            return [self._b.bind(self._arm_table(index)) for index in indices]
        return self._shuffles(indices)

    def _arm_table(self, index: Expr) -> Expr:
        from edgeopt.codegen.schedules.emit import const, intrinsic

        # An index past a table of 64 entries leaves the lane as it was.
        result = intrinsic("llvm.aarch64.neon.tbl4.v16i8", "int8x16", *self._rows[:4], index)
        for quarter in range(1, 4):
            index = self._b.bind(index - const(64, "int8", self.lanes))
            rows = self._rows[4 * quarter : 4 * quarter + 4]
            result = intrinsic("llvm.aarch64.neon.tbx4.v16i8", "int8x16", result, *rows, index)
        return result

    def _shuffles(self, indices: list[Expr]) -> list[Expr]:
        from edgeopt.codegen.schedules.emit import const, intrinsic, tirx

        b, lanes = self._b, self.lanes
        kind = f"int8x{lanes}"
        step = const(16, "int8", lanes)
        flip = const(-128, "int8", lanes)
        shuffle = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}[lanes]
        found: list[Expr] = [None] * len(indices)
        for half in range(2):
            at = [b.bind(tirx.bitwise_xor(i, flip)) if half else i for i in indices]
            for r in range(8):
                row = self._rows[8 * half + r]
                for v in range(len(indices)):
                    if r:
                        at[v] = b.bind(intrinsic(f"llvm.ssub.sat.v{lanes}i8", kind, at[v], step))
                    entry = intrinsic(shuffle, kind, row, at[v])
                    before = found[v]
                    entry = entry if before is None else tirx.bitwise_xor(before, entry)
                    found[v] = b.bind(entry)
        return found

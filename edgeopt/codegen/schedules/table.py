"""256-entry tables of int8 activations: their layout in memory and their vector look-up.

A processor with byte shuffles looks up 16 entries at a time, so a table costs it 16 shuffles a
vector. On x86-64 entry rows are stored as exclusive-ors with the row before: of the running
exclusive-or of all rows at an index that falls by 16 each time, a shuffle contributes only while
that index is not negative, which leaves exactly the right row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.codegen.schedules.isa import Isa
from edgeopt.core.network import Array

if TYPE_CHECKING:
    from edgeopt.codegen.schedules.emit import Builder, Expr

_ROW = 16


def pack(isa: Isa, lut: Array) -> Array:
    """A table (entry ``q + 128`` for input ``q``) as `apply` reads it."""
    # rotated so that the bits of q, read as unsigned, are the index
    entries = np.roll(np.ascontiguousarray(lut, np.int8), -128)
    if not isa.byte_shuffle or isa.arch == "aarch64":
        return entries
    rows = entries.reshape(2, 8, _ROW)
    chained = rows.copy()
    chained[:, 1:] ^= rows[:, :-1]
    return chained.reshape(-1)


def apply(b: Builder, isa: Isa, source: Any, target: Any, start: Expr, count: Expr | int) -> None:
    """Look up ``count`` neighbouring bytes of ``source`` at ``start`` into ``target``."""
    if not isa.byte_shuffle:
        with b.loop(count, "entry") as i:
            b.store(target, start + i, _scalar(b, source, start + i))
        return
    lanes = 16 if isa.arch == "aarch64" else 32
    rows = _Rows(b, isa, lanes)
    if isinstance(count, int):
        full: Expr = count // lanes
        rest = count % lanes
    else:
        raise TypeError("a table is applied to a known number of elements")
    with b.loop(full, "entries") as v:
        at = b.bind(start + v * lanes, "at")
        b.store(target, at, rows.look_up(b.bind(b.load(source, at, lanes))))
    if rest:
        at = b.bind(start + full * lanes, "at")
        value = rows.look_up(b.load_some(source, at, rest, lanes))
        b.store_some(target, at, b.bind(value), rest)


def _scalar(b: Builder, source: Any, at: Expr) -> Expr:
    from edgeopt.codegen.schedules.emit import cast, reinterpret

    index = cast(reinterpret(b.load(source, at), "uint8", 1), "int32")
    return b.load(b["lut"], index)


class _Rows:
    """The table's rows, ready to be shuffled."""

    def __init__(self, b: Builder, isa: Isa, lanes: int) -> None:
        from edgeopt.codegen.schedules.emit import join

        self._b, self._arm, self._lanes = b, isa.arch == "aarch64", lanes
        self._rows = []
        for r in range(16):
            row = b.bind(b.load(b["lut"], r * _ROW, _ROW), "row")
            if not self._arm:
                row = b.bind(join([row, row]), "row")
            self._rows.append(row)

    def look_up(self, index: Expr) -> Expr:
        """The entries of one vector of indices."""
        return self._arm_table(index) if self._arm else self._shuffles(index)

    def _arm_table(self, index: Expr) -> Expr:
        from edgeopt.codegen.schedules.emit import const, intrinsic

        # An index past a table of 64 entries leaves the lane as it was.
        result = intrinsic("llvm.aarch64.neon.tbl4.v16i8", "int8x16", *self._rows[:4], index)
        for quarter in range(1, 4):
            index = self._b.bind(index - const(64, "int8", self._lanes))
            rows = self._rows[4 * quarter : 4 * quarter + 4]
            result = intrinsic("llvm.aarch64.neon.tbx4.v16i8", "int8x16", result, *rows, index)
        return result

    def _shuffles(self, index: Expr) -> Expr:
        from edgeopt.codegen.schedules.emit import const, intrinsic, tirx

        kind = f"int8x{self._lanes}"
        step = const(16, "int8", self._lanes)
        result = None
        upper = self._b.bind(tirx.bitwise_xor(index, const(-128, "int8", self._lanes)))
        for half, at in ((0, index), (1, upper)):
            for r in range(8):
                if r:
                    at = self._b.bind(intrinsic(f"llvm.ssub.sat.v{self._lanes}i8", kind, at, step))
                found = intrinsic("llvm.x86.avx2.pshuf.b", kind, self._rows[8 * half + r], at)
                result = found if result is None else tirx.bitwise_xor(result, found)
                result = self._b.bind(result)
        return result

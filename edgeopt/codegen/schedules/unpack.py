"""Reading packed weights: one load a block of vectors, and shifts, or look-ups of two bits."""

from __future__ import annotations

from edgeopt.codegen.schedules.emit import (
    Builder,
    Expr,
    cast,
    const,
    dtype_of,
    intrinsic,
    join,
    reinterpret,
    tirx,
)
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.packing import is_biased, looks_up, per_block


class Stream:
    """Vectors of weights that follow each other from a block on."""

    def __init__(self, b: Builder, isa: Isa, bits: int, at: Expr, width: int) -> None:
        """``at``: the first byte; ``width``: weights of a vector."""
        self._b, self._isa, self._bits, self._at, self._width = b, isa, bits, at, width
        self._block, self._held = -1, None
        self._nibbles: dict[int, Expr] = {}

    def vector(self, index: int) -> Expr:
        """The vector of this number, as `dot.accumulate` takes it."""
        block, field = divmod(index, per_block(self._bits))
        if block != self._block:
            loaded = self._b.load(self._b["weights"], self._at + block * self._width, self._width)
            signed = reinterpret(loaded, "int8", self._width)
            wide = cast(signed, "int16") if self._isa.dot == "pair16" else signed
            self._block, self._held = block, self._b.bind(wide)
            self._nibbles = {}
        return self._b.bind(self._field(self._held, field))

    def _field(self, held: Expr, field: int) -> Expr:
        bits, low = self._bits, field * self._bits
        if looks_up(self._isa, bits):
            return self._looked_up(held, field)
        if is_biased(self._isa, bits):
            return self._unsigned_field(held, low)
        name, width = dtype_of(held)
        size = {"int8": 8, "int16": 16}[name]
        # the uppermost field of a byte has its sign already
        up = 0 if low + bits == 8 else size - bits - low
        value = held if not up else held << const(up, name, width)
        down = size - bits if up else 8 - bits
        if bits != 2:
            return value >> const(down, name, width)
        # twice the field and one more, whatever stands below it
        return tirx.bitwise_or(value >> const(down - 1, name, width), const(1, name, width))

    def _unsigned_field(self, held: Expr, low: int) -> Expr:
        """Where only words can be shifted: what comes from the next byte is masked."""
        width, bits = self._width, self._bits
        value = held
        if low:
            words = reinterpret(held, "uint16", width // 2) >> const(low, "uint16", width // 2)
            value = reinterpret(words, "int8", width)
        value = tirx.bitwise_and(value, const((1 << bits) - 1, "int8", width))
        return value - const(1 << bits - 1, "int8", width)

    def _looked_up(self, held: Expr, field: int) -> Expr:
        """What the lower or the upper field of a nibble stands for: a shuffle instead of a sum."""
        half, upper = divmod(field, 2)
        if half not in self._nibbles:
            self._nibbles[half] = self._b.bind(self._nibble(held, half))
        return _shuffled(self._isa, _standing(upper), self._nibbles[half], self._width)

    def _nibble(self, held: Expr, half: int) -> Expr:
        width = self._width
        mask = const(15, "int8", width)
        if not half:
            return tirx.bitwise_and(held, mask)
        if self._isa.arch == "aarch64":
            high = reinterpret(held, "uint8", width) >> const(4, "uint8", width)
            return reinterpret(high, "int8", width)
        words = reinterpret(held, "uint16", width // 2) >> const(4, "uint16", width // 2)
        return tirx.bitwise_and(reinterpret(words, "int8", width), mask)


def _standing(upper: int) -> Expr:
    """Of each nibble what its lower or upper two bits stand for [16]."""
    if upper:
        return join([const(value, "int8", 4) for value in (-3, -1, 1, 3)])
    return reinterpret(const(0x0301FFFD, "int32", 4), "int8", 16)


def _shuffled(isa: Isa, table: Expr, index: Expr, width: int) -> Expr:
    kind = f"int8x{width}"
    if isa.arch == "aarch64":
        return intrinsic(f"llvm.aarch64.neon.tbl1.v{width}i8", kind, table, index)
    rows = join([table] * (width // 16))
    name = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}[width]
    return intrinsic(name, kind, rows, index)

"""Reading packed weights: one load a block of vectors, and shifts."""

from __future__ import annotations

from edgeopt.codegen.schedules.emit import Builder, Expr, cast, const, dtype_of, reinterpret, tirx
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.packing import is_biased, per_block


class Stream:
    """Vectors of weights that follow each other from a block on."""

    def __init__(self, b: Builder, isa: Isa, bits: int, at: Expr, width: int) -> None:
        """``at``: the first byte; ``width``: weights of a vector."""
        self._b, self._isa, self._bits, self._at, self._width = b, isa, bits, at, width
        self._block, self._held = -1, None

    def vector(self, index: int) -> Expr:
        """The vector of this number, as `dot.accumulate` takes it."""
        block, field = divmod(index, per_block(self._bits))
        if block != self._block:
            loaded = self._b.load(self._b["weights"], self._at + block * self._width, self._width)
            signed = reinterpret(loaded, "int8", self._width)
            wide = cast(signed, "int16") if self._isa.dot == "pair16" else signed
            self._block, self._held = block, self._b.bind(wide)
        return self._b.bind(self._field(self._held, field))

    def _field(self, held: Expr, field: int) -> Expr:
        bits, low = self._bits, field * self._bits
        if is_biased(self._isa):
            return self._unsigned_field(held, low)
        name, width = dtype_of(held)
        size = {"int8": 8, "int16": 16}[name]
        # the uppermost field of a byte has its sign already
        up = 0 if low + bits == 8 else size - bits - low
        value = held if not up else held << const(up, name, width)
        return value >> const(size - bits if up else 8 - bits, name, width)

    def _unsigned_field(self, held: Expr, low: int) -> Expr:
        """Where only words can be shifted: what comes from the next byte is masked."""
        width, bits = self._width, self._bits
        value = held
        if low:
            words = reinterpret(held, "uint16", width // 2) >> const(low, "uint16", width // 2)
            value = reinterpret(words, "int8", width)
        value = tirx.bitwise_and(value, const((1 << bits) - 1, "int8", width))
        return value - const(1 << bits - 1, "int8", width)

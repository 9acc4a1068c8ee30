"""Tiles of int8 sums whose lanes run along the reduction.

Weights and activations are multiplied as they lie in memory, eight neighbours of one reduction
at once, so nothing is broadcast. ``along`` keeps the partial sums of one output in the lanes of a
register; ``matrix`` keeps two pixels by two outputs.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeopt.codegen.schedules.emit import (
    Buffer,
    Builder,
    Expr,
    Registers,
    const,
    intrinsic,
    part,
    shuffle,
)
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.packing import per_block
from edgeopt.codegen.schedules.unpack import Stream


class Tile:
    """The accumulators of ``pixels`` by ``vectors`` of four outputs."""

    def __init__(
        self, b: Builder, isa: Isa, pixels: int, vectors: int, exact: Expr | None, bits: int = 8
    ) -> None:
        """``exact``: not zero where sums of two products do not fit 16 bits."""
        self._isa, self._bits = isa, bits
        self._b, self._matrix, self._exact = b, isa.dot == "matrix", exact
        self._pixels, self._vectors = pixels, vectors
        self._rows = -(-pixels // 2) * 2 if self._matrix else 4 * pixels
        self._acc: Registers = b.registers(self._rows * vectors, "int32", 4)

    def start(self, bias: list[Expr]) -> None:
        """Begin with the bias, or with zero where the lanes are added up at the end."""
        self._bias = bias
        for i in range(self._rows * self._vectors):
            if not self._matrix:
                self._acc[i] = const(0, "int32", 4)
                continue
            half = i % (2 * self._vectors)
            first = 2 * (half % 2)
            self._acc[i] = shuffle([bias[half // 2]], [first, first + 1, first, first + 1])

    def reduce(self, x: Buffer, at: Expr, stride: Expr, weights: Expr, run: int) -> None:
        """Add the products of ``run`` (a multiple of eight) neighbours of each pixel."""
        if self._matrix or run < 16 or self._bits < 8:
            self._reduce(x, at, stride, weights, run, together=True)
            return
        assert self._exact is not None
        for together, when in ((True, self._exact == 0), (False, self._exact != 0)):
            with self._b.when(when):
                self._reduce(x, at, stride, weights, run, together=together)

    def _reduce(
        self, x: Buffer, at: Expr, stride: Expr, weights: Expr, run: int, *, together: bool
    ) -> None:
        step_bytes = 16 * 4 * self._vectors // per_block(self._bits)
        full, rest = divmod(run, 16)
        with self._b.loop(full, "k") as k:
            self._step(x, at + k * 16, stride, weights + k * step_bytes, 16, together)
        if rest:
            self._step(x, at + full * 16, stride, weights + full * step_bytes, 8, together)

    def _read(self, weights: Expr, width: int) -> Callable[[int], Expr]:
        """Vectors of weights from an address on, by number."""
        if self._bits < 8:
            return Stream(self._b, self._isa, self._bits, weights, width).vector
        buffer = self._b["weights"]
        return lambda index: self._b.bind(self._b.load(buffer, weights + index * width, width))

    def _step(
        self, x: Buffer, at: Expr, stride: Expr, weights: Expr, width: int, together: bool
    ) -> None:
        b = self._b
        held = [b.bind(b.load(x, at + m * stride, width)) for m in range(self._pixels)]
        if self._matrix:
            self._squares(held, weights, width)
            return
        read = self._read(weights, width)
        for o in range(4 * self._vectors):
            w = read(o)
            for m, value in enumerate(held):
                index = m * 4 * self._vectors + o
                products = [
                    intrinsic(
                        "llvm.aarch64.neon.smull.v8i16", "int16x8",
                        part(value, half, 8), part(w, half, 8),
                    )
                    for half in range(0, width, 8)
                ]  # fmt: skip
                if together and len(products) == 2:
                    products = [products[0] + products[1]]
                for product in products:
                    wide = intrinsic("llvm.aarch64.neon.saddlp.v4i32.v8i16", "int32x4", product)
                    self._acc[index] = self._acc[index] + wide

    def _squares(self, held: list[Expr], weights: Expr, width: int) -> None:
        """Pairs of pixels by pairs of outputs, eight of the reduction at a time."""
        b, outputs = self._b, 4 * self._vectors
        read = self._read(weights, 16)
        for half in range(0, width, 8):
            low = range(half, half + 8)
            lanes = [*low, *(width + lane for lane in low)]
            pairs = [
                b.bind(shuffle([held[m], held[min(m + 1, len(held) - 1)]], lanes))
                for m in range(0, len(held), 2)
            ]
            for o in range(outputs // 2):
                w = read(half // 8 * (outputs // 2) + o)
                for m, pair in enumerate(pairs):
                    index = m * outputs // 2 + o
                    self._acc[index] = intrinsic(
                        "llvm.aarch64.neon.smmla.v4i32.v16i8", "int32x4", self._acc[index], pair, w
                    )

    def totals(self) -> list[Expr]:
        """The sums, pixel by pixel and vector by vector of outputs."""
        b, acc = self._b, self._acc
        found: list[Expr] = []
        if self._matrix:
            for m in range(self._pixels):
                first = 2 * (m % 2)
                for n in range(self._vectors):
                    at = (m // 2 * self._vectors + n) * 2
                    lanes = [first, first + 1, first + 4, first + 5]
                    found.append(b.bind(shuffle([acc[at], acc[at + 1]], lanes)))
            return found

        def pairwise(left: Expr, right: Expr) -> Expr:
            return intrinsic("llvm.aarch64.neon.addp.v4i32", "int32x4", left, right)

        for m in range(self._pixels):
            for n in range(self._vectors):
                at = (m * self._vectors + n) * 4
                low, high = pairwise(acc[at], acc[at + 1]), pairwise(acc[at + 2], acc[at + 3])
                found.append(b.bind(pairwise(low, high) + self._bias[n]))
        return found


def exact_flag(b: Builder, isa: Isa) -> Expr | None:
    """Whether sums of two products need more than 16 bits, as the packer found."""
    return b.bind(b.load(b["qparams"], 4), "exact") if isa.adds_products else None

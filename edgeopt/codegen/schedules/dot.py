"""One step of a dot product between broadcast activations and a vector of output channels."""

from __future__ import annotations

from edgeopt.codegen.schedules.emit import (
    Builder,
    Expr,
    bcast,
    cast,
    dtype_of,
    in_order,
    intrinsic,
    join,
    part,
    reinterpret,
    vector_type,
)
from edgeopt.codegen.schedules.isa import Isa


def weights(b: Builder, isa: Isa, integer: bool, at: Expr, offset: int) -> Expr:
    """The weights of one vector of outputs, in the form `accumulate` takes."""
    buffer = b["weights"]
    if not integer:
        return b.load(buffer, at + offset, isa.lanes)
    if isa.dot == "pair8":  # halves that are used apart are loaded apart
        halves = (b.load(buffer, at + offset + half, 8) for half in (0, 8))
        return join([b.bind(half) for half in halves])
    packed = b.load(buffer, at + offset, isa.lanes * isa.pack)
    if isa.dot == "pair16":
        return cast(packed, "int16")
    if isa.dot == "plain":
        return cast(packed, "int32")
    return packed


def spread(isa: Isa, integer: bool, x: Expr, lanes: int) -> list[Expr]:
    """The activations of one step in every lane; of pairs of int8, a vector for each of two."""
    if not integer:
        return [bcast(x, lanes)]
    if isa.dot == "plain":
        return [bcast(cast(x, "int32"), lanes)]
    if isa.dot == "pair8":
        words = [reinterpret(part(x, pair, 2), "int16", 1) for pair in (0, 2)]
        return [reinterpret(bcast(word, 2 * lanes), "int8", 4 * lanes) for word in words]
    name, width = dtype_of(x)
    word = {2: "int16", 4: "int32"}[width * (2 if name == "int16" else 1)]
    return [reinterpret(bcast(reinterpret(x, word, 1), lanes), name, lanes * width)]


def accumulate(
    isa: Isa, integer: bool, acc: Expr, w: Expr, spreads: list[Expr], *, together: bool = True
) -> Expr:
    """``acc + w * x``, summed over the elements a lane consumes.

    With ``together``, pairs of int8 are added in 16 bits, two products at a time.
    """
    x, lanes = spreads[0], isa.lanes
    if not integer or isa.dot == "plain":
        return acc + x * w
    if isa.dot == "pair16":
        name = {
            4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd",
            16: "llvm.x86.avx512.pmaddw.d.512",
        }[lanes]  # fmt: skip
        return acc + intrinsic(name, vector_type("int32", lanes), x, w)
    if isa.dot == "pair8":
        products = [
            intrinsic("llvm.aarch64.neon.smull.v8i16", "int16x8", part(x, at, 8), part(w, at, 8))
            for x, at in zip(spreads, (0, 8), strict=True)
        ]
        if together:
            products = [products[0] + products[1]]
        for product in products:
            acc = acc + intrinsic("llvm.aarch64.neon.saddlp.v4i32.v8i16", "int32x4", product)
        return in_order(acc)
    if isa.arch == "aarch64":
        return intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32x4", acc, w, x)
    bits = lanes * 32
    result = vector_type("int32", lanes)
    return intrinsic(f"llvm.x86.avx512.vpdpbusd.{bits}", result, acc, x, w)

"""One step of a dot product between broadcast activations and a vector of output channels."""

from __future__ import annotations

from edgeopt.codegen.schedules.emit import (
    Builder,
    Expr,
    bcast,
    cast,
    dtype_of,
    intrinsic,
    reinterpret,
    vector_type,
)
from edgeopt.codegen.schedules.isa import Isa


def weights(b: Builder, isa: Isa, integer: bool, at: Expr, offset: int) -> Expr:
    """The weights of one vector of outputs, in the form `accumulate` takes."""
    buffer = b["weights"]
    if not integer:
        return b.load(buffer, at + offset, isa.lanes)
    packed = b.load(buffer, at + offset, isa.lanes * isa.pack)
    if isa.dot == "pair16":
        return cast(packed, "int16")
    if isa.dot == "plain":
        return cast(packed, "int32")
    return packed


def spread(isa: Isa, integer: bool, x: Expr, lanes: int) -> Expr:
    """The activations of one step in every lane."""
    if not integer:
        return bcast(x, lanes)
    if isa.dot == "plain":
        return bcast(cast(x, "int32"), lanes)
    name, width = dtype_of(x)
    word = {2: "int16", 4: "int32"}[width * (2 if name == "int16" else 1)]
    return reinterpret(bcast(reinterpret(x, word, 1), lanes), name, lanes * width)


def accumulate(isa: Isa, integer: bool, acc: Expr, w: Expr, x: Expr) -> Expr:
    """``acc + w * x``, summed over the elements a lane consumes."""
    if not integer or isa.dot == "plain":
        return acc + x * w
    lanes = isa.lanes
    if isa.dot == "pair16":
        name = {
            4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd",
            16: "llvm.x86.avx512.pmaddw.d.512",
        }[lanes]  # fmt: skip
        return acc + intrinsic(name, vector_type("int32", lanes), x, w)
    if isa.dot == "pair8":
        product = intrinsic("llvm.aarch64.neon.smull.v8i16", "int16x8", x, w)
        return acc + intrinsic("llvm.aarch64.neon.saddlp.v4i32.v8i16", "int32x4", product)
    if isa.arch == "aarch64":
        return intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32x4", acc, w, x)
    bits = lanes * 32
    result = vector_type("int32", lanes)
    return intrinsic(f"llvm.x86.avx512.vpdpbusd.{bits}", result, acc, x, w)

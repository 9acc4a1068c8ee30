"""What a target offers a template: lanes, registers, and how integers are multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeopt.core.target import TargetSpec

#: How int8 products reach int32 lanes.
#:   quad    four int8 pairs a lane in one instruction (sdot, vpdpbusd)
#:   pair16  two int16 pairs a lane (vpmaddwd); activations are widened into scratch once
#:   pair8   twice two int8 pairs a lane by widening multiplies and a pairwise add (smull,
#:           smlal, sadalp)
#:   along   eight int8 pairs of one output, summed over the lanes at the end (smull, smlal,
#:           sadalp): the lanes run along the reduction instead of over outputs
#:   matrix  eight int8 pairs of each of two pixels and two outputs (smmla)
#:   plain   one product a lane, whatever the compiler finds
DotMode = Literal["quad", "pair16", "pair8", "along", "matrix", "plain"]


@dataclass(frozen=True, slots=True)
class Isa:
    """A target as the templates see it."""

    arch: str
    lanes: int  # float32 (and int32) elements of a vector register
    registers: int
    dot: DotMode
    unsigned: bool  # the quad instruction takes activations as uint8 (offset by 128)
    by_element: bool  # multiplies by one lane of a register, so activations load as vectors
    fused: bool  # has fused multiply-add
    byte_shuffle: bool  # looks 16 bytes up at once
    byte_permute: bool  # and 128
    matrix: bool  # multiplies 2x8 by 8x2 int8 in one instruction
    l1d_bytes: int
    l2_bytes: int
    compact: bool = False  # prefer kernels of fewer bytes where those cost time

    @property
    def pack(self) -> int:
        """Consecutive input channels that one lane of an integer dot product consumes."""
        sizes = {"quad": 4, "pair16": 2, "pair8": 4, "along": 8, "matrix": 8, "plain": 1}
        return sizes[self.dot]

    @property
    def adds_products(self) -> bool:
        """Whether products of int8 are added in 16 bits, which two of -128 leave."""
        return self.dot in ("pair8", "along")

    @property
    def stage_dtype(self) -> str:
        """Type of integer activations once staged in scratch."""
        return "i16" if self.dot == "pair16" else "i8"

    @property
    def must_stage(self) -> bool:
        """Whether integer activations cannot be read where they lie."""
        return self.dot == "pair16" or self.unsigned


def isa_of(target: TargetSpec) -> Isa | None:
    """The vector unit of a target, or None where there is none a template could use."""
    lanes = target.vector_bits // 32
    if lanes < 4 or lanes & (lanes - 1):
        return None
    features = target.features
    arm = target.arch == "aarch64"
    dot: DotMode = "plain"
    unsigned = False
    if arm:
        dot = "quad" if "dotprod" in features else "pair8"
        lanes = 4
    elif target.arch == "x86_64":
        vnni = "avx512vnni" in features and (lanes == 16 or "avx512vl" in features)
        if lanes == 16 and "avx512bw" not in features:
            lanes = 8
        if lanes == 8 and "avx2" not in features:
            lanes = 4  # eight lanes of floats alone: integers have no such registers
        if vnni or (lanes == 8 and "avxvnni" in features):
            dot, unsigned = "quad", True
        elif lanes == 4 or "avx2" in features or lanes == 16:
            dot = "pair16"
    return Isa(
        arch=target.arch,
        lanes=lanes,
        registers=max(target.vector_registers, 8),
        dot=dot,
        unsigned=unsigned,
        by_element=arm,
        byte_shuffle=arm or (target.arch == "x86_64" and "avx2" in features),
        byte_permute=lanes == 16 and "avx512vbmi" in features,
        fused=arm or "fma" in features or lanes == 16,
        matrix=arm and "i8mm" in features,
        l1d_bytes=target.l1d_bytes or 32768,
        l2_bytes=target.l2_bytes or 262144,
        compact=target.compact,
    )


def known_isa(target: TargetSpec) -> Isa:
    """The vector unit of a target that a template's rule has accepted."""
    isa = isa_of(target)
    assert isa is not None
    return isa

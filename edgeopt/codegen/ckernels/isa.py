"""What C kernels ask of a microcontroller: a few features, never its name."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from edgeopt.core.target import TargetSpec

#: Architectures whose kernels are C, compiled by the device's own toolchain.
ARCHITECTURES = frozenset({"armv6m", "armv7m", "armv7em", "armv8m", "riscv32"})
_FLOAT = ("vfp", "fp-armv8")


@dataclass(frozen=True, slots=True)
class CIsa:
    """A microcontroller's instructions, as far as kernels differ by them.

    Attributes:
        dsp: pairs of 16-bit numbers are multiplied and added up in one instruction.
        fpu: binary32 in hardware; without it sums are requantized in fixed point.
        mve: vectors of 128 bits.
    """

    dsp: bool
    fpu: bool
    mve: bool


def applies(target: TargetSpec) -> bool:
    """Whether kernels for a target are written in C."""
    return target.arch in ARCHITECTURES


@functools.lru_cache(maxsize=64)
def isa_of(target: TargetSpec) -> CIsa:
    """The instructions of a microcontroller."""
    features = target.features
    arm = target.arch.startswith("arm")
    fpu = any(f.startswith(_FLOAT) for f in features) if arm else "f" in features
    return CIsa(
        dsp=arm and "dsp" in features,
        fpu=fpu,
        mve=arm and any(f.startswith("mve") for f in features),
    )

"""Which kernels read packed weights of 2 and 4 bits."""

from __future__ import annotations

from edgeopt.codegen import ckernels
from edgeopt.codegen.lower_parts import packed_key
from edgeopt.codegen.schedules import packing
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.core.kernels import OpKey
from edgeopt.core.lowbits import PACKED_BITS, fits
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


def supported(op: str, bits: int, target: TargetSpec) -> bool:
    """Whether a target has kernels of an operator that read weights of so many bits.

    Where it has not, such weights are stored in more bits: the same numbers, more flash.

    Args:
        op: ``pointwise``, ``conv2d``, ``depthwise`` or ``linear``.
        bits: of a weight.
        target: the processor.
    """
    return bits in widths(op, target)


def stored_bits(key: OpKey, bits: int, target: TargetSpec, w: Array | None = None) -> int:
    """Bits that a kernel's weights of ``bits`` take on a target: more where it reads no fewer.

    Args:
        key: of the kernel with int8 weights.
        bits: that the weights have.
        target: the processor.
        w: the weights; None where they are not known, and fit.
    """
    if bits >= 8 or key.dtype != "i8":
        return 8
    for width in PACKED_BITS:
        if width < bits or not supported(key.op, width, target):
            continue
        if w is not None and not (fits(w, width) and _holds(w, width, target)):
            continue
        if _reads(packed_key(key, width), target):
            return width
    return 8


def _reads(key: OpKey, target: TargetSpec) -> bool:
    isa = None if ckernels.applies(target) else isa_of(target)
    return isa is None or packing.reads(key, isa)


def _holds(w: Array, bits: int, target: TargetSpec) -> bool:
    return not ckernels.applies(target) or ckernels.packed.holds(w, bits, target)


def widths(op: str, target: TargetSpec) -> tuple[int, ...]:
    """The widths below eight bits that a target's kernels of an operator read."""
    if ckernels.applies(target):
        return ckernels.packed.widths(op)
    isa = isa_of(target)
    return () if isa is None else packing.widths(op, isa)

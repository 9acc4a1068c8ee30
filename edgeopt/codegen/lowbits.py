"""Which kernels read packed weights of 2 and 4 bits."""

from __future__ import annotations

from edgeopt.codegen import ckernels
from edgeopt.codegen.schedules import packing
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


def supported(op: str, bits: int, target: TargetSpec) -> bool:
    """Whether a target has kernels of an operator that read weights of so many bits.

    Where it has not, such weights are stored as int8: the same numbers, more flash.

    Args:
        op: ``pointwise``, ``conv2d``, ``depthwise`` or ``linear``.
        bits: of a weight.
        target: the processor.
    """
    return bits in widths(op, target)


def holds(w: Array, bits: int, target: TargetSpec) -> bool:
    """Whether a target's kernels read weights of these values."""
    return not ckernels.applies(target) or ckernels.packed.holds(w, bits, target)


def widths(op: str, target: TargetSpec) -> tuple[int, ...]:
    """The widths below eight bits that a target's kernels of an operator read."""
    if ckernels.applies(target):
        return ckernels.packed.widths(op)
    isa = isa_of(target)
    return () if isa is None else packing.widths(op, isa)

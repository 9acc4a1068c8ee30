"""How weights of fewer than eight bits lie in memory for vectors to unpack; pure arithmetic.

The inner loop of a product reads its weights as a stream of whole vectors. Packed, ``8 / bits``
vectors that follow each other share the bytes of one: the first is in the lowest bits of every
byte, the next above it. So the vectors of a block cost one load, and two shifts each: no
lane ever moves. A stream ends at the end of each run of the reduction; blocks are filled up.
"""

from __future__ import annotations

import math

import numpy as np

from edgeopt.codegen.schedules.gemm_plan import Plan
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.core.lowbits import PACKED_BITS
from edgeopt.core.network import Array

#: Depthwise layers have few weights and no such kernel.
OPS = frozenset({"pointwise", "conv2d", "linear"})


def widths(op: str, isa: Isa) -> tuple[int, ...]:
    """Bits that packed weights of an operator may have."""
    return PACKED_BITS if op in OPS and isa.dot != "plain" else ()


def per_block(bits: int) -> int:
    """Vectors that share the bytes of one."""
    return 8 // bits


def steps_a_block(bits: int, vectors: int) -> int:
    """The fewest steps of ``vectors`` each that are whole blocks."""
    per = per_block(bits)
    return per // math.gcd(per, vectors)


def streams(plan: Plan, isa: Isa, vectors: int) -> tuple[tuple[int, int], ...]:
    """Of one run of a panel of ``vectors``: how many vectors in a row, and their bytes."""
    run, outputs = plan.window.run_packed, vectors * plan.lanes
    if isa.dot == "along":
        found = [(run // 16 * outputs, 16), (outputs if run % 16 else 0, 8)]
        return tuple(stream for stream in found if stream[0])
    if isa.dot == "matrix":
        return ((run * outputs // 16, 16),)
    return ((run // plan.pack * vectors, plan.lanes * plan.pack),)


def run_bytes(plan: Plan, isa: Isa, vectors: int) -> int:
    """Packed bytes of one run of a panel."""
    per = per_block(plan.bits)
    return sum(-(-count // per) * width for count, width in streams(plan, isa, vectors))


def panel_bytes(plan: Plan, isa: Isa, vectors: int) -> int:
    """Packed bytes of a panel."""
    return plan.window.taps_h * plan.window.taps_w * run_bytes(plan, isa, vectors)


def group_bytes(plan: Plan, isa: Isa) -> int:
    """Packed bytes of all panels of a group."""
    full, rest = divmod(plan.output_vectors, plan.vectors)
    last = panel_bytes(plan, isa, rest) if rest else 0
    return full * panel_bytes(plan, isa, plan.vectors) + last


def pack_panel(plan: Plan, isa: Isa, values: Array, vectors: int) -> Array:
    """Weights of a panel, in the order in which they are read, as bytes.

    Raises:
        ValueError: a weight does not fit.
    """
    if values.min(initial=0) < -(1 << plan.bits - 1) or values.max(initial=0) >= 1 << plan.bits - 1:
        raise ValueError(f"a weight does not fit {plan.bits} bits")
    pieces = []
    for run in values.reshape(plan.window.taps_h * plan.window.taps_w, -1):
        at = 0
        for count, width in streams(plan, isa, vectors):
            pieces.append(_blocks(run[at : at + count * width], width, plan.bits, isa))
            at += count * width
    return np.concatenate(pieces)


def is_biased(isa: Isa) -> bool:
    """Whether fields are stored unsigned: where bytes cannot be shifted with their sign."""
    return isa.arch == "x86_64" and isa.dot == "quad"


def _blocks(values: Array, width: int, bits: int, isa: Isa) -> Array:
    per = per_block(bits)
    fields = values.astype(np.int16)
    fields = np.pad(fields, (0, -fields.size % (per * width))).reshape(-1, per, width)
    if is_biased(isa):
        fields = fields + (1 << bits - 1)
    fields = (fields & (1 << bits) - 1) << (np.arange(per) * bits)[:, None]
    packed: Array = fields.sum(axis=1).astype(np.uint8).reshape(-1)
    return packed

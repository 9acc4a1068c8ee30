"""How weights of fewer than eight bits lie in memory for vectors to unpack; pure arithmetic.

The inner loop of a product reads its weights as a stream of whole vectors. Packed, ``8 / bits``
vectors that follow each other share the bytes of one: the first is in the lowest bits of every
byte, the next above it. So the vectors of a block cost one load, and two shifts each: no
lane ever moves. A stream ends at the end of each run of the reduction; blocks are filled up.
"""

from __future__ import annotations

import math

import numpy as np

from edgeopt.codegen.schedules.gemm_plan import Plan, plan_of, suited
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.core.kernels import OpKey
from edgeopt.core.lowbits import PACKED_BITS, fields
from edgeopt.core.network import Array

#: Depthwise layers have few weights and no such kernel.
OPS = frozenset({"pointwise", "conv2d", "linear"})


def widths(op: str, isa: Isa) -> tuple[int, ...]:
    """Bits that packed weights of an operator may have."""
    return PACKED_BITS if op in OPS and isa.dot != "plain" else ()


def reads(key: OpKey, isa: Isa) -> bool:
    """Whether there is a kernel for a key with its packed weights.

    Where runs of inputs are filled up to what a product consumes, weights must be zero, and of two
    bits none is.
    """
    if key.weight_bits not in widths(key.op, isa):
        return False
    if key.weight_bits != 2:
        return True
    window = plan_of(key, suited(key, isa)).window
    return window.run == window.run_packed


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
    """Weights of a panel, in the order in which they are read, as bytes."""
    unsigned = fields(values, plan.bits)
    pieces = []
    for run in unsigned.reshape(plan.window.taps_h * plan.window.taps_w, -1):
        at = 0
        for count, width in streams(plan, isa, vectors):
            pieces.append(_blocks(run[at : at + count * width], width, plan.bits, isa))
            at += count * width
    return np.concatenate(pieces)


def is_biased(isa: Isa, bits: int) -> bool:
    """Whether fields are stored unsigned: where bytes cannot be shifted with their sign."""
    return looks_up(isa, bits) or (isa.arch == "x86_64" and isa.dot == "quad")


def looks_up(isa: Isa, bits: int) -> bool:
    """Whether two fields of two bits at once are an index: a table has what either stands for."""
    return bits == 2 and isa.byte_shuffle and isa.dot != "pair16"


def _blocks(values: Array, width: int, bits: int, isa: Isa) -> Array:
    per = per_block(bits)
    middle = 1 << bits - 1
    filled = np.pad(
        values.astype(np.int16), (0, -values.size % (per * width)), constant_values=middle
    )
    if not is_biased(isa, bits):
        filled ^= np.int16(middle)
    moved = filled.reshape(-1, per, width) << (np.arange(per) * bits)[:, None]
    packed: Array = moved.sum(axis=1).astype(np.uint8).reshape(-1)
    return packed

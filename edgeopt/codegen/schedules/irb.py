"""The template of inverted residual blocks in float: widened, filtered and narrowed row by row.

Its parts are tiled, packed and emitted as the templates of those kernels do, a row of the map at a
time. Sums are added in the same order as there, so that fusing changes no bit as long as tiles of
a row add their sums up alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeopt.codegen.schedules.depthwise import DEPTHWISE, Depthwise
from edgeopt.codegen.schedules.depthwise_plan import Plan as DepthwisePlan
from edgeopt.codegen.schedules.gemm import GEMM, Gemm
from edgeopt.codegen.schedules.gemm_plan import Plan as GemmPlan
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.codegen.schedules.template import BaseTemplate, Const, Template, round_up
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: What the constants of the three parts end in.
SUFFIXES = ("1", "d", "2")


def row_parts(key: OpKey) -> tuple[OpKey, OpKey, OpKey]:
    """The parts of a block: one row of both pointwise layers, all of the depthwise one."""
    first, middle, last = key.parts
    return (
        replace(first, in_shape=(1, *first.in_shape[1:]), out_shape=(1, *first.out_shape[1:])),
        middle,
        replace(last, in_shape=(1, *last.in_shape[1:]), out_shape=(1, *last.out_shape[1:])),
    )


def ring_bytes(key: OpKey) -> int:
    """Bytes of the widened rows that one depthwise row reads."""
    _, middle, _ = key.parts
    return round_up(4 * key.kernel[0] * middle.in_shape[1] * middle.in_shape[2], 64)


def scratch_bytes(key: OpKey) -> int:
    """Bytes of the ring and of one depthwise row."""
    _, middle, _ = key.parts
    return ring_bytes(key) + round_up(4 * middle.out_shape[1] * middle.out_shape[2], 64)


def _roomy(target: TargetSpec) -> TargetSpec:
    """The target with a register less for tiles.

    The compiler keeps what is the same in all rows (bounds of an activation, biases) in registers
    across the three parts; a tile that takes every register is spilled in its inner loop then.
    """
    return replace(target, vector_registers=max(target.vector_registers - 1, 0))


def _templates(
    key: OpKey, target: TargetSpec
) -> tuple[tuple[OpKey, Gemm | Depthwise, TargetSpec, str], ...]:
    """Part, its template, the target it is tiled for, and what its constants end in."""
    first, middle, last = row_parts(key)
    roomy = _roomy(target)
    return (
        (first, GEMM, roomy, SUFFIXES[0]),
        (middle, DEPTHWISE, target, SUFFIXES[1]),
        (last, GEMM, roomy, SUFFIXES[2]),
    )


def plans(key: OpKey, target: TargetSpec) -> tuple[GemmPlan, DepthwisePlan, GemmPlan]:
    """How the parts are tiled."""
    first, middle, last = row_parts(key)
    roomy = _roomy(target)
    return GEMM.plan(first, roomy), DEPTHWISE.plan(middle, target), GEMM.plan(last, roomy)


class InvertedResidual(BaseTemplate):
    """A whole block, of whose widened map only a few rows exist at a time."""

    name = "irb"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights and bias of the three parts."""
        return tuple(
            replace(const, name=const.name + suffix)
            for part, template, own, suffix in _templates(key, target)
            for const in template.consts(part, own)
        )

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Bytes of the ring and of one depthwise row."""
        return scratch_bytes(key)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The constants of each part as its own template packs them."""
        packed: dict[str, Array] = {}
        for part, template, own, suffix in _templates(key, target):
            given = {n: constants[n + suffix] for n in ("w", "b") if n + suffix in constants}
            found = template.pack(part, own, given)
            packed.update({name + suffix: value for name, value in found.items()})
        return packed

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.irb_code import emit

        isa = isa_of(target)
        assert isa is not None
        sizes = {const.name: const.elements for const in self.consts(key, target)}
        return emit(self.function(key, target), plans(key, target), isa, sizes)


IRB = InvertedResidual()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Float blocks."""
    if key.op != "irb" or isa_of(target) is None or key.dtype != "f32":
        return None
    return IRB

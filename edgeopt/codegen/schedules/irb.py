"""The template of inverted residual blocks in float: widened, filtered and narrowed row by row.

Its parts are tiled, packed and emitted as the templates of those kernels do, a row of the map at a
time. Sums are added in the same order as there, so that fusing changes no bit as long as tiles of
a row add their sums up alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeopt.codegen.schedules.depthwise import DEPTHWISE
from edgeopt.codegen.schedules.gemm import GEMM
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


class InvertedResidual(BaseTemplate):
    """A whole block, of whose widened map only a few rows exist at a time."""

    name = "irb"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights and bias of the three parts."""
        first, middle, last = row_parts(key)
        parts = (GEMM.consts(first, target), DEPTHWISE.consts(middle, target),
                 GEMM.consts(last, target))  # fmt: skip
        return tuple(
            replace(const, name=const.name + suffix)
            for consts, suffix in zip(parts, SUFFIXES, strict=True)
            for const in consts
        )

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Bytes of the ring and of one depthwise row."""
        return scratch_bytes(key)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The constants of each part as its own template packs them."""
        packed: dict[str, Array] = {}
        templates = (GEMM, DEPTHWISE, GEMM)
        for part, template, suffix in zip(row_parts(key), templates, SUFFIXES, strict=True):
            own = {n: constants[n + suffix] for n in ("w", "b") if n + suffix in constants}
            found = template.pack(part, target, own)
            packed.update({name + suffix: value for name, value in found.items()})
        return packed

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.irb_code import emit

        first, middle, last = row_parts(key)
        plans = GEMM.plan(first, target), DEPTHWISE.plan(middle, target), GEMM.plan(last, target)
        isa = isa_of(target)
        assert isa is not None
        sizes = {const.name: const.elements for const in self.consts(key, target)}
        return emit(self.function(key, target), plans, isa, sizes)


IRB = InvertedResidual()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Float blocks."""
    if key.op != "irb" or isa_of(target) is None or key.dtype != "f32":
        return None
    return IRB

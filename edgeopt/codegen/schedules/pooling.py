"""The template of maximum, average and global average pooling."""

from __future__ import annotations

from typing import Any

from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.codegen.schedules.template import BaseTemplate, Const, Template
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

OPS = ("maxpool", "avgpool", "global_avgpool")


class Pooling(BaseTemplate):
    """Windows over vectors of channels."""

    name = "pooling"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Requantization of an integer average."""
        if key.dtype == "f32" or key.op == "maxpool":
            return ()
        return Const("multiplier", "f32", 1), Const("qparams", "i32", 4)

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.pooling_code import emit

        isa = isa_of(target)
        assert isa is not None
        return emit(self.function(key, target), isa)


POOLING = Pooling()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Pooling keys; an integer average only where every window has the same size."""
    if key.op not in OPS or key.inputs != 1 or isa_of(target) is None or len(key.in_shape) != 3:
        return None
    if key.dtype != key.out_dtype or key.dtype not in ("f32", "i8"):
        return None
    if key.residual or key.activation != "none" or key.dilations != (1, 1):
        return None
    uneven = any(key.pads) and key.variant != "include"
    if key.op == "avgpool" and key.dtype == "i8" and uneven:
        return None
    return POOLING

"""The template of float softmax along one axis."""

from __future__ import annotations

from typing import Any

from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.codegen.schedules.template import BaseTemplate, Template
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec


class Softmax(BaseTemplate):
    """Largest value, exponentials, sum, quotient."""

    name = "softmax"

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.softmax_code import emit

        isa = isa_of(target)
        assert isa is not None
        return emit(self.function(key, target), isa)


SOFTMAX = Softmax()


def axis_of(key: OpKey) -> int | None:
    """The axis of a softmax key; None if its variant is not well formed."""
    if not key.variant:
        return len(key.in_shape) - 1
    text = key.variant.removeprefix("axis")
    if not text.isdigit() or int(text) >= len(key.in_shape):
        return None
    return int(text)


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Float softmax."""
    if key.op != "softmax" or (key.dtype, key.out_dtype) != ("f32", "f32"):
        return None
    if isa_of(target) is None or axis_of(key) is None or key.inputs != 1 or key.residual:
        return None
    return SOFTMAX

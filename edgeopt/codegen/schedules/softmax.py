"""The template of softmax along one axis, and of its logarithm."""

from __future__ import annotations

from typing import Any

from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.codegen.schedules.template import BaseTemplate, Const, Template, round_up
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec


class Softmax(BaseTemplate):
    """Largest value, exponentials, sum, quotient."""

    name = "softmax"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Exponentials of all distances, and the output's quantization."""
        if key.dtype == "f32":
            return ()
        return Const("table", "i32", 256), Const("scale", "f32", 1), Const("qparams", "i32", 1)

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """The exponentials of one row."""
        axis = axis_of(key)
        return round_up(4 * key.in_shape[axis], 64) if key.dtype == "i8" and axis is not None else 0

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.softmax_code import emit

        isa = isa_of(target)
        assert isa is not None
        return emit(self.function(key, target), isa)


SOFTMAX = Softmax()


def axis_of(key: OpKey) -> int | None:
    """The axis of a softmax key; None if its variant is not well formed."""
    text = key.variant.removesuffix("log").removesuffix(".")
    if not text:
        return len(key.in_shape) - 1
    number = text.removeprefix("axis")
    if not number.isdigit() or int(number) >= len(key.in_shape):
        return None
    return int(number)


def is_log(key: OpKey) -> bool:
    """Whether the logarithm is wanted."""
    return key.variant.endswith("log")


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Softmax of floats or of int8, the logarithm of floats alone."""
    types = (key.dtype, key.out_dtype)
    if key.op != "softmax" or types not in (("f32", "f32"), ("i8", "i8")):
        return None
    if isa_of(target) is None or axis_of(key) is None or key.inputs != 1 or key.residual:
        return None
    return None if is_log(key) and key.dtype == "i8" else SOFTMAX

"""The template of kernels that compute each output element from the ones at its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeopt.codegen.schedules import parts, table
from edgeopt.codegen.schedules.isa import isa_of, known_isa
from edgeopt.codegen.schedules.shared import Shared, of_sweep
from edgeopt.codegen.schedules.template import BaseTemplate, Const, Template, elements
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

BINARY = ("add", "mul", "scale")
#: Operators that int8 takes by way of float32, each step rounded.
PAIRS = ("sub", "div", "max", "min", "prelu")


class Elementwise(BaseTemplate):
    """add, mul, scale and the like, activation, quantize, dequantize."""

    name = "elementwise"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """A constant operand, and what an integer operation needs."""
        if key.op in ("quantize", "dequantize"):
            return Const("scale", "f32", 1), Const("qparams", "i32", 1)
        if key.op == "activation":
            return (Const("lut", "i8", 256),) if key.dtype == "i8" else ()
        found = []
        if key.inputs == 1:
            count = elements(key.in_shape) if key.variant == "full" else key.in_shape[-1]
            found.append(Const("c", "f32" if key.op in PAIRS else key.dtype, count))
        if key.dtype == "i8" and key.op in PAIRS:
            found += [Const(name, kind, key.inputs + 1)
                      for name, kind in (("scales", "f32"), ("qparams", "i32"))]  # fmt: skip
        elif key.dtype == "i8":
            factor = (
                Const("factors", "f32", 2) if key.op == "add" else Const("multiplier", "f32", 1)
            )
            found += [factor, Const("qparams", "i32", 5)]
        return tuple(found)

    def divide(self, key: OpKey, target: TargetSpec) -> parts.Division:
        """Pixels, or groups of neighbouring elements apart."""
        return parts.even(target.threads, -(-elements(key.in_shape) // 64), parts.pass_cycles(key))

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Constants as they are; a constant operand is broadcast to its declared shape."""
        given = dict(constants)
        if "lut" in given:
            isa = isa_of(target)
            assert isa is not None
            given["lut"] = table.pack(isa, given["lut"])
        if key.op in (*BINARY, *PAIRS) and key.inputs == 1:
            shape = key.in_shape if key.variant == "full" else key.in_shape[-1:]
            operand = np.asarray(given["c"])
            operand = operand.reshape(operand.shape[max(operand.ndim - len(shape), 0) :])
            given["c"] = np.broadcast_to(operand, shape)
        return super().pack(key, target, given)

    def shared(self, key: OpKey, target: TargetSpec) -> tuple[Shared, ...]:
        """The function that an int8 operator on two maps is."""
        parts = self.divide(key, target).parts if target.threads > 1 else 1
        return of_sweep(key, known_isa(target), parts)

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules.elementwise_code import emit

        isa = isa_of(target)
        assert isa is not None
        sizes = {const.name: const.elements for const in self.consts(key, target)}
        return emit(self.function(key, target), isa, sizes)


ELEMENTWISE = Elementwise()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Elementwise keys whose operands have the shapes the template knows."""
    if isa_of(target) is None:
        return None
    types = (key.dtype, key.out_dtype)
    known = False
    if key.op == "quantize":
        known = types == ("f32", "i8") and key.inputs == 1
    elif key.op == "dequantize":
        known = types == ("i8", "f32") and key.inputs == 1
    elif key.op == "activation":
        known = types in (("f32", "f32"), ("i8", "i8")) and key.inputs == 1
    elif key.op in (*BINARY, *PAIRS):
        known = types == ("f32", "f32") or (types == ("i8", "i8") and not key.residual)
        if key.op == "scale":
            known = known and key.inputs == 2
        elif key.inputs == 1:
            known = known and key.variant in ("channel", "full")
        else:
            known = known and key.inputs == 2 and key.variant in ("", "channel", "pixel")
        if key.op in PAIRS:
            known = known and not (key.dtype == "i8" and key.activation != "none")
    same = elements(key.in_shape) == elements(key.out_shape)
    return ELEMENTWISE if known and same else None

"""Pooling, sums, products and tables for cores with vectors (MVE)."""

from __future__ import annotations

import math

from edgeopt.codegen.ckernels import elementwise, pooling
from edgeopt.codegen.ckernels.elementwise import CActivation, CBinary, spread
from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.pooling import CAverage, CMaxPool
from edgeopt.codegen.ckernels.template import CTemplate, window
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec


class MveMaxPool(CMaxPool):
    """Maxima of windows."""

    name = "mve_maxpool"

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loops."""
        return ("base", "mve", "mve_maxpool")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        return f"{window(key)}\nedgeopt_mve_maxpool(&g, x0, y);"


class MveMean(CAverage):
    """Averages and sums of whole maps."""

    name = "mve_mean"

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loops."""
        return ("base", "mve", "mve_mean")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        pixels = math.prod(key.in_shape[:-1])
        return f"edgeopt_mve_mean({pixels}, {key.in_shape[-1]}, x0, p, y);"


class MveBinary(CBinary):
    """Sums and products of two maps, or of one and a constant."""

    name = "mve_binary"

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The arithmetic and the loops."""
        return ("base", "mve", "mve_add" if key.op == "add" else "mve_mul")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        kind = "add" if key.op == "add" else "mul"
        other = "x1" if key.inputs == 2 else "c"
        sizes = ", ".join(map(str, spread(key)))
        return f"edgeopt_mve_{kind}({sizes}, x0, {other}, p, y);"


class MveActivation(CActivation):
    """A table of 256 entries."""

    name = "mve_activation"

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loop."""
        return ("base", "mve", "mve_table")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        return f"edgeopt_mve_table({math.prod(key.in_shape)}, x0, lut, y);"


#: What plain templates are replaced by.
_FASTER: dict[str, CTemplate] = {
    template.name.replace("mve", "c"): template
    for template in (MveMaxPool(), MveBinary(), MveActivation())
}
_MEAN = MveMean()


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of a pooling or elementwise kernel on a core with vectors."""
    if not isa_of(target).mve:
        return None
    plain = pooling.rule(key, target) or elementwise.rule(key, target)
    if plain is None or (plain.name == "c_average" and key.op == "avgpool"):
        return None
    return _MEAN if plain.name == "c_average" else _FASTER.get(plain.name)

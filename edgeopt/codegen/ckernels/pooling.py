"""Pooling and reductions in C."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.template import HEADER, CTemplate, bits, requantization, window
from edgeopt.codegen.schedules.template import Const
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


class CMaxPool(CTemplate):
    """Maxima of windows."""

    name = "c_maxpool"

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """Pixels are finished in order."""
        return 1

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loops."""
        return ("base", "maxpool")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        return f"{window(key)}\nedgeopt_maxpool(&g, x0, y);"


class CAverage(CTemplate):
    """Averages of windows, of whole maps, and sums of whole maps."""

    name = "c_average"

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """Pixels are finished in order."""
        return 1

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Zero points and clamps, and a multiplier for each number of elements there may be."""
        return (Const("p", "i32", HEADER + _counts(key)),)

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Requantization and the loops."""
        part = "avgpool" if key.op == "avgpool" else "mean"
        return (*requantization(isa_of(target).fpu), part)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """One array of all."""
        factors = np.broadcast_to(np.asarray(constants["multiplier"]).reshape(-1), _counts(key))
        header = np.asarray(constants["qparams"], np.int32)
        return {"p": np.concatenate([header, bits(factors)])}

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        if key.op != "avgpool":
            return f"edgeopt_mean({math.prod(key.in_shape[:-1])}, {key.in_shape[-1]}, x0, p, y);"
        include = int(key.variant == "include")
        edges = f"{key.pads[2]}, {key.pads[3]}, {_counts(key)}, {include}"
        return f"{window(key)}\nedgeopt_avgpool(&g, {edges}, x0, p, y);"


def _counts(key: OpKey) -> int:
    """How many multipliers there are: one, or one for each size a window may have."""
    if key.op != "avgpool":
        return 1
    (kh, kw), (sh, sw) = key.kernel, key.strides
    top, left, bottom, right = key.pads
    hangs = (key.out_shape[0] - 1) * sh + kh - top > key.in_shape[0] + bottom
    hangs = hangs or (key.out_shape[1] - 1) * sw + kw - left > key.in_shape[1] + right
    return kh * kw if hangs or (any(key.pads) and key.variant != "include") else 1


class CExtreme(CTemplate):
    """The maximum or minimum of each channel of a map."""

    name = "c_extreme"

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loops."""
        return ("base", "extreme")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        sign = 1 if key.variant == "max" else -1
        pixels = math.prod(key.in_shape[:-1])
        return f"edgeopt_extreme({pixels}, {key.in_shape[-1]}, {sign}, x0, y);"


MAXPOOL, AVERAGE, EXTREME = CMaxPool(), CAverage(), CExtreme()


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of a pooling or reduction in int8."""
    if key.dtype != "i8" or key.residual or key.activation != "none":
        return None
    if key.op in ("global_avgpool", "avgpool"):
        return AVERAGE
    if key.op == "reduce":
        return AVERAGE if key.variant == "sum" else EXTREME
    return MAXPOOL if key.op == "maxpool" else None

"""Convolutions and linear layers by multiply-accumulates of pairs.

Everything becomes blocks of four pixels and two channels (``gemm_dsp.h``): a pointwise layer's
pixels as they lie, other convolutions' windows gathered one row of taps after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.template import (
    CTemplate,
    accumulating_pack,
    looked_up,
    params_const,
    requantization,
    window,
)
from edgeopt.codegen.schedules.template import Const, is_table, round_up
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: Pixels and channels of a block, and inputs that are read together.
PIXELS, CHANNELS, FOUR = 4, 2, 4


def interleaved(w: Array) -> Array:
    """Weights [outputs, inputs] as blocks read them: see ``gemm_dsp.h``."""
    outputs, inputs = w.shape
    padded = np.zeros((round_up(outputs, CHANNELS), round_up(inputs, FOUR)), np.int8)
    padded[:outputs, :inputs] = w
    # [channel pairs][fours] of [odd inputs or even][which of them][channel]
    split = padded.reshape(padded.shape[0] // 2, 2, -1, 2, 2)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 3, 1)).reshape(-1)


class Gemm(CTemplate):
    """What convolutions and linear layers of pairs have in common."""

    def length(self, key: OpKey) -> int:
        """Products of a sum."""
        return key.weight_count // key.out_shape[-1]

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """A block's inputs are widened before its outputs are written."""
        return PIXELS

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights, biases and multipliers, and the table of an activation."""
        outputs = round_up(key.out_shape[-1], CHANNELS)
        found = [
            Const("w", "i8", outputs * round_up(self.length(key), FOUR)),
            params_const(outputs),
        ]
        if is_table(key.activation):
            found.append(Const("lut", "i8", 256))
        return tuple(found)

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Inputs of a block, widened."""
        return 2 * PIXELS * round_up(self.length(key), FOUR)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights interleaved; what pads them is zero."""
        w = np.asarray(constants["w"], np.int8).reshape(key.out_shape[-1], -1)
        return accumulating_pack(self.consts(key, target), constants, interleaved(w))


class Pointwise(Gemm):
    """Pointwise convolutions."""

    name = "c_pointwise_dsp"

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Blocks."""
        return (*requantization(isa_of(target).fpu), "dsp", "gemm_dsp", "pointwise_dsp")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        pixels = math.prod(key.out_shape[:-1])
        sizes = f"{pixels}, {key.in_shape[-1]}, {key.out_shape[-1]}"
        call = f"edgeopt_pointwise({sizes}, x0, w, p, y, scratch);"
        return call + looked_up(key, math.prod(key.out_shape))


class Conv(Gemm):
    """Other convolutions of one group, windows gathered."""

    name = "c_conv2d_dsp"

    def _aligned(self, key: OpKey) -> bool:
        return key.in_shape[-1] % FOUR == 0

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Windows of a block, widened, and before that as bytes unless they are whole fours."""
        taps = round_up(self.length(key), FOUR)
        return 2 * PIXELS * taps + (0 if self._aligned(key) else PIXELS * taps)

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Blocks."""
        parts = ("conv_dsp_aligned",) if self._aligned(key) else ("gather_dsp", "conv_dsp")
        return (*requantization(isa_of(target).fpu), "dsp", "gemm_dsp", *parts)

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        call = "edgeopt_conv2d_aligned(&g, x0, w, p, y, scratch);"
        if not self._aligned(key):
            taps = round_up(self.length(key), FOUR)
            call = f"edgeopt_conv2d_gathered(&g, {taps}, x0, w, p, y, scratch);"
        return f"{window(key)}\n{call}" + looked_up(key, math.prod(key.out_shape))


POINTWISE, CONV = Pointwise(), Conv()


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of a convolution or linear layer in int8 on a core with ``dsp``."""
    if not isa_of(target).dsp or key.dtype != "i8" or key.out_dtype != "i8" or key.residual:
        return None
    if key.op in ("pointwise", "linear"):
        return POINTWISE
    if key.op == "conv2d" and key.groups == 1 and key.dilations[1] == 1:
        return CONV
    return None

"""Depthwise convolutions by multiply-accumulates of pairs, line after line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeopt.codegen.abi import SAME_PLACE
from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.template import (
    CTemplate,
    accumulating_consts,
    accumulating_pack,
    looked_up,
    requantization,
)
from edgeopt.codegen.cstorage import ACTIVATION_ALIGNMENT_BYTES
from edgeopt.codegen.schedules.template import Const, round_up
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: Weights are read in words, past the last one.
_SLACK_BYTES = 3


def by_columns(key: OpKey) -> bool:
    """Whether lines are columns: fewer are longer, which costs less."""
    return key.out_shape[0] > key.out_shape[1]


@dataclass(frozen=True, slots=True)
class _Routine:
    """What makes the lines.

    Attributes:
        name: of the C function.
        sections: of the library.
        wide_words: of widened weights of a channel.
        outputs: it makes at a time, the last ones in vain.
    """

    name: str
    sections: tuple[str, ...]
    wide_words: int
    outputs: int = 1


def _routine(key: OpKey) -> _Routine:
    axis = 0 if by_columns(key) else 1
    lines, length, stride = key.kernel[1 - axis], key.kernel[axis], key.strides[axis]
    line_words = (length // 2 + 1) * 2
    sections: tuple[str, ...] = ("depthwise_dsp", "depthwise_any")
    if lines == length == 3 and stride in (1, 2):
        sections = (*sections, "depthwise_nine")
        return _Routine("edgeopt_depthwise_nine", sections, lines * line_words)
    if lines == length in (5, 7) and stride in (1, 2):
        part = f"depthwise_{length}_{stride}"
        sections = (*sections, "depthwise_square", part)
        return _Routine(f"edgeopt_{part}", sections, (2 * lines - 1) * line_words, 4)
    return _Routine("edgeopt_depthwise", sections, lines * line_words)


def _positions(key: OpKey, outputs: int) -> int:
    """Of the ring: a line with its padding for so many outputs, and one more that is read."""
    axis = 0 if by_columns(key) else 1
    return ((outputs - 1) * key.strides[axis] + key.kernel[axis]) // 2 + 2


def pairs(key: OpKey) -> int:
    """Positions of the ring that are filled."""
    return _positions(key, key.out_shape[0 if by_columns(key) else 1])


class Depthwise(CTemplate):
    """Any depthwise convolution without dilation."""

    name = "c_depthwise_dsp"

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """Four channels of all lines come before the next four.

        So an output may lie only where its own channel's inputs lay: in place, or anywhere below
        if pixels are as wide as buffers are aligned; then rows are finished in order.
        """
        if key.in_shape == key.out_shape:
            return SAME_PLACE
        meets_itself = ACTIVATION_ALIGNMENT_BYTES % key.out_shape[-1] == 0
        return key.out_shape[1] if meets_itself and not by_columns(key) else 0

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights, biases and multipliers, and the table of an activation."""
        return accumulating_consts(key, Const("w", "i8", key.weight_count + _SLACK_BYTES))

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Lines."""
        return (*requantization(isa_of(target).fpu), "dsp", *_routine(key).sections)

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Widened weights and the ring, of four channels."""
        axis = 0 if by_columns(key) else 1
        routine = _routine(key)
        outputs = round_up(key.out_shape[axis], routine.outputs)
        return 16 * (routine.wide_words + key.kernel[1 - axis] * _positions(key, outputs))

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights [channel][line][along it]."""
        w = np.asarray(constants["w"], np.int8).reshape(-1, *key.kernel)
        w = w.transpose(0, 2, 1) if by_columns(key) else w
        return accumulating_pack(self.consts(key, target), constants, np.ascontiguousarray(w))

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        (ih, iw, channels), (oh, ow, _) = key.in_shape, key.out_shape
        rows = (ih, iw, iw * channels, channels, oh, ow, ow * channels, channels)
        order = (0, 1, 2, 3, 4, 5, 6, 7)
        kernel, strides, pads = key.kernel, key.strides, key.pads[:2]
        if by_columns(key):
            order = (1, 0, 3, 2, 5, 4, 7, 6)
            kernel, strides, pads = kernel[::-1], strides[::-1], pads[::-1]
        values = (channels, *(rows[i] for i in order), *kernel, *strides, *pads)
        text = ", ".join(map(str, values))
        return (
            f"static const edgeopt_lines g = {{{text}}};\n"
            f"{_routine(key).name}(&g, {pairs(key)}, x0, w, p, y, scratch);"
            + looked_up(key, math.prod(key.out_shape))
        )


DEPTHWISE = Depthwise()


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of a depthwise convolution in int8 on a core with ``dsp``."""
    if key.op != "depthwise" or not isa_of(target).dsp or key.residual:
        return None
    if key.dtype != "i8" or key.out_dtype != "i8" or key.dilations != (1, 1):
        return None
    return DEPTHWISE if key.groups == key.out_shape[-1] else None

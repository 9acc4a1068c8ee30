"""Kernels whose biases and multipliers lie in flash as one word a channel.

A function that kernels share brings the words to scratch, biases first and then multipliers, and
the kernel goes on with those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.codegen.schedules.depthwise import Depthwise
from edgeopt.codegen.schedules.gemm import Gemm
from edgeopt.codegen.schedules.shared import WIDEN_AT_ONCE, Shared, Widen
from edgeopt.codegen.schedules.template import BaseTemplate, Const, Template, round_up
from edgeopt.codegen.schedules.winograd_i8 import WinogradI8
from edgeopt.core import narrow
from edgeopt.core.kernels import WITH_WEIGHTS, OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: Scratch is given out in multiples of this.
_ALIGNMENT_BYTES = 64

if TYPE_CHECKING:
    _Base = BaseTemplate
else:
    _Base = object


class _Narrow(_Base):
    """Goes before a template; what is computed is the same."""

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Those of the template, words for biases and multipliers."""
        found = []
        for const in super().consts(key, target):
            if const.name == "bias":
                found.append(Const("words", "i32", round_up(const.elements, WIDEN_AT_ONCE)))
            elif const.name != "multiplier":
                found.append(const)
        return tuple(found)

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Those of the template, and behind them biases and multipliers."""
        (words,) = (c for c in self.consts(key, target) if c.name == "words")
        own = round_up(super().scratch_bytes(key, target), _ALIGNMENT_BYTES)
        return own + 2 * words.size_bytes

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Constants as the template has them, biases and multipliers as words.

        Raises:
            ValueError: a weight does not fit the key's bits, or a channel has no word.
        """
        packed = super().pack(key, target, constants)
        words = narrow.words(packed.pop("bias"), packed.pop("multiplier"))
        spare = -len(words) % WIDEN_AT_ONCE
        return {**packed, "words": np.pad(words, (0, spare))}

    def shared(self, key: OpKey, target: TargetSpec) -> tuple[Shared, ...]:
        """Those of the template, and the one that widens."""
        return (*super().shared(key, target), Widen())


class _NarrowGemm(_Narrow, Gemm):
    pass


class _NarrowDepthwise(_Narrow, Depthwise):
    pass


class _NarrowWinograd(_Narrow, WinogradI8):
    pass


_NARROW: Mapping[type[Any], type[Any]] = {
    Gemm: _NarrowGemm, Depthwise: _NarrowDepthwise, WinogradI8: _NarrowWinograd
}  # fmt: skip


def narrowed(template: Template, key: OpKey, target: TargetSpec) -> Template:
    """The template that a target wants: with short constants, if it is short of flash."""
    applies = target.narrow and target.arch == "x86_64"
    if not (applies and key.op in WITH_WEIGHTS and key.precision == "i8"):
        return template
    found: Template = _NARROW[type(template)](template.choice)
    return found

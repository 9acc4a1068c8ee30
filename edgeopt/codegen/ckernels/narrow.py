"""Kernels whose biases and multipliers lie in flash as one word a channel.

The words are brought to what the kernel reads once a call, in scratch: some instructions a channel,
next to hundreds for every pixel of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeopt.codegen.ckernels.template import HEADER, SCRATCH_ALIGNMENT_BYTES, CTemplate
from edgeopt.codegen.schedules.template import Const, round_up
from edgeopt.core import narrow
from edgeopt.core.kernels import WITH_WEIGHTS, OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


class Narrow(CTemplate):
    """Another template with short constants; what is computed is the same."""

    def __init__(self, wide: CTemplate) -> None:
        """The template ``wide`` with words for constants."""
        super().__init__(wide.choice)
        self.wide = wide
        self.name = wide.name

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Those of the wide template, ``words`` for its ``p``."""
        words = Const("words", "i32", HEADER + self._channels(key, target))
        return tuple(words if c.name == "p" else c for c in self.wide.consts(key, target))

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Those of the wide template, and the function that widens."""
        own = "narrow" if self.wide.channel_block == 1 else "mve_narrow"
        return (*self.wide.sections(key, target), own)

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """As the wide template."""
        return self.wide.ordered_pixels(key, target)

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """That of the wide template, and behind it the constants it reads."""
        return self._offset(key, target) + 4 * (HEADER + 2 * self._channels(key, target))

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Constants as the wide template has them, biases and multipliers as words.

        Raises:
            ValueError: a channel has no word (see `core.narrow`).
        """
        packed = self.wide.pack(key, target, constants)
        params = packed.pop("p")
        blocks = params[HEADER:].reshape(-1, 2, self.wide.channel_block)
        multiplier = np.ascontiguousarray(blocks[:, 1]).reshape(-1).view(np.float32)
        words = narrow.words(blocks[:, 0].reshape(-1), multiplier)
        return {**packed, "words": np.concatenate([params[:HEADER], words])}

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """The wide template's, on constants in scratch."""
        channels, offset = self._channels(key, target), self._offset(key, target)
        name = "edgeopt_widened" if self.wide.channel_block == 1 else "edgeopt_mve_widened"
        call = f"{name}(words, {channels}, "
        place = f"(void *)((uint8_t *)scratch + {offset}))" if offset else "scratch)"
        return f"const int32_t *const p = {call}{place};\n{self.wide.body(key, target)}"

    def _channels(self, key: OpKey, target: TargetSpec) -> int:
        (params,) = (c for c in self.wide.consts(key, target) if c.name == "p")
        return (params.elements - HEADER) // 2

    def _offset(self, key: OpKey, target: TargetSpec) -> int:
        return round_up(self.wide.scratch_bytes(key, target), SCRATCH_ALIGNMENT_BYTES)


def narrowed(template: CTemplate, key: OpKey, target: TargetSpec) -> CTemplate:
    """The template that a target wants: with short constants, if it is short of flash."""
    applies = target.narrow and key.op in WITH_WEIGHTS and key.precision == "i8"
    return Narrow(template) if applies else template

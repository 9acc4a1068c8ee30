"""Convolutions and linear layers in plain C: for cores without multiply-accumulate of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.template import (
    CTemplate,
    accumulating_consts,
    accumulating_pack,
    looked_up,
    requantization,
    shared_window,
    window,
)
from edgeopt.codegen.schedules.template import Const
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


class _Accumulating(CTemplate):
    parts: tuple[str, ...] = ()
    pixels = 1  # finished at a time

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """Pixels are finished in order."""
        return self.pixels

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights, biases and multipliers, and the table of an activation."""
        return accumulating_consts(key, Const("w", "i8", key.weight_count))

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Requantization and the loops."""
        return (*requantization(isa_of(target).fpu), *self.parts)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights as the loops read them."""
        weights = self.layout(np.asarray(constants["w"], np.int8))
        return accumulating_pack(self.consts(key, target), constants, weights)

    def layout(self, w: Array) -> Array:
        """As they are in the model."""
        return w


class PlainConv(_Accumulating):
    """Any convolution, one product at a time."""

    name = "c_groups"
    parts = ("plain_conv",)

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        call = f"{window(key)}\nedgeopt_plain_conv(&g, x0, w, p, y);"
        return call + looked_up(key, math.prod(key.out_shape))


class PlainPointwise(_Accumulating):
    """Pointwise convolutions and linear layers."""

    name = "c_pointwise"
    parts = ("plain_rows", "plain_pointwise")
    pixels = 2

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        pixels = math.prod(key.out_shape[:-1])
        sizes = f"{pixels}, {key.in_shape[-1]}, {key.out_shape[-1]}"
        call = f"edgeopt_plain_pointwise({sizes}, x0, w, p, y);"
        return call + looked_up(key, math.prod(key.out_shape))


class PlainPatches(_Accumulating):
    """Convolutions of one group: what lies under two windows is copied into rows."""

    name = "c_conv2d"
    parts = ("plain_rows", "plain_patches")
    pixels = 2

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Two rows."""
        return 2 * math.prod(key.kernel) * key.in_shape[-1]

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        call = f"{window(key)}\nedgeopt_plain_patches(&g, x0, w, p, y, scratch);"
        return call + looked_up(key, math.prod(key.out_shape))


class PlainDepthwise(_Accumulating):
    """Depthwise convolutions."""

    name = "c_depthwise"
    parts = ("plain_depthwise",)

    @staticmethod
    def _size(key: OpKey, target: TargetSpec) -> int | None:
        """Of a window that kernels share a copy for; None if this one's is inlined.

        With eight registers large windows are faster so: 0.88 to 1.00 of the instructions.
        """
        shared = shared_window(key, replace(target, compact=True))
        large = shared is not None and shared[0] > 3 and target.arch == "armv6m"
        return shared[0] if shared is not None and (target.compact or large) else None

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The same, and a copy for all windows of a size."""
        size = self._size(key, target)
        own = (f"plain_depthwise_{size}",) if size else ()
        return (*super().sections(key, target), *own)

    def layout(self, w: Array) -> Array:
        """[height][width][channels]."""
        return np.ascontiguousarray(w.reshape(w.shape[0], -1).T)

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        size = self._size(key, target)
        name = f"edgeopt_plain_depthwise_{size}" if size else "edgeopt_plain_depthwise"
        call = f"{window(key)}\n{name}(&g, x0, w, p, y);"
        return call + looked_up(key, math.prod(key.out_shape))


CONV, POINTWISE = PlainConv(), PlainPointwise()
PATCHES, DEPTHWISE = PlainPatches(), PlainDepthwise()


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of a convolution or linear layer in int8."""
    if key.dtype != "i8" or key.out_dtype != "i8" or key.residual:
        return None
    if key.op in ("pointwise", "linear"):
        return POINTWISE
    if key.op == "depthwise" and key.groups == key.out_shape[-1]:
        return DEPTHWISE
    if key.op == "conv2d" and key.groups == 1:
        return PATCHES
    return CONV if key.op in ("conv2d", "depthwise") else None

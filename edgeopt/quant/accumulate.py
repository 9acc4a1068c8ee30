"""Exact integer convolutions and matrix products in torch.

Integers are held in float32, which the fast convolutions take. A sum of products is exact there
in any order while no partial sum can reach 2^24; `Accumulator` knows the bound of its weights
and takes float64 where it is exceeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.core import affine
from edgeopt.core.errors import InputError
from edgeopt.core.network import Op, Quant

if TYPE_CHECKING:
    from torch import Tensor

_EXACT_F32 = 2**24


def convolve(x: Tensor, w: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    """NHWC convolution; ``w`` [O,I/groups,kh,kw], zero padding (top, left, bottom, right)."""
    import torch.nn.functional as F

    top, left, bottom, right = attrs["pads"]
    image = x.permute(0, 3, 1, 2)
    padding = (top, left)
    if (top, left) != (bottom, right):
        image, padding = F.pad(image, (left, right, top, bottom)), (0, 0)
    y = F.conv2d(image, w, None, attrs["strides"], padding, attrs["dilations"], attrs["groups"])
    return y.permute(0, 2, 3, 1)


class Accumulator:
    """A convolution or linear layer on integers, requantized as `core.affine` says."""

    def __init__(self, op: Op, quant_x: Quant, quant_y: Quant) -> None:
        import torch

        w = op.constants["w"].astype(np.int64)
        bias = op.constants.get("b", np.zeros(len(w))).astype(np.int64)
        largest = max(affine.I8_MAX - quant_x.zero_point, quant_x.zero_point - affine.I8_MIN)
        bound = np.abs(w).reshape(len(w), -1).sum(axis=1) * largest + np.abs(bias)
        if bound.max(initial=0) >= 2**31:
            raise InputError(
                "an int32 accumulator could overflow",
                where=f"op {op.name!r}",
                hint="quantize the network again: its bias is far larger than its weights",
            )
        self.exact_f32 = bool(bound.max(initial=0) < _EXACT_F32)
        self.dtype = torch.float32 if self.exact_f32 else torch.float64
        self.attrs = op.attrs
        self.is_conv = op.kind == "conv2d"
        weights = torch.from_numpy(w.astype(np.float64)).to(self.dtype)
        self.w = weights.permute(0, 3, 1, 2) if self.is_conv else weights.t()
        if self.is_conv:
            self.w = self.w.contiguous(memory_format=torch.channels_last)
        self.b = torch.from_numpy(bias.astype(np.float64)).to(self.dtype)
        scale_w = np.broadcast_to(op.constants["w_scale"].astype(np.float32), (len(w),))
        factor = affine.multiplier(quant_x.scale, scale_w, quant_y.scale)
        self.factor = torch.from_numpy(factor)
        self.zero_x = quant_x.zero_point
        self.zero_y = quant_y.zero_point

    def __call__(self, x: Tensor) -> Tensor:
        """Stored integers to stored integers, both float32."""
        # With x - zero_x, zero padding stands for zero_x and no bias needs folding.
        centred = (x - self.zero_x).to(self.dtype)
        total = convolve(centred, self.w, self.attrs) if self.is_conv else centred @ self.w
        acc = total.add_(self.b).float()  # rounds half to even, as int32 to float32 does
        return requantize_(acc.mul_(self.factor), self.zero_y)


def requantize_(scaled: Tensor, zero: int) -> Tensor:
    """clamp(rint(scaled) + zero), in place."""
    return scaled.round_().add_(zero).clamp_(affine.I8_MIN, affine.I8_MAX)

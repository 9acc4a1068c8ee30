"""Elastic layers: one weight tensor, many sizes.

Smaller layers are the leading slices of larger ones; smaller kernels are the centres of larger
ones, passed through a learned matrix shared by all channels. Attribute names follow the
once-for-all authors' code, so that their checkpoints load by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeopt.core.space import make_divisible
from edgeopt.ofa.native import activate, depthwise, norm_act

BN_EPSILON = 1e-5

#: What a layer computes with instead of its active weight, e.g. the weight rounded to some bits.
WeightTransform = Callable[[Tensor], Tensor]


def set_transform(layer: nn.Module, transform: WeightTransform | None) -> None:
    """Let a convolution or linear layer of a supernet compute with ``transform(weight)``."""
    # not an attribute of the module: a transform may be one, and would join its parameters
    layer.__dict__["weight_transform"] = transform


def transformed(layer: nn.Module, weight: Tensor) -> Tensor:
    """The active weight as the layer's transform, if any, wants it."""
    transform: WeightTransform | None = layer.__dict__.get("weight_transform")
    return weight if transform is None else transform(weight)


class ElasticConv(nn.Module):
    """A 1x1 convolution of any leading number of input and output channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def weight(self, in_channels: int, out_channels: int) -> Tensor:
        """The active weight [out_channels, in_channels, 1, 1]."""
        return self.conv.weight[:out_channels, :in_channels]

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        """[N,I,H,W] -> [N,out_channels,H,W]."""
        weight = transformed(self.conv, self.weight(x.shape[1], out_channels))
        return F.conv2d(x, weight)


class ElasticDepthwise(nn.Module):
    """A depthwise convolution whose kernel shrinks 7 -> 5 -> 3 through learned matrices.

    k_small = centre(k_large) flattened, times the matrix transposed; one matrix a step.
    """

    def __init__(self, channels: int, kernels: tuple[int, ...], stride: int) -> None:
        super().__init__()
        self.sizes = tuple(sorted(kernels, reverse=True))
        self.stride = stride
        largest = self.sizes[0]
        self.conv = nn.Conv2d(
            channels, channels, largest, stride, largest // 2, groups=channels, bias=False
        )
        for large, small in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            self.register_parameter(f"{large}to{small}_matrix", nn.Parameter(torch.eye(small**2)))

    def weight(self, channels: int, kernel: int) -> Tensor:
        """The active weight [channels, 1, kernel, kernel]."""
        weight: Tensor = self.conv.weight[:channels]
        for large, small in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            if large <= kernel:
                break
            edge = (large - small) // 2
            centre = weight[:, :, edge : edge + small, edge : edge + small]
            matrix = self.get_parameter(f"{large}to{small}_matrix")
            flat = F.linear(centre.reshape(channels, small * small), matrix)
            weight = flat.view(channels, 1, small, small)
        return weight

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        """[N,C,H,W] -> [N,C,ceil(H/stride),ceil(W/stride)]."""
        weight = transformed(self.conv, self.weight(x.shape[1], kernel))
        return depthwise(x, weight, self.stride)


class ElasticBatchNorm(nn.Module):
    """Batch normalization of any leading number of channels.

    Training uses the batch's own statistics and leaves the running ones alone: they differ from
    subnet to subnet, so they are measured afterwards (`edgeopt.ofa.bn.recalibrate_bn`).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=BN_EPSILON)

    def forward(self, x: Tensor, activation: str = "") -> Tensor:
        """Normalize and activate; same shape in and out."""
        count = x.shape[1]
        bn = self.bn
        if self.training:
            return norm_act(x, bn.weight[:count], bn.bias[:count], bn.eps, activation)
        assert bn.running_mean is not None and bn.running_var is not None
        y = F.batch_norm(
            x, bn.running_mean[:count], bn.running_var[:count], bn.weight[:count],
            bn.bias[:count], False, 0.0, bn.eps,
        )  # fmt: skip
        return activate(y, activation)


class StaticBatchNorm(nn.BatchNorm2d):
    """A fixed-width layer of the supernet, with the training rule of `ElasticBatchNorm`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=BN_EPSILON)

    def forward(self, x: Tensor, activation: str = "") -> Tensor:
        """Normalize and activate; same shape in and out."""
        if self.training:
            return norm_act(x, self.weight, self.bias, self.eps, activation)
        return activate(super().forward(x), activation)


class ElasticSE(nn.Module):
    """Squeeze-and-excite over any leading number of channels; a quarter of them in the middle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        mid = make_divisible(channels // 4)
        self.fc = _Excite(channels, mid)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        channels = x.shape[1]
        mid = make_divisible(channels // 4)
        y = x.mean((2, 3), keepdim=True)
        reduce, expand = self.fc.reduce, self.fc.expand
        assert reduce.bias is not None and expand.bias is not None
        down = transformed(reduce, reduce.weight[:mid, :channels])
        up = transformed(expand, expand.weight[:channels, :mid])
        y = F.conv2d(y, down, reduce.bias[:mid])
        y = F.relu(y, inplace=True)
        y = F.conv2d(y, up, expand.bias[:channels])
        return x * F.hardsigmoid(y)


class _Excite(nn.Module):
    def __init__(self, channels: int, mid: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, mid, 1)
        self.expand = nn.Conv2d(mid, channels, 1)


def kaiming_fan_out(module: nn.Module) -> None:
    """Initialise convolutions as the once-for-all authors do (normal, fan out)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels
            nn.init.normal_(part.weight, 0.0, math.sqrt(2.0 / (fan_out // part.groups)))
            if part.bias is not None:
                nn.init.zeros_(part.bias)

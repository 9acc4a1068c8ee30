"""The once-for-all MobileNetV3 supernet: every subnet of a space in one set of weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeopt.core.space import Block, SearchSpace, SubnetConfig
from edgeopt.ofa.layers import (
    ElasticBatchNorm,
    ElasticConv,
    ElasticDepthwise,
    ElasticSE,
    StaticBatchNorm,
    kaiming_fan_out,
    transformed,
)
from edgeopt.ofa.native import activate


class ConvBN(nn.Module):
    """A fixed convolution and its normalization (none where ``bn`` is false)."""

    def __init__(
        self, i: int, o: int, kernel: int, stride: int = 1, groups: int = 1, *, bn: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
        if bn:
            self.bn = StaticBatchNorm(o)

    def forward(self, x: Tensor, activation: str = "") -> Tensor:
        """Convolve, normalize if there is a normalization, activate."""
        conv = self.conv
        weight = transformed(conv, conv.weight)
        y = F.conv2d(x, weight, None, conv.stride, conv.padding, 1, conv.groups)
        if not hasattr(self, "bn"):
            return activate(y, activation)
        normalized: Tensor = self.bn(y, activation)
        return normalized


class ElasticPoint(nn.Module):
    """A 1x1 convolution and its normalization, of any size up to the largest."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv = ElasticConv(i, o)
        self.bn = ElasticBatchNorm(o)

    def forward(self, x: Tensor, out_channels: int, activation: str = "") -> Tensor:
        """[N,I,H,W] -> [N,out_channels,H,W]."""
        y: Tensor = self.bn(self.conv(x, out_channels), activation)
        return y


class ElasticDepth(nn.Module):
    """A depthwise convolution, its normalization, activation and perhaps an SE."""

    def __init__(self, channels: int, kernels: tuple[int, ...], stride: int, *, se: bool) -> None:
        super().__init__()
        self.conv = ElasticDepthwise(channels, kernels, stride)
        self.bn = ElasticBatchNorm(channels)
        if se:
            self.se = ElasticSE(channels)

    def forward(self, x: Tensor, kernel: int, activation: str) -> Tensor:
        """[N,C,H,W] -> [N,C,H/stride,W/stride]."""
        y: Tensor = self.bn(self.conv(x, kernel), activation)
        if hasattr(self, "se"):
            scaled: Tensor = self.se(y)
            return scaled
        return y


class StaticConvs(nn.Module):
    """The first block's convolutions: no expansion, nothing elastic."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        i, o = block.in_channels, block.out_channels
        self.depth_conv = ConvBN(i, i, block.kernel, block.stride, i)
        self.point_linear = ConvBN(i, o, 1)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        """[N,I,H,W] -> [N,O,H/stride,W/stride]."""
        y: Tensor = self.point_linear(self.depth_conv(x, block.activation))
        return y


class ElasticConvs(nn.Module):
    """An elastic block's convolutions."""

    def __init__(self, block: Block, kernels: tuple[int, ...]) -> None:
        super().__init__()
        i, mid, o = block.in_channels, block.mid_channels, block.out_channels
        self.inverted_bottleneck = ElasticPoint(i, mid)
        self.depth_conv = ElasticDepth(mid, kernels, block.stride, se=block.se_channels > 0)
        self.point_linear = ElasticPoint(mid, o)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        """[N,I,H,W] -> [N,O,H/stride,W/stride]."""
        y = self.inverted_bottleneck(x, block.mid_channels, block.activation)
        y = self.depth_conv(y, block.kernel, block.activation)
        projected: Tensor = self.point_linear(y, block.out_channels)
        return projected


class SuperBlock(nn.Module):
    """An inverted residual block that runs at the sizes it is given."""

    def __init__(self, largest: Block, kernels: tuple[int, ...]) -> None:
        super().__init__()
        static = largest.expand is None
        self.conv = StaticConvs(largest) if static else ElasticConvs(largest, kernels)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        """[N,block.in_channels,H,W] -> [N,block.out_channels,H/stride,W/stride]."""
        y: Tensor = self.conv(x, block)
        return x + y if block.residual else y


class _Classifier(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.linear = nn.Linear(i, o)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, transformed(self.linear, self.linear.weight), self.linear.bias)


class Supernet(nn.Module):
    """All subnets of ``space``; `forward` runs the one it is given (the largest by default).

    The state dict has the names and shapes of the authors' ``OFAMobileNetV3``.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        largest = space.layout(space.max_config())
        self.largest = space.max_config()
        self.first_conv = ConvBN(space.in_channels, largest.stem_channels, 3, largest.stem_stride)
        self.blocks = nn.ModuleList(SuperBlock(b, space.kernels) for b in largest.blocks)
        self.final_expand_layer = ConvBN(largest.blocks[-1].out_channels, space.expand_width, 1)
        self.feature_mix_layer = ConvBN(space.expand_width, space.mix_width, 1, bn=False)
        self.classifier = _Classifier(space.mix_width, space.classes)
        kaiming_fan_out(self)

    def forward(self, x: Tensor, config: SubnetConfig | None = None) -> Tensor:
        """Normalized images [N,C,H,W] to logits [N,classes], through the subnet ``config``."""
        layout = self.space.layout(self.largest if config is None else config)
        x = self.first_conv(x, layout.stem_activation)
        for block in layout.blocks:
            x = self.blocks[block.index](x, block)
        x = self.final_expand_layer(x, "hardswish")
        x = x.mean((2, 3), keepdim=True)
        x = self.feature_mix_layer(x, "hardswish")
        y: Tensor = self.classifier(x.flatten(1))
        return y

    @torch.no_grad()
    def zero_residual_scales(self) -> None:
        """Start every residual branch at zero, which trains deep nets faster."""
        parameters = dict(self.named_parameters())
        for block in self.space.layout(self.largest).blocks:
            if block.residual and block.expand is not None:
                parameters[f"blocks.{block.index}.conv.point_linear.bn.bn.weight"].zero_()

    @torch.no_grad()
    def zero_outer_taps(self) -> None:
        """Clear the kernels outside their smallest size.

        The largest kernels then compute what the smallest ones do, so that training may begin
        with small kernels, which are much cheaper, and grow them.
        """
        small, large = min(self.space.kernels), max(self.space.kernels)
        edge = (large - small) // 2
        for name, weight in self.named_parameters():
            if name.endswith("depth_conv.conv.conv.weight"):
                inner = weight[:, :, edge : edge + small, edge : edge + small].clone()
                weight.zero_()
                weight[:, :, edge : edge + small, edge : edge + small] = inner

    def weight_layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """Layers that hold weights, by the operator name that `describe` gives them."""
        found: dict[str, nn.Conv2d | nn.Linear] = {"stem.conv": self.first_conv.conv}
        for block in self.space.layout(self.largest).blocks:
            name, convs = f"block{block.index}", self.blocks[block.index].conv
            if isinstance(convs, StaticConvs):
                found[f"{name}.depth.conv"] = convs.depth_conv.conv
                found[f"{name}.project.conv"] = convs.point_linear.conv
                continue
            assert isinstance(convs, ElasticConvs)
            found[f"{name}.expand.conv"] = convs.inverted_bottleneck.conv.conv
            found[f"{name}.depth.conv"] = convs.depth_conv.conv.conv
            if block.se_channels:
                fc = convs.depth_conv.se.fc
                found[f"{name}.se.reduce.conv"] = fc.reduce
                found[f"{name}.se.expand.conv"] = fc.expand
            found[f"{name}.project.conv"] = convs.point_linear.conv.conv
        found["head.expand.conv"] = self.final_expand_layer.conv
        found["head.mix.conv"] = self.feature_mix_layer.conv
        found["head.classifier"] = self.classifier.linear
        return found

"""From the supernet to a static network of standard torch modules."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from edgeopt.core.space import Block, Layout, SearchSpace, SubnetConfig
from edgeopt.ofa.layers import BN_EPSILON
from edgeopt.ofa.supernet import ElasticConvs, Supernet


def _activation(name: str) -> nn.Module:
    return nn.ReLU(inplace=True) if name == "relu" else nn.Hardswish(inplace=True)


def _conv(
    i: int, o: int, kernel: int, stride: int = 1, groups: int = 1, *,
    bn: bool = True, activation: str = "", se: int = 0,
) -> nn.Sequential:  # fmt: skip
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    if bn:
        parts["bn"] = nn.BatchNorm2d(o, eps=BN_EPSILON)
    if activation:
        parts["act"] = _activation(activation)
    if se:
        parts["se"] = SqueezeExcite(o, se)
    return nn.Sequential(parts)


class SqueezeExcite(nn.Module):
    """Scale every channel by a number computed from all channels' means."""

    def __init__(self, channels: int, mid: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            OrderedDict(
                reduce=nn.Conv2d(channels, mid, 1),
                relu=nn.ReLU(inplace=True),
                expand=nn.Conv2d(mid, channels, 1),
                hsigmoid=nn.Hardsigmoid(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        y: Tensor = x * self.fc(x.mean((2, 3), keepdim=True))
        return y


class StaticBlock(nn.Module):
    """An inverted residual block of fixed sizes."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        i, mid, o = block.in_channels, block.mid_channels, block.out_channels
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if block.expand is not None:
            parts["inverted_bottleneck"] = _conv(i, mid, 1, activation=block.activation)
        parts["depth_conv"] = _conv(
            mid, mid, block.kernel, block.stride, mid,
            activation=block.activation, se=block.se_channels,
        )  # fmt: skip
        parts["point_linear"] = _conv(mid, o, 1)
        self.conv = nn.Sequential(parts)
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        """[N,I,H,W] -> [N,O,H/stride,W/stride]."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class StaticNet(nn.Module):
    """A subnet on its own; parameters are named as in the authors' extracted networks."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.first_conv = _conv(
            layout.in_channels, layout.stem_channels, 3, layout.stem_stride,
            activation=layout.stem_activation,
        )  # fmt: skip
        self.blocks = nn.Sequential(*(StaticBlock(block) for block in layout.blocks))
        self.final_expand_layer = _conv(
            layout.blocks[-1].out_channels, layout.expand_channels, 1, activation="hardswish"
        )
        self.feature_mix_layer = _conv(
            layout.expand_channels, layout.mix_channels, 1, bn=False, activation="hardswish"
        )
        self.classifier = nn.Sequential(
            OrderedDict(linear=nn.Linear(layout.mix_channels, layout.classes))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images [N,C,H,W] to logits [N,classes]."""
        x = self.final_expand_layer(self.blocks(self.first_conv(x)))
        x = self.feature_mix_layer(x.mean((2, 3), keepdim=True))
        y: Tensor = self.classifier(x.flatten(1))
        return y


def build(space: SearchSpace, config: SubnetConfig) -> StaticNet:
    """The subnet with fresh weights, in eval mode."""
    return StaticNet(space.layout(space.validate(config))).eval()


def _unfilled(space: SearchSpace, config: SubnetConfig) -> StaticNet:
    """The subnet without values: drawing random ones takes longer than all the rest."""
    with torch.device("meta"):
        static = build(space, config)
    return static.to_empty(device="cpu")


@torch.no_grad()
def extract(supernet: Supernet, config: SubnetConfig) -> StaticNet:
    """Copy the active slices of ``config`` into a static network, in eval mode.

    In eval mode it computes exactly what ``supernet(x, config)`` computes.

    Raises:
        InputError: ``config`` does not belong to the supernet's space.
    """
    static = _unfilled(supernet.space, config)
    source = supernet.state_dict()
    for name, target in static.state_dict().items():
        target.copy_(_active(supernet, source, static.layout, name, target))
    return static


def _active(
    supernet: Supernet, source: dict[str, Tensor], layout: Layout, name: str, target: Tensor
) -> Tensor:
    key = supernet_key(name, layout)
    parts = name.split(".")
    if parts[0] == "blocks" and name.endswith("depth_conv.conv.weight") and parts[1] != "0":
        block = layout.blocks[int(parts[1])]
        convs = supernet.blocks[block.index].conv
        assert isinstance(convs, ElasticConvs)
        return convs.depth_conv.conv.weight(block.mid_channels, block.kernel)
    return source[key][tuple(slice(size) for size in target.shape)]


def supernet_key(name: str, layout: Layout) -> str:
    """The supernet's name of the tensor ``name`` of an extracted network.

    Blocks are renumbered, and elastic layers hold their weights one level further down.
    """
    parts = name.split(".")
    if parts[0] != "blocks" or parts[1] == "0":
        return name
    parts[1] = str(layout.blocks[int(parts[1])].index)
    if parts[-2] in ("conv", "bn"):
        parts.insert(-1, parts[-2])
    return ".".join(parts)


@torch.no_grad()
def adopt_statistics(supernet: Supernet, static: StaticNet) -> None:
    """Copy the running statistics of an extracted (and recalibrated) network back."""
    target = supernet.state_dict()
    for name, tensor in static.state_dict().items():
        if name.endswith((".running_mean", ".running_var")):
            target[supernet_key(name, static.layout)][: tensor.shape[0]].copy_(tensor)

"""A supernet whose weights come in every width: the elastic layers and their quantizers together."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.export import weight_modules
from edgeopt.ofa.extract import StaticNet, extract
from edgeopt.ofa.layers import set_transform
from edgeopt.ofa.supernet import Supernet
from edgeopt.quant.elastic import ElasticQuantizer, round_max

#: Bits of every group of layers; see `groups`. Groups that are not named have eight.
Bits = Mapping[str, int]


def group(layer: str) -> str:
    """Layers of one group have the same bits; empty for layers that always have eight.

    An elastic block is one group (its depthwise layer apart), so is each layer of the head. The
    stem, the static first block and depthwise layers hold few weights and lose much.
    """
    if layer == "stem.conv" or layer.startswith("block0.") or layer.endswith(".depth.conv"):
        return ""
    return layer if layer.startswith("head.") else layer.partition(".")[0]


def groups(space: SearchSpace) -> tuple[str, ...]:
    """All groups of a space, in the order of execution."""
    blocks = [f"block{index + 1}" for index in range(space.block_count)]
    return (*blocks, "head.expand.conv", "head.mix.conv", "head.classifier")


class ElasticNet(nn.Module):
    """A supernet and a quantizer for each of its layers; trains as one module."""

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net
        layers = net.weight_layers()
        self.groups = {name: group(name) for name in layers}
        self.quantizers = nn.ModuleDict(
            {
                _key(name): ElasticQuantizer(layer.weight.shape[0])
                for name, layer in layers.items()
                if not name.endswith(".depth.conv")
            }
        )

    def fit(self) -> None:
        """Fit all quantizers to the weights as they are."""
        for name, layer in self.net.weight_layers().items():
            if _key(name) in self.quantizers:
                self.quantizer(name).fit(layer.weight.detach())

    def quantizer(self, layer: str) -> ElasticQuantizer:
        """The quantizer of a layer that is not depthwise."""
        found = self.quantizers[_key(layer)]
        assert isinstance(found, ElasticQuantizer)
        return found

    def forward(self, x: Tensor, config: SubnetConfig, bits: Bits | None) -> Tensor:
        """Images to logits through a subnet of quantized weights; of float ones without ``bits``."""
        self.use(bits)
        y: Tensor = self.net(x, config)
        return y

    def use(self, bits: Bits | None) -> None:
        """Let the supernet compute with weights of these widths, or with its float ones."""
        for name, layer in self.net.weight_layers().items():
            if bits is None:
                set_transform(layer, None)
            elif name.endswith(".depth.conv"):
                set_transform(layer, round_max)
            else:
                width = bits.get(self.groups[name], 8)
                set_transform(layer, functools.partial(self.quantizer(name), bits=width))

    @torch.no_grad()
    def extract(self, config: SubnetConfig, bits: Bits | None) -> StaticNet:
        """A subnet on its own whose weights are quantized, batch norm apart."""
        static = extract(self.net, config)
        if bits is not None:
            for name, (module, _) in weight_modules(static).items():
                assert isinstance(module, nn.Conv2d | nn.Linear)
                if name.endswith(".depth.conv"):
                    module.weight.copy_(round_max(module.weight))
                else:
                    width = bits.get(self.groups[name], 8)
                    module.weight.copy_(self.quantizer(name)(module.weight, width))
        return static

    def prepare(self, config: SubnetConfig, bits: Bits | None, images: Tensor) -> StaticNet:
        """The same, its statistics measured on normalized ``images``, ready to run."""
        static: StaticNet = self.extract(config, bits).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate_bn(static, images)
        return static


def uniform(space: SearchSpace, bits: int) -> dict[str, int]:
    """The same bits for every group."""
    return dict.fromkeys(groups(space), bits)


def _key(layer: str) -> str:
    return layer.replace(".", "/")

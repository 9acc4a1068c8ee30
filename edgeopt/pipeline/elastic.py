"""A supernet whose weights come in every width: elastic layers and their quantizers together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.core.errors import InputError
from edgeopt.core.precision import DEPLOYED, LayerPrecision
from edgeopt.core.space import SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.export import weight_modules
from edgeopt.ofa.extract import StaticNet, extract
from edgeopt.ofa.layers import set_transform
from edgeopt.ofa.plans import BlockPlan
from edgeopt.ofa.supernet import Supernet
from edgeopt.quant.elastic import ElasticQuantizer, integers_max, round_max
from edgeopt.quant.weights import StoredWeights

#: Integers (as floats) [O, ...] and scales of a layer.
Integers = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class ElasticSubnet:
    """A subnet on its own.

    Attributes:
        net: computes with the real values of its quantized weights, batch norms apart.
        integers: by layer; empty for a subnet in fp32.
        bits: of the layers that do not have eight.
        form: granularity, group and symmetry of the integers.
    """

    net: StaticNet
    integers: Mapping[str, Integers] = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)
    form: LayerPrecision = DEPLOYED

    @torch.no_grad()
    def stored(self) -> dict[str, StoredWeights]:
        """The integers of every layer, batch norm folded into their scales and biases.

        A batch norm's factor may be negative, and with it the scale: the integers stay as they are.

        Raises:
            InputError: scales of groups, or zero points, which kernels do not have.
        """
        if obstacle := replace(self.form, weight_bits=4).obstacle:
            raise InputError(
                f"these integers are for simulation: {obstacle}", where="elastic supernet",
                hint="train --quantize with one scale a channel gives deployable ones",
            )  # fmt: skip
        modules = weight_modules(self.net)
        return {
            name: _stored(*modules[name], whole, scale, self.bits.get(name, 8))
            for name, (whole, scale) in self.integers.items()
        }


class ElasticNet(nn.Module):
    """A supernet and a quantizer for each of its layers; trains as one module.

    Depthwise layers have no quantizer: their eight bits follow the largest magnitude, since each
    kernel size computes weights of its own.

    Args:
        net: the supernet.
        form: granularity, group and symmetry of all quantizers; kernels take one scale a channel
            or a layer and no zero points, the rest is for simulation.
    """

    def __init__(self, net: Supernet, form: LayerPrecision = DEPLOYED) -> None:
        super().__init__()
        self.net, self.form = net, form
        self.quantizers = nn.ModuleDict(
            {
                _key(name): ElasticQuantizer(layer.weight.shape[0], layer.weight.shape[1], form)
                for name, layer in net.weight_layers().items()
                if not name.endswith(".depth.conv")
            }
        )

    def fit(self) -> None:
        """Fit all quantizers to the weights as they are; all that weights need without training."""
        for name, layer in self.net.weight_layers().items():
            if _key(name) in self.quantizers:
                self.quantizer(name).fit(layer.weight.detach())

    def quantizer(self, layer: str) -> ElasticQuantizer:
        """The quantizer of a layer that is not depthwise."""
        found = self.quantizers[_key(layer)]
        assert isinstance(found, ElasticQuantizer)
        return found

    def forward(self, x: Tensor, config: SubnetConfig, plan: BlockPlan | None) -> Tensor:
        """Images to logits through a subnet of quantized weights; of float ones without a plan."""
        self.use(plan)
        y: Tensor = self.net(x, config)
        return y

    def use(self, plan: BlockPlan | None) -> None:
        """Let the supernet compute with weights of these widths, or with its float ones."""
        space = self.net.space
        bits = {} if plan is None else plans.layer_bits(space, space.max_config(), plan)
        for name, layer in self.net.weight_layers().items():
            if plan is None:
                set_transform(layer, None)
            elif name.endswith(".depth.conv"):
                set_transform(layer, round_max)
            else:
                width = bits.get(name, 8)
                set_transform(layer, functools.partial(self.quantizer(name), bits=width))

    @torch.no_grad()
    def extract(self, config: SubnetConfig, plan: BlockPlan | None) -> ElasticSubnet:
        """A subnet with the widths of a plan, or in fp32; its batch norms are not measured yet."""
        static = extract(self.net, config)
        if plan is None:
            return ElasticSubnet(static)
        bits = plans.layer_bits(self.net.space, config, plan)
        integers: dict[str, Integers] = {}
        for name, (module, _) in weight_modules(static).items():
            assert isinstance(module, nn.Conv2d | nn.Linear)
            weight = module.weight
            if name.endswith(".depth.conv"):
                whole, scale = integers_max(weight)
                wide = _spread(scale, weight)
            else:
                quantizer = self.quantizer(name)
                whole, scale = quantizer.integers(weight, bits.get(name, 8))
                wide = quantizer.spread(scale, weight)
            integers[name] = whole, scale
            weight.copy_(whole * wide)
        return ElasticSubnet(static, integers, bits, self.form)

    def prepare(
        self, config: SubnetConfig, plan: BlockPlan | None, images: Tensor
    ) -> ElasticSubnet:
        """The same, its statistics measured on normalized ``images``: ready to run or to export."""
        subnet = self.extract(config, plan)
        subnet.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate_bn(subnet.net, images)
        return subnet


def _stored(
    module: nn.Module, bn: nn.BatchNorm2d | None, whole: Tensor, scale: Tensor, bits: int
) -> StoredWeights:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    scale = scale.expand(len(whole)).contiguous()  # there may be one for all channels
    bias = torch.zeros_like(scale) if module.bias is None else module.bias.detach()
    if bn is not None:
        assert bn.running_mean is not None and bn.running_var is not None
        factor = bn.weight.detach().double() / (bn.running_var.double() + bn.eps).sqrt()
        shift = bn.bias.detach().double() - bn.running_mean.double() * factor
        scale, bias = (scale * factor).float(), (bias * factor + shift).float()
    weight = np.ascontiguousarray(whole.numpy().astype(np.int8))
    return StoredWeights(weight, scale.numpy(), bits, np.ascontiguousarray(bias.numpy()))


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))


def _key(layer: str) -> str:
    return layer.replace(".", "/")

"""From a static network to weights in a `core.network.Network`, and to an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.core.files import write_atomic
from edgeopt.core.network import Array, Network
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.graph.build import build_onnx
from edgeopt.ofa.describe import describe_layout
from edgeopt.ofa.extract import StaticNet


def fold(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """A convolution's weight and bias with the batch norm behind it folded in (in float64)."""
    weight = conv.weight.detach().double()
    bias = None if conv.bias is None else conv.bias.detach().double()
    if bn is not None:
        assert bn.running_mean is not None and bn.running_var is not None
        scale = bn.weight.detach().double() / (bn.running_var.double() + bn.eps).sqrt()
        shift = bn.bias.detach().double() - bn.running_mean.double() * scale
        bias = shift if bias is None else shift + bias * scale
        weight = weight * scale[:, None, None, None]
    return weight.float(), None if bias is None else bias.float()


def to_network(static: StaticNet, name: str = "subnet") -> Network:
    """The network with its weights: float32, batch norm folded, batch of 1."""
    network = describe_layout(static.layout, name)
    modules = weight_modules(static)
    ops = tuple(
        replace(op, constants=_constants(modules[op.name])) if op.name in modules else op
        for op in network.ops
    )
    return replace(network, ops=ops)


def export_onnx(
    static: StaticNet,
    path: Path,
    *,
    name: str = "subnet",
    space: SearchSpace | None = None,
    config: SubnetConfig | None = None,
) -> Network:
    """Write a static network as fp32 ONNX; returns what was written.

    The model takes ``image`` float32 [1,C,H,W], normalized as the space says, and gives
    ``logits``. Space, subnet, mean, std and labels are recorded in the model's metadata.

    Raises:
        InputError: the file cannot be written.
    """
    network = to_network(static, name)
    write_atomic(path, build_onnx(network, metadata(space, config)))
    return network


def metadata(space: SearchSpace | None, config: SubnetConfig | None) -> dict[str, str]:
    """What an exported model says of itself, as ONNX metadata entries."""
    values: dict[str, str] = {}
    if space is not None:
        values["edgeopt.space"] = space.name
        values["edgeopt.input_mean"] = json.dumps(space.mean)
        values["edgeopt.input_std"] = json.dumps(space.std)
        if space.labels:
            values["edgeopt.labels"] = json.dumps(space.labels)
    if config is not None:
        values["edgeopt.subnet"] = str(config)
    return values


Pair = tuple[nn.Module, nn.BatchNorm2d | None]


def weight_modules(static: StaticNet) -> Mapping[str, Pair]:
    """Modules with weights by the operator name that `describe` gives them."""
    found: dict[str, Pair] = {"stem.conv": _pair(static.first_conv)}
    for index, block in enumerate(static.layout.blocks):
        name, path = f"block{block.index}", f"blocks.{index}.conv"
        parts = dict(static.get_submodule(path).named_children())
        for part, role in (
            ("inverted_bottleneck", "expand"),
            ("depth_conv", "depth"),
            ("point_linear", "project"),
        ):
            if part in parts:
                found[f"{name}.{role}.conv"] = _pair(parts[part])
        if block.se_channels:
            for role in ("reduce", "expand"):
                module = static.get_submodule(f"{path}.depth_conv.se.fc.{role}")
                found[f"{name}.se.{role}.conv"] = (module, None)
    found["head.expand.conv"] = _pair(static.final_expand_layer)
    found["head.mix.conv"] = _pair(static.feature_mix_layer)
    found["head.classifier"] = (static.get_submodule("classifier.linear"), None)
    return found


def _pair(layer: nn.Module) -> Pair:
    parts = dict(layer.named_children())
    bn = parts.get("bn")
    assert bn is None or isinstance(bn, nn.BatchNorm2d)
    return parts["conv"], bn


def _constants(pair: Pair) -> dict[str, Array]:
    module, bn = pair
    if isinstance(module, nn.Linear):
        weight, bias = module.weight.detach(), module.bias.detach()
        return {"w": _array(weight), "b": _array(bias)}
    assert isinstance(module, nn.Conv2d)
    folded, shift = fold(module, bn)
    # OIHW -> O,kh,kw,I/groups
    if shift is None:
        shift = torch.zeros(folded.shape[0])
    return {"w": _array(folded.permute(0, 2, 3, 1)), "b": _array(shift)}


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.numpy())

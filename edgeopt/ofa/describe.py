"""What a subnet computes, as a `core.network.Network`, without building it.

The operators are those of the exported model after batch-norm folding, so that costing a
candidate and compiling it see the same thing. With weights, the same description is what the
ONNX export writes (`edgeopt.ofa.export`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from edgeopt.core.errors import InputError
from edgeopt.core.network import Network, Op, Tensor
from edgeopt.core.space import Block, Layout, SearchSpace, SubnetConfig

Shape = tuple[int, ...]

INPUT = "image"
OUTPUT = "logits"

_ONES = (1, 1)
_SIXTH = 0.1666666716337204  # 1/6 as a float32, which is what an ONNX file holds
_NO_ATTRS: Mapping[str, object] = MappingProxyType({})
_FUNCTIONS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "relu": MappingProxyType({"function": "relu"}),
        "hardswish": MappingProxyType({"function": "hardswish"}),
        "hardsigmoid": MappingProxyType({"function": "hardsigmoid", "alpha": _SIXTH, "beta": 0.5}),
    }
)


def describe(space: SearchSpace, config: SubnetConfig, batch: int = 1) -> Network:
    """The shape-only network of a subnet.

    Args:
        space: the search space.
        config: a subnet of it (taken to be valid; see `SearchSpace.validate`).
        batch: must be 1, the batch of every deployed network.

    Raises:
        InputError: ``batch`` is not 1.
    """
    if batch != 1:
        raise InputError(f"batch {batch} is not supported: deployed networks take one image")
    return describe_layout(space.layout(config), f"{space.name}_{config.resolution}")


def describe_layout(layout: Layout, name: str) -> Network:
    """The same for sizes that are already resolved."""
    side = layout.resolution
    shape: Shape = (1, side, side, layout.in_channels)
    parts = [
        _stem(shape, layout.stem_channels, layout.stem_stride, layout.stem_activation)
    ]  # fmt: skip
    for block in layout.blocks:
        parts.append(_block(parts[-1].last, parts[-1].shape, block))
    last = parts[-1]
    parts.append(
        _head(last.last, last.shape, layout.expand_channels, layout.mix_channels, layout.classes)
    )
    tensors = {INPUT: _tensor(INPUT, shape)}
    ops: list[Op] = []
    for part in parts:
        ops += part.ops
        tensors.update(part.tensors)
    return Network(name, tensors, tuple(ops), (INPUT,), (OUTPUT,))


# A search describes thousands of subnets made of the same few hundred blocks: parts are made once
# and shared, which is safe because operators and tensors are frozen.


@lru_cache(maxsize=256)
def _stem(shape: Shape, channels: int, stride: int, activation: str) -> _Part:
    part = _Part(INPUT, shape)
    part.conv("stem.conv", channels, 3, stride)
    part.activation("stem.act", activation)
    return part


@lru_cache(maxsize=32768)
def _block(entry: str, shape: Shape, block: Block) -> _Part:
    part, name, mid = _Part(entry, shape), f"block{block.index}", block.mid_channels
    if block.expand is not None:
        part.conv(f"{name}.expand.conv", mid)
        part.activation(f"{name}.expand.act", block.activation)
    part.conv(f"{name}.depth.conv", mid, block.kernel, block.stride, mid)
    part.activation(f"{name}.depth.act", block.activation)
    if block.se_channels:
        part.squeeze(f"{name}.se", block.se_channels)
    part.conv(f"{name}.project.conv", block.out_channels)
    if block.residual:
        part.add(f"{name}.add", "add", (entry, part.last), part.shape)
    return part


@lru_cache(maxsize=256)
def _head(entry: str, shape: Shape, expand: int, mix: int, classes: int) -> _Part:
    part = _Part(entry, shape)
    part.conv("head.expand.conv", expand)
    part.activation("head.expand.act", "hardswish")
    part.pool("head.pool")
    part.conv("head.mix.conv", mix)
    part.activation("head.mix.act", "hardswish")
    part.add("head.flatten", "reshape", (part.last,), (1, mix))
    part.add("head.classifier", "linear", (part.last,), (1, classes), output=OUTPUT)
    return part


@lru_cache(maxsize=65536)
def _tensor(name: str, shape: Shape) -> Tensor:
    return Tensor(name, shape)


class _Part:
    """A run of operators; `last` is the tensor that the next one reads, `shape` its shape."""

    def __init__(self, entry: str, shape: Shape) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, Tensor] = {}
        self.last, self.shape = entry, shape

    def squeeze(self, name: str, mid: int) -> None:
        entry, shape = self.last, self.shape
        self.pool(f"{name}.pool")
        self.conv(f"{name}.reduce.conv", mid)
        self.activation(f"{name}.reduce.act", "relu")
        self.conv(f"{name}.expand.conv", shape[-1])
        self.activation(f"{name}.expand.act", "hardsigmoid")
        self.add(f"{name}.scale", "mul", (entry, self.last), shape)

    def conv(
        self, name: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        edge = kernel // 2
        _, height, width, _ = self.shape
        shape = (1, (height - 1) // stride + 1, (width - 1) // stride + 1, channels)
        attrs = MappingProxyType(
            {
                "kernel": (kernel, kernel),
                "strides": (stride, stride),
                "dilations": _ONES,
                "pads": (edge, edge, edge, edge),
                "groups": groups,
            }
        )
        self.add(name, "conv2d", (self.last,), shape, attrs)

    def activation(self, name: str, function: str) -> None:
        self.add(name, "activation", (self.last,), self.shape, _FUNCTIONS[function])

    def pool(self, name: str) -> None:
        self.add(name, "global_avgpool", (self.last,), (1, 1, 1, self.shape[-1]))

    def add(
        self, name: str, kind: str, inputs: tuple[str, ...], shape: Shape,
        attrs: Mapping[str, object] = _NO_ATTRS, output: str = "",
    ) -> None:  # fmt: skip
        output = output or name
        self.ops.append(Op(name, kind, inputs, output, attrs))
        self.tensors[output] = _tensor(output, shape)
        self.last, self.shape = output, shape

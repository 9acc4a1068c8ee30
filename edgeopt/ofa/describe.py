"""What a subnet computes, as a `core.network.Network`, without building it.

The operators are those of the exported model after batch-norm folding, so that costing a
candidate and compiling it see the same thing. With weights, the same description is what the
ONNX export writes (`edgeopt.ofa.export`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeopt.core.errors import InputError
from edgeopt.core.network import Network, Op, Tensor
from edgeopt.core.space import Block, Layout, SearchSpace, SubnetConfig

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
    maker = _Maker(layout)
    return Network(name, maker.tensors, tuple(maker.ops), (INPUT,), (OUTPUT,))


class _Maker:
    """Appends operators; `last` is the tensor that the next one reads."""

    def __init__(self, layout: Layout) -> None:
        side = layout.resolution
        self.ops: list[Op] = []
        self.shape: tuple[int, ...] = (1, side, side, layout.in_channels)
        self.tensors = {INPUT: Tensor(INPUT, self.shape)}
        self.last = INPUT
        self.conv("stem.conv", layout.stem_channels, 3, layout.stem_stride)
        self.activation("stem.act", layout.stem_activation)
        for block in layout.blocks:
            self.block(block)
        self.conv("head.expand.conv", layout.expand_channels)
        self.activation("head.expand.act", "hardswish")
        self.pool("head.pool")
        self.conv("head.mix.conv", layout.mix_channels)
        self.activation("head.mix.act", "hardswish")
        self.add("head.flatten", "reshape", (self.last,), (1, layout.mix_channels))
        self.add("head.classifier", "linear", (self.last,), (1, layout.classes), output=OUTPUT)

    def block(self, block: Block) -> None:
        name, entry = f"block{block.index}", self.last
        if block.expand is not None:
            self.conv(f"{name}.expand.conv", block.mid_channels)
            self.activation(f"{name}.expand.act", block.activation)
        mid = block.mid_channels
        self.conv(f"{name}.depth.conv", mid, block.kernel, block.stride, mid)
        self.activation(f"{name}.depth.act", block.activation)
        if block.se_channels:
            self.squeeze(f"{name}.se", block.se_channels)
        self.conv(f"{name}.project.conv", block.out_channels)
        if block.residual:
            self.add(f"{name}.add", "add", (entry, self.last), self.shape)

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
        attrs = {
            "kernel": (kernel, kernel),
            "strides": (stride, stride),
            "dilations": _ONES,
            "pads": (edge, edge, edge, edge),
            "groups": groups,
        }
        self.add(name, "conv2d", (self.last,), shape, attrs)

    def activation(self, name: str, function: str) -> None:
        self.add(name, "activation", (self.last,), self.shape, _FUNCTIONS[function])

    def pool(self, name: str) -> None:
        self.add(name, "global_avgpool", (self.last,), (1, 1, 1, self.shape[-1]))

    def add(
        self, name: str, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...],
        attrs: Mapping[str, object] = _NO_ATTRS, output: str = "",
    ) -> None:  # fmt: skip
        output = output or name
        self.ops.append(Op(name, kind, inputs, output, attrs))
        self.tensors[output] = Tensor(output, shape)
        self.last, self.shape = output, shape

"""ONNX networks outside any search space: residual cells, and those of NAS-Bench-201."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: The operations of NAS-Bench-201, as its strings call them.
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


class Builder:
    """Appends nodes to a float network."""

    def __init__(self, channels: int = 3, side: int = 32) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.source = np.random.default_rng(0)
        self.head = "x"
        self.input = helper.make_tensor_value_info(
            "x", TensorProto.FLOAT, [1, channels, side, side]
        )

    def op(self, kind: str, inputs: list[str], **attrs: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attrs))
        return name

    def constant(self, *shape: int) -> str:
        name = f"c{len(self.constants)}"
        values = self.source.normal(0, 0.2, shape).astype(np.float32)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1) -> str:
        y = self.op(
            "Conv", [x, self.constant(c_out, c_in // groups, k, k), self.constant(c_out)],
            kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4, group=groups,
        )  # fmt: skip
        return self.op("Relu", [y])

    def save(self, path: Path, y: str, features: int, classes: int = 10) -> Path:
        """With global pooling and a classifier."""
        y = self.op("Flatten", [self.op("GlobalAveragePool", [y])])
        y = self.op("Gemm", [y, self.constant(features, classes), self.constant(classes)])
        output = helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, classes])
        # Nodes that lead nowhere are no part of the network, though some runtimes run them.
        wanted, nodes = {y}, []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                wanted |= set(node.input)
                nodes.insert(0, node)
        constants = [array for array in self.constants if array.name in wanted]
        graph = helper.make_graph(nodes, "net", [self.input], [output], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path


def nas_bench_201(path: Path, cell: list[str], channels: int = 8, side: int = 16) -> Path:
    """A stem, a cell, a residual reduction, a cell: ``cell`` has six operations."""
    net = Builder(side=side)
    y = net.conv("x", 3, channels, 3)
    y = _cell(net, y, cell, channels)
    wide = net.conv(net.conv(y, channels, 2 * channels, 3, 2), 2 * channels, 2 * channels, 3)
    down = net.op("AveragePool", [y], kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Add", [wide, net.conv(down, channels, 2 * channels, 1)])
    y = _cell(net, y, cell, 2 * channels)
    return net.save(path, y, 2 * channels)


def _cell(net: Builder, x: str, cell: list[str], channels: int) -> str:
    nodes = [x]
    edges = iter(cell)
    for place in range(1, 4):
        terms = [found for source in nodes[:place]
                 if (found := _edge(net, source, next(edges), channels)) is not None]  # fmt: skip
        total = terms[0] if terms else x
        for term in terms[1:]:
            total = net.op("Add", [total, term])
        nodes.append(total)
    return nodes[-1]


def _edge(net: Builder, x: str, operation: str, channels: int) -> str | None:
    if operation == "none":
        return None
    if operation == "skip_connect":
        return x
    if operation == "avg_pool_3x3":
        return net.op(
            "AveragePool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4,
            count_include_pad=0,
        )  # fmt: skip
    return net.conv(x, channels, channels, int(operation[-1]))


def random_cell(source: np.random.Generator) -> list[str]:
    """Six operations that lead somewhere."""
    cell = [OPERATIONS[int(source.integers(1, 5))] for _ in range(6)]
    cell[int(source.integers(6))] = "none"
    return cell

"""Bringing graphs into the one form the importer reads: pairs around float operators, slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeopt.core.network import Array
from edgeopt.graph.ir import Graph, Node, Type

_FLOAT = np.dtype(np.float32)


class _Names:
    """Fresh value names."""

    def __init__(self, graph: Graph) -> None:
        self._taken = {*graph.types, *graph.constants}

    def __call__(self, stem: str) -> str:
        name = stem
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def expand_integer_layers(graph: Graph) -> tuple[Graph, bool]:
    """QLinearConv and QLinearMatMul become DequantizeLinear, the operator, QuantizeLinear."""
    fresh = _Names(graph)
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    types = dict(graph.types)
    for node in graph.nodes:
        if node.domain or node.op not in ("QLinearConv", "QLinearMatMul"):
            nodes.append(node)
            continue
        is_conv = node.op == "QLinearConv"
        result = node.outputs[0]
        rank = len(graph.shape(node.inputs[3]))
        real = []
        for (value, scale, zero), axis in zip(
            (node.inputs[:3], node.inputs[3:6]), (None, 0 if is_conv else rank - 1), strict=True
        ):
            made = fresh(f"{value}.real")
            types[made] = Type(_FLOAT, graph.shape(value))
            per_channel = axis is not None and graph.shape(scale) not in ((), (1,))
            attrs = {"axis": axis} if per_channel else {}
            nodes.append(Node("DequantizeLinear", made, (value, scale, zero), (made,), attrs))
            real.append(made)
        scale_x, scale_w = graph.array(node.inputs[1]), graph.array(node.inputs[4])
        if node.input(8) and scale_x is not None and scale_w is not None:
            bias = fresh(f"{node.inputs[8]}.real")
            step = fresh(f"{node.inputs[8]}.scale")
            product = np.asarray(scale_x, np.float32).reshape(-1) * np.asarray(scale_w, np.float32)
            constants[step] = product.astype(np.float32).reshape(scale_w.shape)
            types[bias] = Type(_FLOAT, graph.shape(node.inputs[8]))
            attrs = {"axis": 0} if constants[step].size > 1 else {}
            nodes.append(Node("DequantizeLinear", bias, (node.inputs[8], step), (bias,), attrs))
            real.append(bias)
        elif node.input(8):
            return graph, False  # scales that are computed: named as unsupported later
        inner = fresh(f"{result}.real")
        types[inner] = Type(_FLOAT, graph.shape(result))
        op = "Conv" if is_conv else "MatMul"
        nodes.append(Node(op, node.name, tuple(real), (inner,), node.attrs))
        nodes.append(
            Node("QuantizeLinear", f"{node.name}.q", (inner, *node.inputs[6:8]), (result,))
        )
    if len(nodes) == len(graph.nodes):
        return graph, False
    merged = {**graph.constants, **constants}
    return replace(graph, nodes=tuple(nodes), constants=merged, types=types), True


def split_into_slices(graph: Graph) -> tuple[Graph, bool]:
    """Split becomes a Slice for each of its parts that is used."""
    if graph.opset < 10:
        return graph, False
    fresh, uses = _Names(graph), graph.uses()
    nodes: list[Node] = []
    constants: dict[str, Array] = {}

    def number(stem: str, value: int) -> str:
        name = fresh(stem)
        constants[name] = np.asarray([value], np.int64)
        return name

    for node in graph.nodes:
        if node.op != "Split" or node.domain or not node.inputs[0]:
            nodes.append(node)
            continue
        axis = int(node.attrs.get("axis", 0)) % len(graph.shape(node.inputs[0]))
        start = 0
        for result in node.outputs:
            end = start + (graph.shape(result)[axis] if result else 0)
            if result and uses[result]:
                bounds = [number(f"{result}.{n}", v) for n, v in
                          (("start", start), ("end", end), ("axis", axis))]  # fmt: skip
                name = node.name if len(node.outputs) == 1 else f"{node.name}.{start}"
                nodes.append(Node("Slice", name, (node.inputs[0], *bounds), (result,)))
            start = end
    if not constants:
        return graph, False
    return replace(graph, nodes=tuple(nodes), constants={**graph.constants, **constants}), True


def move_pads_behind_pairs(graph: Graph) -> tuple[Graph, bool]:
    """Pad, QuantizeLinear, DequantizeLinear in a row: quantize first, pad real zeros after.

    Zero is stored exactly, so both orders give the same values; behind the pair a later pass
    can give the padding to a convolution.
    """
    uses = graph.uses()
    producers = graph.producers()
    fresh = _Names(graph)
    types = dict(graph.types)
    changed: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op != "DequantizeLinear" or node.domain:
            continue
        quantize = producers.get(node.inputs[0])
        if quantize is None or quantize.op != "QuantizeLinear" or uses[node.inputs[0]] != 1:
            continue
        pad = producers.get(quantize.inputs[0])
        if pad is None or pad.op != "Pad" or pad.domain or uses[pad.outputs[0]] != 1:
            continue
        same = all(_same(graph, quantize.input(i), node.input(i)) for i in (1, 2))
        if not same or not _pads_zeros(graph, pad):
            continue
        shape = graph.shape(pad.inputs[0])
        inner = [fresh(f"{name}.unpadded") for name in (node.inputs[0], node.outputs[0])]
        types[inner[0]] = Type(graph.types[node.inputs[0]].dtype, shape)
        types[inner[1]] = Type(_FLOAT, shape)
        changed[pad.outputs[0]] = replace(
            quantize, inputs=(pad.inputs[0], *quantize.inputs[1:]), outputs=(inner[0],)
        )
        changed[quantize.outputs[0]] = replace(
            node, inputs=(inner[0], *node.inputs[1:]), outputs=(inner[1],)
        )
        changed[node.outputs[0]] = replace(
            pad, inputs=(inner[1], *pad.inputs[1:]), outputs=node.outputs
        )
    if not changed:
        return graph, False
    nodes = tuple(changed.get(node.outputs[0], node) for node in graph.nodes)
    return replace(graph, nodes=nodes, types=types), True


def _same(graph: Graph, left: str, right: str) -> bool:
    a, b = graph.array(left), graph.array(right)
    if a is None or b is None:
        return left == right == ""
    return a.size == b.size == 1 and a.dtype == b.dtype and a.reshape(-1)[0] == b.reshape(-1)[0]


def _pads_zeros(graph: Graph, pad: Node) -> bool:
    if pad.attrs.get("mode", "constant") != "constant":
        return False
    if not pad.input(2):
        return float(pad.attrs.get("value", 0.0)) == 0
    value = graph.array(pad.inputs[2])
    return value is not None and value.size == 1 and float(value.reshape(-1)[0]) == 0

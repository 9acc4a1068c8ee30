"""Where an ONNX network is quantized: which tensors, which weights, which share one scale.

A tensor is *quantized* when an operator that has an integer form reads or writes it. Two
exceptions keep the arithmetic of `core.affine`:

* a clamp (Relu, Clip) that alone reads a convolution, linear layer, sum or product belongs to
  it: nothing is quantized in between, the clamp becomes bounds of the requantization;
* operators that only move elements (MaxPool, Reshape, Concat, …) have one scale on both sides.

Everything else computes in float between a DequantizeLinear and a QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeopt.core.activations import CLAMPS
from edgeopt.graph.ir import FUSED, Graph, Node

Floats = npt.NDArray[np.float32]

#: Elementwise functions of one tensor, by the name `core.network.ACTIVATIONS` gives them.
FUNCTIONS: Mapping[tuple[str, str], str] = {
    ("", "Relu"): "relu", ("", "HardSwish"): "hardswish", ("", "HardSigmoid"): "hardsigmoid",
    ("", "Sigmoid"): "sigmoid", ("", "Tanh"): "tanh", ("", "LeakyRelu"): "leakyrelu",
    ("", "Elu"): "elu", ("", "Gelu"): "gelu", ("", "Erf"): "erf", ("", "Abs"): "abs",
    ("", "Mish"): "mish",
    (FUSED, "Clip"): "clip", (FUSED, "Silu"): "silu", (FUSED, "Gelu"): "gelu",
}  # fmt: skip
#: Other operators without weights that compute on integers.
COMPUTE = frozenset({"Add", "Mul", "GlobalAveragePool", "AveragePool", "Sub", "Max", "Min"})
#: The same, with constants beside the one tensor that they compute on.
COMPUTE_ONE = frozenset({"PRelu"})
#: Operators that move elements, or choose among them.
MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Concat",
     "Slice", "Gather", "DepthToSpace", "SpaceToDepth", "ReduceMax", "ReduceMin"}
)  # fmt: skip
#: What may carry a clamp, besides layers.
CARRIERS = frozenset({"Add", "Mul"})


#: Name and parameters of an elementwise function.
Function = tuple[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer with constant weights."""

    key: str  # name of the tensor the node writes
    kind: str  # "conv" or "linear"
    input: str
    weight: Floats  # [O, I / groups, ...], as in ONNX; linear [O, I]
    bias: Floats | None
    groups: int
    name: str = ""  # of the node: what precision plans call the layer


@dataclass(frozen=True, slots=True)
class Sites:
    """What `find_sites` found; names are those of the model."""

    tensors: tuple[str, ...]  # quantized, in graph order
    inputs: tuple[str, ...]  # graph inputs among them
    readers: Mapping[str, Function]  # tensor -> the one function that reads it
    groups: tuple[tuple[str, ...], ...]  # tensors with one scale (two or more each)
    layers: tuple[Layer, ...]


def function_of(node: Node) -> tuple[str, Mapping[str, object]] | None:
    """Name and parameters of the elementwise function a node applies; None if it is none."""
    name = FUNCTIONS.get((node.domain, node.op))
    if name is None:
        return None
    wanted = {"clip": ("min", "max"), "hardsigmoid": ("alpha", "beta"), "gelu": ("approximate",)}
    keys = wanted.get(name, ("alpha",))
    return name, {key: node.attrs[key] for key in keys if key in node.attrs}


def _layer(graph: Graph, node: Node) -> Layer | None:
    kind = {("", "Conv"): "conv", ("", "Gemm"): "linear", (FUSED, "Linear"): "linear"}.get(
        (node.domain, node.op)
    )
    if node.op == "MatMul" and not node.domain:
        kind = "linear"
    if kind is None or graph.array(node.inputs[0]) is not None:
        return None
    constant = graph.array(node.inputs[1])
    offset = graph.array(node.input(2)) if node.input(2) else None
    if constant is None or constant.dtype != np.float32 or (node.input(2) and offset is None):
        return None
    weight = constant.astype(np.float32)
    bias = None if offset is None else offset.astype(np.float32)
    if kind == "linear":
        if weight.ndim != 2 or len(graph.shape(node.inputs[0])) != 2 or node.attrs.get("transA", 0):
            return None
        factor = np.float32(node.attrs.get("alpha", 1.0))
        weight = (weight if node.attrs.get("transB", 0) else weight.T) * factor
        if bias is not None:
            if bias.size not in (1, len(weight)):
                return None
            scaled = bias.reshape(-1) * np.float32(node.attrs.get("beta", 1.0))
            bias = np.broadcast_to(scaled, (len(weight),))
    return Layer(
        key=node.outputs[0],
        kind=kind,
        input=node.inputs[0],
        weight=np.ascontiguousarray(weight, np.float32),
        bias=None if bias is None else np.ascontiguousarray(bias, np.float32),
        groups=int(node.attrs.get("group", 1)),
        name=node.name,
    )


def _averages(graph: Graph, node: Node) -> bool:
    """Whether a ReduceMean is a global average over height and width."""
    if node.op != "ReduceMean" or node.domain or len(graph.shape(node.inputs[0])) != 4:
        return False
    given = graph.array(node.input(1)) if node.input(1) else np.asarray(node.ints("axes"))
    return given is not None and sorted(int(axis) % 4 for axis in given.reshape(-1)) == [2, 3]


def _interpolates(node: Node) -> bool:
    return node.op == "Resize" and node.attrs.get("mode", "nearest") == "linear"


def _moves(graph: Graph, node: Node) -> bool:
    if node.domain:
        return False
    if node.op in MOVES:
        return sum(bool(name) for name in node.outputs) == 1
    if node.op == "Resize":
        return bool(node.attrs.get("mode", "nearest") == "nearest")
    if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
        value = graph.array(node.input(2)) if node.input(2) else np.zeros(1)
        return value is not None and not np.any(value)
    return False


def find_sites(graph: Graph) -> Sites:
    """Decide what is quantized in a simplified float network."""
    floats = {name for name, known in graph.types.items() if known.dtype == np.float32}
    floats -= set(graph.constants)
    uses, readers_of = graph.uses(), graph.readers()
    layers = {layer.key: layer for n in graph.nodes if (layer := _layer(graph, n)) is not None}
    quantized: set[str] = set()
    readers: dict[str, Function] = {}
    inside: set[str] = set()  # between an operator and the clamp it carries
    for node in graph.nodes:
        output = node.outputs[0]
        function = function_of(node)
        if output in layers or function is not None or _averages(graph, node):
            operands: tuple[str, ...] = node.inputs[:1]
        elif node.op in COMPUTE and not node.domain:
            operands = node.inputs
        elif (node.op in COMPUTE_ONE or _interpolates(node)) and not node.domain:
            operands = node.inputs[:1]
        else:
            continue
        if output not in floats or any(name not in floats for name in operands):
            continue
        quantized.update(name for name in operands if name not in inside)
        quantized.add(output)
        if uses[output] != 1 or output in graph.outputs:
            continue
        follow = function_of(readers_of[output][0])
        if follow is None:
            continue
        if follow[0] in CLAMPS and (output in layers or node.op in CARRIERS):
            inside.add(output)
            quantized.discard(output)
        else:
            readers[output] = follow
    groups = _propagate(graph, floats, quantized)
    order = [*graph.inputs, *(name for node in graph.nodes for name in node.outputs)]
    return Sites(
        tensors=tuple(name for name in order if name in quantized),
        inputs=tuple(name for name in graph.inputs if name in quantized),
        readers={name: f for name, f in readers.items() if name in quantized},
        groups=groups,
        layers=tuple(
            layer for layer in layers.values() if layer.key in quantized or layer.key in inside
        ),
    )


def _propagate(graph: Graph, floats: set[str], quantized: set[str]) -> tuple[tuple[str, ...], ...]:
    """Extend ``quantized`` through operators that move elements; return who shares a scale."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    movers = [node for node in graph.nodes if _moves(graph, node) and node.outputs[0] in floats]
    moved = {node.inputs[0] for node in movers}
    quantized.update(name for name in graph.inputs if name in moved and name in floats)
    for node in movers:
        operands = node.inputs if node.op == "Concat" else node.inputs[:1]
        if all(name in quantized for name in operands):
            quantized.add(node.outputs[0])
            for name in operands:
                parent[root(name)] = root(node.outputs[0])
    members: dict[str, list[str]] = {}
    for name in parent:
        members.setdefault(root(name), []).append(name)
    return tuple(tuple(sorted(group)) for group in members.values() if len(group) > 1)

"""Cross-layer equalization: neighbouring layers share their channels' ranges (Nagel et al. 2019).

Between two layers a channel may be scaled down and up again without a change of the function, if
what lies between them scales along: nothing, Relu or LeakyRelu. The scale that gives both layers'
weights of the channel the same range lets one scale a tensor waste fewer steps, on weights and on
the activations between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeopt.graph import ir, qdq_build
from edgeopt.graph.ir import FUSED, Graph, Node

if TYPE_CHECKING:
    from edgeopt.graph.qdq_build import Model

Doubles = npt.NDArray[np.float64]

#: Passes over all pairs; chains settle after a few.
ROUNDS = 20
#: No channel is scaled further than this either way in one pass.
_LIMIT = 1e4
_SETTLED = 1e-3


def equalize(model: Model) -> tuple[Model, int]:
    """The same function with evened channels, and how many pairs of layers took part.

    Args:
        model: float.

    Raises:
        InputError: the model is quantized already.
    """
    graph = qdq_build.float_graph(model)
    pairs = list(_pairs(graph))
    if not pairs:
        return model, 0
    weights = {
        name: graph.constants[name].astype(np.float64)
        for first, second in pairs
        for name in (*first.inputs[1:3], second.inputs[1])
    }
    for _ in range(ROUNDS):
        moved = max(_balance(weights, first, second) for first, second in pairs)
        if moved < _SETTLED:
            break
    changed = {name: value.astype(np.float32) for name, value in weights.items()}
    made = graph.with_nodes(graph.nodes, changed)
    return ir.to_model(qdq_build.expanded(made)), len(pairs)


def _homogeneous(node: Node) -> bool:
    """Whether f(s * x) = s * f(x) for positive s, channel by channel."""
    if node.domain == FUSED and node.op == "Clip":
        return float(node.attrs["min"]) == 0.0 and np.isinf(float(node.attrs["max"]))
    return not node.domain and node.op in ("Relu", "LeakyRelu")


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Convolutions that alone read each other, where channels can be scaled in between."""
    readers, uses = graph.readers(), graph.uses()

    def only_reader(name: str) -> Node | None:
        if uses[name] != 1 or name in graph.outputs:
            return None
        return readers[name][0]

    for first in graph.nodes:
        if not _is_layer(graph, first, uses):
            continue
        follow = only_reader(first.outputs[0])
        if follow is not None and _homogeneous(follow):
            follow = only_reader(follow.outputs[0])
        if follow is None or not _is_layer(graph, follow, uses):
            continue
        weight = graph.constants[follow.inputs[1]]
        groups = int(follow.attrs.get("group", 1))
        depthwise = groups == weight.shape[0] and weight.shape[1] == 1
        if groups == 1 or depthwise:
            yield first, follow


def _is_layer(graph: Graph, node: Node, uses: dict[str, int]) -> bool:
    """A convolution with weights and bias of its own."""
    if node.op != "Conv" or node.domain or node.inputs[0] in graph.constants:
        return False
    own = [name for name in node.inputs[1:] if name]
    return all(
        name in graph.constants and uses[name] == 1 and graph.constants[name].dtype == np.float32
        for name in own
    )


def _balance(weights: dict[str, Doubles], first: Node, second: Node) -> float:
    """Scale the channels between two layers; returns how far the largest factor is from 1."""
    ahead, behind = weights[first.inputs[1]], weights[second.inputs[1]]
    out_range = np.abs(ahead).reshape(len(ahead), -1).max(1)
    # A depthwise layer has its channels along the first axis, others along the second.
    depthwise = int(second.attrs.get("group", 1)) > 1
    per_input = behind if depthwise else behind.swapaxes(0, 1)
    in_range = np.abs(per_input).reshape(len(per_input), -1).max(1)
    alive = (out_range > 0) & (in_range > 0)
    ratio = np.divide(out_range, in_range, out=np.ones_like(out_range), where=alive)
    factor = np.where(alive, np.clip(np.sqrt(ratio), 1 / _LIMIT, _LIMIT), 1.0)
    shape = (-1,) + (1,) * (ahead.ndim - 1)
    weights[first.inputs[1]] = ahead / factor.reshape(shape)
    if first.input(2):
        weights[first.inputs[2]] = weights[first.inputs[2]] / factor
    scaled = per_input * factor.reshape(shape)
    weights[second.inputs[1]] = scaled if depthwise else scaled.swapaxes(0, 1)
    return float(np.abs(np.log(factor)).max(initial=0.0))

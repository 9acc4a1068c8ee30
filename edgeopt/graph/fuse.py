"""Fusions on the ONNX level: batch norm, padding, bias and composed activations.

Every pass takes a graph and returns it with whether it changed; a second run changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgeopt.core.network import Array
from edgeopt.graph.ir import FUSED, Graph, Node

Pass = Callable[[Graph], tuple[Graph, bool]]


class _Rewrite:
    """What a pass looks things up in, and the edits it has made so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.uses = graph.uses()
        self.producers = graph.producers()
        self.replaced: dict[str, Node] = {}  # by the first output of the node it replaces
        self.dropped: set[str] = set()
        self.constants: dict[str, Array] = {}

    def constant(self, name: str) -> Array | None:
        return self.graph.constants.get(name)

    def scalar(self, name: str) -> float | None:
        value = self.constant(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def only(self, name: str, op: str, domain: str = "") -> Node | None:
        """The node writing ``name`` if it is an ``op`` and this is its only reader."""
        node = self.producers.get(name)
        if node is None or self.uses[name] != 1 or self.touched(node):
            return None
        return node if node.op == op and node.domain == domain else None

    def touched(self, node: Node) -> bool:
        return node.outputs[0] in self.dropped or node.outputs[0] in self.replaced

    def replace(self, node: Node, new: Node, *gone: Node) -> None:
        self.replaced[node.outputs[0]] = new
        self.dropped.update(item.outputs[0] for item in gone)

    def store(self, stem: str, value: Array) -> str:
        name = stem
        while name in self.graph.constants or name in self.constants or name in self.graph.types:
            name += "_"
        self.constants[name] = value
        return name

    def finish(self) -> tuple[Graph, bool]:
        if not self.replaced and not self.dropped:
            return self.graph, False
        nodes = [
            self.replaced.get(node.outputs[0], node)
            for node in self.graph.nodes
            if node.outputs[0] not in self.dropped
        ]
        return self.graph.with_nodes(nodes, self.constants), True


def fuse_matmul_add(graph: Graph) -> tuple[Graph, bool]:
    """Add(MatMul(x, W), b) with a constant W and a bias of one row becomes Gemm-like "Linear"."""
    work = _Rewrite(graph)
    for node in graph.nodes:
        if node.op != "Add" or node.domain or len(node.inputs) != 2:
            continue
        for index in (0, 1):
            matmul = work.only(node.inputs[index], "MatMul")
            bias = node.inputs[1 - index]
            if matmul is None or not _is_constant(work, bias):
                continue
            if not _is_constant(work, matmul.inputs[1]):
                continue
            weight = graph.shape(matmul.inputs[1])
            if len(weight) != 2 or not _is_row(graph.shape(bias), weight[1]):
                continue
            new = Node("Linear", matmul.name, (*matmul.inputs, bias), node.outputs, {}, FUSED)
            work.replace(node, new, matmul)
            break
    return work.finish()


def _is_constant(work: _Rewrite, name: str) -> bool:
    """Whether a value is a constant, or the dequantization of one."""
    if name in work.graph.constants:
        return True
    node = work.producers.get(name)
    return (
        node is not None
        and node.op == "DequantizeLinear"
        and all(n in work.graph.constants for n in node.inputs if n)
    )


def _is_row(shape: tuple[int, ...], width: int) -> bool:
    return bool(shape) and shape[-1] == width and all(d == 1 for d in shape[:-1])


def fuse_batch_norm(graph: Graph) -> tuple[Graph, bool]:
    """Batch norm becomes weights of the convolution before it, else a 1x1 depthwise one."""
    work = _Rewrite(graph)
    for node in graph.nodes:
        if node.op != "BatchNormalization" or node.domain:
            continue
        parts = [work.constant(name) for name in node.inputs[1:5]]
        if len(parts) != 4 or any(part is None for part in parts):
            continue
        if any(node.outputs[1:]) or node.attrs.get("training_mode", 0):
            continue
        gamma, beta, mean, var = (np.asarray(part, np.float64) for part in parts)
        factor = gamma / np.sqrt(var + float(node.attrs.get("epsilon", 1e-5)))
        shift = beta - mean * factor
        if not _into_convolution(work, node, node.inputs[0], factor, shift):
            _as_depthwise(work, node, factor, shift)
    return work.finish()


def fuse_channel_affine(graph: Graph) -> tuple[Graph, bool]:
    """Mul and Add of one constant a channel become weights of the convolution before them."""
    work = _Rewrite(graph)
    for node in graph.nodes:
        if node.op not in ("Mul", "Add", "Sub", "Div") or node.domain or len(node.inputs) != 2:
            continue
        for index in (0, 1):
            constant = work.constant(node.inputs[1 - index])
            if constant is None or constant.dtype != np.float32:
                continue
            if index == 1 and node.op in ("Sub", "Div"):
                continue
            channels = _channel_vector(graph, node.outputs[0], constant)
            if channels is None:
                continue
            one, zero = np.ones_like(channels), np.zeros_like(channels)
            if node.op in ("Mul", "Div"):
                factor, shift = (channels if node.op == "Mul" else one / channels), zero
            else:
                factor, shift = one, (channels if node.op == "Add" else -channels)
            if np.isfinite(factor).all() and _into_convolution(
                work, node, node.inputs[index], factor, shift
            ):
                break
    return work.finish()


def _channel_vector(graph: Graph, output: str, constant: Array) -> Array | None:
    shape = graph.types[output].shape if output in graph.types else ()
    if len(shape) not in (3, 4) or constant.ndim > len(shape):
        return None
    aligned = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    if any(dim != 1 for axis, dim in enumerate(aligned.shape) if axis != 1):
        return None
    return np.broadcast_to(aligned.reshape(-1), (shape[1],)).astype(np.float64)


def _into_convolution(
    work: _Rewrite, node: Node, source: str, factor: Array, shift: Array
) -> bool:
    conv = work.only(source, "Conv")
    if conv is None:
        return False
    weight = work.constant(conv.inputs[1])
    bias = work.constant(conv.input(2)) if conv.input(2) else np.zeros(len(factor))
    if weight is None or bias is None or weight.dtype != np.float32:
        return False
    if weight.shape[0] != len(factor):
        return False
    scaled = np.asarray(weight, np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))
    moved = np.asarray(bias, np.float64) * factor + shift
    w = work.store(f"{conv.name}.weight", scaled.astype(np.float32))
    b = work.store(f"{conv.name}.bias", moved.astype(np.float32))
    new = replace(conv, inputs=(conv.inputs[0], w, b), outputs=node.outputs[:1])
    work.replace(node, new, conv)
    return True


def _as_depthwise(work: _Rewrite, node: Node, factor: Array, shift: Array) -> None:
    shape = work.graph.shape(node.inputs[0])
    if len(shape) not in (3, 4):
        return
    channels = shape[1]
    ones = (1,) * (len(shape) - 2)
    w = work.store(f"{node.name}.weight", factor.astype(np.float32).reshape(-1, 1, *ones))
    b = work.store(f"{node.name}.bias", shift.astype(np.float32))
    attrs = {"group": channels, "kernel_shape": list(ones)}
    new = Node("Conv", node.name, (node.inputs[0], w, b), node.outputs[:1], attrs)
    work.replace(node, new)


def fuse_pad(graph: Graph) -> tuple[Graph, bool]:
    """Zero padding before a convolution or an average pool becomes its own padding."""
    work = _Rewrite(graph)
    for node in graph.nodes:
        if node.op not in ("Conv", "AveragePool", "MaxPool") or node.domain:
            continue
        pad = work.only(node.inputs[0], "Pad")
        if pad is None or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            continue
        amounts = _spatial_pads(work, pad)
        own = node.ints("pads")
        rank = len(graph.shape(pad.inputs[0])) - 2
        own = own or (0,) * (2 * rank)
        if amounts is None or len(own) != len(amounts):
            continue
        attrs = dict(node.attrs, pads=[a + b for a, b in zip(own, amounts, strict=True)])
        attrs.pop("auto_pad", None)
        if node.op == "AveragePool":
            counts = bool(attrs.get("count_include_pad", 0))
            if any(own) and not counts or attrs.get("ceil_mode", 0):
                continue
            attrs["count_include_pad"] = 1
        if node.op == "MaxPool":
            # the pool pads with -inf: the same only if values are >= 0 and windows reach inside
            kernel = node.ints("kernel_shape")
            reach = all(p < k for p, k in zip(attrs["pads"], kernel * 2, strict=False))
            before = work.producers.get(pad.inputs[0])
            if any(own) or not reach or before is None or before.op != "Relu":
                continue
        new = replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs=attrs)
        work.replace(node, new, pad)
    return work.finish()


def _spatial_pads(work: _Rewrite, pad: Node) -> tuple[int, ...] | None:
    """Begin and end amounts of the spatial axes, if the pad is constant zero and only there."""
    if pad.attrs.get("mode", "constant") != "constant" or pad.input(3):
        return None
    value = work.scalar(pad.inputs[2]) if pad.input(2) else float(pad.attrs.get("value", 0.0))
    listed = work.constant(pad.inputs[1]) if pad.input(1) else np.asarray(pad.ints("pads"))
    if value != 0 or listed is None:
        return None
    amounts = [int(v) for v in listed.reshape(-1)]
    rank = len(amounts) // 2
    if rank < 3 or min(amounts) < 0 or any(amounts[i] or amounts[rank + i] for i in (0, 1)):
        return None
    return (*amounts[2:rank], *amounts[rank + 2 :])


def normalise_clips(graph: Graph) -> tuple[Graph, bool]:
    """Clip, and Max or Min with a scalar, become one fused Clip with bounds as attributes."""
    work = _Rewrite(graph)
    for node in graph.nodes:
        if node.domain or node.op not in ("Clip", "Max", "Min"):
            continue
        low, high = -np.inf, np.inf
        source = node.inputs[0]
        if node.op == "Clip":
            bounds = [
                work.scalar(node.input(i)) if node.input(i) else float(node.attrs.get(key, default))
                for i, key, default in ((1, "min", -np.inf), (2, "max", np.inf))
            ]
            if None in bounds:
                continue
            low, high = bounds[0], bounds[1]  # type: ignore[assignment]
        else:
            scalars = [work.scalar(name) for name in node.inputs]
            if len(scalars) != 2 or (scalars[0] is None) == (scalars[1] is None):
                continue
            index = 0 if scalars[0] is not None else 1
            source = node.inputs[1 - index]
            if graph.shape(source) != graph.shape(node.outputs[0]):
                continue
            low, high = (scalars[index], high) if node.op == "Max" else (low, scalars[index])  # type: ignore[assignment]
        if source in graph.constants or graph.types[node.outputs[0]].dtype != np.float32:
            continue
        attrs = {"min": float(low), "max": float(high)}
        work.replace(node, Node("Clip", node.name, (source,), node.outputs, attrs, FUSED))
    return work.finish()


def fuse_hard_sigmoid(graph: Graph) -> tuple[Graph, bool]:
    """Clip(x + 3, 0, 6) / 6 becomes HardSigmoid."""
    work = _Rewrite(graph)
    for node in graph.nodes:
        if node.domain or node.op not in ("Div", "Mul"):
            continue
        for index in (0, 1) if node.op == "Mul" else (0,):
            factor = work.scalar(node.inputs[1 - index])
            clip = work.only(node.inputs[index], "Clip", FUSED)
            if clip is None or not factor:
                continue
            alpha = factor if node.op == "Mul" else 1.0 / factor
            add = work.only(clip.inputs[0], "Add")
            if add is None or clip.attrs["min"] != 0 or abs(clip.attrs["max"] * alpha - 1) > 1e-6:
                continue
            terms = [work.scalar(name) for name in add.inputs]
            if (terms[0] is None) == (terms[1] is None):
                continue
            which = 0 if terms[1] is None else 1
            source, term = add.inputs[1 - which], terms[which]
            if graph.shape(source) != graph.shape(node.outputs[0]):
                continue
            attrs = {"alpha": float(alpha), "beta": float(term or 0.0) * float(alpha)}
            new = Node("HardSigmoid", node.name, (source,), node.outputs, attrs)
            work.replace(node, new, clip, add)
            break
    return work.finish()


def fuse_self_gate(graph: Graph) -> tuple[Graph, bool]:
    """x * HardSigmoid(x) becomes HardSwish, x * Sigmoid(x) Silu."""
    work = _Rewrite(graph)
    for node in graph.nodes:
        if node.domain or node.op != "Mul":
            continue
        for index in (0, 1):
            source = node.inputs[1 - index]
            gate = work.only(node.inputs[index], "HardSigmoid")
            gate = gate or work.only(node.inputs[index], "Sigmoid")
            if gate is None or gate.inputs[0] != source:
                continue
            if gate.op == "Sigmoid":
                new = Node("Silu", node.name, (source,), node.outputs, {}, FUSED)
            elif _is_sixth(gate):
                new = Node("HardSwish", node.name, (source,), node.outputs)
            else:
                continue
            work.replace(node, new, gate)
            break
    return work.finish()


def _is_sixth(gate: Node) -> bool:
    alpha, beta = float(gate.attrs.get("alpha", 0.2)), float(gate.attrs.get("beta", 0.5))
    return abs(alpha - 1 / 6) < 1e-6 and abs(beta - 0.5) < 1e-6


def fuse_gelu(graph: Graph) -> tuple[Graph, bool]:
    """0.5 * x * (1 + erf(x / sqrt 2)) becomes Gelu, in whichever order it is multiplied."""
    work = _Rewrite(graph)
    for node in graph.nodes:
        if node.domain or node.op != "Erf":
            continue
        inner = work.only(node.inputs[0], "Div") or work.only(node.inputs[0], "Mul")
        if inner is None or work.uses[node.outputs[0]] != 1:
            continue
        source = inner.inputs[0]
        scale = work.scalar(inner.inputs[1])
        wanted = np.sqrt(2.0) if inner.op == "Div" else np.sqrt(0.5)
        if scale is None or abs(scale - wanted) > 1e-5:
            continue
        chain = _gelu_tail(work, node, source)
        if chain is None:
            continue
        *gone, last = chain
        new = Node("Gelu", last.name, (source,), last.outputs, {}, FUSED)
        work.replace(last, new, inner, node, *gone)
    return work.finish()


def _gelu_tail(work: _Rewrite, erf: Node, source: str) -> list[Node] | None:
    """Add 1, then multiply by x and 0.5 in either order, or by x / 2."""
    readers = work.graph.readers()

    def single(name: str) -> Node | None:
        found = readers.get(name, [])
        return found[0] if len(found) == 1 and work.uses[name] == 1 else None

    add = single(erf.outputs[0])
    if add is None or add.op != "Add" or 1.0 not in [work.scalar(n) for n in add.inputs]:
        return None
    chain, missing, name = [add], {"x", "half"}, add.outputs[0]
    while missing:
        node = single(name)
        if node is None or node.op not in ("Mul", "Div") or work.touched(node):
            return None
        other = node.inputs[1] if node.inputs[0] == name else node.inputs[0]
        half = work.only(other, "Mul") if node.op == "Mul" else None
        if node.op == "Mul" and other == source and "x" in missing:
            missing.remove("x")
        elif _halves(work, node, other) and "half" in missing:
            missing.remove("half")
        elif half is not None and source in half.inputs and missing == {"x", "half"}:
            if 0.5 not in [work.scalar(n) for n in half.inputs]:
                return None
            chain.append(half)
            missing.clear()
        else:
            return None
        chain.append(node)
        name = node.outputs[0]
    return chain


def _halves(work: _Rewrite, node: Node, other: str) -> bool:
    return work.scalar(other) == (0.5 if node.op == "Mul" else 2.0)


#: In the order they run; `edgeopt.graph.simplify` repeats them until nothing changes.
FUSIONS: tuple[Pass, ...] = (
    normalise_clips,
    fuse_pad,
    fuse_batch_norm,
    fuse_channel_affine,
    fuse_matmul_add,
    fuse_hard_sigmoid,
    fuse_self_gate,
    fuse_gelu,
)

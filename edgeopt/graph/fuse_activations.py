"""Finding activations that a model composes of several nodes."""

from __future__ import annotations

import numpy as np

from edgeopt.graph.ir import FUSED, Graph, Node
from edgeopt.graph.rewrite import Rewrite


def normalise_clips(graph: Graph) -> tuple[Graph, bool]:
    """Clip, and Max or Min with a scalar, become one fused Clip with bounds as attributes."""
    work = Rewrite(graph)
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
    work = Rewrite(graph)
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
    """HardSwish and Silu from x times HardSigmoid or Sigmoid of x."""
    work = Rewrite(graph)
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
    work = Rewrite(graph)
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


def _gelu_tail(work: Rewrite, erf: Node, source: str) -> list[Node] | None:
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


def _halves(work: Rewrite, node: Node, other: str) -> bool:
    return work.scalar(other) == (0.5 if node.op == "Mul" else 2.0)

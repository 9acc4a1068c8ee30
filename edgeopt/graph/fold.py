"""Constant folding and the removal of nodes that do nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.core.network import Array
from edgeopt.graph.ir import Graph, Node, to_node
from edgeopt.graph.supported import FOLDABLE

#: A folded value may not be larger than this: a small file must not become a large constant.
MAX_FOLDED_BYTES = 1 << 28

#: Where shape inference did not bound a result, its operands must be this few elements together.
_MAX_UNBOUNDED = 512


def fold_constants(graph: Graph) -> tuple[Graph, bool]:
    """Evaluate nodes that depend on constants only, and shapes that are static.

    DequantizeLinear of a constant stays: its integers are what integer kernels want.
    """
    constants = dict(graph.constants)
    kept: list[Node] = []
    made_bytes = 0
    for node in graph.nodes:
        values = _evaluate(graph, node, constants)
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.outputs, values, strict=False):
            if name:
                constants[name] = np.asarray(value)
                made_bytes += constants[name].nbytes
        _check_size(made_bytes, node)
    if len(kept) == len(graph.nodes):
        return graph, False
    return replace(graph, nodes=tuple(kept), constants=constants), True


def _evaluate(graph: Graph, node: Node, constants: dict[str, Array]) -> list[Array] | None:
    if node.domain or any(name in graph.outputs for name in node.outputs):
        return None
    if node.op == "Constant":
        return [_constant(node)]
    if node.op not in FOLDABLE:
        return None
    if node.op in ("Shape", "Size"):
        known = constants.get(node.inputs[0])
        shape = known.shape if known is not None else None
        if shape is None and node.inputs[0] in graph.types:
            shape = graph.types[node.inputs[0]].shape
        if shape is None:
            return None
        if node.op == "Size":
            return [np.asarray(math.prod(shape), np.int64)]
        start, end = node.attrs.get("start", 0), node.attrs.get("end", len(shape))
        return [np.asarray(shape[start:end], np.int64)]
    operands = [constants.get(name) for name in node.inputs if name]
    if any(operand is None for operand in operands):
        return None
    if node.op in ("ConstantOfShape", "Expand", "Tile", "Range"):
        _check_growth(node, constants)
    elif not all(name in graph.types for name in node.outputs if name):
        read = sum(operand.size for operand in operands if operand is not None)
        if read > _MAX_UNBOUNDED:
            return None  # shape inference says how large it is once its operands are constants
    for name in node.outputs:
        known_type = graph.types.get(name)
        if name and known_type is not None:
            _check_size(math.prod(known_type.shape) * known_type.dtype.itemsize, node)
    return _run(graph.opset, node, [constants[n] if n else None for n in node.inputs])


def _constant(node: Node) -> Array:
    for name, value in node.attrs.items():
        if name == "value":
            return np.asarray(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise InputError(
        "only dense numeric constants are supported",
        where=f"node {node.name!r} (Constant)",
        hint="export the model without sparse or string constants",
    )


def _check_size(size_bytes: int, node: Node) -> None:
    if size_bytes > MAX_FOLDED_BYTES:
        raise InputError(
            f"computes a constant of {size_bytes} bytes, more than the {MAX_FOLDED_BYTES} allowed",
            where=f"node {node.name!r} ({node.op})",
            hint="the file is damaged, or not a network for an embedded board",
        )


def _check_growth(node: Node, constants: dict[str, Array]) -> None:
    """Bound operators whose output size is in their operands, before anything is allocated."""
    first = constants[node.inputs[0]]
    rest = [constants[n] for n in node.inputs[1:] if n]
    if node.op == "ConstantOfShape":
        size = math.prod(int(v) for v in first.flatten()[:64])
    elif node.op == "Range":
        start, limit, delta = (float(v.flatten()[0]) for v in (first, *rest))
        if delta == 0 or not all(map(math.isfinite, (start, limit, delta))):
            raise InputError(
                "the step of a range must not be zero",
                where=f"node {node.name!r} (Range)",
                hint="the file is damaged",
            )
        size = max(0, math.ceil((limit - start) / delta))
    elif node.op == "Expand":
        size = first.size * math.prod(max(1, int(v)) for v in rest[0].flatten()[:64])
    else:
        size = first.size * math.prod(int(v) for v in rest[0].flatten()[:64])
    if size < 0:
        raise InputError(
            "a dimension is negative", where=f"node {node.name!r} ({node.op})",
            hint="the file is damaged",
        )  # fmt: skip
    _check_size(size * 8, node)


def _run(opset: int, node: Node, values: list[Array | None]) -> list[Array]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    feeds = {name: v for name, v in zip(node.inputs, values, strict=True) if v is not None}
    graph = onnx.helper.make_graph(
        [to_node(node)],
        "fold",
        [onnx.ValueInfoProto(name=name) for name in feeds],
        [onnx.ValueInfoProto(name=name) for name in node.outputs if name],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results = iter(ReferenceEvaluator(model).run(None, feeds))
    except Exception as error:  # the evaluator raises whatever numpy does
        raise InputError(
            f"cannot be evaluated: {str(error)[:200] or type(error).__name__}",
            where=f"node {node.name!r} ({node.op})",
            hint="its operands do not fit together; check the model with onnx.checker",
        ) from error
    return [next(results) if name else np.empty(0) for name in node.outputs]


def drop_identities(graph: Graph) -> tuple[Graph, bool]:
    """Remove Identity, Dropout, Cast to the same type, and the like."""
    renamed: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        node = replace(node, inputs=inputs) if inputs != node.inputs else node
        source = inputs[0] if inputs else ""
        if _does_nothing(graph, node) and node.outputs[0] not in graph.outputs:
            renamed[node.outputs[0]] = source
        else:
            kept.append(node)
    return (graph.with_nodes(kept), True) if renamed else (graph, False)


def _does_nothing(graph: Graph, node: Node) -> bool:
    if node.domain or not node.inputs:
        return False
    if node.op == "Identity":
        return True
    uses_mask = len(node.outputs) > 1 and bool(node.outputs[1])
    if node.op == "Dropout":
        training = node.input(2)
        off = not training or not bool(graph.constants.get(training, np.asarray(True)).any())
        return off and not uses_mask
    known, made = graph.types.get(node.inputs[0]), graph.types.get(node.outputs[0])
    if known is None or made is None:
        return False
    if node.op == "Cast":
        return known.dtype == made.dtype
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"):
        return known.shape == made.shape
    if node.op == "Pad":
        pads = graph.constants.get(node.input(1), np.asarray(node.ints("pads")))
        return known.shape == made.shape and not np.asarray(pads).any()
    if node.op in ("Concat", "Sum", "Max", "Min", "Mean"):
        return len(node.inputs) == 1
    return False


def drop_dead(graph: Graph) -> tuple[Graph, bool]:
    """Remove nodes and constants that no output depends on."""
    wanted = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(name in wanted for name in node.outputs if name):
            wanted.update(name for name in node.inputs if name)
            kept.append(node)
    constants = {name: value for name, value in graph.constants.items() if name in wanted}
    if len(kept) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph, False
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants), True

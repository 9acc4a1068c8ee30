"""Any other operator, as a one-node ONNX model that TVM's own legalization compiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.network import Array
from edgeopt.graph.builder import Value, dtype_of
from edgeopt.graph.importer import Importer
from edgeopt.graph.ir import FUSED, Node, Type, to_node
from edgeopt.graph.layout import plain
from edgeopt.graph.supported import GENERIC, LAYOUT_FREE, SUPPORTED


def generic(imp: Importer, node: Node) -> None:
    """Write a node as kind "onnx"; once for each of its outputs that is used.

    Raises:
        InputError: an operator that cannot be compiled, by node name.
    """
    refuse_unsupported(node)
    uses = imp.graph.uses()
    wanted = [name for name in node.outputs if name and uses[name]]
    activations = [name for name in node.inputs if name and not imp.is_constant(name)]
    activations = list(dict.fromkeys(activations))
    _check_indices(imp, node)
    if not activations:
        raise InputError(
            "does not depend on any input and could not be evaluated",
            where=imp.where(node),
            hint="simplify the model when exporting it",
        )
    if node.op in LAYOUT_FREE and len(activations) == 1 and len(node.inputs) == 1:
        _layout_free(imp, node)
        return
    tensors = []
    for name in activations:
        value = imp.value(name)
        _refuse_shifted(imp, node, name, value)
        tensors.append(imp.builder.require(value, plain(imp.shape(name)), imp.shape(name)))
    for result in wanted:
        y = imp.declare(result, imp.shape(result))
        types = [imp.graph.types[name] for name in activations]
        payload = _payload(imp, node, activations, types, result, imp.graph.types[result])
        imp.builder.emit("onnx", node.name, tuple(tensors), y, {"node": payload})
        imp.bind(result, y)


def refuse_unsupported(node: Node) -> None:
    """Name operators that nobody can compile.

    Raises:
        InputError: the operator is not known.
    """
    if node.domain == "" and node.op in GENERIC:
        return
    where = f"node {node.name!r} ({node.domain + '.' if node.domain else ''}{node.op})"
    if node.domain not in ("", FUSED):
        raise InputError(
            f"operators of domain {node.domain!r} are not supported",
            where=where,
            hint="export the model with standard ONNX operators only",
        )
    advice = "replace it in the network, or cut it off and run it outside"
    if node.op in SUPPORTED:
        raise InputError(
            f"operator {node.op} is supported only where its operands are constants",
            where=where,
            hint=advice,
        )
    near = suggest(node.op, SUPPORTED, noun="operator")
    raise InputError(
        f"operator {node.op} is not supported",
        where=where,
        hint=f"{near} {advice}" if near.startswith("did you mean") else advice,
    )


def _check_indices(imp: Importer, node: Node) -> None:
    """Indices out of range would read other memory: they must be known, and fit."""
    if node.op not in ("Gather", "GatherElements", "GatherND"):
        return
    indices = imp.constant(node.inputs[1])
    if indices is None:
        raise InputError(
            f"{node.op} by indices that are computed is not supported",
            where=imp.where(node),
            hint="make the indices constants of the network",
        )
    shape = imp.shape(node.inputs[0])
    if node.op == "GatherND":
        first = int(node.attrs.get("batch_dims", 0))
        limits = np.asarray(shape[first : first + indices.shape[-1]], np.int64)
    else:
        limits = np.asarray(shape[int(node.attrs.get("axis", 0)) % len(shape)], np.int64)
    values = indices.astype(np.int64)
    if ((values < -limits) | (values >= limits)).any():
        raise InputError(
            f"an index of {node.op} is out of range",
            where=imp.where(node),
            hint="the file is damaged, or was not written by an exporter",
        )


def _refuse_shifted(imp: Importer, node: Node, name: str, value: Value) -> None:
    if imp.graph.types[name].dtype == np.uint8 and imp.builder.tensors[value.tensor].dtype == "i8":
        raise InputError(
            f"{node.op} of quantized uint8 values is not supported",
            where=imp.where(node),
            hint="quantize to int8, or keep this operator in float",
        )


def _layout_free(imp: Importer, node: Node) -> None:
    """A function of each element: whatever order memory has them in."""
    value = imp.value(node.inputs[0])
    _refuse_shifted(imp, node, node.inputs[0], value)
    shape = imp.builder.tensors[value.tensor].shape
    result = node.outputs[0]
    y = imp.declare(result, shape)
    before = Type(imp.graph.types[node.inputs[0]].dtype, shape)
    after = Type(imp.graph.types[result].dtype, shape)
    payload = _payload(imp, node, list(node.inputs), [before], result, after)
    imp.builder.emit("onnx", node.name, (value.tensor,), y, {"node": payload})
    imp.bind(result, y, value.layout)


def _payload(
    imp: Importer, node: Node, activations: list[str], types: list[Type], result: str, out: Type
) -> bytes:  # fmt: skip
    """The node as a model: inputs x0, x1, … in order, one output y, constants inside."""
    import onnx

    constants: dict[str, Array] = {}
    for name in node.inputs:
        if name and name not in activations and name not in constants:
            value = imp.constant(name)
            assert value is not None
            constants[name] = value
    names = {name: f"x{index}" for index, name in enumerate(activations)}
    names |= {name: f"c{index}" for index, name in enumerate(constants)}
    outputs = tuple(
        "y" if n == result else f"y{i}" if n else "" for i, n in enumerate(node.outputs)
    )
    inner = replace(
        node, name="node", outputs=outputs, inputs=tuple(names.get(n, "") for n in node.inputs)
    )

    def info(name: str, known: Type) -> onnx.ValueInfoProto:
        dtype_of(known.dtype, imp.where(node))
        element = onnx.helper.np_dtype_to_tensor_dtype(known.dtype)
        return onnx.helper.make_tensor_value_info(name, element, known.shape)

    graph = onnx.helper.make_graph(
        [to_node(inner)],
        node.op,
        [info(names[n], known) for n, known in zip(activations, types, strict=True)],
        [info("y", out)],
        [onnx.numpy_helper.from_array(np.asarray(v), names[n]) for n, v in constants.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", imp.graph.opset)], ir_version=10
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data

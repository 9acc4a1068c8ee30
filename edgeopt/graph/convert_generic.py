"""Any other operator, as a one-node ONNX model that TVM's own legalization compiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.network import Array
from edgeopt.graph.builder import Value, dtype_of
from edgeopt.graph.importer import Importer
from edgeopt.graph.ir import FUSED, Node, Type, to_node
from edgeopt.graph.layout import Layout, plain
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
    imp: Importer, node: Node, activations: list[str], types: list[Type], result: str, out: Type,
    extra: dict[str, Array] | None = None,
) -> bytes:  # fmt: skip
    """The node as a model: inputs x0, x1, … in order, one output y, constants inside."""
    import onnx

    constants = dict(extra or {})
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


def _rearranged(
    imp: Importer, node: Node, name: str, result: str, made: Node, constants: dict[str, Array]
) -> bool:
    """Write ``made``, a form of ``node`` for the axes as memory has them."""
    stored = name in imp.integers
    value = imp.integers[name] if stored else imp.value(name)
    known = imp.builder.tensors[value.tensor]
    layout = Layout(imp.shape(result), value.layout.perm)
    quant = known.quant
    y = imp.declare(result, layout.physical, quant)
    element = np.dtype(np.int8) if quant is not None else imp.graph.types[name].dtype
    x = imp.builder.require(value, value.layout)
    payload = _payload(
        imp, made, [name], [Type(element, value.layout.physical)], result,
        Type(element, layout.physical), constants,
    )  # fmt: skip
    imp.builder.emit("onnx", node.name, (x,), y, {"node": payload})
    (imp.integers if stored else imp.values)[result] = Value(y, layout, imp.shape(result))
    return True


def _axes_known(imp: Importer, node: Node) -> Layout | None:
    """The layout of a node's first input if its axes are those of the model in some order."""
    name = node.inputs[0]
    if imp.is_constant(name):
        return None
    value = imp.integers[name] if name in imp.integers else imp.value(name)
    return value.layout if value.layout.view == value.shape else None


def slice_(imp: Importer, node: Node) -> bool:
    """A slice by constants, along the axes as memory has them."""
    layout = _axes_known(imp, node)
    if layout is None or not node.input(1) or imp.graph.opset < 10:
        return False
    parts = [imp.constant(name) if name else None for name in node.inputs[1:]]
    if any(part is None for part, name in zip(parts, node.inputs[1:], strict=True) if name):
        return False
    starts, ends = parts[0], parts[1]
    assert starts is not None and ends is not None
    rank = len(layout.view)
    axes = parts[2] if len(parts) > 2 and parts[2] is not None else np.arange(starts.size)
    steps = parts[3] if len(parts) > 3 and parts[3] is not None else np.ones(starts.size)
    moved = [layout.perm.index(int(axis) % rank) for axis in axes.reshape(-1)]
    made, constants = _slice_node(node, node.inputs[0], node.outputs[0], {
        "starts": starts, "ends": ends, "axes": np.asarray(moved), "steps": steps,
    })  # fmt: skip
    return _rearranged(imp, node, node.inputs[0], node.outputs[0], made, constants)


def _slice_node(
    node: Node, source: str, result: str, parts: dict[str, Array]
) -> tuple[Node, dict[str, Array]]:
    names = {key: f"{node.outputs[0]}\0{key}" for key in parts}
    constants: dict[str, Array] = {}
    for key, value in parts.items():
        constants[names[key]] = np.asarray(value, np.int64)
    return Node("Slice", node.name, (source, *names.values()), (result,)), constants


def split(imp: Importer, node: Node) -> bool:
    """Slices, one for each part that is used."""
    layout = _axes_known(imp, node)
    if layout is None or imp.graph.opset < 10:
        return False
    axis = int(node.attrs.get("axis", 0)) % len(layout.view)
    uses = imp.graph.uses()
    start = 0
    for result in node.outputs:
        end = start + imp.shape(result)[axis]
        if result and uses[result]:
            made, constants = _slice_node(node, node.inputs[0], result, {
                "starts": np.asarray([start]), "ends": np.asarray([end]),
                "axes": np.asarray([layout.perm.index(axis)]), "steps": np.asarray([1]),
            })  # fmt: skip
            _rearranged(imp, node, node.inputs[0], result, made, constants)
        start = end
    return True


def pad(imp: Importer, node: Node) -> bool:
    """Padding of floats by constants, along the axes as memory has them."""
    layout = _axes_known(imp, node)
    name = node.inputs[0]
    listed = imp.constant(node.inputs[1]) if node.input(1) else None
    if layout is None or listed is None or node.input(3) or imp.graph.opset < 11:
        return False
    if imp.graph.types[name].dtype != np.float32:
        return False
    imp.value(name)  # the padding is a real value: work on floats
    rank = len(layout.view)
    amounts = listed.reshape(2, rank)[:, list(layout.perm)]
    key = f"{node.outputs[0]}\0pads"
    inputs = (name, key, *node.inputs[2:3])
    made = replace(node, inputs=inputs)
    integers = imp.integers.pop(name, None)
    try:
        return _rearranged(
            imp, node, name, node.outputs[0], made, {key: amounts.reshape(-1).astype(np.int64)}
        )
    finally:
        if integers is not None:
            imp.integers[name] = integers

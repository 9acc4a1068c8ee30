"""What a model from outside must be before any native code looks at its graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx

from edgeopt.core.errors import InputError, suggest
from edgeopt.graph.sizes import DAMAGED, check_tensor
from edgeopt.graph.supported import MAX_OPSET, MIN_OPSET, SUPPORTED

MAX_NODES = 50_000
MAX_NAME = 1_024

_INPUT_TYPES = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32, onnx.TensorProto.INT64,
}  # fmt: skip
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_FACTORS = frozenset({"alpha", "beta", "gamma", "epsilon", "lambd", "bias"})
_AttributeType = onnx.AttributeProto.AttributeType


def node_where(node: onnx.NodeProto, index: int) -> str:
    """How errors name a node; control characters in names are escaped."""
    name = node.name or next((n for n in node.output if n), f"#{index}")
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    return f"node {name[:80]!r} ({domain[:80]}{node.op_type[:80]})"


def validate(model: onnx.ModelProto) -> None:
    """Check everything that can be checked without inferring shapes; sorts the nodes.

    Raises:
        InputError: the first thing found wrong, with the node or tensor it was found in.
    """
    _header(model)
    graph = model.graph
    _names(graph)
    for tensor in graph.initializer:
        check_tensor(tensor, f"initializer {tensor.name[:80]!r}")
    if graph.sparse_initializer:
        raise InputError(
            "sparse weights are not supported", hint="export the model with dense weights"
        )
    for info in (*graph.input, *graph.output):
        _tensor_type(info)
    opset = default_opset(model)
    for index, node in enumerate(graph.node):
        _node(node, index, opset)
    _wiring(graph)


def default_opset(model: onnx.ModelProto) -> int:
    """The version of the default domain."""
    return next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)


def _header(model: onnx.ModelProto) -> None:
    if not model.HasField("graph") or not model.graph.node:
        raise InputError("has no operators: not an ONNX network", hint="is this the right file?")
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise InputError(
            f"IR version {model.ir_version} is not supported, only 3 to {onnx.IR_VERSION}",
            hint="export the model again with a current exporter",
        )
    opset = default_opset(model)
    newest = min(MAX_OPSET, onnx.defs.onnx_opset_version())
    if not MIN_OPSET <= opset <= newest:
        what = f"opset {opset} is not supported" if opset else "declares no opset"
        raise InputError(
            f"{what}, only {MIN_OPSET} to {newest}",
            where="opset_import",
            hint="convert it with onnx.version_converter, or export it with opset_version=17",
        )
    if model.functions:
        raise InputError(
            "model-local functions are not supported",
            where=f"function {model.functions[0].name[:80]!r}",
            hint="inline them: onnx.inliner.inline_local_functions(model)",
        )
    if len(model.graph.node) > MAX_NODES:
        raise InputError(
            f"has {len(model.graph.node)} nodes, more than the {MAX_NODES} allowed", hint=DAMAGED
        )


def _names(graph: onnx.GraphProto) -> None:
    for kind, items in (
        ("input", graph.input), ("output", graph.output), ("initializer", graph.initializer),
    ):  # fmt: skip
        seen: set[str] = set()
        for item in items:
            if not item.name or item.name in seen:
                raise InputError(
                    f"{kind} name {item.name[:80]!r} is "
                    + ("used twice" if item.name else "empty"),
                    where=f"graph {kind}s",
                    hint=DAMAGED,
                )
            _length(item.name, f"graph {kind}s")
            seen.add(item.name)
    constants = {item.name for item in graph.initializer}
    if all(item.name in constants for item in graph.input):
        raise InputError("has no input", where="graph inputs", hint="is this the right file?")
    if not graph.output:
        raise InputError("has no output", where="graph outputs", hint="is this the right file?")


def _length(name: str, where: str) -> None:
    if len(name) > MAX_NAME:
        raise InputError(
            f"a name of {len(name)} characters is longer than the {MAX_NAME} allowed",
            where=where,
            hint=DAMAGED,
        )


def _tensor_type(info: onnx.ValueInfoProto) -> None:
    where = f"tensor {info.name[:80]!r}"
    if not info.type.HasField("tensor_type"):
        kind = info.type.WhichOneof("value") or "nothing"
        raise InputError(
            f"is a {kind.removesuffix('_type')}, not a tensor",
            where=where,
            hint="sequences, maps and optional values are not supported: export plain tensors",
        )
    element = info.type.tensor_type.elem_type
    if element not in _INPUT_TYPES:
        kinds = {v: k for k, v in onnx.TensorProto.DataType.items()}
        raise InputError(
            f"values of type {kinds.get(element, element)} are not supported",
            where=where,
            hint="export the network in float32, or quantized to int8 or uint8",
        )


def _node(node: onnx.NodeProto, index: int, opset: int) -> None:
    where = node_where(node, index)
    for name in (node.name, *node.input, *node.output):
        _length(name, where)
    if node.domain not in ("", "ai.onnx"):
        raise InputError(
            f"operators of domain {node.domain[:80]!r} are not supported",
            where=where,
            hint="export the model with standard ONNX operators only",
        )
    if node.op_type in _CONTROL_FLOW:
        raise InputError(
            f"control flow ({node.op_type}) is not supported",
            where=where,
            hint="export the model with fixed shapes so that branches and loops disappear",
        )
    if node.op_type not in SUPPORTED:
        near = suggest(node.op_type, SUPPORTED, noun="operator")
        advice = "replace it in the network, or cut it off and run it outside"
        raise InputError(
            f"operator {node.op_type[:80]} is not supported",
            where=where,
            hint=f"{near} {advice}" if near.startswith("did you mean") else advice,
        )
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        schema = None
    if schema is None or schema.deprecated:
        raise InputError(
            f"operator {node.op_type} is not part of opset {opset}",
            where=where,
            hint="the opset the file declares does not fit it: export the model again",
        )
    _arity(node, schema, where)
    _attributes(node, schema, where)


def _arity(node: onnx.NodeProto, schema: onnx.defs.OpSchema, where: str) -> None:
    for noun, names, low, high in (
        ("inputs", node.input, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.min_output, schema.max_output),
    ):
        if not low <= len(names) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise InputError(
                f"has {len(names)} {noun}, {node.op_type} takes {wanted}",
                where=where,
                hint=DAMAGED,
            )
    required = [
        index
        for index, item in enumerate(schema.inputs)
        if item.option == onnx.defs.OpSchema.FormalParameterOption.Single
    ]
    for index in required:
        if index >= len(node.input) or not node.input[index]:
            raise InputError(f"input {index} is left out", where=where, hint=DAMAGED)
    if not any(node.output):
        raise InputError("has no output", where=where, hint=DAMAGED)


def _attributes(node: onnx.NodeProto, schema: onnx.defs.OpSchema, where: str) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        if known is None or attribute.name in seen:
            raise InputError(
                f"attribute {attribute.name[:80]!r} is "
                + ("given twice" if known else f"not one of {node.op_type}"),
                where=where,
                hint=DAMAGED,
            )
        seen.add(attribute.name)
        wanted = int(known.type.value if hasattr(known.type, "value") else known.type)
        if attribute.type != wanted:
            raise InputError(
                f"attribute {attribute.name!r} is of type {_type_name(attribute.type)}, "
                f"not {_type_name(wanted)}",
                where=where,
                hint=DAMAGED,
            )
        if attribute.ref_attr_name:
            raise InputError(
                f"attribute {attribute.name!r} refers to a function's attribute",
                where=where,
                hint=DAMAGED,
            )
        if attribute.HasField("t"):
            check_tensor(attribute.t, f"{where}, attribute {attribute.name!r}")
        for number in (attribute.f, *attribute.floats):
            # bounds and padding may be infinite, factors would overflow
            if math.isnan(number) or (abs(number) > 1e18 and attribute.name in _FACTORS):
                raise InputError(
                    f"attribute {attribute.name!r} is {number}", where=where, hint=DAMAGED
                )
    _windows(node, where)


def _type_name(kind: int) -> str:
    try:
        return str(_AttributeType.Name(kind))
    except ValueError:
        return str(kind)


def _windows(node: onnx.NodeProto, where: str) -> None:
    """Sizes of windows divide and multiply later: zero and huge ones stop here."""
    values = {a.name: list(a.ints) or [a.i] for a in node.attribute}
    for name in ("strides", "dilations", "kernel_shape", "group", "blocksize"):
        for value in values.get(name, ()):
            if not 1 <= value <= 1 << 20:
                raise InputError(
                    f"attribute {name!r} has the value {value}, it must be positive",
                    where=where,
                    hint=DAMAGED,
                )
    if node.op_type != "Pad":
        for value in values.get("pads", ()):
            if not 0 <= value <= 1 << 20:
                raise InputError(
                    f"attribute 'pads' has the value {value}, it must not be negative",
                    where=where,
                    hint=DAMAGED,
                )


def _wiring(graph: onnx.GraphProto) -> None:
    """Every value is written once, before it is read; nodes out of order are sorted."""
    known = {item.name for item in (*graph.input, *graph.initializer)}
    writers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and (name in writers or name in known):
                raise InputError(
                    f"value {name[:80]!r} is written twice",
                    where=node_where(node, index),
                    hint=DAMAGED,
                )
            if name:
                writers[name] = index
    for index, node in enumerate(graph.node):
        for name in node.input:
            if name and name not in writers and name not in known:
                raise InputError(
                    f"reads {name[:80]!r}, which is neither written by a node, nor an input, "
                    "nor an initializer",
                    where=node_where(node, index),
                    hint="the file is damaged, or its weights were saved elsewhere",
                )
    for item in graph.output:
        if item.name not in writers and item.name not in known:
            raise InputError("is never written", where=f"output {item.name[:80]!r}", hint=DAMAGED)
    order = list(_sorted(graph, writers))
    if len(order) < len(graph.node):
        left = next(i for i in range(len(graph.node)) if i not in set(order))
        raise InputError(
            "is part of a cycle", where=node_where(graph.node[left], left), hint=DAMAGED
        )
    if order != list(range(len(order))):
        nodes = [graph.node[index] for index in order]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _sorted(graph: onnx.GraphProto, writers: Mapping[str, int]) -> Iterator[int]:
    """Indices of the nodes, each after those it reads from; nodes of a cycle are left out."""
    import heapq

    waiting: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    ready: list[int] = []
    for index, node in enumerate(graph.node):
        sources = {writers[name] for name in node.input if name in writers}
        waiting[index] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(index)
        if not sources:
            ready.append(index)
    heapq.heapify(ready)
    while ready:
        index = heapq.heappop(ready)
        yield index
        for reader in readers.get(index, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)

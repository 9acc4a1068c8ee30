"""A model as the importer's passes see it: nodes over named values, constants as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.core.network import Array

if TYPE_CHECKING:
    import onnx

#: Domain of the fused operators that passes introduce (Silu, QuickClip...).
FUSED = "edgeopt"


@dataclass(frozen=True, slots=True)
class Type:
    """Element type (numpy) and static shape of a value."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator; an absent optional input is an empty name."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""

    def ints(self, name: str, default: Iterable[int] = ()) -> tuple[int, ...]:
        """An attribute that is a list of whole numbers."""
        return tuple(int(v) for v in self.attrs.get(name, default))

    def input(self, index: int) -> str:
        """The name of an input, empty if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in execution order."""

    name: str
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    types: Mapping[str, Type]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def uses(self) -> Counter[str]:
        """How often each value is read; a network output counts as a reader."""
        count = Counter(name for node in self.nodes for name in node.inputs if name)
        count.update(self.outputs)
        return count

    def producers(self) -> dict[str, Node]:
        """The node that writes each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each value, in execution order."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def array(self, name: str) -> Array | None:
        """A constant's value."""
        return self.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A value's static shape."""
        if name in self.constants:
            return self.constants[name].shape
        return self.types[name].shape

    def with_nodes(
        self, nodes: Iterable[Node], constants: Mapping[str, Array] | None = None
    ) -> Graph:
        """The same graph with other nodes, and more constants."""
        merged = self.constants if not constants else {**self.constants, **constants}
        return replace(self, nodes=tuple(nodes), constants=merged)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values; tensors as arrays, text as str."""
    import onnx
    from onnx import numpy_helper

    values: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        elif isinstance(value, onnx.GraphProto | onnx.SparseTensorProto):
            continue
        values[attribute.name] = value
    return values


def from_model(model: onnx.ModelProto) -> Graph:
    """Read a model. Types are those it states: run shape inference first."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {item.name: _frozen(numpy_helper.to_array(item)) for item in graph.initializer}
    types: dict[str, Type] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        found = static_type(info)
        if found is not None:
            types[info.name] = found
    nodes = tuple(
        Node(
            node.op_type,
            node.name or next((n for n in node.output if n), node.op_type),
            tuple(node.input),
            tuple(node.output),
            attributes(node),
            "" if node.domain == "ai.onnx" else node.domain,
        )
        for node in graph.node
    )
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 1)
    return Graph(
        graph.name or "network",
        opset,
        nodes,
        constants,
        types,
        tuple(i.name for i in graph.input if i.name not in constants),
        tuple(o.name for o in graph.output),
    )


def to_node(node: Node) -> onnx.NodeProto:
    """The ONNX form of a node."""
    import onnx

    made = onnx.NodeProto(op_type=node.op, name=node.name, domain=node.domain)
    made.input.extend(node.inputs)
    made.output.extend(node.outputs)
    for name, value in node.attrs.items():
        if isinstance(value, np.ndarray):
            value = onnx.numpy_helper.from_array(value)
        empty = isinstance(value, list | tuple) and not value
        kind = onnx.AttributeProto.INTS if empty else None
        made.attribute.append(onnx.helper.make_attribute(name, value, attr_type=kind))
    return made


def to_model(graph: Graph) -> onnx.ModelProto:
    """The ONNX form of a graph that has no fused operators yet."""
    import onnx

    def info(name: str) -> onnx.ValueInfoProto:
        known = graph.types[name]
        element = onnx.helper.np_dtype_to_tensor_dtype(known.dtype)
        return onnx.helper.make_tensor_value_info(name, element, known.shape)

    outputs = set(graph.outputs)
    made = onnx.helper.make_graph(
        [to_node(node) for node in graph.nodes],
        graph.name,
        [info(name) for name in graph.inputs],
        [
            info(name) if name in graph.types else onnx.ValueInfoProto(name=name)
            for name in graph.outputs
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
        value_info=[
            info(name)
            for node in graph.nodes
            for name in node.outputs
            if name in graph.types and name not in outputs
        ],
    )
    return onnx.helper.make_model(
        made,
        opset_imports=[onnx.helper.make_opsetid("", graph.opset)],
        ir_version=10 if graph.opset < 25 else 13,  # 2-bit types came with 13
    )


def static_type(info: onnx.ValueInfoProto) -> Type | None:
    """The type of a value if it is a tensor of known static shape."""
    import onnx

    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    except KeyError:
        return None
    return Type(np.dtype(dtype), tuple(int(dim.dim_value) for dim in tensor.shape.dim))


def _frozen(array: Array) -> Array:
    array = np.asarray(array)
    if array.flags.owndata or array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array

"""From an ONNX model to a `Network`.

Feature maps are channels last in the network. Transposes and reshapes of the model move nothing
by themselves (see `edgeopt.graph.layout`); where an operator needs another order than its input
has, a transpose is written, and a fully connected layer behind a flattened map has its weights
permuted instead. A network input or output of rank 4 is NHWC, unless the model itself begins or
ends with a transpose to or from NHWC; `Imported` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.core import affine
from edgeopt.core.activations import CLAMPS
from edgeopt.core.errors import InputError
from edgeopt.core.network import Array, Network, Quant
from edgeopt.graph import ir, qdq
from edgeopt.graph.builder import Builder, Value, dtype_of
from edgeopt.graph.layout import Layout, channels_last, plain, to_onnx, to_physical
from edgeopt.graph.shapes import infer_graph
from edgeopt.graph.simplify import simplify

if TYPE_CHECKING:
    import onnx

Function = tuple[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Interface:
    """How an input or output of the network relates to that of the model.

    Attributes:
        name: of the model's and the network's tensor.
        onnx_shape: shape in the model.
        perm: memory holds the model's tensor transposed by this.
        onnx_dtype: numpy's name of the element type in the model.
        offset: stored = model's value + offset; -128 where uint8 is held as int8.
        quant: of a tensor that is converted here rather than in the network (see `graph.edges`).
        as_float: the network's tensor is float32 and the model's is integers; else the reverse.
    """

    name: str
    onnx_shape: tuple[int, ...]
    perm: tuple[int, ...]
    onnx_dtype: str
    offset: int = 0
    quant: Quant | None = None
    as_float: bool = False

    def from_onnx(self, value: Array) -> Array:
        """A model's input as the network takes it."""
        moved = to_physical(np.asarray(value), Layout(self.onnx_shape, self.perm))
        if self.offset:
            moved = (moved.astype(np.int16) + self.offset).astype(np.int8)
        return moved if self.quant is None else self._converted(moved, to_float=self.as_float)

    def to_onnx(self, stored: Array) -> Array:
        """A network's output as the model gives it."""
        if self.quant is not None:
            stored = self._converted(np.asarray(stored), to_float=not self.as_float)
        back = to_onnx(np.asarray(stored), Layout(self.onnx_shape, self.perm), self.onnx_shape)
        return (back.astype(np.int16) - self.offset).astype(np.uint8) if self.offset else back

    def _converted(self, value: Array, *, to_float: bool) -> Array:
        assert self.quant is not None
        if to_float:
            return affine.dequantize(value.astype(np.int8), self.quant.scale, self.quant.zero_point)
        return affine.quantize(value.astype(np.float32), self.quant.scale, self.quant.zero_point)


@dataclass(frozen=True, slots=True)
class Imported:
    """A network with what connects it to the model it came from.

    ``notes`` name layers with quantized weights that compute in float all the same, and say why.
    """

    network: Network
    inputs: Mapping[str, Interface]
    outputs: Mapping[str, Interface]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows an operator up to a QuantizeLinear: clamps, which commute with rounding."""

    clamps: tuple[Function, ...]
    nodes: tuple[ir.Node, ...]  # the clamps, then the QuantizeLinear
    quant: Quant


class Importer:
    """One import under way: what every value of the model is in the network."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.builder = Builder()
        self.values: dict[str, Value] = {}
        self.integers: dict[str, Value] = {}  # real value -> the int8 value it is dequantized from
        self.stored: dict[str, qdq.Stored] = {}
        self.notes: list[str] = []
        self.done: set[str] = set()  # first outputs of nodes that an earlier one took along
        self._readers = graph.readers()
        self._uses = graph.uses()

    def where(self, node: ir.Node) -> str:
        """How errors name a node."""
        return f"node {node.name!r} ({node.op})"

    def is_constant(self, name: str) -> bool:
        """Whether a value is known before the network runs."""
        return name in self.graph.constants or name in self.stored

    def constant(self, name: str) -> Array | None:
        """A constant's values, dequantized if it is stored as integers."""
        if name in self.stored:
            return self.stored[name].real()
        return self.graph.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A value's shape in the model."""
        return self.graph.shape(name)

    def value(self, name: str) -> Value:
        """The tensor behind a value; dequantizes it if need be.

        Raises:
            InputError: it is a constant: nothing computes it while the network runs.
        """
        if self.is_constant(name):
            raise InputError(
                "is a constant where a computed value is needed",
                where=f"value {name[:80]!r}",
                hint="simplify the model when exporting it",
            )
        if name not in self.values:
            stored = self.integers[name]
            known = self.builder.tensors[stored.tensor]
            made = self.builder.tensor(name, known.shape)
            self.builder.emit("dequantize", made, (stored.tensor,), made)
            self.values[name] = Value(made, stored.layout, stored.shape)
        return self.values[name]

    def quant(self, value: Value) -> Quant:
        """The quantization of an integer value."""
        quant = self.builder.tensors[value.tensor].quant
        assert quant is not None
        return quant

    def declare(self, name: str, shape: tuple[int, ...], quant: Quant | None = None) -> str:
        """A tensor for a value that an operator writes: int8 if quantized, else the model's type.

        Raises:
            InputError: a type that kernels do not have.
        """
        if quant is not None:
            return self.builder.tensor(name, shape, "i8", quant)
        dtype = dtype_of(self.graph.types[name].dtype, f"tensor {name!r}")
        return self.builder.tensor(name, shape, dtype)

    def bind(self, name: str, tensor: str, layout: Layout | None = None) -> None:
        """Say that ``tensor`` holds a value of the model, by default in ONNX order."""
        shape = self.shape(name)
        self.values[name] = Value(tensor, layout or plain(shape), shape)

    def tail(self, name: str) -> Tail | None:
        """What follows up to a QuantizeLinear, if clamps are all there is in between."""
        clamps: list[Function] = []
        nodes: list[ir.Node] = []
        while True:
            readers = self._readers.get(name, [])
            if self._uses[name] != 1 or len(readers) != 1:
                return None
            node = readers[0]
            if node.op == "QuantizeLinear" and not node.domain:
                quant = qdq.parameters(self.graph, node)
                if quant is None or node.inputs[0] != name:
                    return None
                return Tail(tuple(clamps), (*nodes, node), quant)
            function = function_of(self, node)
            if function is None or function[0] not in CLAMPS:
                return None
            clamps.append(function)
            nodes.append(node)
            name = node.outputs[0]

    def finish_tail(self, tail: Tail, tensor: str, layout: Layout) -> None:
        """Write the clamps of a tail after ``tensor``, which has the tail's quantization."""
        for index, function in enumerate(tail.clamps):
            node = tail.nodes[index]
            last = index + 1 == len(tail.clamps)
            made = self.builder.like(tensor, (tail.nodes[-1] if last else node).outputs[0])
            attrs = {"function": function[0], **function[1]}
            tensor = self.builder.emit("activation", node.name, (tensor,), made, attrs)
        self.done.update(node.outputs[0] for node in tail.nodes)
        self.bind(tail.nodes[-1].outputs[0], tensor, layout)

    def head(self, tail: Tail, name: str) -> str:
        """The name of the tensor an operator writes, given what follows it."""
        return name if tail.clamps else tail.nodes[-1].outputs[0]


def function_of(imp: Importer, node: ir.Node) -> Function | None:
    """The activation that a node is."""
    name = node.op
    simple = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hardswish",
              "Erf": "erf", "Exp": "exp", "Abs": "abs", "Sqrt": "sqrt", "Mish": "mish"}  # fmt: skip
    if node.domain == ir.FUSED:
        simple = {"Silu": "silu", "Gelu": "gelu"}
        if name == "Clip":
            low, high = float(node.attrs["min"]), float(node.attrs["max"])
            if (low, high) == (0.0, np.inf):
                return "relu", {}
            if (low, high) == (0.0, 6.0):
                return "relu6", {}
            found = {"min": low, "max": high}
            return "clip", {k: v for k, v in found.items() if np.isfinite(v)}
    elif node.domain:
        return None
    if name in simple:
        return simple[name], {}
    number = {key: float(v) for key, v in node.attrs.items() if key in ("alpha", "beta")}
    if name == "HardSigmoid":
        return "hardsigmoid", {"alpha": 0.2, "beta": 0.5, **number}
    if name == "LeakyRelu":
        return "leakyrelu", {"alpha": 0.01, **number}
    if name == "Elu":
        return "elu", {"alpha": 1.0, **number}
    if name == "Swish" and number.get("alpha", 1.0) == 1.0:
        return "silu", {}
    if name == "Gelu":
        tanh = node.attrs.get("approximate") == "tanh"
        return "gelu", {"approximate": "tanh"} if tanh else {}
    if name == "PRelu":
        slope = imp.constant(node.inputs[1])
        if slope is not None and slope.size == 1:
            return "leakyrelu", {"alpha": float(slope.reshape(-1)[0])}
    return None


Handler = Callable[[Importer, ir.Node], bool]


def import_network(model: onnx.ModelProto, *, isolated: bool = True) -> Network:
    """The network of a model; see `import_model`."""
    return import_model(model, isolated=isolated).network


def import_model(model: onnx.ModelProto, *, isolated: bool = True) -> Imported:
    """Import a model as `edgeopt.graph.load.load_model` gives it, or one made by this package.

    Args:
        model: static shapes, batch 1.
        isolated: run shape inference, where it is still needed, in a child process.

    Raises:
        InputError: an operator, type or shape that cannot be compiled, by node name.
    """
    from edgeopt.graph.handlers import HANDLERS, generic

    def infer(graph: ir.Graph) -> ir.Graph:
        return infer_graph(graph, isolated=isolated)

    graph = simplify(ir.from_model(model), infer)
    imp = Importer(graph)
    inputs = _declare_inputs(imp)
    for node in graph.nodes:
        if node.outputs[0] in imp.done:
            continue
        handler = HANDLERS.get((node.domain, node.op))
        if handler is None or not handler(imp, node):
            generic(imp, node)
    finals: dict[str, str] = {}
    outputs: dict[str, Interface] = {}
    for name in graph.outputs:
        if imp.is_constant(name):
            raise InputError(
                "does not depend on any input", where=f"output {name!r}", hint="remove this output"
            )
        value = imp.value(name)
        layout = _output_layout(value)
        finals[name] = imp.builder.require(value, layout)
        outputs[name] = _interface(imp, name, layout.perm, finals[name])
    network = imp.builder.finish(graph.name, finals)
    return Imported(network, inputs, outputs, tuple(imp.notes))


def _declare_inputs(imp: Importer) -> dict[str, Interface]:
    quants = qdq.known_quantizations(imp.graph)
    interfaces: dict[str, Interface] = {}
    readers = imp.graph.readers()
    for name in imp.graph.inputs:
        known = imp.graph.types[name]
        layout = plain(known.shape) if _is_rearranged(readers, name) else channels_last(known.shape)
        quant = quants.get(name)
        tensor = imp.declare(name, layout.physical, quant)
        imp.builder.inputs.append(tensor)
        imp.values[name] = Value(tensor, layout, known.shape)
        interfaces[name] = _interface(imp, name, layout.perm, tensor)
    return interfaces


def _is_rearranged(readers: Mapping[str, list[ir.Node]], name: str) -> bool:
    """Whether a model transposes or reshapes this value before it does anything else with it."""
    found = readers.get(name, [])
    through = ("DequantizeLinear", "QuantizeLinear", "Cast")
    return bool(found) and all(
        node.op in qdq.RENAMING or (node.op in through and _is_rearranged(readers, node.outputs[0]))
        for node in found
    )


def _interface(imp: Importer, name: str, perm: tuple[int, ...], tensor: str) -> Interface:
    known = imp.graph.types[name]
    held = imp.builder.tensors[tensor].dtype
    offset = -128 if known.dtype == np.uint8 and held == "i8" else 0
    return Interface(name, known.shape, perm, known.dtype.name, offset)


def _output_layout(value: Value) -> Layout:
    """As it lies, if that is NHWC or ONNX order; else NHWC for maps, ONNX order for the rest."""
    wanted = channels_last(value.shape)
    if value.layout.is_plain and not wanted.is_plain:
        return plain(value.shape)
    return wanted

"""Writing a quantized network as ONNX: QuantizeLinear and DequantizeLinear around every operator.

The result runs in onnxruntime and imports as an integer network. Activations have one scale and
zero point a tensor; weights are stored as int8 with one scale an output channel (axis 0), biases
as int32 with scale ``s_x * s_w``. Weights of fewer bits have ONNX's narrow types: INT4 (opset 21)
holds three and four, INT2 (opset 25) two. Two bits without a zero point are odd numbers w: INT2
holds (w - 1) / 2, and an Add of half a step follows; in blocks INT4 holds them. The names of the
float network's graph, inputs, outputs, nodes and tensors are kept.

Activations are written as uint8, 128 above the int8 that everything else here computes with: the
same numbers, but onnxruntime has all its integer kernels for uint8 on x86 and falls back to
float for some of int8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeopt.core.affine import I8_MIN
from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import is_odd
from edgeopt.core.network import Array, Quant
from edgeopt.graph import ir
from edgeopt.graph.ir import FUSED, Graph, Node
from edgeopt.graph.qdq_narrow import narrowed
from edgeopt.graph.qdq_sites import Sites
from edgeopt.graph.shapes import infer_graph
from edgeopt.graph.simplify import simplify

if TYPE_CHECKING:
    from typing import TypeAlias

    import onnx

    Model: TypeAlias = onnx.ModelProto

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """A layer's stored weights: real weight = ``scale[o] * (weight[o, ...] - zero[o])``."""

    weight: npt.NDArray[np.int8]  # as in ONNX: [O, I / groups, ...] or [O, I]
    scale: Floats  # [O]; [] for all weights; or of the weights' rank, [O, blocks, ...]
    bias: npt.NDArray[np.int32] | None  # [O]; real bias = bias_scale * bias
    bias_scale: Floats  # float32(s_x * scale)
    bits: int = 8  # of `edgeopt.core.lowbits.WEIGHT_BITS`; three are stored in four
    zero: npt.NDArray[np.int8] | None = None  # as ``scale``; None where all are 0
    block: int = 0  # inputs that share a scale
    real_bias: Floats | None = None  # [O], where it is not stored as integers


_INTEGER = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinear", "ConvInteger")

#: The oldest operator set a quantized model may use.
MIN_OPSET = 18
#: The oldest with integers of so many bits.
OPSETS: Mapping[int, int] = {8: MIN_OPSET, 4: 21, 3: 21, 2: 25}
_ALL_WIDE: Mapping[str, int] = MappingProxyType({})
#: The oldest where inputs in blocks share a scale.
BLOCKED_OPSET = 21


def is_quantized(model: Model) -> bool:
    """Whether a model holds integer operators already."""
    return any(node.op_type.startswith(_INTEGER) for node in model.graph.node)


def float_graph(model: Model, min_opset: int = MIN_OPSET) -> Graph:
    """A float model as it will be quantized: opset 18 or later, simplified, batch norms folded.

    Args:
        model: float.
        min_opset: older models are converted to it.

    Raises:
        InputError: the model is quantized already, or cannot be simplified.
    """
    from onnx import version_converter

    where = model.graph.name or "model"
    if is_quantized(model):
        raise InputError(
            "the model is already quantized", where=where, hint="use it as it is, or its float form"
        )
    opset = ir.from_model(model).opset
    if opset < min_opset:
        try:
            model = version_converter.convert_version(model, min_opset)
        except Exception as error:  # the converter's errors have no common base
            reason = str(error).strip().splitlines()
            raise InputError(
                f"opset {opset} cannot be converted to {min_opset}: {reason[0] if reason else '?'}",
                where=where,
                hint=f"export the model with opset {min_opset} or later",
            ) from error

    def infer(graph: Graph) -> Graph:
        return infer_graph(graph, isolated=False)

    return simplify(infer(ir.from_model(model)), infer)


class _Writer:
    """Nodes and constants being written, with names that collide with nothing."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = dict(graph.constants)
        self.types = dict(graph.types)
        self._taken = {n for node in graph.nodes for n in (*node.inputs, *node.outputs, node.name)}
        self._taken.update(graph.inputs, graph.constants)

    def fresh(self, name: str) -> str:
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        return found

    def constant(self, name: str, value: Array) -> str:
        found = self.fresh(name)
        self.constants[found] = value
        return found

    def emit(
        self, op: str, name: str, inputs: tuple[str, ...], output: str, **attrs: object
    ) -> str:
        self.nodes.append(Node(op, self.fresh(name), inputs, (output,), attrs))
        return output

    def quantize(self, tensor: str, source: str, quant: Quant) -> tuple[str, str, str]:
        """QuantizeLinear of ``source``; returns what a DequantizeLinear of it reads."""
        zero_point = np.array(quant.zero_point - I8_MIN, np.uint8)
        parameters = (
            self.constant(f"{tensor}_scale", np.array(quant.scale, np.float32)),
            self.constant(f"{tensor}_zero_point", zero_point),
        )
        stored = self.fresh(f"{tensor}_quantized")
        self.emit("QuantizeLinear", f"{tensor}_quantize", (source, *parameters), stored)
        return stored, *parameters

    def clamped(self, tensor: str, source: str, quant: Quant, bits: int) -> str:
        """``source`` within the lowest ``2 ** bits`` steps of a tensor's integers."""
        ends = (I8_MIN, I8_MIN + 2**bits - 1)
        bounds = [
            self.constant(
                f"{tensor}_{end}", np.array((step - quant.zero_point) * quant.scale, np.float32)
            )
            for end, step in zip(("lowest", "highest"), ends, strict=True)
        ]
        target = self.fresh(f"{tensor}_clamped")
        self.types[target] = self.types[tensor]
        return self.emit("Clip", f"{tensor}_clamp", (source, *bounds), target)

    def dequantize(self, tensor: str, inputs: tuple[str, str, str], target: str) -> str:
        """DequantizeLinear to ``target``, which has the type of ``tensor``."""
        self.types[target] = self.types[tensor]
        return self.emit("DequantizeLinear", f"{tensor}_dequantize", inputs, target)

    def stored(
        self, name: str, integers: Array, scale: Floats, zero: Array | None = None, block: int = 0
    ) -> str:
        """A constant of integers behind DequantizeLinear along axis 0, or in blocks along 1."""
        zeros = np.zeros(scale.shape) if zero is None else zero
        inputs = (
            self.constant(f"{name}_quantized", integers),
            self.constant(f"{name}_scale", scale),
            self.constant(f"{name}_zero_point", zeros.astype(integers.dtype)),
        )
        target = self.fresh(f"{name}_dequantized")
        how: dict[str, int] = {"axis": 1, "block_size": block} if block else {"axis": 0}
        attrs = how if scale.ndim else {}
        return self.emit("DequantizeLinear", f"{name}_dequantize", inputs, target, **attrs)

    def layer(self, node: Node, source: str, layer: IntegerLayer) -> Node:
        """The node reading stored weights; linear layers become Gemm with [O, I] weights."""
        if is_odd(layer.bits, layer.zero is None) and not layer.block:
            stored = self._odd(node.inputs[1], layer)
        else:
            bits = 4 if is_odd(layer.bits, layer.zero is None) else layer.bits
            weight = narrowed(layer.weight, bits)
            stored = self.stored(node.inputs[1], weight, layer.scale, layer.zero, layer.block)
        inputs = [source, stored]
        name = node.input(2) or f"{node.inputs[1]}_bias"
        if layer.real_bias is not None:
            inputs.append(self.constant(f"{name}_real", layer.real_bias))
        elif layer.bias is not None:
            inputs.append(self.stored(name, layer.bias, layer.bias_scale))
        if node.op == "Conv":
            return replace(node, inputs=tuple(inputs))
        return Node("Gemm", node.name, tuple(inputs), node.outputs, {"transB": 1})

    def _odd(self, name: str, layer: IntegerLayer) -> str:
        """Odd integers w as INT2: (w - 1) / 2 in steps of twice the scale, and one scale more."""
        integers = narrowed((layer.weight - 1) // 2, 2)
        less = self.stored(name, integers, layer.scale * np.float32(2))
        outputs = layer.scale.size, *(1,) * (layer.weight.ndim - 1)
        term = layer.scale.reshape(outputs if layer.scale.ndim else ())
        half = self.constant(f"{name}_half_step", term)
        return self.emit("Add", f"{name}_odd", (less, half), self.fresh(f"{name}_stored"))

    def finish(self) -> Graph:
        used = {name for node in self.nodes for name in node.inputs}
        constants = {name: value for name, value in self.constants.items() if name in used}
        return replace(self.graph, nodes=tuple(self.nodes), constants=constants, types=self.types)


def expanded(graph: Graph) -> Graph:
    """The graph with the fused operators of `edgeopt.graph.fuse` written in standard ONNX."""
    writer = _Writer(graph)

    def scalar(name: str, value: float) -> str:
        return writer.constant(name, np.array(value, np.float32))

    for node in graph.nodes:
        if node.domain != FUSED:
            writer.nodes.append(node)
            continue
        stem, source, output = node.name, node.inputs[0], node.outputs[0]
        if node.op == "Clip":
            low, high = (float(node.attrs[key]) for key in ("min", "max"))
            if low == 0 and math.isinf(high):
                writer.nodes.append(replace(node, op="Relu", domain="", attrs={}))
                continue
            bounds = tuple(
                scalar(f"{stem}_{key}", value) if math.isfinite(value) else ""
                for key, value in (("min", low), ("max", high))
            )
            kept = (source, *bounds) if bounds[1] else (source, *bounds[:1])
            writer.nodes.append(replace(node, domain="", inputs=kept, attrs={}))
        elif node.op == "Linear":
            product = writer.fresh(f"{output}_product")
            writer.emit("MatMul", f"{stem}_product", node.inputs[:2], product)
            terms = (product, node.inputs[2])
            writer.nodes.append(replace(node, op="Add", domain="", inputs=terms))
        elif node.op == "Silu":
            gate = writer.fresh(f"{output}_gate")
            writer.emit("Sigmoid", f"{stem}_gate", (source,), gate)
            writer.nodes.append(replace(node, op="Mul", domain="", inputs=(source, gate)))
        elif node.op == "Gelu":
            parts = [writer.fresh(f"{output}_{part}") for part in ("scaled", "erf", "one", "half")]
            root, one = scalar(f"{stem}_root", math.sqrt(0.5)), scalar(f"{stem}_one", 1.0)
            writer.emit("Mul", f"{stem}_scale", (source, root), parts[0])
            writer.emit("Erf", f"{stem}_erf", (parts[0],), parts[1])
            writer.emit("Add", f"{stem}_add", (parts[1], one), parts[2])
            writer.emit("Mul", f"{stem}_gate", (source, parts[2]), parts[3])
            half = (parts[3], scalar(f"{stem}_half", 0.5))
            writer.nodes.append(replace(node, op="Mul", domain="", inputs=half))
        else:
            raise ValueError(f"fused operator {node.op!r} has no form in standard ONNX")
    return writer.finish()


def observed(graph: Graph, names: tuple[str, ...]) -> bytes:
    """A serialised model that computes these tensors of the network, in this order."""
    writer = _Writer(expanded(graph))
    writer.nodes.extend(writer.graph.nodes)
    outputs = []
    for name in names:
        if name in graph.inputs:  # an input cannot be an output
            name = writer.emit("Identity", f"{name}_see", (name,), writer.fresh(f"{name}_seen"))
        outputs.append(name)
    for name, output in zip(names, outputs, strict=True):
        writer.types[output] = graph.types[name]
    made = replace(writer.finish(), outputs=tuple(outputs))
    return bytes(ir.to_model(made).SerializeToString())


def build(
    graph: Graph,
    sites: Sites,
    quants: Mapping[str, Quant],
    layers: Mapping[str, IntegerLayer],
    narrow: Mapping[str, int] = _ALL_WIDE,
) -> Model:
    """Write the quantized network.

    Args:
        graph: the simplified float network.
        sites: what `find_sites` found in it.
        quants: a scale and zero point for every tensor of ``sites.tensors``.
        layers: stored weights for every layer of ``sites.layers``, by its key.
        narrow: tensors that have only ``2 ** bits`` steps -> bits.
    """
    writer = _Writer(graph)
    quantized = frozenset(sites.tensors)
    stored: dict[str, tuple[str, str, str]] = {}

    def read(name: str) -> str:
        """A real form of ``name`` for one reader.

        Each has its own: onnxruntime computes an operator in integers only if nothing else reads
        its dequantized inputs.
        """
        if name not in stored:
            return name
        return writer.dequantize(name, stored[name], writer.fresh(f"{name}_dequantized"))

    def quantize(name: str, source: str) -> tuple[str, str, str]:
        if name in narrow:
            source = writer.clamped(name, source, quants[name], narrow[name])
        return writer.quantize(name, source, quants[name])

    for tensor in sites.inputs:
        stored[tensor] = quantize(tensor, tensor)
    for node in graph.nodes:
        tensor = node.outputs[0]
        if tensor in layers:
            new = writer.layer(node, read(node.inputs[0]), layers[tensor])
        else:
            new = replace(node, inputs=tuple(read(name) for name in node.inputs))
        if tensor in quantized and tensor in graph.outputs:
            real = writer.fresh(f"{tensor}_float")
            writer.nodes.append(replace(new, outputs=(real, *new.outputs[1:])))
            stored[tensor] = quantize(tensor, real)
            writer.dequantize(tensor, stored[tensor], tensor)
        else:
            writer.nodes.append(new)
            if tensor in quantized:
                stored[tensor] = quantize(tensor, tensor)
    import onnx

    model = ir.to_model(expanded(writer.finish()))
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model

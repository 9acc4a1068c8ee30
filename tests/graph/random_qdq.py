"""Putting QuantizeLinear and DequantizeLinear around every operator of a float model."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeopt.graph.reference import run_onnx


def _ranges(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    known = {item.name for item in wide.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name not in known:
                wide.graph.output.append(onnx.ValueInfoProto(name=name))
    return {**feeds, **run_onnx(wide.SerializeToString(), feeds)}


def quantized(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], rng: np.random.Generator
) -> onnx.ModelProto:
    """The model with every float activation and every layer's weights quantized.

    Types (int8 or uint8), granularity of weights and a few left-out pairs are drawn from ``rng``.
    """
    values = _ranges(model, feeds)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    unsigned = bool(rng.integers(2))
    nodes: list[onnx.NodeProto] = []
    extra: list[onnx.TensorProto] = []
    scales: dict[str, np.float32] = {}

    def store(name: str, value: np.ndarray) -> str:
        extra.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(name: str) -> None:
        low, high = min(0.0, float(values[name].min())), max(0.0, float(values[name].max()))
        scale = np.float32(max(high - low, 1e-3) / 255)
        zero = int(np.clip(np.rint(-low / scale), 0, 255))
        kind = np.uint8 if unsigned else np.int8
        parts = [
            store(f"{name}_s", scale),
            store(f"{name}_z", np.array(zero - (0 if unsigned else 128)).astype(kind)),
        ]
        nodes.append(helper.make_node("QuantizeLinear", [name, *parts], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parts], [f"{name}_d"]))
        scales[name] = scale

    def layer(node: onnx.NodeProto, inputs: list[str]) -> None:
        if inputs[1] not in constants:
            return
        name = node.name
        w = constants[node.input[1]]
        axis = 0 if node.op_type == "Conv" or _turned(node) else w.ndim - 1
        others = tuple(a for a in range(w.ndim) if a != axis)
        whole = rng.integers(2) and node.op_type == "Conv"
        peak = np.abs(w).max(axis=others) if whole else np.abs(w).max()
        scale = (np.maximum(peak, 1e-3) / 127).astype(np.float32)
        spread = scale.reshape([-1 if a == axis else 1 for a in range(w.ndim)])
        stored = np.clip(np.rint(w / spread), -127, 127).astype(np.int8)
        zero = np.zeros(scale.shape, np.int8)
        parts = [store(f"{name}_w", stored), store(f"{name}_ws", scale), store(f"{name}_wz", zero)]
        attrs = {"axis": axis} if scale.ndim else {}
        nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}_wd"], **attrs))
        inputs[1] = f"{name}_wd"
        source = node.input[0]
        if len(inputs) > 2 and source in scales:
            step = (scales[source] * scale).astype(np.float32)
            bias = constants[node.input[2]]
            steps = np.rint(bias / step).astype(np.int32)
            flat = {"axis": 0} if step.ndim else {}
            parts = [store(f"{name}_b", steps), store(f"{name}_bs", step)]
            nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}_bd"], **flat))
            inputs[2] = f"{name}_bd"

    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    outputs = {item.name for item in model.graph.output}
    for item in model.graph.input:
        pair(item.name)
    for node in model.graph.node:
        inputs = [f"{n}_d" if n in scales else n for n in node.input]
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            layer(node, inputs)
        elif node.op_type in ("Add", "Mul") and rng.integers(2):
            for index, name in enumerate(node.input):
                if name in constants:
                    inputs[index] = _constant(name, constants[name], nodes, store)
        made = onnx.NodeProto()
        made.CopyFrom(node)
        del made.input[:]
        made.input.extend(inputs)
        result = node.output[0]
        nodes.append(made)
        clamped = readers.get(result, []) in (["Relu"], ["Clip"]) and result not in outputs
        left_out = rng.integers(8) == 0 and result not in outputs
        if not clamped and not left_out:
            pair(result)
    ends = [helper.make_node("Identity", [f"{n}_d"], [f"{n}_final"]) for n in sorted(outputs)]
    graph = helper.make_graph(
        [*nodes, *ends], "quantized", list(model.graph.input),
        [
            helper.make_tensor_value_info(f"{n}_final", TensorProto.FLOAT, values[n].shape)
            for n in sorted(outputs)
        ],
        [*model.graph.initializer, *extra],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=9)


def _turned(node: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)


def _constant(name: str, value: np.ndarray, nodes: list[onnx.NodeProto], store: object) -> str:
    scale = np.float32(max(float(np.abs(value).max()), 1e-3) / 127)
    stored = np.clip(np.rint(value / scale), -127, 127).astype(np.int8)
    stem = f"{name}_{len(nodes)}"
    parts = [store(f"{stem}_c", stored), store(f"{stem}_cs", scale)]  # type: ignore[operator]
    nodes.append(helper.make_node("DequantizeLinear", parts, [f"{stem}_cd"]))
    return f"{stem}_cd"

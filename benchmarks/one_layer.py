"""A kernel key as an ONNX model of one layer, and as random inputs and constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeopt.codegen.abi import KernelFunction
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array

CONVOLUTIONS = ("pointwise", "conv2d", "depthwise")


def values(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Random activations."""
    if dtype == "i8":
        return rng.integers(-128, 128, shape).astype(np.int8)
    return rng.standard_normal(shape).astype(np.float32)


def input_shapes(key: OpKey) -> list[tuple[int, ...]]:
    """Of every activation input, the residual last."""
    shapes = [key.in_shape] * key.inputs
    if key.op == "scale":
        shapes[1] = key.in_shape[-1:]
    return shapes + [key.out_shape] * key.residual


def arguments(
    function: KernelFunction, packed: Mapping[str, Array], rng: np.random.Generator
) -> list[tuple[str, Array]]:
    """Kind and array of every parameter, in order: random inputs, packed constants, room."""
    key = function.key
    shapes = input_shapes(key)
    found: list[tuple[str, Array]] = []
    for arg in function.args:
        if arg.kind in ("input", "residual"):
            array = values(shapes.pop(0), key.dtype, rng)
        elif arg.kind == "const":
            array = packed[arg.name]
        elif arg.kind == "output":
            array = np.zeros(key.out_shape, {"f32": np.float32, "i8": np.int8}[key.out_dtype])
        else:
            array = np.zeros(function.scratch_bytes, np.uint8)
        found.append((arg.kind, array))
    return found


def weight_shape(key: OpKey) -> tuple[int, ...]:
    """[O, kh, kw, I / groups] or [O, I]."""
    if key.op == "linear":
        return key.out_shape[-1], key.in_shape[-1]
    return key.out_shape[-1], *key.kernel, key.in_shape[-1] // key.groups


def constants(key: OpKey, rng: np.random.Generator) -> dict[str, Array]:
    """What `Template.pack` reads."""
    integer = key.precision == "i8"
    clamps = [-128, 127]
    if key.op in (*CONVOLUTIONS, "linear"):
        shape = weight_shape(key)
        if not integer:
            weights = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
            return {"w": weights.astype(np.float32), "b": np.zeros(shape[0], np.float32)}
        most = (1 << (key.weight_bits or 8) - 1) - 1
        return {
            "w": rng.integers(-most, most + 1, shape).astype(np.int8),
            "b": np.zeros(shape[0], np.int32),
            "multiplier": np.full(shape[0], 1e-3, np.float32),
            "qparams": np.array([3, -5, *clamps], np.int32),
            "lut": np.arange(-128, 128).astype(np.int8),
        }
    if not integer:
        return {}
    if key.op == "add":
        return {
            "factors": np.full(2, 0.7, np.float32),
            "qparams": np.array([3, 5, -5, *clamps], np.int32),
        }
    if key.op == "scale":
        return {
            "multiplier": np.full(1, 0.01, np.float32),
            "qparams": np.array([3, -128, -5, *clamps], np.int32),
        }
    return {
        "multiplier": np.full(1, 0.01, np.float32),
        "qparams": np.array([3, -5, *clamps], np.int32),
    }


class _Graph:
    def __init__(self, integer: bool) -> None:
        self.integer = integer
        self.nodes: list[onnx.NodeProto] = []
        self.inits: list[onnx.TensorProto] = []

    def constant(self, value: Array) -> str:
        name = f"c{len(self.inits)}"
        self.inits.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def node(self, op: str, inputs: list[str], **attrs: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], **attrs))
        return out

    def dequantized(self, name: str, scale: Array | float, zero: int, axis: int = 0) -> str:
        scales = np.asarray(scale, np.float32)
        zeros = np.full(scales.shape, zero, np.int32 if name.startswith("bias") else np.int8)
        attrs = {"axis": axis} if scales.ndim else {}
        given = [name, self.constant(scales), self.constant(zeros)]
        return self.node("DequantizeLinear", given, **attrs)


def model(key: OpKey) -> bytes:
    """The layer in NCHW; int8 keys take and give int8 and hold quantize/dequantize pairs."""
    rng = np.random.default_rng(1)
    graph = _Graph(key.precision == "i8")
    kind = TensorProto.INT8 if graph.integer else TensorProto.FLOAT
    shapes = [_planar(shape) for shape in input_shapes(key)]
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = [helper.make_tensor_value_info(n, kind, s) for n, s in zip(names, shapes, strict=True)]
    if graph.integer:
        names = [graph.dequantized(name, 0.02, 3) for name in names]
    y = _operator(graph, key, names, rng)
    y = _activation(graph, key, y)
    if key.residual:
        y = graph.node("Add", [y, names[-1]])
    if graph.integer:
        scale = graph.constant(np.float32(0.05))
        y = graph.node("QuantizeLinear", [y, scale, graph.constant(np.int8(-5))])
    made = helper.make_graph(
        graph.nodes, "layer", inputs, [helper.make_tensor_value_info(y, kind, None)], graph.inits
    )
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    whole.ir_version = 9
    return bytes(whole.SerializeToString())


def _planar(shape: tuple[int, ...]) -> list[int]:
    if len(shape) == 3:
        return [1, shape[2], shape[0], shape[1]]
    return [1, shape[0]]


def _operator(graph: _Graph, key: OpKey, names: list[str], rng: np.random.Generator) -> str:
    if key.op in (*CONVOLUTIONS, "linear"):
        weights = constants(key, rng)["w"]
        if key.op != "linear":
            weights = weights.transpose(0, 3, 1, 2)
        w = graph.constant(weights)
        bias = np.zeros(key.out_shape[-1], np.int32 if graph.integer else np.float32)
        b = graph.constant(bias)
        if graph.integer:
            # a product of matrices has one scale only, or onnxruntime computes it in floats
            size = () if key.op == "linear" else key.out_shape[-1:]
            scales = np.full(size, 0.002, np.float32)
            w = graph.dequantized(w, scales, 0)
            given = [b, graph.constant(scales * np.float32(0.02)), graph.constant(np.int32(0))]
            if size:
                given[2] = graph.constant(bias)
            b = graph.node("DequantizeLinear", given, axis=0)
        if key.op == "linear":
            return graph.node("Gemm", [names[0], w, b], transB=1, alpha=1.0, beta=1.0)
        return graph.node(
            "Conv", [names[0], w, b], kernel_shape=key.kernel, strides=key.strides,
            pads=key.pads, group=key.groups, dilations=key.dilations,
        )  # fmt: skip
    if key.op == "global_avgpool":
        return graph.node("GlobalAveragePool", names)
    if key.op in ("maxpool", "avgpool"):
        op = "MaxPool" if key.op == "maxpool" else "AveragePool"
        return graph.node(op, names, kernel_shape=key.kernel, strides=key.strides, pads=key.pads)
    if key.op == "scale":
        given = graph.constant(np.array([1, key.in_shape[-1], 1, 1], np.int64))
        return graph.node("Mul", [names[0], graph.node("Reshape", [names[1], given])])
    if key.op == "add":
        return graph.node("Add", names)
    raise ValueError(f"no model of {key}")


def _activation(graph: _Graph, key: OpKey, y: str) -> str:
    if key.activation == "none":
        return y
    if key.activation == "hardsigmoid":
        return graph.node("HardSigmoid", [y], alpha=1 / 6, beta=0.5)
    return graph.node({"relu": "Relu", "hardswish": "HardSwish"}[key.activation], [y])


def _session(data: bytes, feed: dict[str, Array]) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    session.run(None, feed)
    return lambda: session.run(None, feed)


def session(key: OpKey) -> Callable[[], object]:
    """One inference of the layer by onnxruntime, one thread."""
    rng = np.random.default_rng(2)
    shapes = [_planar(shape) for shape in input_shapes(key)]
    feed = {f"x{i}": values(tuple(s), key.dtype, rng) for i, s in enumerate(shapes)}
    return _session(model(key), feed)


def empty_session() -> Callable[[], object]:
    """One inference that computes nothing: what a call costs."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"])
    made = helper.make_model(
        helper.make_graph([node], "empty", info[:1], info[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    made.ir_version = 9
    return _session(bytes(made.SerializeToString()), {"x": np.zeros(1, np.float32)})

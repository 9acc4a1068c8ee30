"""One kernel as an ONNX model: what another runtime computes where edgeopt runs a kernel.

Weights are small random numbers from a fixed seed. Integer kernels become QDQ graphs, in the
form in which onnxruntime fuses them into integer operators; where a kernel has a table
(``lut``), hard-swish stands for the function it came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.core.activations import parse_text
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import KernelGraph, OpKey
from edgeopt.core.network import Array

if TYPE_CHECKING:
    import onnx

OPSET = 20
IR_VERSION = 10
_SCALE, _ZERO = np.float32(0.05), np.int8(3)
_WEIGHT_SCALE = np.float32(0.01)

_FUNCTIONS = {
    "hardswish": "HardSwish", "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu",
    "hardsigmoid": "HardSigmoid", "leakyrelu": "LeakyRelu", "elu": "Elu", "gelu": "Gelu",
    "erf": "Erf", "exp": "Exp", "abs": "Abs", "sqrt": "Sqrt", "mish": "Mish",
}  # fmt: skip
_PERM = re.compile(r"perm(\d+(?:-\d+)*)")
_CONCAT = re.compile(r"axis(\d+)\.(\d+(?:-\d+)*)(?:\.same)?")


def model_of(key: OpKey) -> bytes:
    """The ONNX model of one kernel; its inputs are ``x0``, ``x1``…, its output is ``y``.

    Raises:
        InputError: ONNX has no operator for this kernel.
    """
    return _Builder(key).build()


def network_model_of(graph: KernelGraph) -> bytes:
    """A whole network as ONNX, of the operators that `model_of` gives each of its kernels.

    Raises:
        InputError: ONNX has no operator for one of them.
    """
    from onnx import TensorProto, checker, helper

    builder = _Builder(graph.kernels[0].key)
    kinds = {"f32": TensorProto.FLOAT, "i8": TensorProto.INT8}
    known: dict[str, tuple[str, tuple[int, ...]]] = {}
    inputs: list[onnx.ValueInfoProto] = []
    for kernel in graph.kernels:
        key = kernel.key
        if key.dtype not in kinds or key.out_dtype not in kinds:
            raise _cannot(key)
        names = []
        for tensor, (_, shape, dtype) in zip(kernel.inputs, _inputs(key), strict=True):
            tensor = graph.aliases.get(tensor, tensor)
            if tensor not in known:
                name = f"in{len(inputs)}"
                inputs.append(helper.make_tensor_value_info(name, kinds[dtype], list(shape)))
                known[tensor] = (name, shape)
            names.append(builder.shaped(*known[tensor], shape))
        builder.key, builder.integer = key, key.dtype == "i8"
        known[graph.aliases.get(kernel.output, kernel.output)] = (
            builder.body(names), _onnx_shape(key.out_shape)
        )  # fmt: skip
    outputs = []
    kinds_of = {kernel.output: kinds[kernel.key.out_dtype] for kernel in graph.kernels}
    for index, tensor in enumerate(graph.outputs):
        tensor = graph.aliases.get(tensor, tensor)
        name, shape = known[tensor]
        builder.nodes.append(helper.make_node("Identity", [name], [f"out{index}"]))
        outputs.append(helper.make_tensor_value_info(f"out{index}", kinds_of[tensor], list(shape)))
    model = helper.make_model(
        helper.make_graph(builder.nodes, "network", inputs, outputs, builder.constants),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
    )  # fmt: skip
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def feeds_of(key: OpKey, seed: int = 0) -> dict[str, Array]:
    """Random inputs for `model_of`."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for name, shape, dtype in _inputs(key):
        if dtype == "f32":
            feeds[name] = random.standard_normal(shape).astype(np.float32)
        else:
            feeds[name] = random.integers(-128, 128, shape).astype(np.int8)
    return feeds


def _onnx_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """With the batch, and maps as NCHW."""
    if len(shape) == 3:
        return (1, shape[2], shape[0], shape[1])
    return (1, *shape)


def _inputs(key: OpKey) -> list[tuple[str, tuple[int, ...], str]]:
    shapes = [_onnx_shape(key.in_shape)] * key.inputs
    if key.op == "scale":
        shapes = [shapes[0], (1, key.in_shape[-1], 1, 1)]
    if key.op == "concat":
        axis, sizes = _concat(key)
        whole = _onnx_shape(key.out_shape)
        shapes = [(*whole[:axis], size, *whole[axis + 1 :]) for size in sizes]
    if key.residual:
        shapes.append(_onnx_shape(key.out_shape))
    return [(f"x{index}", shape, key.dtype) for index, shape in enumerate(shapes)]


def _concat(key: OpKey) -> tuple[int, list[int]]:
    match = _CONCAT.fullmatch(key.variant)
    if match is None:
        raise _cannot(key)
    axis = int(match[1])
    if len(key.out_shape) == 3:
        axis = {0: 2, 1: 3, 2: 1}[axis]
    else:
        axis += 1
    return axis, [int(size) for size in match[2].split("-")]


def _cannot(key: OpKey) -> InputError:
    return InputError(
        "no ONNX model can be made of this kernel", where=str(key),
        hint="it is measured with edgeopt's own kernels only",
    )  # fmt: skip


class _Builder:
    def __init__(self, key: OpKey) -> None:
        self.key = key
        self.integer = key.dtype == "i8"
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def build(self) -> bytes:
        from onnx import TensorProto, checker, helper

        key = self.key
        kinds = {"f32": TensorProto.FLOAT, "i8": TensorProto.INT8}
        if key.dtype not in kinds or key.out_dtype not in kinds:
            raise _cannot(key)
        inputs = _inputs(key)
        names = [name for name, _, _ in inputs]
        output = self.body(names)
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        graph = helper.make_graph(
            self.nodes,
            f"kernel_{key.digest}",
            [helper.make_tensor_value_info(n, kinds[d], list(s)) for n, s, d in inputs],
            [
                helper.make_tensor_value_info(
                    "y", kinds[key.out_dtype], list(_onnx_shape(key.out_shape))
                )
            ],
            self.constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def shaped(self, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
        """The tensor in another shape of as many numbers."""
        if shape == wanted:
            return name
        return self._emit("Reshape", [name, self._constant(np.array(wanted, np.int64))])

    def body(self, names: list[str]) -> str:
        """Emit the operators; returns the tensor that holds the result."""
        key = self.key
        if key.op == "quantize":
            return self._quantize(names[0])
        if key.op == "dequantize":
            return self._dequantize(names[0])
        residual = names.pop() if key.residual else None
        real = [self._dequantize(name) for name in names] if self.integer else list(names)
        result = self._operator(real)
        result = self._activate(result, key.activation)
        if residual is not None:
            other = self._dequantize(residual) if self.integer else residual
            result = self._emit("Add", [result, other])
            result = self._activate(result, key.residual_activation)
        return self._quantize(result) if self.integer else result

    def _operator(self, real: list[str]) -> str:
        key = self.key
        if key.op in ("pointwise", "depthwise", "conv2d"):
            weight = (key.out_shape[-1], key.in_shape[-1] // key.groups, *key.kernel)
            return self._emit(
                "Conv", [real[0], *self._weights(weight)], kernel_shape=list(key.kernel),
                strides=list(key.strides), pads=list(key.pads), dilations=list(key.dilations),
                group=key.groups,
            )  # fmt: skip
        if key.op == "irb" and not self.integer:
            return self._block(real[0])
        if key.op == "linear":
            matrix = (key.out_shape[-1], key.in_shape[-1])
            return self._emit("Gemm", [real[0], *self._weights(matrix)], transB=1)
        if key.op in ("maxpool", "avgpool"):
            attrs: dict[str, Any] = {
                "kernel_shape": list(key.kernel), "strides": list(key.strides),
                "pads": list(key.pads),
            }  # fmt: skip
            if key.op == "avgpool":
                attrs["count_include_pad"] = int(key.variant == "include")
            return self._emit("MaxPool" if key.op == "maxpool" else "AveragePool", real, **attrs)
        if key.op in ("add", "mul", "scale"):
            if key.inputs == 1:
                real = [real[0], self._operand()]
            return self._emit("Add" if key.op == "add" else "Mul", real)
        if key.op in ("global_avgpool", "activation"):
            return self._emit("GlobalAveragePool", real) if key.op != "activation" else real[0]
        if key.op == "softmax" and not key.variant:
            return self._emit("Softmax", real, axis=1 if len(key.in_shape) == 3 else -1)
        if key.op == "concat":
            return self._emit("Concat", real, axis=_concat(key)[0])
        if key.op == "copy":
            return self._emit("Identity", real)
        if key.op == "transpose":
            match = _PERM.fullmatch(key.variant)
            if match is None:
                raise _cannot(key)
            perm = [0, *(int(part) + 1 for part in match[1].split("-"))]
            return self._emit("Transpose", real, perm=perm)
        if key.op == "resize" and len(key.in_shape) == 3:
            scales = [
                1.0,
                1.0,
                *(o / i for o, i in zip(key.out_shape, key.in_shape[:2], strict=False)),
            ]
            scale = self._constant(np.array(scales, np.float32))
            return self._emit(
                "Resize", [real[0], "", scale], mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )  # fmt: skip
        raise _cannot(key)

    def _block(self, tensor: str) -> str:
        """The parts of an inverted residual block, but for what follows the last."""
        *inner, last = self.key.parts
        for key in (*inner, last):
            weight = (key.out_shape[-1], key.in_shape[-1] // key.groups, *key.kernel)
            tensor = self._emit(
                "Conv", [tensor, *self._weights(weight)], kernel_shape=list(key.kernel),
                strides=list(key.strides), pads=list(key.pads), group=key.groups,
            )  # fmt: skip
            if key is not last:
                tensor = self._activate(tensor, key.activation)
        return tensor

    def _activate(self, tensor: str, text: str) -> str:
        if text == "none":
            return tensor
        if text == "lut":
            text = "hardswish"
        try:
            function, attrs = parse_text(text)
        except ValueError as error:
            raise _cannot(self.key) from error
        if function in ("clip", "relu6"):
            bounds = [
                self._constant(np.asarray(value, np.float32))
                for value in (attrs.get("min", 0.0), attrs.get("max", 6.0))
            ]
            return self._emit("Clip", [tensor, *bounds])
        if function == "silu":
            return self._emit("Mul", [tensor, self._emit("Sigmoid", [tensor])])
        if function not in _FUNCTIONS:
            raise _cannot(self.key)
        kept: Mapping[str, object] = {} if function == "hardswish" else attrs
        return self._emit(_FUNCTIONS[function], [tensor], **kept)

    def _weights(self, shape: tuple[int, ...]) -> list[str]:
        """Weight and bias tensors, dequantized in integer kernels."""
        outputs = shape[0]
        if not self.integer:
            weight = self.random.standard_normal(shape).astype(np.float32) * np.float32(0.1)
            bias = self.random.standard_normal(outputs).astype(np.float32)
            return [self._constant(weight), self._constant(bias)]
        stored = self.random.integers(-127, 128, shape).astype(np.int8)
        bias_stored = self.random.integers(-1000, 1000, outputs).astype(np.int32)
        scales = np.full(outputs, _WEIGHT_SCALE, np.float32)
        pairs = [
            (stored, scales, np.zeros(outputs, np.int8)),
            (bias_stored, (scales * _SCALE).astype(np.float32), np.zeros(outputs, np.int32)),
        ]
        return [
            self._emit("DequantizeLinear", [self._constant(part) for part in pair], axis=0)
            for pair in pairs
        ]

    def _operand(self) -> str:
        """The constant operand of an addition or product."""
        channels = self.key.in_shape[-1]
        if self.key.variant == "full":
            shape = _onnx_shape(self.key.in_shape)
        else:
            shape = (1, channels, 1, 1) if len(self.key.in_shape) == 3 else (1, channels)
        if not self.integer:
            return self._constant(self.random.standard_normal(shape).astype(np.float32))
        stored = self._constant(self.random.integers(-128, 128, shape).astype(np.int8))
        return self._dequantize(stored)

    def _dequantize(self, tensor: str) -> str:
        scale, zero = self._constant(_SCALE), self._constant(_ZERO)
        return self._emit("DequantizeLinear", [tensor, scale, zero])

    def _quantize(self, tensor: str) -> str:
        scale, zero = self._constant(_SCALE), self._constant(_ZERO)
        return self._emit("QuantizeLinear", [tensor, scale, zero])

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _emit(self, op: str, inputs: list[str], **attrs: object) -> str:
        from onnx import helper

        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attrs))
        return name

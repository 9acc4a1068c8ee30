"""One small model for each ONNX operator that is compiled through TVM."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

MAP = (1, 4, 6, 5)


def node(
    op: str, *inputs: tuple[int, ...] | np.ndarray | None, dtype: type = np.float32,
    opset: int = 18, **attrs: object,
) -> onnx.ModelProto:  # fmt: skip
    """A model of one node; tuples are inputs of that shape, arrays constants, None left out."""
    names, infos, constants = [], [], []
    for index, item in enumerate(inputs):
        name = f"in{index}"
        names.append("" if item is None else name)
        if isinstance(item, tuple):
            element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            infos.append(helper.make_tensor_value_info(name, element, item))
        elif item is not None:
            constants.append(numpy_helper.from_array(item, name))
    made = helper.make_node(op, names, ["out"], name=f"the_{op}", **attrs)
    untyped = onnx.ValueInfoProto(name="out")
    graph = helper.make_graph([made], op, infos, [untyped], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def _weights(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) / 2).astype(np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


UNARY = (
    "Abs", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Round", "Selu", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Tan", "Mish", "Atan", "Asinh",
)  # fmt: skip

NODES: dict[str, onnx.ModelProto] = {
    **{op: node(op, MAP) for op in UNARY},
    "Reciprocal": node("Reciprocal", MAP),
    "ThresholdedRelu": node("ThresholdedRelu", MAP, alpha=0.3),
    "Shrink": node("Shrink", MAP, lambd=0.4, bias=0.1),
    "PRelu": node("PRelu", MAP, _weights(4, 1, 1)),
    "Sub": node("Sub", MAP, MAP),
    "Div": node("Div", MAP, np.full((1, 4, 1, 1), 1e-40, np.float32)),
    "Pow": node("Pow", MAP, np.float32(3).reshape(())),
    "Max": node("Max", MAP, MAP),
    "Min": node("Min", MAP, MAP),
    "Mean": node("Mean", MAP, MAP),
    "Add": node("Add", MAP, (1, 1, 6, 5)),
    "Mul": node("Mul", MAP, (1, 1, 6, 5)),
    "ArgMax": node("ArgMax", MAP, axis=1, keepdims=0),
    "ArgMin": node("ArgMin", MAP, axis=3),
    "ReduceSum": node("ReduceSum", MAP, _ints(1)),
    "ReduceMax": node("ReduceMax", MAP, _ints(2, 3)),
    "ReduceMin": node("ReduceMin", MAP, _ints(2)),
    "ReduceL2": node("ReduceL2", MAP, _ints(1)),
    "ReduceL1": node("ReduceL1", MAP, _ints(1)),
    "ReduceSumSquare": node("ReduceSumSquare", MAP, _ints(1)),
    "ReduceLogSumExp": node("ReduceLogSumExp", MAP, _ints(1)),
    "ReduceProd": node("ReduceProd", MAP, _ints(1)),
    "ConvTranspose": node(
        "ConvTranspose", MAP, _weights(4, 3, 3, 3), _weights(3), strides=[2, 2], pads=[1, 1, 1, 1],
        output_padding=[1, 1],
    ),
    "Conv": node("Conv", (1, 3, 4, 5, 6), _weights(2, 3, 3, 3, 3), pads=[1] * 6),
    "InstanceNormalization": node("InstanceNormalization", MAP, _weights(4), _weights(4)),
    "LayerNormalization": node("LayerNormalization", (1, 6, 8), _weights(8), _weights(8)),
    "GroupNormalization": node(
        "GroupNormalization", MAP, _weights(4), _weights(4), num_groups=2, opset=21
    ),
    "LRN": node("LRN", MAP, size=3),
    "LogSoftmax": node("LogSoftmax", MAP, axis=1),
    "Hardmax": node("Hardmax", (1, 7), axis=1),
    "LpPool": node("LpPool", MAP, kernel_shape=[2, 2]),
    "DepthToSpace": node("DepthToSpace", MAP, blocksize=2),
    "SpaceToDepth": node("SpaceToDepth", (1, 3, 4, 6), blocksize=2),
    "Slice": node("Slice", MAP, _ints(1, 5), _ints(3, -7), _ints(1, 2), _ints(1, -2)),
    "Pad": node("Pad", MAP, _ints(0, 0, 1, 2, 0, 0, 3, 0), np.float32(0.5).reshape(())),
    "PadReflect": node("Pad", MAP, _ints(0, 0, 1, 2, 0, 0, 3, 0), mode="reflect"),
    "Gather": node("Gather", MAP, _ints(2, 0), axis=1),
    "GatherElements": node("GatherElements", (1, 4), np.array([[3, 0]]), axis=1),
    "Tile": node("Tile", MAP, _ints(1, 2, 1, 3)),
    "Expand": node("Expand", (1, 4, 1, 1), _ints(1, 4, 3, 2)),
    "ResizeLinear": node(
        "Resize", MAP, None, np.array([1, 1, 2, 2], np.float32), mode="linear"
    ),
    "ResizeCubic": node(
        "Resize", MAP, None, np.array([1, 1, 2, 2], np.float32), mode="cubic",
        coordinate_transformation_mode="align_corners",
    ),
    "Einsum": node("Einsum", (1, 3, 4), (1, 4, 5), equation="bij,bjk->bik"),
    "MatMul": node("MatMul", (1, 2, 3, 4), (1, 2, 4, 5)),
    "Trilu": node("Trilu", (1, 4, 4), upper=0),
    "GlobalLpPool": node("GlobalLpPool", MAP, p=2),
    "MaxPoolDilated": node("MaxPool", MAP, kernel_shape=[2, 2], dilations=[2, 2]),
    "AveragePool3d": node("AveragePool", (1, 2, 4, 4, 4), kernel_shape=[2, 2, 2]),
    "MeanVarianceNormalization": node("MeanVarianceNormalization", MAP, axes=[0, 2, 3]),
    "GridSample": node("GridSample", (1, 2, 4, 4), (1, 3, 3, 2)),
    "Cast": node("Cast", MAP, to=6),
    "SoftmaxOld": node("Softmax", MAP, axis=1, opset=11),
    "Acos": node("Acos", MAP),
    "Acosh": node("Acosh", MAP),
    "Asin": node("Asin", MAP),
    "Atanh": node("Atanh", MAP),
    "Log": node("Log", MAP),
    "Sqrt": node("Sqrt", MAP),
    "Mod": node("Mod", MAP, MAP, fmod=1),
    "ReduceLogSum": node("ReduceLogSum", MAP, _ints(1)),
    "Sum": node("Sum", MAP, (1, 4, 1, 1)),
    "Concat": node("Concat", MAP, _weights(1, 2, 6, 5), axis=1),
    "GatherND": node("GatherND", (1, 4, 3), np.array([[0, 3], [0, 1]])),
}  # fmt: skip

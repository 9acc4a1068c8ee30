"""How each ONNX operator is written in a `Network`; everything else goes to `generic`."""

from __future__ import annotations

from collections.abc import Mapping

from edgeopt.graph import ir
from edgeopt.graph.convert_generic import generic
from edgeopt.graph.convert_layers import conv, gemm, matmul
from edgeopt.graph.convert_moves import depth_to_space, gather, pad, resize, slice_
from edgeopt.graph.convert_pointwise import activation, binary, negate, power, prelu, sum_
from edgeopt.graph.convert_pool import average_pool, global_average, max_pool, reduce, reduce_mean
from edgeopt.graph.convert_shape import (
    concat,
    dequantize,
    identity,
    quantize,
    reshape,
    softmax,
    transpose,
)
from edgeopt.graph.importer import Handler

__all__ = ["HANDLERS", "generic"]

_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Swish",
                "Gelu", "Erf", "Exp", "Abs", "Sqrt", "Mish")  # fmt: skip

#: A handler that answers False leaves the node to `generic`.
HANDLERS: Mapping[tuple[str, str], Handler] = {
    **{("", name): activation for name in _ACTIVATIONS},
    **{(ir.FUSED, name): activation for name in ("Silu", "Gelu", "Clip")},
    **{("", name): binary for name in ("Add", "Mul", "Sub", "Div", "Max", "Min")},
    **{("", name): reshape for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    ("", "Sum"): sum_,
    ("", "Neg"): negate,
    ("", "Pow"): power,
    ("", "Conv"): conv,
    ("", "Gemm"): gemm,
    ("", "MatMul"): matmul,
    (ir.FUSED, "Linear"): matmul,
    ("", "MaxPool"): max_pool,
    ("", "AveragePool"): average_pool,
    ("", "GlobalAveragePool"): global_average,
    ("", "GlobalMaxPool"): max_pool,
    ("", "ReduceMean"): reduce_mean,
    **{("", name): reduce for name in ("ReduceSum", "ReduceMax", "ReduceMin")},
    ("", "PRelu"): prelu,
    ("", "Gather"): gather,
    **{("", name): depth_to_space for name in ("DepthToSpace", "SpaceToDepth")},
    ("", "Identity"): identity,
    ("", "Dropout"): identity,
    ("", "Transpose"): transpose,
    ("", "Concat"): concat,
    ("", "Softmax"): softmax,
    ("", "LogSoftmax"): softmax,
    ("", "Resize"): resize,
    ("", "Upsample"): resize,
    ("", "QuantizeLinear"): quantize,
    ("", "DequantizeLinear"): dequantize,
    ("", "Slice"): slice_,
    ("", "Pad"): pad,
}

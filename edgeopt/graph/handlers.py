"""How each ONNX operator is written in a `Network`; everything else goes to `generic`."""

from __future__ import annotations

from collections.abc import Mapping

from edgeopt.graph import ir
from edgeopt.graph.convert_generic import generic, pad, slice_, split
from edgeopt.graph.convert_layers import conv, gemm, matmul
from edgeopt.graph.convert_pointwise import activation, binary, negate, power, sum_
from edgeopt.graph.convert_pool import average_pool, global_average, max_pool, reduce_mean
from edgeopt.graph.convert_shape import (
    concat,
    dequantize,
    identity,
    quantize,
    reshape,
    resize,
    softmax,
    transpose,
)
from edgeopt.graph.importer import Handler

__all__ = ["HANDLERS", "generic"]

_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Swish",
                "Gelu", "PRelu")  # fmt: skip

#: A handler that answers False leaves the node to `generic`.
HANDLERS: Mapping[tuple[str, str], Handler] = {
    **{("", name): activation for name in _ACTIVATIONS},
    **{(ir.FUSED, name): activation for name in ("Silu", "Gelu", "Clip")},
    **{("", name): binary for name in ("Add", "Mul", "Sub", "Div")},
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
    ("", "Identity"): identity,
    ("", "Dropout"): identity,
    ("", "Transpose"): transpose,
    ("", "Concat"): concat,
    ("", "Softmax"): softmax,
    ("", "Resize"): resize,
    ("", "Upsample"): resize,
    ("", "QuantizeLinear"): quantize,
    ("", "DequantizeLinear"): dequantize,
    ("", "Slice"): slice_,
    ("", "Split"): split,
    ("", "Pad"): pad,
}

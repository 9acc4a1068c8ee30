"""Integers of two and four bits in ONNX, and the same model with int8 in their place.

onnxruntime has integer kernels for int8 weights only. It computes with INT4 weights, and with INT2
ones where it is told to rewrite nothing, in float32; asked to optimize a convolution with INT2
weights it refuses the model. The twin with int8 in their place holds the same numbers.
"""

from __future__ import annotations

import numpy as np

from edgeopt.core.network import Array


def narrowed(values: Array, bits: int) -> Array:
    """Int8 or uint8 values in the narrowest ONNX type that has ``bits``; INT4 holds three."""
    if bits == 8:
        return values
    import ml_dtypes

    width = 2 if bits == 2 else 4
    kinds = {2: (ml_dtypes.int2, ml_dtypes.uint2), 4: (ml_dtypes.int4, ml_dtypes.uint4)}
    found: Array = values.astype(kinds[width][values.dtype == np.uint8])
    return found


def widened(model: bytes) -> bytes | None:
    """The model with int8 and uint8 in place of narrower integers; None where it has none."""
    import onnx
    from onnx import TensorProto, numpy_helper

    wide = {
        TensorProto.INT4: np.int8, TensorProto.INT2: np.int8,
        TensorProto.UINT4: np.uint8, TensorProto.UINT2: np.uint8,
    }  # fmt: skip
    found = onnx.load_model_from_string(model)
    narrow = [item for item in found.graph.initializer if item.data_type in wide]
    for item in narrow:
        values = numpy_helper.to_array(item).astype(wide[item.data_type])
        item.CopyFrom(numpy_helper.from_array(values, item.name))
    data: bytes = found.SerializeToString(deterministic=True)
    return data if narrow else None

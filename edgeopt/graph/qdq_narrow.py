"""Integers of two and four bits in ONNX, and the same model with int8 in their place.

onnxruntime has integer kernels for int8 weights only. It computes with INT4 weights, and with INT2
ones where it is told to rewrite nothing, in float32; asked to optimize a convolution with INT2
weights it refuses the model. The twin with int8 in their place holds the same numbers; what INT2
and an Add of half a step say together is one odd int8 there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.core.network import Array

if TYPE_CHECKING:
    from onnx import ModelProto


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
    changed = _join_halves(found)
    narrow = [item for item in found.graph.initializer if item.data_type in wide]
    for item in narrow:
        values = numpy_helper.to_array(item).astype(wide[item.data_type])
        item.CopyFrom(numpy_helper.from_array(values, item.name))
        changed = True
    data: bytes = found.SerializeToString(deterministic=True)
    return data if changed else None


def _join_halves(model: ModelProto) -> bool:
    """INT2 behind DequantizeLinear and an Add of half its scale as odd int8; whether any was.

    Left as they are: constants that others read too, and what such an Add shares its operand with.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    known = {item.name: item for item in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    makers = {node.output[0]: node for node in graph.node}
    joined = False
    for add in [node for node in graph.node if node.op_type == "Add"]:
        maker = makers.get(add.input[0])
        if maker is None or maker.op_type != "DequantizeLinear" or add.input[1] not in known:
            continue
        items = [known.get(name) for name in maker.input]
        if len(items) != 3 or any(item is None for item in items):
            continue
        if any(uses[name] > 1 for name in (*maker.input, maker.output[0])):
            continue
        weight, scale, zero = (item for item in items if item is not None)
        half = numpy_helper.to_array(scale) / np.float32(2)
        term = numpy_helper.to_array(known[add.input[1]]).reshape(-1)
        if weight.data_type != TensorProto.INT2 or not np.array_equal(term, half.reshape(-1)):
            continue
        if numpy_helper.to_array(zero).astype(np.int8).any():
            continue
        odd = 2 * numpy_helper.to_array(weight).astype(np.int8) + np.int8(1)
        zeros = np.zeros(half.shape, np.int8)
        for item, values in ((weight, odd), (scale, half), (zero, zeros)):
            item.CopyFrom(numpy_helper.from_array(values, item.name))
        maker.output[0] = add.output[0]
        graph.node.remove(add)
        joined = True
    return joined

"""Bounds on shapes, and constants whose data fits their shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from edgeopt.core.errors import InputError

MAX_RANK = 8
#: No single value, activation or constant, may be larger.
MAX_TENSOR_BYTES = 1 << 30
DAMAGED = "the file is damaged, or was not written by an exporter"


def check_dims(dims: Iterable[int], itemsize: float, where: str) -> int:
    """The number of elements of a shape.

    Raises:
        InputError: a negative dimension, too many of them, or too many bytes.
    """
    shape = [int(d) for d in dims]
    if len(shape) > MAX_RANK:
        raise InputError(
            f"has {len(shape)} dimensions, more than the {MAX_RANK} allowed", where=where,
            hint=DAMAGED,
        )  # fmt: skip
    if any(d < 0 for d in shape):
        raise InputError(f"shape {shape} has a negative dimension", where=where, hint=DAMAGED)
    count = math.prod(shape)
    if count * itemsize > MAX_TENSOR_BYTES:
        raise InputError(
            f"shape {shape} takes {int(count * itemsize)} bytes, "
            f"more than the {MAX_TENSOR_BYTES} allowed",
            where=where,
            hint="the file is damaged, or not a network for an embedded board",
        )
    return count


#: Bits of an element, and the field that holds it if it is not in raw_data (elements an entry).
_CONSTANT_TYPES: Mapping[int, tuple[int, str]] = {
    onnx.TensorProto.FLOAT: (32, "float_data"),
    onnx.TensorProto.DOUBLE: (64, "double_data"),
    onnx.TensorProto.FLOAT16: (16, "int32_data"),
    onnx.TensorProto.INT8: (8, "int32_data"),
    onnx.TensorProto.UINT8: (8, "int32_data"),
    onnx.TensorProto.INT16: (16, "int32_data"),
    onnx.TensorProto.UINT16: (16, "int32_data"),
    onnx.TensorProto.INT32: (32, "int32_data"),
    onnx.TensorProto.INT64: (64, "int64_data"),
    onnx.TensorProto.UINT32: (32, "uint64_data"),
    onnx.TensorProto.UINT64: (64, "uint64_data"),
    onnx.TensorProto.BOOL: (8, "int32_data"),
    onnx.TensorProto.INT4: (4, "int32_data"),
    onnx.TensorProto.UINT4: (4, "int32_data"),
    onnx.TensorProto.INT2: (2, "int32_data"),
    onnx.TensorProto.UINT2: (2, "int32_data"),
}


def expected_bytes(tensor: onnx.TensorProto, where: str) -> int:
    """Bytes that a constant must have.

    Raises:
        InputError: a type or shape that is not supported.
    """
    known = _CONSTANT_TYPES.get(tensor.data_type)
    if known is None:
        kinds = {v: k for k, v in onnx.TensorProto.DataType.items()}
        raise InputError(
            f"constants of type {kinds.get(tensor.data_type, tensor.data_type)} are not supported",
            where=where,
            hint="export the model in float32, or quantized to int8 or uint8",
        )
    if tensor.HasField("segment"):
        raise InputError("segmented tensors are not supported", where=where, hint=DAMAGED)
    count = check_dims(tensor.dims, known[0] / 8, where)
    return (count * known[0] + 7) // 8


def check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    """Check a constant: that its data is as long as its shape says, and no NaN is in it.

    Raises:
        InputError: it is not.
    """
    size = expected_bytes(tensor, where)
    bits, field = _CONSTANT_TYPES[tensor.data_type]
    if tensor.HasField("raw_data"):
        found = len(tensor.raw_data)
        if found != size:
            raise InputError(
                f"has {found} bytes of data, its shape {list(tensor.dims)} needs {size}",
                where=where,
                hint="the file is damaged or truncated",
            )
    else:
        entries = len(getattr(tensor, field))
        wanted = size if bits < 8 else size * 8 // bits
        if entries != wanted:
            raise InputError(
                f"has {entries} values, its shape {list(tensor.dims)} needs {wanted}",
                where=where,
                hint="the file is damaged or truncated",
            )
    if tensor.data_type in (
        onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16,
    ):  # fmt: skip
        values = onnx.numpy_helper.to_array(tensor)
        if np.isnan(values).any():
            raise InputError(
                "contains NaN", where=where, hint="the training diverged, or the file is damaged"
            )

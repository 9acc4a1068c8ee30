"""Int8 sums equal onnxruntime on every pair of codes, at scales where ties are common."""

from __future__ import annotations

import platform

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.core import affine
from edgeopt.graph.reference import Session

# Scales and (unsigned) zero points of residual additions in compiled subnets. At the first,
# adding the zero point after rounding differs; at the others, rounding each product does.
CASES = (
    ((0.042148266, 137), (0.017096998, 124), (0.043865092, 134)),
    ((0.037864886, 121), (0.023388468, 127), (0.04263784, 126)),
    ((0.04263784, 126), (0.026495133, 125), (0.051646143, 125)),
)


def quantized_sum(*quants: tuple[float, int]) -> bytes:
    nodes, constants = [], []
    for name, (scale, zero) in zip("aby", quants, strict=True):
        constants += [
            numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"),
            numpy_helper.from_array(np.array(zero, np.uint8), f"{name}_zero"),
        ]
    for name in "ab":
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_real"]
            )
        )
    nodes.append(helper.make_node("Add", ["a_real", "b_real"], ["sum"]))
    nodes.append(helper.make_node("QuantizeLinear", ["sum", "y_scale", "y_zero"], ["y"]))
    shape = [1, 256, 256, 1]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info(n, TensorProto.UINT8, shape) for n in "ab"],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        constants,
    )
    opset = [helper.make_opsetid("", 18)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="checked with x86-64's onnxruntime")
@pytest.mark.parametrize("quants", CASES)
def test_every_pair(quants: tuple[tuple[float, int], ...]) -> None:
    a, b = (grid.astype(np.uint8).reshape(1, 256, 256, 1) for grid in np.mgrid[:256, :256])
    session = Session(quantized_sum(*quants), optimize=True)
    assert session.optimized
    theirs = session.run({"a": a, "b": b})["y"].astype(int) - affine.GRID
    (s_a, z_a), (s_b, z_b), (s_y, z_y) = ((np.float32(s), z - affine.GRID) for s, z in quants)
    factors = np.array([s_a / s_y, s_b / s_y], np.float32)
    stored = [(v.astype(int) - affine.GRID).astype(np.int8) for v in (a, b)]
    assert np.array_equal(affine.add(*stored, factors, z_a, z_b, z_y), theirs)

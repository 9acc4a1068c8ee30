"""Integers or floats at the edges: the same network, whichever its caller asked for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.core.errors import InputError
from edgeopt.graph.edges import with_edges
from edgeopt.graph.importer import Imported, import_model
from edgeopt.graph.reference import run_onnx
from edgeopt.quant.simulate import Simulator

SHAPE = (1, 3, 5, 4)


def qdq_model(*, integer: bool, unsigned: bool = False) -> onnx.ModelProto:
    """x -> Conv -> y, quantized; with its QuantizeLinear and last DequantizeLinear or without."""
    rng = np.random.default_rng(3)
    kind = np.uint8 if unsigned else np.int8
    constants = {
        "xs": np.float32(0.031), "xz": kind(5), "ys": np.float32(0.07), "yz": kind(9),
        "ws": rng.uniform(0.01, 0.02, 4).astype(np.float32), "wz": np.zeros(4, np.int8),
        "w": rng.integers(-127, 128, (4, 3, 3, 3), dtype=np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], "dx"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "dw", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "conv", kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["yq"], "qy"),
    ]
    held = TensorProto.UINT8 if unsigned else TensorProto.INT8
    first, last, element = "xq", "yq", held
    if not integer:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], "qx"))
        nodes.append(helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"], "dy"))
        first, last, element = "x", "y", TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "edges",
        [helper.make_tensor_value_info(first, element, SHAPE)],
        [helper.make_tensor_value_info(last, element, (1, 4, 3, 2))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs_of(imported: Imported, feed: np.ndarray) -> np.ndarray:
    """What the network gives for a feed of the model, in the model's form."""
    network = imported.network
    (interface,), (result,) = imported.inputs.values(), imported.outputs.values()
    found = Simulator(network).run({network.inputs[0]: interface.from_onnx(feed)})
    return result.to_onnx(found[network.outputs[0]])


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("kind", ["model", "int8", "float"])
def test_edges_change_types_and_nothing_else(kind: str, integer: bool, unsigned: bool) -> None:
    model = qdq_model(integer=integer, unsigned=unsigned)
    rng = np.random.default_rng(1)
    feed = rng.standard_normal(SHAPE, np.float32) * 3
    if integer:
        low, high = (0, 256) if unsigned else (-128, 128)
        feed = rng.integers(low, high, SHAPE, dtype=np.uint8 if unsigned else np.int8)
    as_is = import_model(model, isolated=False)
    changed = with_edges(as_is, kind)
    network = changed.network
    (expected,) = run_onnx(model.SerializeToString(), {model.graph.input[0].name: feed}).values()
    np.testing.assert_array_equal(outputs_of(changed, feed), expected)
    wanted = {"model": "i8" if integer else "f32", "int8": "i8", "float": "f32"}[kind]
    for name in (*network.inputs, *network.outputs):
        assert network.tensors[name].dtype == wanted
        assert (network.tensors[name].quant is not None) == (wanted == "i8")
    assert network.inputs == as_is.network.inputs and network.outputs == as_is.network.outputs
    kinds = [op.kind for op in network.ops]
    assert kinds == (["conv2d"] if wanted == "i8" else ["quantize", "conv2d", "dequantize"])
    # What is stored goes back to the same model's value.
    (interface,) = changed.inputs.values()
    stored = interface.from_onnx(feed)
    np.testing.assert_array_equal(interface.from_onnx(interface.to_onnx(stored)), stored)


def test_what_is_not_quantized_cannot_be_int8() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    imported = import_model(model, isolated=False)
    with pytest.raises(InputError, match="input 'x' is not quantized, so it cannot be int8"):
        with_edges(imported, "int8")
    assert with_edges(imported, "float").network == imported.network
    with pytest.raises(InputError, match="unknown kind of inputs and outputs 'int9'") as caught:
        with_edges(imported, "int9")
    assert "did you mean int8" in caught.value.hint

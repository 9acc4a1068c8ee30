"""Reference runs of onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeopt.core.errors import InputError
from edgeopt.graph.load import load_model
from edgeopt.graph.reference import Session, run_onnx


def model() -> bytes:
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 3)) for n in "xy"]
    nodes = [helper.make_node("Neg", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = made.SerializeToString()
    return data


@pytest.mark.parametrize("optimize", [False, True])
def test_a_run(optimize: bool) -> None:
    x = np.array([[1, -2, 0]], np.float32)
    result = run_onnx(model(), {"x": x}, optimize=optimize)
    np.testing.assert_array_equal(result["y"], [[0, 2, 0]])


def test_what_onnxruntime_cannot_rewrite_is_run_as_written(data_dir: Path) -> None:
    path = data_dir / "mlperf_tiny" / "kws_ref_model.op18.onnx"
    data = load_model(path, isolated=False).SerializeToString()
    session = Session(data, optimize=True)  # its layers share one zero point
    feed = {"input_1": np.random.default_rng(0).integers(-128, 128, (1, 49, 10, 1)).astype("i1")}
    written = run_onnx(data, feed)["Identity"]
    difference = session.run(feed)["Identity"].astype(int) - written.astype(int)
    assert np.abs(difference).max() <= 1


def test_bad_models_and_bad_inputs() -> None:
    with pytest.raises(InputError, match="onnxruntime cannot load the model"):
        Session(b"nothing")
    session = Session(model())
    assert session.outputs == ("y",)
    with pytest.raises(InputError, match="onnxruntime cannot run the model"):
        session.run({"x": np.zeros((2, 2), np.float32)})
    with pytest.raises(InputError, match="onnxruntime cannot run the model"):
        session.run({})

"""Inputs that a compile calibrates on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeopt.core.errors import InputError
from edgeopt.graph.importer import Imported, import_model
from edgeopt.pipeline.calibration_data import VECTORS, calibration_inputs


def adding(*names: str) -> Imported:
    """The sum of inputs [1, 4], or what is positive of one."""
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 4)) for n in names]
    node = helper.make_node("Add" if len(names) > 1 else "Relu", names, ["y"], name="node")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))
    graph = helper.make_graph([node], "adding", inputs, [output])
    return import_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    )


def test_few_inputs_are_repeated_for_the_vectors(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "x.npy", values)
    found = calibration_inputs(tmp_path / "x.npy", adding("x"))
    assert len(found) >= VECTORS and (found[:6] == np.concatenate([values, values])).all()


def test_a_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 inputs; calibration feeds one") as caught:
        calibration_inputs(tmp_path / "x.npy", adding("a", "b"))
    assert "x.npy" in str(caught.value) and "fp32" in caught.value.hint

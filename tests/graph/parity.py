"""Comparing an imported network with onnxruntime, operator by operator and kernel by kernel."""

from __future__ import annotations

import numpy as np
import onnx

from edgeopt.codegen.lower import lower
from edgeopt.codegen.reference import run_kernels, run_network
from edgeopt.graph.importer import Imported, import_model
from edgeopt.graph.reference import run_onnx


def random_inputs(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    constants = {item.name for item in model.graph.initializer}
    found = {}
    for info in model.graph.input:
        if info.name in constants:
            continue
        kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = [d.dim_value or 1 for d in info.type.tensor_type.shape.dim]
        if np.issubdtype(kind, np.floating):
            found[info.name] = rng.standard_normal(shape).astype(kind)
        else:
            limits = np.iinfo(kind)
            low, high = max(limits.min, -128), min(limits.max, 255)
            found[info.name] = rng.integers(low, high + 1, shape).astype(kind)
    return found


def outputs_of(
    imported: Imported, feeds: dict[str, np.ndarray], kernels: bool = True
) -> dict[str, np.ndarray]:
    physical = {name: imported.inputs[name].from_onnx(value) for name, value in feeds.items()}
    results = run_network(imported.network, physical)
    if kernels:
        lowered = run_kernels(lower(imported.network), physical)
        for name, value in results.items():
            np.testing.assert_allclose(
                np.asarray(value, np.float64).ravel(),
                np.asarray(lowered[name], np.float64).ravel(),
                rtol=1e-5, atol=1e-5,
            )  # fmt: skip
    return {name: imported.outputs[name].to_onnx(value) for name, value in results.items()}


def import_checked(model: onnx.ModelProto) -> Imported:
    """Import a model, through shape inference."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return import_model(inferred, isolated=False)


def step_of(model: onnx.ModelProto, output: str) -> float:
    """The scale of the pair of (de)quantizations that an output comes from."""
    writers = {name: node for node in model.graph.node for name in node.output}
    node = writers[output]
    while node.op_type != "DequantizeLinear":
        node = writers[node.input[0]]
    values = {item.name: item for item in model.graph.initializer}
    return float(onnx.numpy_helper.to_array(values[node.input[1]]))


def check(
    model: onnx.ModelProto, *, seed: int = 0, rtol: float = 1e-4, atol: float = 1e-4,
    steps: int = 1, share: float = 0.99, optimize: bool = False,
) -> Imported:  # fmt: skip
    """Import, run both ways, compare; integers may differ by ``steps`` in ``1 - share`` of them."""
    imported = import_checked(model)
    feeds = random_inputs(model, seed)
    expected = run_onnx(model.SerializeToString(), feeds, optimize=optimize)
    got = outputs_of(imported, feeds)
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        have = got[name]
        assert have.shape == want.shape and have.dtype == want.dtype
        if np.issubdtype(want.dtype, np.floating):
            scale = max(1.0, float(np.abs(want).max(initial=0)))
            np.testing.assert_allclose(have, want, rtol=rtol, atol=atol * scale)
        else:
            difference = np.abs(have.astype(np.int64) - want.astype(np.int64))
            assert difference.max(initial=0) <= steps
            assert (difference == 0).mean() >= share
    return imported

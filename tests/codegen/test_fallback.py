"""Operators without a template, compiled through TVM and run, against onnxruntime."""

from __future__ import annotations

import ctypes
from pathlib import Path

import kernel_harness as harness
import numpy as np
import onnx
import onnx_nodes
import pytest

from edgeopt.codegen import build, fallback, schedules
from edgeopt.codegen.lower import lower
from edgeopt.codegen.reference import run_kernels
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import Kernel, OpKey
from edgeopt.graph.importer import import_model
from edgeopt.graph.reference import run_onnx
from edgeopt.graph.supported import FALLBACK, GENERIC

pytestmark = [
    pytest.mark.usefixtures("host_is_x86_64_v3"),
    pytest.mark.filterwarnings("ignore:invalid value encountered"),
]


@pytest.fixture(scope="module")
def kernels() -> dict[str, Kernel]:
    """The fallback kernel of each model that has one."""
    found = {}
    for name, model in onnx_nodes.NODES.items():
        graph = lower(import_model(model, isolated=False).network)
        for kernel in graph.kernels:
            if kernel.key.op == "fallback":
                assert name not in found
                found[name] = kernel
    return found


@pytest.fixture(scope="module")
def library(kernels: dict[str, Kernel], tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    primfuncs = {
        build.symbol_of(kernel.key): fallback.primfunc(kernel, harness.HOST)
        for kernel in kernels.values()
    }
    data = build.compile_object(primfuncs, harness.HOST)
    return harness.link(data, tmp_path_factory.mktemp("fallback"))


def feeds_of(payload: bytes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(payload))
    model = onnx.load_from_string(payload)
    initial = {item.name for item in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        if info.name not in initial:
            shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
            kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            feeds[info.name] = (rng.standard_normal(shape) * 3).astype(kind)
    return feeds


def call(library: ctypes.CDLL, kernel: Kernel, feeds: list[np.ndarray], like: np.ndarray):
    function = fallback.function(kernel, harness.HOST)
    packed = fallback.pack(kernel, harness.HOST)
    guard = harness.aligned(np.full(like.size + 64, 77, like.dtype))
    rubbish = np.random.default_rng(1).integers(0, 255, max(1, function.scratch_bytes))
    pointers = []
    kept = []
    for arg in function.args:
        array = {
            "input": lambda: harness.aligned(feeds.pop(0)),
            "const": lambda name=arg.name: harness.aligned(packed[name]),
            "output": lambda: guard,
            "scratch": lambda: harness.aligned(rubbish.astype(np.uint8)),
        }[arg.kind]()
        kept.append(array)
        pointers.append(array.ctypes.data_as(ctypes.c_void_p))
    assert getattr(library, function.symbol)(*pointers) == 0
    assert (guard[like.size :] == 77).all(), "the kernel wrote past its output"
    return guard[: like.size].reshape(like.shape)


def templates(model: onnx.ModelProto) -> None:
    """A form of an operator that has kernels of its own: what they are to compute."""
    imported = import_model(model, isolated=False)
    graph = lower(imported.network)
    assert all(schedules.select(kernel.key, harness.HOST) for kernel in graph.kernels)
    feeds = feeds_of(model.SerializeToString())
    physical = {name: imported.inputs[name].from_onnx(value) for name, value in feeds.items()}
    results = run_kernels(graph, physical)
    for name, want in run_onnx(model.SerializeToString(), feeds).items():
        got = imported.outputs[name].to_onnx(results[name])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_work_is_counted_and_inputs_are_known(kernels: dict[str, Kernel]) -> None:
    assert fallback.macs(kernels["ConvTranspose"]) > 0
    assert fallback.macs(kernels["MatMul"]) == 2 * 3 * 4 * 5
    assert fallback.macs(kernels["Softplus"]) == 0
    assert fallback.input_bytes(kernels["MatMul"]) == [2 * 3 * 4 * 4, 2 * 4 * 5 * 4]


@pytest.mark.parametrize("name", sorted(onnx_nodes.NODES))
def test_operators_compute_what_onnxruntime_does(
    kernels: dict[str, Kernel], library: ctypes.CDLL, name: str
) -> None:
    if name not in kernels:
        templates(onnx_nodes.NODES[name])
        return
    kernel = kernels[name]
    feeds = feeds_of(kernel.payload)
    want = run_onnx(kernel.payload, feeds)["y"]
    got = call(library, kernel, list(feeds.values()), want)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_every_operator_that_is_left_to_tvm_is_tested() -> None:
    tested = {model.graph.node[0].op_type for model in onnx_nodes.NODES.values()}
    assert not FALLBACK - tested


def test_tvm_knows_every_operator_that_is_left_to_it() -> None:
    from tvm.relax.frontend.onnx import onnx_frontend

    assert not GENERIC - set(onnx_frontend._get_convert_map())


def test_a_function_says_what_it_takes(kernels: dict[str, Kernel]) -> None:
    function = fallback.function(kernels["ConvTranspose"], harness.HOST)
    assert [arg.kind for arg in function.args] == [
        "input", "const", "const", "output", "scratch",
    ]  # fmt: skip
    assert function.template == "fallback" and function.scratch_bytes > 0
    packed = fallback.pack(kernels["ConvTranspose"], harness.HOST)
    assert {name: array.size for name, array in packed.items()} == {"c0": 108, "c1": 3}


def test_constants_are_parameters_so_that_none_is_in_the_code(kernels: dict[str, Kernel]) -> None:
    kernel = kernels["ConvTranspose"]
    primfuncs = {"f": fallback.primfunc(kernel, harness.HOST)}
    data = build.compile_object(primfuncs, harness.HOST)
    weights = fallback.pack(kernel, harness.HOST)["c0"].tobytes()
    assert weights[:16] not in data


def test_other_targets_compile(kernels: dict[str, Kernel], tmp_path: Path) -> None:
    primfuncs = {"f": fallback.primfunc(kernels["LayerNormalization"], harness.NEON)}
    data = build.compile_object(primfuncs, harness.NEON)
    assert data[:4] == b"\x7fELF" and data[18] == 183  # EM_AARCH64


def test_a_key_without_template_and_payload_is_refused() -> None:
    key = OpKey("pointwise", (4, 4, 3), (4, 4, 8))
    with pytest.raises(InputError, match="operator 'p': no kernel template implements pointwise"):
        fallback.function(Kernel("p", key, ("x",), "y"), harness.HOST)


def test_what_tvm_cannot_compile_is_named() -> None:
    def info(name: str, size: int) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, size))

    node = onnx.helper.make_node("TopK", ["x", "k"], ["y", "i"])
    count = onnx.numpy_helper.from_array(np.array([3]), "k")
    graph = onnx.helper.make_graph([node], "g", [info("x", 9)], [info("y", 3)], [count])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    key = OpKey("fallback", (9,), (3,), variant="topk")
    kernel = Kernel("top", key, ("x",), "y", payload=model.SerializeToString())
    with pytest.raises(InputError) as caught:
        fallback.function(kernel, harness.HOST)
    assert "operator 'top': TVM cannot" in str(caught.value) and "TopK" in str(caught.value)
    assert caught.value.hint

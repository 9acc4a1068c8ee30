"""The usual architectures, scaled down: templates for all of it, and onnxruntime's results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import arch_nets
import numpy as np
import onnx
import pytest
from arch_run import HOST, Kernels, feeds_of, import_checked, quantized, run

from edgeopt.codegen import schedules
from edgeopt.codegen.lower import lower, lower_shapes
from edgeopt.codegen.reference import run_kernels
from edgeopt.core.kernels import KernelGraph, OpKey
from edgeopt.graph.importer import Imported
from edgeopt.graph.reference import run_onnx

#: Those that torch's newer exporter writes differently enough to be looked at twice.
DYNAMO = ("mobilenet_v3", "shufflenet_v2", "mixed", "yolo_v5")
#: Largest difference from onnxruntime, by the larger of one and the largest value.
FLOAT_BOUND = 2e-5


@dataclass(frozen=True)
class Net:
    model: onnx.ModelProto
    imported: Imported
    graph: KernelGraph


def _prepare(model: onnx.ModelProto) -> Net:
    imported = import_checked(model)
    return Net(model, imported, lower(imported.network))


@pytest.fixture(scope="module")
def floats() -> dict[str, Net]:
    return {name: _prepare(arch_nets.export(name)) for name in arch_nets.NETS}


@pytest.fixture(scope="module")
def integers(floats: dict[str, Net]) -> dict[str, Net]:
    return {name: _prepare(quantized(net.model)) for name, net in floats.items()}


@pytest.fixture(scope="module")
def kernels(
    floats: dict[str, Net], integers: dict[str, Net], tmp_path_factory: pytest.TempPathFactory,
    host_is_x86_64_v3: None,
) -> Kernels:  # fmt: skip
    """Every kernel of every network in one object."""
    graphs = [net.graph for net in (*floats.values(), *integers.values())]
    return Kernels(graphs, tmp_path_factory.mktemp("kernels"))


def without_template(graph: KernelGraph) -> list[str]:
    return [
        f"{kernel.name}: {kernel.key}"
        for kernel in graph.kernels
        if schedules.select(kernel.key, HOST) is None
    ]


@pytest.mark.parametrize("name", sorted(arch_nets.NETS))
def test_float_is_onnxruntime(name: str, floats: dict[str, Net], kernels: Kernels) -> None:
    net = floats[name]
    assert without_template(net.graph) == []
    for seed in range(2):
        feeds = feeds_of(net.model, seed)
        expected = run_onnx(net.model.SerializeToString(), feeds)
        got = run(net.imported, net.graph, kernels, feeds)
        assert got.keys() == expected.keys()
        for output, want in expected.items():
            assert got[output].shape == want.shape
            error = np.abs(got[output] - want).max() / max(1.0, float(np.abs(want).max()))
            assert error <= FLOAT_BOUND, f"{output}: {error:.1e}"


@pytest.mark.parametrize("name", sorted(arch_nets.NETS))
def test_int8_is_bit_exact(name: str, integers: dict[str, Net], kernels: Kernels) -> None:
    """Kernels against the reference on every tensor they write, and against onnxruntime."""
    net = integers[name]
    assert without_template(net.graph) == []
    feeds = feeds_of(net.model, 3)
    physical = {n: net.imported.inputs[n].from_onnx(v) for n, v in feeds.items()}
    want = run_kernels(net.graph, physical, keep=True)
    have = kernels.run(net.graph, physical)
    for kernel in net.graph.kernels:
        if kernel.key.dtype == "i8" and kernel.key.out_dtype == "i8":
            np.testing.assert_array_equal(
                have[kernel.output].ravel(), want[kernel.output].ravel(), str(kernel.key)
            )


@pytest.mark.parametrize("name", DYNAMO)
def test_what_the_other_exporter_writes(name: str) -> None:
    net = _prepare(arch_nets.export(name, dynamo=True))
    assert without_template(net.graph) == []
    feeds = feeds_of(net.model, 0)
    physical = {n: net.imported.inputs[n].from_onnx(v) for n, v in feeds.items()}
    results = run_kernels(net.graph, physical)
    for output, want in run_onnx(net.model.SerializeToString(), feeds).items():
        got = net.imported.outputs[output].to_onnx(results[output])
        assert np.abs(got - want).max() <= FLOAT_BOUND * max(1.0, float(np.abs(want).max()))


@pytest.mark.parametrize("name", sorted(arch_nets.NETS))
def test_the_int8_kernels_are_known_from_shapes(
    name: str, floats: dict[str, Net], integers: dict[str, Net]
) -> None:
    def counted(keys: Iterable[OpKey]) -> Mapping[str, int]:
        # A conversion may stand before or behind what moves elements.
        texts = [str(key) for key in keys if key.op not in ("quantize", "dequantize", "transpose")]
        return {text: texts.count(text) for text in texts}

    shapes = lower_shapes(floats[name].imported.network, "i8")
    assert counted(shapes.keys) == counted(integers[name].graph.keys)

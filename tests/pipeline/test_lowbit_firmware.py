"""An ONNX model with weights of four bits on a microcontroller: exact, and smaller in flash."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.pipeline.compile import CompileRequest, compile_network
from edgeopt.pipeline.manifest import Manifest

WIDTHS = (3, 16, 64, 64)


def float_net() -> onnx.ModelProto:
    """A convolution, two pointwise ones and a linear layer: most of it is weights."""
    rng = np.random.default_rng(3)
    constants, nodes, last = [], [], "x"

    def weights(name: str, *shape: int) -> list[str]:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        for part, array in (("w", value), ("b", rng.standard_normal(shape[0]) / 4)):
            constants.append(numpy_helper.from_array(array.astype(np.float32), f"{name}.{part}"))
        return [f"{name}.w", f"{name}.b"]

    for index, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        size, how = (3, {"pads": [1] * 4, "strides": [2, 2]}) if index == 0 else (1, {})
        name = f"layer{index}"
        given = [last, *weights(name, outputs, inputs, size, size)]
        nodes += [
            helper.make_node("Conv", given, [f"c{index}"], name, **how),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"{name}.relu"),
        ]
        last = f"r{index}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", *weights("fc", 10, 64)], ["y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "mostly_weights",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 12, 10))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 10))], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def compiled(folder: Path, bits: int) -> Manifest:
    """The bundle of the network quantized with so many bits, for a Cortex-M4."""
    from edgeopt.quant.calibration import calibrate
    from edgeopt.quant.export import quantize_model

    model = float_net()
    pictures = np.random.default_rng(2).standard_normal((8, 3, 12, 10)).astype(np.float32)
    plan = PrecisionPlan(LayerPrecision(bits))
    quantized = quantize_model(model, calibrate(model, pictures), plan=plan)
    path = folder / f"w{bits}.onnx"
    path.write_bytes(quantized.SerializeToString(deterministic=True))
    return compile_network(
        CompileRequest(device="nucleo-l4r5zi", out=folder / f"out{bits}", model=path, cache=False)
    )


@pytest.mark.parametrize("bits", [4, 2])
def test_flash_shrinks_and_outputs_do_not_change(
    bits: int, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    needs_tool("arm-none-eabi-gcc")
    needs_tool("qemu-system-arm")
    whole, small = compiled(tmp_path, 8), compiled(tmp_path, bits)
    weights = [kernel.weights for kernel in small.kernels if kernel.weights]
    assert weights.count(f"w{bits}") == len(WIDTHS)
    for manifest in (whole, small):
        results = {check.what: check.result for check in manifest.checks}
        assert results["torch = firmware"] == "passed"
        assert set(results.values()) <= {"passed", "skipped"}
    flash = [figure.value for m in (whole, small) if (figure := m.figure("flash_bytes"))]
    count = sum(a * b for a, b in itertools.pairwise(WIDTHS[1:])) + 27 * WIDTHS[1] + 640
    saved = count * (8 - bits) / 8
    assert flash[0] - flash[1] > 0.8 * saved

"""Compiling a network by a precision plan: what is refused, and what the bundle says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt import devices
from edgeopt.codegen import lowbits
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.precision import LayerPrecision, PrecisionPlan, read_plan, write_plan
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import parse_model
from edgeopt.graph.qdq_build import is_quantized
from edgeopt.pipeline import plans, proof
from edgeopt.pipeline.compile import CompileRequest, compile_network
from edgeopt.pipeline.depfile import sources
from edgeopt.pipeline.report import show_figure
from edgeopt.pipeline.source import Final

LAYERS = ("stem.conv", "block.depthwise.conv", "block.project.conv", "head.classifier")
Write = Callable[[PrecisionPlan], Path]


def float_net() -> onnx.ModelProto:
    """A convolution, a depthwise, a pointwise and a linear layer."""
    rng = np.random.default_rng(0)
    constants = {}

    def weights(name: str, *shape: int) -> list[str]:
        fan = int(np.prod(shape[1:]))
        value = rng.standard_normal(shape) / np.sqrt(fan)
        constants[f"{name}.w"] = value.astype(np.float32)
        constants[f"{name}.b"] = rng.standard_normal(shape[0]).astype(np.float32) / 4
        return [f"{name}.w", f"{name}.b"]

    stem, depthwise, project, classifier = LAYERS
    nodes = [
        helper.make_node("Conv", ["x", *weights(stem, 8, 3, 3, 3)], ["c0"], stem,
                         pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"], "r0"),
        helper.make_node("Conv", ["r0", *weights(depthwise, 8, 1, 3, 3)], ["c1"], depthwise,
                         pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["c1"], ["r1"], "r1"),
        helper.make_node("Conv", ["r1", *weights(project, 12, 8, 1, 1)], ["c2"], project),
        helper.make_node("HardSwish", ["c2"], ["h2"], "h2"),
        helper.make_node("GlobalAveragePool", ["h2"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", *weights(classifier, 5, 12)], ["y"], classifier,
                         transB=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 12, 10))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def request_(tmp_path: Path) -> CompileRequest:
    rng = np.random.default_rng(1)
    (tmp_path / "net.onnx").write_bytes(float_net().SerializeToString(deterministic=True))
    np.savez(tmp_path / "data.npz", inputs=rng.standard_normal((24, 3, 12, 10)).astype(np.float32))
    return CompileRequest(
        device="nucleo-l4r5zi", out=tmp_path / "bundle", model=tmp_path / "net.onnx",
        data=tmp_path / "data.npz", cache=False,
    )  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(plan: PrecisionPlan) -> Path:
        path = tmp_path / "some-plan.json"
        path.write_text(write_plan(plan))
        return path

    return write


def refused(request: CompileRequest, **changes: object) -> InputError:
    with pytest.raises(InputError) as caught:
        compile_network(dataclasses.replace(request, **changes))  # type: ignore[arg-type]
    assert not request.out.exists()
    return caught.value


def test_layers_that_the_network_does_not_have(request_: CompileRequest, written: Write) -> None:
    plan = PrecisionPlan(layers={"block.projekt.conv": LayerPrecision(4)})
    error = refused(request_, plan=written(plan))
    assert error.what == "there is no layer 'block.projekt.conv'"
    assert error.where.endswith("some-plan.json")
    assert "block.project.conv" in error.hint


@pytest.mark.parametrize(
    ("precision", "what"),
    [
        (LayerPrecision(3), "weights of 3 bits are not packed"),
        (LayerPrecision(4, granularity="group", group=4), "one accumulator has one scale"),
        (LayerPrecision(4, symmetric=False), "kernels take weights without a zero point"),
        (LayerPrecision(activation_bits=5), "activations of 5 bits exist in simulation only"),
    ],
)
def test_what_no_board_computes(
    request_: CompileRequest, written: Write, precision: LayerPrecision, what: str
) -> None:
    named = PrecisionPlan(layers={LAYERS[2]: precision})
    error = refused(request_, plan=written(named))
    assert error.what.startswith(f"nucleo-l4r5zi cannot run it: {what}")
    assert error.where.endswith(f"some-plan.json: layer {LAYERS[2]!r}")
    assert "its pointwise kernels take weights of" in error.hint
    assert "8 bits, symmetric" in error.hint
    error = refused(request_, plan=written(PrecisionPlan(precision)))
    assert error.where.endswith(f"layer {LAYERS[0]!r}")


def test_a_precision_that_the_board_has_no_kernel_for(
    request_: CompileRequest, written: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_linear(op: str, bits: int, target: object) -> bool:
        return op == "linear" and bits == 4

    monkeypatch.setattr("edgeopt.codegen.lowbits.supported", only_linear)
    error = refused(request_, plan=written(PrecisionPlan(layers={LAYERS[1]: LayerPrecision(4)})))
    assert error.what == "nucleo-l4r5zi has no depthwise kernel for weights of 4 bits"
    assert error.hint == "its depthwise kernels take weights of 8 bits"
    error = refused(request_, plan=written(PrecisionPlan(layers={LAYERS[3]: LayerPrecision(2)})))
    assert error.what == "nucleo-l4r5zi has no linear kernel for weights of 2 bits"
    assert error.hint == "its linear kernels take weights of 4, 8 bits"


def test_plans_that_cannot_be_used(
    request_: CompileRequest, written: Write, tmp_path: Path
) -> None:
    error = refused(request_, plan=tmp_path / "none.json")
    assert "none.json" in str(error)
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    assert refused(request_, plan=tmp_path / "bad.json").what == "not JSON"
    plan = written(PrecisionPlan())
    error = refused(request_, plan=plan, model=None)
    assert "a plan names the layers of one network" in error.what
    error = refused(request_, plan=plan, precision="fp32", device="local")
    assert "weights of few bits are integers, and fp32 is asked for" in error.what
    error = refused(request_, plan=plan, data=None)
    assert "needs inputs to calibrate on" in error.what


def test_a_quantized_model_keeps_its_bits(
    request_: CompileRequest, written: Write, tmp_path: Path
) -> None:
    from edgeopt.quant.calibration import calibrate
    from edgeopt.quant.export import quantize_model

    model = float_net()
    pictures = np.random.default_rng(2).standard_normal((8, 3, 12, 10)).astype(np.float32)
    quantized = quantize_model(model, calibrate(model, pictures))
    assert is_quantized(quantized)
    path = tmp_path / "quantized.onnx"
    path.write_bytes(quantized.SerializeToString())
    error = refused(request_, model=path, plan=written(PrecisionPlan()))
    assert error.what == "the model is quantized already, and keeps the bits that it has"
    assert error.hint == "give its float form, or leave --plan out"


def test_what_onnxruntime_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same integers as int8 are compared all the same."""
    from edgeopt.quant.calibration import calibrate
    from edgeopt.quant.export import quantize_model

    model = float_net()
    pictures = np.random.default_rng(2).standard_normal((4, 3, 12, 10)).astype(np.float32)
    narrow = PrecisionPlan(LayerPrecision(2))
    data = quantize_model(model, calibrate(model, pictures), plan=narrow).SerializeToString()
    final = Final(data, "model_int8.onnx", "int8", import_model(parse_model(data)), "")
    inputs = {"x": pictures}
    vectors = proof.reference_vectors(final, inputs)
    twin, written = proof.against_ort(final, inputs, vectors)
    assert (twin.result, written.result) == ("passed", "passed")

    run = proof.run_onnx_rows

    def old(given: bytes, *args: object, **options: object) -> object:
        if given == data:
            raise InputError("onnxruntime cannot load the model: no INT2")
        return run(given, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(proof, "run_onnx_rows", old)
    twin, written = proof.against_ort(final, inputs, vectors)
    assert twin.result == "passed"
    assert (written.result, written.where) == ("skipped", proof.AS_WRITTEN)
    assert written.detail == "narrow weights: onnxruntime cannot load the model: no INT2"


@pytest.mark.parametrize("bits", [4, 2])
def test_a_bundle_carries_its_plan(request_: CompileRequest, written: Write, bits: int) -> None:
    """Whatever kernels the board has: packed or, by the plan's default, stored as int8."""
    plan = PrecisionPlan(LayerPrecision(bits), {LAYERS[0]: LayerPrecision(8)})
    request = dataclasses.replace(request_, plan=written(plan), device="local")
    assert request.plan in sources(request)
    manifest = compile_network(request)
    assert read_plan((request.out / plans.FILE_NAME).read_text()) == plan
    assert manifest.files[plans.FILE_NAME]
    figure = manifest.figure("weight_bits")
    count = {LAYERS[0]: 216, LAYERS[1]: 72, LAYERS[2]: 96, LAYERS[3]: 60}
    assert figure is not None
    assert figure.value == pytest.approx(plan.average_bits(count))
    assert show_figure(figure)[:2] == ("bits of a weight", f"{figure.value:.2f}")

    target = devices.load("local").target
    for kernel in manifest.kernels:
        key = OpKey.parse(kernel.key)
        if key.weight_count:
            narrow = LAYERS[0] not in kernel.ops and lowbits.supported(key.op, bits, target)
            assert kernel.weights == (f"w{bits}" if narrow else "i8")
            assert key.weight_bits == (bits if narrow else 0)
    widened = [k for k in manifest.kernels if k.weights == "i8" and LAYERS[0] not in k.ops]
    notes = [note for note in manifest.notes if note.startswith(f"weights of {bits} bits")]
    assert bool(notes) == bool(widened)
    assert LAYERS[1] in " ".join(notes)  # depthwise kernels have int8 weights

    named = {(check.what, check.where): check for check in manifest.checks}
    twin = named["torch simulation = onnxruntime (int8)", "host"]
    assert twin.result == "passed"
    assert "narrow weights read as int8" in twin.detail
    assert named["torch simulation ~ onnxruntime (float32)", proof.AS_WRITTEN].result == "passed"
    assert {check.result for check in manifest.checks} == {"passed"}


def test_two_bits_take_four_where_there_is_no_zero_to_fill_up_with(
    request_: CompileRequest, written: Write
) -> None:
    """The stem has three channels, no whole twos; named by the plan it is refused."""
    named = PrecisionPlan(layers={LAYERS[0]: LayerPrecision(2)})
    error = refused(request_, plan=written(named), device="local")
    assert error.what == "local has no conv2d kernel for weights of 2 bits and sums of 27 products"
    assert error.hint == "its conv2d kernels take weights of 4, 8 bits"
    everywhere = PrecisionPlan(LayerPrecision(2))
    manifest = compile_network(
        dataclasses.replace(request_, plan=written(everywhere), device="local")
    )
    kept = {kernel.ops[0]: kernel.weights for kernel in manifest.kernels}
    assert (kept[LAYERS[0]], kept[LAYERS[2]]) == ("w4", "w2")
    note = "weights of 2 bits are stored in 4 in 1 conv2d layer"
    assert f"{note}, for which there is no narrower kernel: {LAYERS[0]}" in manifest.notes


def test_a_plain_plan_leaves_no_trace(request_: CompileRequest, written: Write) -> None:
    manifest = compile_network(
        dataclasses.replace(request_, plan=written(PrecisionPlan()), device="local")
    )
    assert plans.FILE_NAME not in manifest.files
    assert manifest.figure("weight_bits") is None
    assert {k.weights for k in manifest.kernels if OpKey.parse(k.key).weight_count} == {"i8"}

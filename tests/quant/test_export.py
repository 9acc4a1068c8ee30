"""Calibrating a model and writing its quantized form."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import quant_models as models
from onnx import numpy_helper

from edgeopt.core.errors import InputError, ToolError
from edgeopt.graph.importer import import_network
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.evaluate import evaluate_int8
from edgeopt.quant.export import quantize_model
from edgeopt.quant.simulate import simulate


def run(model: onnx.ModelProto, pictures: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.concatenate([session.run(None, {"image": p[None]})[0] for p in pictures])


def noise_db(exact: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((exact**2).mean() / ((exact - found) ** 2).mean()))


@pytest.fixture(scope="module")
def mobile() -> tuple[onnx.ModelProto, onnx.ModelProto, np.ndarray]:
    model = models.mobile()
    pictures = models.images(model, 24)
    return model, quantize_model(model, calibrate(model, pictures)), pictures


@pytest.mark.parametrize("build", [models.mobile, models.varied])
@pytest.mark.parametrize("method", ["mse", "percentile", "minmax"])
def test_the_quantized_model_computes_nearly_the_same(build: object, method: str) -> None:
    model = build(3)  # type: ignore[operator]
    pictures = models.images(model, 16)
    quantized = quantize_model(model, calibrate(model, pictures, method=method))
    exact, found = run(model, pictures), run(quantized, pictures)
    assert noise_db(exact, found) > 18
    ours = simulate(import_network(quantized, isolated=False), pictures, channels_first=True)
    assert noise_db(exact, ours) > 18


def test_weights_are_int8_by_channel_and_names_are_kept(
    mobile: tuple[onnx.ModelProto, onnx.ModelProto, np.ndarray],
) -> None:
    model, quantized, _ = mobile
    assert quantized.opset_import[0].version >= 18
    assert [v.name for v in quantized.graph.input] == ["image"]
    assert [v.name for v in quantized.graph.output] == ["scores"]
    assert quantized.graph.name == model.graph.name
    known = {item.name: numpy_helper.to_array(item) for item in quantized.graph.initializer}
    makers = {node.output[0]: node for node in quantized.graph.node}
    names = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    layers = [node for node in quantized.graph.node if node.op_type in ("Conv", "Gemm")]
    assert {node.name for node in layers} == names
    for node in layers:
        assert all(makers[name].op_type == "DequantizeLinear" for name in node.input)
        w, b = (makers[name] for name in node.input[1:])
        assert known[w.input[0]].dtype == np.int8
        assert known[w.input[1]].shape == known[w.input[0]].shape[:1]
        assert known[b.input[0]].dtype == np.int32
        scale_x = known[makers[node.input[0]].input[1]]
        np.testing.assert_array_equal(known[b.input[1]], scale_x * known[w.input[1]])
    floats = [n for n, v in known.items() if v.dtype == np.float32 and v.size > 1]
    assert not [name for name in floats if "scale" not in name]
    assert not [node for node in quantized.graph.node if node.op_type == "BatchNormalization"]


def test_clamps_are_not_separated_from_what_they_clamp(
    mobile: tuple[onnx.ModelProto, onnx.ModelProto, np.ndarray],
) -> None:
    _, quantized, _ = mobile
    makers = {node.output[0]: node for node in quantized.graph.node}
    before = Counter(
        (node.op_type, makers[node.input[0]].op_type)
        for node in quantized.graph.node
        if node.op_type in ("Relu", "Clip", "HardSwish", "HardSigmoid", "GlobalAveragePool")
    )
    assert before == {
        ("Relu", "Conv"): 2, ("Clip", "Conv"): 1, ("HardSwish", "DequantizeLinear"): 2,
        ("HardSigmoid", "DequantizeLinear"): 1, ("GlobalAveragePool", "DequantizeLinear"): 2,
    }  # fmt: skip
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds[0] == "QuantizeLinear"
    assert quantized.graph.node[0].input[0] == "image"
    assert makers["scores"].op_type == "DequantizeLinear"
    network = import_network(quantized, isolated=False)
    float_kinds = {op.kind for op in network.ops if network.tensors[op.output].dtype == "f32"}
    assert float_kinds == {"dequantize"}


def test_what_moves_elements_keeps_its_scale() -> None:
    model = models.varied()
    calibration = calibrate(model, models.images(model, 8))
    names = {node.op_type: node for node in model.graph.node}
    pool, joined = names["MaxPool"], names["Concat"]
    shared = {calibration[n] for n in (pool.input[0], pool.output[0], *joined.input)}
    assert shared == {calibration[joined.output[0]]}
    assert names["Sigmoid"].output[0] not in calibration  # part of a silu
    assert "scores" not in calibration  # softmax stays in float
    network = import_network(quantize_model(model, calibration), isolated=False)
    silu = [op for op in network.ops if op.attrs.get("function") == "silu"]
    assert [network.tensors[op.output].dtype for op in silu] == ["i8"]
    assert [op.kind for op in network.ops][-2:] == ["dequantize", "softmax"]


def test_a_quantized_model_comes_back_untouched(
    mobile: tuple[onnx.ModelProto, onnx.ModelProto, np.ndarray],
) -> None:
    model, quantized, pictures = mobile
    again = quantize_model(quantized, calibrate(model, pictures))
    assert again is quantized
    with pytest.raises(InputError, match=r"^small: the model is already quantized"):
        calibrate(quantized, pictures)


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (
        quantize_model(model, calibrate(model, models.images(model, 6))).SerializeToString()
        for model in (models.mobile(), models.mobile())
    )
    assert first == second


def test_older_models_are_brought_to_opset_18() -> None:
    m = models.Maker()
    x = m.op("Relu", m.conv("image", 3, 8, 3))
    model = m.finish(m.linear(m.op("Flatten", m.op("GlobalAveragePool", x)), 8, 5), opset=13)
    pictures = models.images(model, 8)
    quantized = quantize_model(model, calibrate(model, pictures))
    assert quantized.opset_import[0].version == 18
    assert noise_db(run(model, pictures), run(quantized, pictures)) > 20


def test_bias_correction_lessens_the_mean_error() -> None:
    model = models.mobile(5)
    pictures = models.images(model, 48)
    calibration = calibrate(model, pictures)
    exact = run(model, pictures)
    errors = []
    for correct in (False, True):
        quantized = quantize_model(model, calibration, bias_correction=correct)
        network = import_network(quantized, isolated=False)
        found = simulate(network, pictures, channels_first=True)
        errors.append(np.abs((found - exact).mean(axis=0)).mean())
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (lambda x: x.tolist(), "are list, not an array", "float32 [N, 3, 12, 12]"),
        (lambda x: (x * 50).astype(np.uint8), "have type uint8, not float32", "preprocess"),
        (lambda x: x.transpose(0, 2, 3, 1), "shape 4x12x12x3, not Nx3x12x12", "channels"),
        (lambda x: x[0], "shape 3x12x12, not Nx3x12x12", "channels"),
        (lambda x: x[:0], "there are no calibration images", "at least one"),
        (lambda x: x * np.float32(np.nan), "hold NaN or infinite", "decoded"),
        (lambda x: np.where(x > 2, np.float32(np.inf), x), "hold NaN or infinite", "decoded"),
        (lambda x: x * 0, "every calibration value is 0", "images like those"),
    ],
)
def test_bad_calibration_images(spoil: object, message: str, hint: str) -> None:
    model = models.mobile()
    pictures = models.images(model, 4)
    with pytest.raises(InputError) as caught:
        calibrate(model, spoil(pictures))  # type: ignore[operator]
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_a_tensor_that_is_not_finite_is_named() -> None:
    m = models.Maker()
    x = m.op("Relu", m.conv("image", 3, 4, 3))
    model = m.finish(m.linear(m.op("Flatten", m.op("GlobalAveragePool", x)), 4, 5))
    pictures = models.images(model, 4)
    pictures[2] *= 3e38 / np.abs(pictures[2]).max()
    with pytest.raises(InputError, match=r"^\S*(conv|relu)\S*: the tensor holds NaN or infinite"):
        calibrate(model, pictures)


def test_other_models_and_options_are_refused(
    mobile: tuple[onnx.ModelProto, onnx.ModelProto, np.ndarray],
) -> None:
    model, _, pictures = mobile
    calibration = calibrate(model, pictures)
    with pytest.raises(InputError, match=r"^small: the calibration has no range for \d+ tensors"):
        quantize_model(models.varied(), calibration)
    with pytest.raises(InputError, match="unknown calibration method 'entropy'"):
        calibrate(model, pictures, method="entropy")
    with pytest.raises(InputError, match=r"percentile 0\.9999 is not above 50"):
        calibrate(model, pictures, method="percentile", percentile=0.9999)


def test_accuracy_counts_right_answers(
    mobile: tuple[onnx.ModelProto, onnx.ModelProto, np.ndarray],
) -> None:
    _, quantized, pictures = mobile
    network = import_network(quantized, isolated=False)
    best = simulate(network, pictures, channels_first=True).argmax(axis=1)
    labels = best.copy()
    labels[:6] = (labels[:6] + 1) % 10
    found = evaluate_int8(network, pictures, labels, channels_first=True, batch=7)
    assert found == pytest.approx(75.0)
    with pytest.raises(InputError, match="24 images but 23 labels"):
        evaluate_int8(network, pictures, labels[:-1], channels_first=True)
    with pytest.raises(InputError, match="the network has 10 classes"):
        evaluate_int8(network, pictures, labels + 5, channels_first=True)


def test_models_that_cannot_be_calibrated_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(nodes: str, inputs: str = "float[1,3,4,4] x", opset: int = 18) -> onnx.ModelProto:
        return onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : {opset}]> '
            f"g ({inputs}) => (float[N,3,4,4] y) {{ {nodes} }}"
        )

    pictures = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    both = of("y = Add(x, z)", "float[1,3,4,4] x, float[1,3,4,4] z")
    with pytest.raises(InputError, match=r"^g: the network has 2 inputs; calibration feeds one"):
        calibrate(both, pictures)
    with pytest.raises(InputError, match=r"^g: 3 images do not fill batches of 2"):
        calibrate(of("y = Relu(x)", "float[2,3,4,4] x"), pictures)
    with pytest.raises(InputError, match=r"^g: the network has no operator with an integer form"):
        calibrate(of("y = Exp(x)"), pictures)

    def refuse(*args: object, **options: object) -> None:
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    with pytest.raises(InputError, match=r"opset 13 cannot be .* 18: no such kernel") as e:
        calibrate(of("y = Relu(x)", opset=13), pictures)
    assert "export the model with opset 18" in e.value.hint
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ToolError, match=r"^g: onnxruntime cannot run the network: no such kernel"):
        calibrate(of("y = Relu(x)"), pictures)

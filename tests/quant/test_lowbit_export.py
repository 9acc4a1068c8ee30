"""Weights of fewer than eight bits: written as ONNX, read back, the same integers everywhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import quant_models as models
from onnx import TensorProto

from edgeopt.codegen.lower import lower
from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import largest
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.devices import load
from edgeopt.graph.importer import import_model, import_network
from edgeopt.graph.reference import Session
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model
from edgeopt.quant.simulate import Simulator, simulate
from edgeopt.quant.weights import StoredWeights

KINDS = {2: TensorProto.INT2, 3: TensorProto.INT4, 4: TensorProto.INT4, 8: TensorProto.INT8}


def every(bits: int) -> PrecisionPlan:
    return PrecisionPlan(LayerPrecision(weight_bits=bits))


def small(seed: int = 0) -> onnx.ModelProto:
    """A convolution, a depthwise, a pointwise and a linear layer, named."""
    m = models.Maker(channels=4, size=8, seed=seed)
    x = m.op("Relu", m.conv("image", 4, 8, 3))
    x = m.op("Relu", m.conv(x, 8, 8, 3, groups=8))
    x = m.op("HardSwish", m.conv(x, 8, 12))
    return m.finish(m.linear(m.op("Flatten", m.op("GlobalAveragePool", x)), 12, 6))


NAMES = ("node_conv0", "node_conv2", "node_conv4", "node_gemm8")


def weights_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The stored weights of every layer, by the layer's name."""
    known = {item.name: item for item in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            maker = makers[node.input[1]]
            if maker.op_type == "Add":
                maker = makers[maker.input[0]]
            found[node.name] = known[maker.input[0]]
    return found


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_have_the_narrowest_type_that_holds_them(bits: int) -> None:
    model = small()
    pictures = models.images(model, 8)
    quantized = quantize_model(model, calibrate(model, pictures), plan=every(bits))
    onnx.checker.check_model(quantized, full_check=True)
    stored = weights_of(quantized)
    assert tuple(stored) == NAMES
    assert {item.data_type for item in stored.values()} == {KINDS[bits]}
    assert quantized.opset_import[0].version == {2: 25, 3: 21, 4: 21, 8: 18}[bits]
    network = import_network(quantized, isolated=False)
    layers = {op.name: op for op in network.ops if op.kind in ("conv2d", "linear")}
    for name in NAMES:
        op = layers[name]
        values = onnx.numpy_helper.to_array(stored[name]).astype(np.int8)
        if bits == 2:  # halves of odd integers
            values = 2 * values + np.int8(1)
        assert np.abs(values).max() == largest(bits)
        assert op.constants["w"].dtype == np.int8
        moved = values.transpose(0, 2, 3, 1) if values.ndim == 4 else values
        np.testing.assert_array_equal(op.constants["w"], moved)
        assert op.attrs.get("weight_bits", 8) == {2: 2, 3: 4, 4: 4, 8: 8}[bits]
    exact = simulate(import_network(model, isolated=False), pictures, channels_first=True)
    found = simulate(network, pictures, channels_first=True)
    error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    assert error < {2: 0.9, 3: 0.5, 4: 0.25, 8: 0.05}[bits]


def test_a_plan_names_layers_as_the_model_does() -> None:
    model = small()
    calibration = calibrate(model, models.images(model, 4))
    plan = PrecisionPlan(layers={NAMES[2]: LayerPrecision(4), NAMES[3]: LayerPrecision(2)})
    stored = weights_of(quantize_model(model, calibration, plan=plan))
    kinds = [stored[name].data_type for name in NAMES]
    assert kinds == [KINDS[8], KINDS[8], KINDS[4], KINDS[2]]
    wrong = PrecisionPlan(layers={"node_conv5": LayerPrecision(4)})
    with pytest.raises(InputError, match=r"^precision plan: there is no layer 'node_conv5'") as e:
        quantize_model(model, calibration, plan=wrong)
    assert "node_conv4" in e.value.hint


def test_given_integers_are_exported_as_they_are() -> None:
    model = small()
    calibration = calibrate(model, models.images(model, 4))
    rng = np.random.default_rng(0)
    w = rng.integers(-7, 8, (12, 8, 1, 1)).astype(np.int8)
    scale = (rng.uniform(0.01, 0.05, 12) * rng.choice([-1, 1], 12)).astype(np.float32)
    scale[3] = 0.0
    bias = rng.standard_normal(12).astype(np.float32)
    plan = PrecisionPlan(layers={NAMES[2]: LayerPrecision(4)})
    given = {NAMES[2]: StoredWeights(w, scale, 4, bias)}
    quantized = quantize_model(model, calibration, plan=plan, stored=given)
    network = import_network(quantized, isolated=False)
    op = next(op for op in network.ops if op.name == NAMES[2])
    sign = np.sign(scale).astype(np.int8)
    np.testing.assert_array_equal(op.constants["w"], (w[:, :, 0, 0] * sign[:, None])[:, None, None])
    alive = scale != 0
    # but for what makes constants short: see test_short_constants.py
    np.testing.assert_allclose(op.constants["w_scale"][alive], np.abs(scale[alive]), rtol=0.01)
    assert (op.constants["w_scale"] > 0).all()
    step = calibration[next(i for i in _inputs(model, NAMES[2]))].scale * op.constants["w_scale"]
    output = network.tensors[op.output].quant
    assert output is not None
    np.testing.assert_allclose(op.constants["b"] * step, bias, rtol=0, atol=output.scale / 15)


def _inputs(model: onnx.ModelProto, name: str) -> list[str]:
    return list(next(node for node in model.graph.node if node.name == name).input)


def test_a_bias_that_outgrows_its_accumulators_coarsens_the_channel() -> None:
    model = small()
    calibration = calibrate(model, models.images(model, 4))
    w = np.full((12, 8, 1, 1), 7, np.int8)
    scale = np.full(12, 0.01, np.float32)
    scale[5] = 1e-12
    bias = np.ones(12, np.float32)
    plan = PrecisionPlan(layers={NAMES[2]: LayerPrecision(4)})
    given = {NAMES[2]: StoredWeights(w, scale, 4, bias)}
    quantized = quantize_model(model, calibration, plan=plan, stored=given)
    network = import_network(quantized, isolated=False)
    op = next(op for op in network.ops if op.name == NAMES[2])
    assert not op.constants["w"][5].any()
    assert (op.constants["w"][:5] == 7).all()
    step = calibration[_inputs(model, NAMES[2])[0]].scale * op.constants["w_scale"]
    np.testing.assert_allclose(op.constants["b"] * step, bias, rtol=1e-3)


def test_two_bits_keep_odd_integers_where_they_cannot_be_zero() -> None:
    """Scales of zero, biases that outgrow accumulators: as little as odd integers can say."""
    model = small()
    calibration = calibrate(model, models.images(model, 4))
    w = np.random.default_rng(0).choice(np.array([-3, -1, 1, 3], np.int8), (12, 8, 1, 1))
    scale = np.full(12, -0.01, np.float32)
    scale[3], scale[5] = 0.0, 1e-12
    bias = np.ones(12, np.float32)
    plan = PrecisionPlan(layers={NAMES[2]: LayerPrecision(2)})
    given = {NAMES[2]: StoredWeights(w, scale, 2, bias)}
    quantized = quantize_model(model, calibration, plan=plan, stored=given)
    network = import_network(quantized, isolated=False)
    op = next(op for op in network.ops if op.name == NAMES[2])
    assert op.attrs["weight_bits"] == 2
    alive = np.array([i not in (3, 5) for i in range(12)])
    np.testing.assert_array_equal(op.constants["w"][alive, 0, 0], -w[alive, :, 0, 0])
    np.testing.assert_array_equal(op.constants["w_scale"][alive], np.float32(0.01))
    step = calibration[_inputs(model, NAMES[2])[0]].scale
    reach = 128 * step * np.abs(op.constants["w"]).sum((1, 2, 3)) * op.constants["w_scale"]
    assert (reach[~alive] < 0.01).all()  # of a bias of 1
    np.testing.assert_allclose(
        op.constants["b"] * step * op.constants["w_scale"], bias, atol=float(step) * 0.01
    )


def test_stored_weights_that_do_not_fit_are_refused() -> None:
    model = small()
    calibration = calibrate(model, models.images(model, 4))
    w = np.ones((12, 8, 1, 1), np.int8)
    scale = np.ones(12, np.float32)
    plan = PrecisionPlan(layers={NAMES[2]: LayerPrecision(4)})
    for given, message in (
        ({"nothing": StoredWeights(w, scale, 4)}, r"^stored weights: there is no layer 'nothing'"),
        ({NAMES[2]: StoredWeights(w[:, :4], scale, 4)},
         r"^node_conv4: stored weights \[12, 4, 1, 1\] are not those of a layer \[12, 8, 1, 1\]"),
        ({NAMES[2]: StoredWeights(w, scale, 2)},
         r"^node_conv4: stored weights have 2 bits, the plan says 4"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            quantize_model(model, calibration, plan=plan, stored=given)
    with pytest.raises(InputError, match="are not odd, as two bits are"):
        StoredWeights(w * np.int8(2), scale, 2)
    good = {"weight": w, "scale": scale, "bits": 4}
    for changed, message in (
        ({"weight": w * np.int8(8)}, r"do not fit 4 bits, \+-7"),
        ({"weight": w.astype(np.int16)}, r"are no int8 \[O, I, ...\]"),
        ({"scale": scale[:3]}, r"have scales \[3\]"),
        ({"scale": scale * np.float32(np.inf)}, r"a scale that is not finite"),
        ({"bias": scale[:3]}, r"a bias of another shape"),
        ({"bias": scale * np.float32(np.nan)}, r"an infinite bias"),
        ({"bits": 5}, r"weights of 5 bits do not exist"),
    ):
        with pytest.raises(InputError, match=message):
            StoredWeights(**{**good, **changed})  # type: ignore[arg-type]


def test_layers_are_packed_where_there_is_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    calibration = calibrate(model, models.images(model, 4))
    network = import_network(quantize_model(model, calibration, plan=every(4)), isolated=False)
    target = load("local").target
    wide = lower(network)
    assert {key.weight_bits for key in wide.keys} == {0}

    monkeypatch.setattr(
        "edgeopt.codegen.lowbits.supported", lambda op, bits, target: op == "pointwise"
    )
    packed = lower(network, target)
    assert [k.key.weight_bits for k in packed.kernels if k.key.op == "pointwise"] == [4]
    assert {k.key.weight_bits for k in packed.kernels if k.key.op != "pointwise"} == {0}
    for left, right in zip(wide.kernels, packed.kernels, strict=True):
        assert left.constants.keys() == right.constants.keys()
        for name, value in left.constants.items():
            np.testing.assert_array_equal(value, right.constants[name])


GRAINS = [
    LayerPrecision(4, granularity="group", group=4),
    LayerPrecision(2, granularity="group", group=2),
    LayerPrecision(8, granularity="group", group=4),
    LayerPrecision(4, granularity="tensor"),
    LayerPrecision(4, symmetric=False),
    LayerPrecision(8, granularity="tensor", symmetric=False),
    LayerPrecision(3, granularity="group", group=4, symmetric=False),
]


@pytest.mark.parametrize("precision", GRAINS, ids=str)
def test_other_granularities_are_exported_and_computed_alike(precision: LayerPrecision) -> None:
    """By our simulation and by onnxruntime; a scale for all weights even in integer kernels."""
    model = small(2)
    pictures = models.images(model, 12)
    plan = PrecisionPlan(layers={NAMES[2]: precision, NAMES[3]: precision})
    quantized = quantize_model(model, calibrate(model, pictures), plan=plan)
    onnx.checker.check_model(quantized, full_check=True)
    assert quantized.opset_import[0].version == max(
        {8: 18, 4: 21, 3: 21, 2: 25}[precision.weight_bits],
        21 if precision.granularity == "group" else 18,
    )
    imported = import_model(quantized, isolated=False)
    op = next(op for op in imported.network.ops if op.name == NAMES[2])
    notes = [note for note in imported.notes if NAMES[2] in note]
    if precision.granularity == "group":
        assert op.constants["w"].dtype == np.float32
        assert notes == [
            f"node {NAMES[2]!r} (Conv) computes in float32: one scale serves {precision.group} "
            "inputs of a weight, not an output"
        ]
        assert precision.weight_bits == 8 or precision.obstacle
    elif precision.symmetric:
        assert op.constants["w"].dtype == np.int8
        assert not notes
        assert len(set(op.constants["w_scale"].tolist())) == 1
    found = simulate(imported.network, pictures, channels_first=True).reshape(12, -1)
    # as written, that is: its kernels for a scale of blocks do not exist
    session = Session(quantized.SerializeToString())
    theirs = np.concatenate([session.run({"image": p[None]})["scores"] for p in pictures])
    step = np.abs(found - theirs).max() / np.abs(theirs).max()
    assert step < 0.02
    exact = simulate(import_network(model, isolated=False), pictures, channels_first=True)
    error = np.linalg.norm(found - exact.reshape(12, -1)) / np.linalg.norm(exact)
    assert error < {8: 0.06, 4: 0.3, 3: 0.5, 2: 0.9}[precision.weight_bits]


def test_inputs_that_do_not_divide_into_groups() -> None:
    model = small()
    calibration = calibrate(model, models.images(model, 4))
    wrong = PrecisionPlan(layers={NAMES[2]: LayerPrecision(4, granularity="group", group=3)})
    with pytest.raises(InputError, match="node_conv4: 8 inputs do not divide into groups of 3"):
        quantize_model(model, calibration, plan=wrong)
    given = {NAMES[2]: StoredWeights(np.ones((12, 8, 1, 1), np.int8), np.ones(12, np.float32), 4)}
    plan = PrecisionPlan(layers={NAMES[2]: LayerPrecision(4, symmetric=False)})
    with pytest.raises(InputError, match="are symmetric with one scale a channel") as error:
        quantize_model(model, calibration, plan=plan, stored=given)
    assert "leave granularity and symmetric out of the plan" in error.value.hint


@pytest.mark.parametrize("bits", [4, 5, 6, 7])
def test_narrow_activations_are_simulated_and_not_deployed(bits: int) -> None:
    model = small(1)
    pictures = models.images(model, 12)
    calibration = calibrate(model, pictures)
    plan = PrecisionPlan(layers={NAMES[2]: LayerPrecision(activation_bits=bits)})
    with pytest.raises(InputError) as error:
        quantize_model(model, calibration, plan=plan)
    assert error.value.what == f"activations of {bits} bits exist in simulation only"
    assert error.value.where == f"layer {NAMES[2]!r}"
    assert "export it for simulation" in error.value.hint
    quantized = quantize_model(model, calibration, plan=plan, simulation=True)
    network = import_network(quantized, isolated=False)
    source = next(op for op in network.ops if op.name == NAMES[2]).inputs[0]
    simulator = Simulator(network)
    found = simulator.run({"image": pictures.transpose(0, 2, 3, 1)}, keep=[source])
    assert found[source].max() <= -128 + 2**bits - 1
    assert len(np.unique(found[source])) > 2 ** (bits - 2)
    session = Session(quantized.SerializeToString())
    theirs = np.concatenate([session.run({"image": p[None]})["scores"] for p in pictures])
    np.testing.assert_allclose(found["scores"].reshape(12, -1), theirs, atol=0.02)

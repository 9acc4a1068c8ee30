"""Networks quantized after training: layouts, recipes, and what each brings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import quant_models as models

from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import largest
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.graph.importer import import_network
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model
from edgeopt.quant.ptq import Prepared, Recipe, prepare
from edgeopt.quant.simulate import simulate
from edgeopt.quant.torchnet import TorchNetwork

PLAIN = Recipe(scales="max", bias_correction=False, equalization=False, rounding="nearest")


def flattened(seed: int = 0) -> onnx.ModelProto:
    """A fully connected layer behind a flattened map: the importer permutes its weights."""
    m = models.Maker(channels=3, size=6, seed=seed)
    x = m.op("Relu", m.conv("image", 3, 8, 3, stride=2))
    x = m.op("Relu", m.conv(x, 8, 8, 3, groups=2))
    x = m.op("Flatten", x)
    w = m.constant(m.rng.standard_normal((72, 9)).astype(np.float32) / 8, "w")
    b = m.constant(m.rng.standard_normal(9).astype(np.float32), "b")
    return m.finish(m.op("Add", m.op("MatMul", x, w), b))


def scores(model: onnx.ModelProto, pictures: np.ndarray) -> np.ndarray:
    network = import_network(model, isolated=False)
    return simulate(network, np.ascontiguousarray(pictures), channels_first=True)


def plan_of(prepared: Prepared, bits: int) -> PrecisionPlan:
    return PrecisionPlan(
        LayerPrecision(),
        {n: LayerPrecision(8 if x.depthwise else bits) for n, x in prepared.layers.items()},
    )


def noise(prepared: Prepared, bits: int, exact: np.ndarray, pictures: np.ndarray) -> float:
    """Squared error of the outputs as a share of their power."""
    plan = plan_of(prepared, bits)
    model = quantize_model(
        prepared.model, prepared.calibration, plan=plan, stored=prepared.store(plan)
    )
    found = scores(model, pictures)
    return float(((found - exact) ** 2).sum() / (exact**2).sum())


@pytest.mark.parametrize("build", [models.mobile, models.varied, flattened])
def test_layers_know_both_layouts(build: object) -> None:
    model = build()  # type: ignore[operator]
    prepared = prepare(model, models.images(model, 6), PLAIN)
    names = {n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")}
    assert len(prepared.layers) == len(names)
    for layer in prepared.layers.values():
        held = np.asarray(layer.op.constants["w"])
        np.testing.assert_array_equal(layer.to_network(layer.site.weight), held)
        np.testing.assert_array_equal(layer.to_onnx(held), layer.site.weight)
        assert layer.weights == layer.site.weight.size


@pytest.mark.parametrize("build", [models.mobile, models.varied, flattened])
def test_the_torch_network_computes_what_the_model_does(build: object) -> None:
    import torch

    model = build(2)  # type: ignore[operator]
    pictures = models.images(model, 5)
    prepared = prepare(model, pictures, PLAIN)
    net = prepared.torch
    exact = scores(model, pictures)
    with torch.no_grad():
        found = np.concatenate([net.output(x).numpy() for x in net.batches(prepared.images)])
        np.testing.assert_allclose(found.reshape(exact.shape), exact, rtol=1e-4, atol=1e-5)
        # One layer run again gives what running everything with its weights gives.
        x = next(net.batches(prepared.images))
        values = net.values(x)
        for layer in prepared.layers.values():
            w, b = net.weights[layer.key]
            whole = net.output(x, {layer.key: (w * 1.1, b)})
            np.testing.assert_allclose(
                net.again(values, layer.key, (w * 1.1, b)), whole, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("build", [models.mobile, flattened])
def test_care_lessens_the_noise(build: object, bits: int) -> None:
    model = build(1)  # type: ignore[operator]
    pictures = models.images(model, 64)
    fresh = models.images(model, 32, seed=9)
    exact = scores(model, fresh)
    plain = prepare(model, pictures, PLAIN)
    careful = prepare(model, pictures, Recipe())
    before, after = (noise(p, bits, exact, fresh) for p in (plain, careful))
    assert after < 0.85 * before
    stored = careful.store(plan_of(careful, bits))
    assert list(stored) == list(careful.layers)
    for name, layer in careful.layers.items():
        width = 8 if layer.depthwise else bits
        assert stored[name].bits == width
        assert np.abs(stored[name].weight.astype(int)).max() <= largest(width)


def test_eight_bits_stay_close_whatever_the_recipe() -> None:
    model = models.mobile(4)
    pictures = models.images(model, 32)
    exact = scores(model, pictures)
    for recipe in (PLAIN, replace(PLAIN, scales="mse"), replace(PLAIN, bias_correction=True),
                   replace(PLAIN, equalization=True), Recipe()):  # fmt: skip
        assert noise(prepare(model, pictures, recipe), 8, exact, pictures) < 0.02


def test_the_same_input_gives_the_same_integers() -> None:
    model = models.mobile()
    pictures = models.images(model, 16)
    first, second = (
        prepared.store(plan_of(prepared, 3))
        for prepared in (prepare(model, pictures), prepare(model, pictures))
    )
    for name in first:
        np.testing.assert_array_equal(first[name].weight, second[name].weight)
        np.testing.assert_array_equal(first[name].scale, second[name].scale)


def test_what_cannot_be_stored_is_named() -> None:
    model = models.mobile()
    prepared = prepare(model, models.images(model, 4), PLAIN)
    name = next(iter(prepared.layers))
    with pytest.raises(InputError, match=r"^precision plan: there is no layer 'stem.conw'"):
        prepared.store(PrecisionPlan(layers={"stem.conw": LayerPrecision(4)}))
    with pytest.raises(InputError, match=f"^layer '{name}': integers are symmetric with one scale"):
        prepared.store(PrecisionPlan(layers={name: LayerPrecision(4, symmetric=False)}))
    with pytest.raises(InputError, match=r"^recipe: unknown rounding 'up'"):
        Recipe(rounding="up")
    with pytest.raises(InputError, match=r"^recipe: unknown scales 'min'"):
        Recipe(scales="min")
    m = models.Maker()
    dull = m.finish(m.op("Relu", m.op("AveragePool", "image", kernel_shape=[2, 2])))
    with pytest.raises(InputError, match="no convolution or linear layer has constant weights"):
        prepare(dull, models.images(dull, 4))
    with pytest.raises(InputError, match="the network is quantized already"):
        TorchNetwork(import_network(quantize_model(model, prepared.calibration), isolated=False))


def test_two_layers_of_one_name_are_refused() -> None:
    model = models.mobile()
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    convs[1].name = convs[0].name
    with pytest.raises(InputError, match="two layers have this name"):
        prepare(model, models.images(model, 4))


def test_narrower_activations_are_simulated_and_not_exported() -> None:
    import torch

    model = models.mobile()
    pictures = models.images(model, 24)
    prepared = prepare(model, pictures, PLAIN)
    exact = scores(model, pictures).reshape(24, -1)
    errors = []
    for bits in (8, 6, 4):
        calibration = calibrate(model, pictures, activation_bits=bits)
        x = torch.from_numpy(prepared.images)
        with torch.no_grad():
            values = prepared.torch.values(x, None, calibration.quants, bits=calibration.bits)
        name = prepared.network.ops[0].output
        levels = np.unique(values[name].numpy())
        assert len(levels) <= 2**bits
        found = values[prepared.network.outputs[0]].numpy().reshape(24, -1)
        errors.append(float(((found - exact) ** 2).sum() / (exact**2).sum()))
    assert errors[0] < 0.01 and errors[0] < errors[1] < errors[2]
    narrow = calibrate(model, pictures, activation_bits=4)
    with pytest.raises(InputError, match="activations of 4 bits exist in simulation only"):
        quantize_model(model, narrow)
    with pytest.raises(InputError, match="activations of 3 bits"):
        calibrate(model, pictures, activation_bits=3)

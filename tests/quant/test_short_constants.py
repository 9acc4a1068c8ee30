"""What is exported fits one word a channel, and is as accurate as what does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import quant_models as models

from edgeopt.codegen.constants import have_words
from edgeopt.codegen.lower import lower
from edgeopt.core.kernels import WITH_WEIGHTS, Kernel
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.graph.importer import import_network
from edgeopt.quant import export
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model
from edgeopt.quant.simulate import simulate


def layers(model: onnx.ModelProto) -> list[Kernel]:
    graph = lower(import_network(model, isolated=False))
    integer = [k for k in graph.kernels if k.key.op in WITH_WEIGHTS and k.key.precision == "i8"]
    assert integer
    return integer


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("build", [models.mobile, models.varied])
def test_every_layer_that_is_exported_has_words(
    build: Callable[[int], onnx.ModelProto], seed: int, bits: int
) -> None:
    model = build(seed)
    plan = PrecisionPlan(LayerPrecision(weight_bits=bits))
    made = quantize_model(model, calibrate(model, models.images(model, 8)), plan=plan)
    assert [kernel.name for kernel in layers(made) if not have_words(kernel.constants)] == []


def test_one_scale_for_all_weights_has_words_too() -> None:
    model = models.mobile(1)
    plan = PrecisionPlan(LayerPrecision(granularity="tensor"))
    made = quantize_model(model, calibrate(model, models.images(model, 8)), plan=plan)
    found = layers(made)
    assert all(have_words(kernel.constants) for kernel in found)
    assert all(len(set(kernel.constants["multiplier"].tolist())) == 1 for kernel in found)


def test_they_are_as_accurate_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """From network to network the error differs by a tenth up or down, and on average by little."""
    ratios = []
    for seed in range(8):
        model = models.mobile(seed)
        pictures = models.images(model, 16)
        calibration = calibrate(model, pictures)
        exact = simulate(import_network(model, isolated=False), pictures, channels_first=True)
        errors = []
        for narrowed in (True, False):
            with monkeypatch.context() as patch:
                if not narrowed:
                    patch.setattr(export, "narrowed_layers", lambda *given: given[-1])
                made = quantize_model(model, calibration)
            assert all(have_words(k.constants) for k in layers(made)) == narrowed
            found = simulate(import_network(made, isolated=False), pictures, channels_first=True)
            errors.append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
        ratios.append(errors[0] / errors[1])
    assert np.exp(np.mean(np.log(ratios))) < 1.1, ratios


def test_a_layer_without_bias_gets_one_only_where_words_need_it() -> None:
    m = models.Maker(channels=4, size=8)
    x = m.op("Relu", m.conv("image", 4, 8, 3, bias=False))
    model = m.finish(m.linear(m.op("Flatten", m.op("GlobalAveragePool", x)), 8, 6))
    calibration = calibrate(model, models.images(model, 8))
    made = quantize_model(model, calibration, bias_correction=False)
    assert all(have_words(kernel.constants) for kernel in layers(made))
    conv = next(node for node in made.graph.node if node.op_type == "Conv")
    kernel = layers(made)[0]
    assert (len(conv.input) == 3) == bool(kernel.constants["b"].any())
    # what the bias moves the output by: next to nothing
    moved = np.abs(kernel.constants["b"]) * kernel.constants["multiplier"]
    assert moved.max() <= 1 / 128


def test_layers_that_exist_in_simulation_only_are_left_alone() -> None:
    model = models.mobile(0)
    calibration = calibrate(model, models.images(model, 8))
    asymmetric = LayerPrecision(weight_bits=4, symmetric=False)
    made = quantize_model(model, calibration, plan=PrecisionPlan(asymmetric))
    onnx.checker.check_model(made, full_check=True)

"""Sensitivity: what it measures, against a plain computation of the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import quant_models as models
import torch

from edgeopt.core.errors import InputError
from edgeopt.core.precision import LayerPrecision
from edgeopt.quant import scales, sensitivity
from edgeopt.quant.ptq import Recipe, prepare

PLAIN = Recipe(equalization=False, rounding="nearest")


def classifier(activation: str = "Tanh") -> onnx.ModelProto:
    m = models.Maker(channels=2, size=4, seed=3)
    x = m.op(activation, m.conv("image", 2, 3, 3))
    x = m.op("Flatten", m.op("GlobalAveragePool", x))
    return m.finish(m.linear(x, 3, 4))


def test_measured_loss_is_the_divergence_from_the_float_network() -> None:
    model = models.mobile()
    pictures = models.images(model, 12)
    prepared = prepare(model, pictures, PLAIN)
    widths = dict.fromkeys(prepared.layers, (8, 4, 2))
    found = sensitivity.measured(prepared, widths, images=12)
    assert sensitivity.kind_of_loss(prepared, None) == "divergence"
    x = torch.from_numpy(prepared.images)
    with torch.no_grad():
        exact = prepared.torch.output(x).double().log_softmax(1)
        for name, layer in prepared.layers.items():
            weight = scales.rounded(layer.site.weight, LayerPrecision(2))
            swapped = torch.from_numpy(np.ascontiguousarray(layer.to_network(weight)))
            bias = prepared.torch.weights[layer.key][1]
            off = prepared.torch.output(x, {layer.key: (swapped, bias)}).double().log_softmax(1)
            wanted = float((exact.exp() * (exact - off)).sum(1).mean())
            assert found[name][2] == pytest.approx(wanted, rel=1e-3, abs=1e-7)
            assert found[name][8] <= found[name][2] + 1e-9
    labels = np.arange(12) % 10
    rises = sensitivity.measured(prepared, widths, labels=labels, images=12)
    assert sensitivity.kind_of_loss(prepared, labels) == "cross-entropy"
    assert rises != found


def test_traces_are_those_of_the_hessian() -> None:
    model = classifier()
    pictures = models.images(model, 6)
    prepared = prepare(model, pictures, PLAIN)
    net = prepared.torch
    x = torch.from_numpy(prepared.images)
    found = sensitivity.traces(prepared, images=6, probes=200, seed=1)
    aim = net.output(x).log_softmax(1).detach().exp()
    for name, layer in prepared.layers.items():
        w, b = net.weights[layer.key]

        def loss(flat: torch.Tensor, key: str = layer.key, like: torch.Tensor = w,
                 bias: torch.Tensor = b) -> torch.Tensor:  # fmt: skip
            y = net.output(x, {key: (flat.reshape(like.shape), bias)}).log_softmax(1)
            return -(aim * y).sum() / len(x)

        exact = torch.autograd.functional.hessian(loss, w.reshape(-1))
        wanted = float(torch.diagonal(exact).sum())  # type: ignore[arg-type]
        assert found[name] == pytest.approx(wanted, rel=0.25)


def test_the_trace_orders_layers_as_the_loss_does_at_four_bits() -> None:
    model = models.mobile(2)
    pictures = models.images(model, 32)
    prepared = prepare(model, pictures, PLAIN)
    widths = dict.fromkeys(prepared.layers, (8, 4))
    by_loss = sensitivity.measured(prepared, widths, images=32)
    by_trace = sensitivity.hessian(prepared, widths, images=32, probes=16)
    names = list(prepared.layers)
    a, b = ([table[n][4] for n in names] for table in (by_loss, by_trace))
    ranks = [np.argsort(np.argsort(v)) for v in (a, b)]
    assert np.corrcoef(*ranks)[0, 1] > 0.6
    assert by_trace == sensitivity.hessian(prepared, widths, images=32, probes=16)  # seeded


def test_networks_without_derivatives_or_classes_say_so() -> None:
    m = models.Maker(channels=2, size=4)
    x = m.op("Flatten", m.op("GlobalAveragePool", m.op("Exp", m.conv("image", 2, 3, 3))))
    rough = m.finish(m.linear(x, 3, 4))
    prepared = prepare(rough, models.images(rough, 4), PLAIN)
    with pytest.raises(InputError, match=r"activation 'exp' has no second derivative") as e:
        sensitivity.hessian(prepared, {})
    assert "--sensitivity loss" in e.value.hint
    m = models.Maker(channels=2, size=4)
    maps = m.finish(m.conv(m.op("Relu", m.conv("image", 2, 3, 3)), 3, 2))
    prepared = prepare(maps, models.images(maps, 4), PLAIN)
    assert sensitivity.kind_of_loss(prepared, None) == "noise"
    with pytest.raises(InputError, match="no row of class scores"):
        sensitivity.hessian(prepared, {})
    found = sensitivity.measured(prepared, dict.fromkeys(prepared.layers, (8, 2)), images=4)
    assert all(0 <= row[8] < row[2] for row in found.values())

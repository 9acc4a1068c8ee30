"""Activations against torch, their tables and their clamps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeopt.core import activations, affine
from edgeopt.core.network import ACTIVATIONS, Quant

TORCH = {
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "clip": lambda x: torch.clamp(x, -0.5, 0.75),
    "hardswish": torch.nn.functional.hardswish,
    "hardsigmoid": lambda x: torch.clamp(x * 0.25 + 0.4, 0, 1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leakyrelu": lambda x: torch.nn.functional.leaky_relu(x, 0.2),
    "silu": torch.nn.functional.silu,
    "elu": lambda x: torch.nn.functional.elu(x, 0.7),
    "gelu": torch.nn.functional.gelu,
    "abs": torch.abs,
    "erf": torch.erf,
    "exp": torch.exp,
    "mish": torch.nn.functional.mish,
    "sqrt": torch.sqrt,
}
ATTRS: dict[str, dict[str, object]] = {
    "clip": {"min": -0.5, "max": 0.75},
    "hardsigmoid": {"alpha": 0.25, "beta": 0.4},
    "leakyrelu": {"alpha": 0.2},
    "elu": {"alpha": 0.7},
}


def test_every_activation_is_covered() -> None:
    assert set(TORCH) == ACTIVATIONS


@pytest.mark.parametrize("name", sorted(TORCH))
def test_apply_equals_torch(name: str) -> None:
    x = np.linspace(-12, 12, 4001).astype(np.float32)
    if name == "sqrt":
        x = np.abs(x)
    expected = TORCH[name](torch.from_numpy(x)).numpy()
    found = activations.apply(name, x, ATTRS.get(name))
    np.testing.assert_allclose(found, expected, rtol=2e-6 if name == "exp" else 1e-7, atol=2e-6)


def test_gelu_tanh_form() -> None:
    x = np.linspace(-6, 6, 1001).astype(np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    found = activations.apply("gelu", x, {"approximate": "tanh"})
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("name", sorted(activations.CLAMPS))
@pytest.mark.parametrize("quant", [Quant(0.05, -128), Quant(0.031, 3), Quant(0.01, 90)])
def test_clamp_of_stored_values_is_the_table(name: str, quant: Quant) -> None:
    attrs = ATTRS.get(name, {})
    low, high = activations.clamp(name, attrs, quant)
    every = np.arange(affine.I8_MIN, affine.I8_MAX + 1)
    table = activations.table(name, attrs, quant, quant)
    np.testing.assert_array_equal(np.clip(every, low, high), table)


def test_table_of_hardswish_by_hand() -> None:
    table = activations.table("hardswish", {}, Quant(0.05, 0), Quant(0.04, -100))
    for stored in (-128, -60, -7, 0, 33, 127):
        real = np.float32(stored) * np.float32(0.05)
        swish = real * min(max(float(real) / 6 + 0.5, 0.0), 1.0)
        assert abs(int(table[stored + 128]) - (round(swish / 0.04) - 100)) <= 1


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="softsign"):
        activations.apply("softsign", np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("function", "attrs", "text"),
    [
        ("clip", {"min": 0.0, "max": 6.0}, "relu6"),
        ("clip", {"min": 0.0}, "relu"),
        ("clip", {"min": -1e20, "max": 1e20}, "clip_-1e20_1e20"),
        ("hardsigmoid", {"alpha": float(np.float32(1 / 6)), "beta": 0.5}, "hardsigmoid"),
        ("hardsigmoid", {}, "hardsigmoid_0.2_0.5"),
        ("leakyrelu", {"alpha": 0.3}, "leakyrelu_0.3"),
        ("gelu", {"approximate": "tanh"}, "gelu_tanh"),
        ("silu", {}, "silu"),
        ("elu", {}, "elu_1.0"),
    ],
)
def test_text_reads_back_as_the_same_function(
    function: str, attrs: dict[str, object], text: str
) -> None:
    assert activations.text_of(function, attrs) == text
    again, parameters = activations.parse_text(text)
    assert activations.text_of(again, parameters) == text
    x = np.linspace(-9, 9, 301).astype(np.float32)
    np.testing.assert_array_equal(
        activations.apply(function, x, attrs), activations.apply(again, x, parameters)
    )


@pytest.mark.parametrize("text", ["hardswich", "relu_1", "clip_1.0", "leakyrelu_x", ""])
def test_text_of_no_function_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown activation|could not convert"):
        activations.parse_text(text)

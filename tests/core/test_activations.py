from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgeopt.core import activations
from edgeopt.core.errors import InputError
from edgeopt.core.network import ACTIVATIONS

TORCH = {
    "relu": torch.nn.functional.relu,
    "relu6": torch.nn.functional.relu6,
    "clip_-0.5_1.25": lambda x: torch.clip(x, -0.5, 1.25),
    "hardswish": torch.nn.functional.hardswish,
    "hardsigmoid": torch.nn.functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leakyrelu_0.1": lambda x: torch.nn.functional.leaky_relu(x, 0.1),
    "silu": torch.nn.functional.silu,
    "elu": torch.nn.functional.elu,
    "gelu": torch.nn.functional.gelu,
}


@pytest.mark.parametrize("text", sorted(TORCH))
def test_equals_torch(text: str) -> None:
    x = np.linspace(-9, 9, 2001, dtype=np.float32)
    got = activations.apply(text, x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, TORCH[text](torch.from_numpy(x)).numpy(), rtol=2e-6, atol=1e-6)


def test_every_network_activation_has_a_meaning() -> None:
    x = np.ones(3, np.float32)
    for function in ACTIVATIONS:
        text = activations.text_of(function, {"min": -1.0, "max": 2.0, "alpha": 0.3, "beta": 0.4})
        assert activations.apply(text, x).shape == (3,)


@pytest.mark.parametrize(
    ("function", "attrs", "text"),
    [
        ("clip", {"min": 0.0, "max": 6.0}, "relu6"),
        ("clip", {"min": 0.0}, "relu"),
        ("clip", {}, "none"),
        ("clip", {"min": -1e20, "max": 1e20}, "clip_-1e20_1e20"),
        ("hardsigmoid", {"alpha": float(np.float32(1 / 6)), "beta": 0.5}, "hardsigmoid"),
        ("hardsigmoid", {"alpha": 0.2}, "hardsigmoid_0.2_0.5"),
    ],
)
def test_text_is_canonical_and_reads_back(function: str, attrs: dict, text: str) -> None:
    assert activations.text_of(function, attrs) == text
    again, parameters = activations.parse(text)
    assert activations.text_of(again, parameters) == text


def test_bounds() -> None:
    assert activations.bounds("relu6") == (0.0, 6.0)
    assert activations.bounds("none") == (-math.inf, math.inf)
    assert activations.bounds("clip_-1.0_2.0") == (-1.0, 2.0)
    assert activations.bounds("hardswish") is None


def test_unknown_function_is_named() -> None:
    with pytest.raises(InputError, match="activation 'hardswich' is not known") as caught:
        activations.text_of("hardswich")
    assert "did you mean hardswish" in str(caught.value)
    with pytest.raises(InputError, match="'relu_1' is not known"):
        activations.parse("relu_1")
    with pytest.raises(InputError, match="could not convert"):
        activations.parse("leakyrelu_x")

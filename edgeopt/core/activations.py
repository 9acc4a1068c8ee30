"""Elementwise functions, defined once: what float references, tables and clamps are made of.

Every function computes in binary32. Integer networks evaluate them in one of two ways: functions
that only clamp (`CLAMPS`) become bounds of the requantization before them, all others become a
table of 256 entries (`core.affine.table`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgeopt.core import affine
from edgeopt.core.network import ACTIVATIONS, Quant

Floats = npt.NDArray[np.float32]

#: Functions that are a clamp, so that an integer network needs no table for them.
CLAMPS = frozenset({"relu", "relu6", "clip"})

#: Functions whose results spread too widely for one scale: quantization leaves them in float.
REAL = frozenset({"exp", "sqrt"})

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _number(attrs: Mapping[str, object], name: str, default: float) -> np.float32:
    value = attrs.get(name)
    if value is None:
        return np.float32(default)
    assert isinstance(value, (int, float, np.floating))
    return np.float32(value)


def _hardsigmoid(x: Floats, alpha: np.float32, beta: np.float32) -> Floats:
    line: Floats = x * alpha + beta
    return np.clip(line, np.float32(0), np.float32(1))


def _sigmoid(x: Floats) -> Floats:
    wide = np.maximum(x.astype(np.float64), -700.0)  # exp(700) is still finite
    y: Floats = (1.0 / (1.0 + np.exp(-wide))).astype(np.float32)
    return y


def _gelu(x: Floats, attrs: Mapping[str, object]) -> Floats:
    wide = x.astype(np.float64)
    if attrs.get("approximate") == "tanh":
        gate = np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
    else:
        gate = _erf(wide / math.sqrt(2))
    half: Floats = (0.5 * wide * (1 + gate)).astype(np.float32)
    return half


def _mish(x: Floats) -> Floats:
    wide = x.astype(np.float64)
    y: Floats = (wide * np.tanh(np.logaddexp(0.0, wide))).astype(np.float32)
    return y


def _elu(x: Floats, alpha: np.float32) -> Floats:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, np.float32(0))))


def bounds(function: str, attrs: Mapping[str, object]) -> tuple[float, float]:
    """Smallest and largest value a clamp lets through; infinite where it does not bound."""
    if function == "relu":
        return 0.0, math.inf
    if function == "relu6":
        return 0.0, 6.0
    if function == "clip":
        return float(_number(attrs, "min", -math.inf)), float(_number(attrs, "max", math.inf))
    raise ValueError(f"{function!r} is not a clamp")


def apply(function: str, x: Floats, attrs: Mapping[str, object] | None = None) -> Floats:
    """Evaluate an activation named as in `core.network.ACTIVATIONS` on float32 values."""
    if function not in ACTIVATIONS:
        raise ValueError(f"unknown activation {function!r}")
    attrs = attrs or {}
    if function in CLAMPS:
        low, high = bounds(function, attrs)
        return np.clip(x, np.float32(low), np.float32(high))
    sixth = np.float32(1 / 6)
    simple: Mapping[str, Callable[[], Floats]] = {
        "hardswish": lambda: x * _hardsigmoid(x, sixth, np.float32(0.5)),
        "hardsigmoid": lambda: _hardsigmoid(
            x, _number(attrs, "alpha", 0.2), _number(attrs, "beta", 0.5)
        ),
        "sigmoid": lambda: _sigmoid(x),
        "tanh": lambda: np.tanh(x.astype(np.float64)).astype(np.float32),
        "leakyrelu": lambda: np.where(x >= 0, x, x * _number(attrs, "alpha", 0.01)),
        "silu": lambda: x * _sigmoid(x),
        "elu": lambda: _elu(x, _number(attrs, "alpha", 1.0)),
        "gelu": lambda: _gelu(x, attrs),
        "erf": lambda: _erf(x).astype(np.float32),
        "exp": lambda: np.exp(x.astype(np.float64)).astype(np.float32),
        "abs": lambda: np.abs(x),
        "sqrt": lambda: np.sqrt(x.astype(np.float32)),
        "mish": lambda: _mish(x),
    }
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN, as a processor has them
        return np.asarray(simple[function](), dtype=np.float32)


def table(
    function: str, attrs: Mapping[str, object], quant_in: Quant, quant_out: Quant
) -> npt.NDArray[np.int8]:
    """The 256-entry int8 table of an activation; entry ``q + 128`` is the output for ``q``."""
    return affine.table(
        lambda x: apply(function, x, attrs),
        quant_in.scale,
        quant_in.zero_point,
        quant_out.scale,
        quant_out.zero_point,
    )


def clamp(function: str, attrs: Mapping[str, object], quant: Quant) -> tuple[int, int]:
    """Bounds (lo, hi) on the stored int8 value that a clamp becomes in a tensor of ``quant``.

    Rounding is monotone, so clamping stored values equals quantizing the clamped real ones.
    """
    stored = []
    for real, unbounded in zip(
        bounds(function, attrs), (affine.I8_MIN, affine.I8_MAX), strict=True
    ):
        if math.isinf(real):
            stored.append(unbounded)
        else:
            one = np.asarray([real], np.float32)
            stored.append(int(affine.quantize(one, quant.scale, quant.zero_point)[0]))
    return stored[0], stored[1]


#: Parameters in the order `text_of` writes them, with what `apply` takes for a missing one.
_WRITTEN: Mapping[str, Mapping[str, float]] = {
    "clip": {"min": -math.inf, "max": math.inf},
    "hardsigmoid": {"alpha": 0.2, "beta": 0.5},
    "leakyrelu": {"alpha": 0.01},
    "elu": {"alpha": 1.0},
}


def text_of(function: str, attrs: Mapping[str, object] | None = None) -> str:
    """A function and its parameters as `OpKey.activation` writes them.

    The name, and each parameter after a ``_``; clamps are named by what they do, and a bare
    ``hardsigmoid`` is that of torch and of MobileNetV3 (alpha 1/6, beta 0.5).

    >>> text_of("clip", {"min": 0.0, "max": 6.0})
    'relu6'
    >>> text_of("leakyrelu", {"alpha": 0.25})
    'leakyrelu_0.25'
    """
    attrs = attrs or {}
    if function == "gelu" and attrs.get("approximate") == "tanh":
        return "gelu_tanh"
    missing = _WRITTEN.get(function)
    if missing is None:
        if function not in ACTIVATIONS:
            raise ValueError(f"unknown activation {function!r}")
        return function
    values = [_number(attrs, name, default) for name, default in missing.items()]
    if function == "clip" and values[0] == 0 and values[1] in (6, math.inf):
        return "relu6" if values[1] == 6 else "relu"
    if function == "hardsigmoid" and values == [np.float32(1 / 6), np.float32(0.5)]:
        return function
    return "_".join((function, *(str(value).replace("+", "") for value in values)))


def parse_text(text: str) -> tuple[str, dict[str, object]]:
    """Function and attributes (for `apply`) from what `text_of` wrote.

    Raises:
        ValueError: the text names no known function, or has the wrong number of parameters.
    """
    function, *rest = text.split("_")
    if text == "gelu_tanh":
        return "gelu", {"approximate": "tanh"}
    if text == "hardsigmoid":
        return text, {"alpha": 1 / 6, "beta": 0.5}
    names = _WRITTEN.get(function, {})
    if function not in ACTIVATIONS or len(rest) != len(names):
        raise ValueError(f"unknown activation {text!r}")
    return function, {name: float(part) for name, part in zip(names, rest, strict=True)}

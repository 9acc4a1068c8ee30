"""Elementwise functions of one tensor: their canonical text and their float32 meaning.

The text stands in `OpKey.activation`: the function's name, then ``_`` and each parameter that is
not the default, for instance ``relu``, ``leakyrelu_0.1``, ``clip_-1.0_1.0``. Integer tables are
built from `apply`, so that every part of edgeopt builds the same table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError, suggest

F32 = npt.NDArray[np.float32]

#: Parameters of each function in the order they are written, with their defaults.
PARAMETERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "none": {},
        "relu": {},
        "relu6": {},
        "clip": {"min": -math.inf, "max": math.inf},
        "hardswish": {},
        "hardsigmoid": {"alpha": 1 / 6, "beta": 0.5},
        "sigmoid": {},
        "tanh": {},
        "leakyrelu": {"alpha": 0.01},
        "silu": {},
        "elu": {"alpha": 1.0},
        "gelu": {},
    }
)


@functools.lru_cache(maxsize=1024)
def _text(function: str, values: tuple[float, ...]) -> str:
    defaults = tuple(PARAMETERS[function].values())
    if function == "clip":
        if values == (0.0, 6.0):
            return "relu6"
        if values == (0.0, math.inf):
            return "relu"
    if all(np.float32(v) == np.float32(d) for v, d in zip(values, defaults, strict=True)):
        return "none" if function == "clip" else function
    return "_".join((function, *(repr(float(v)).replace("+", "") for v in values)))


def text_of(function: str, attrs: Mapping[str, object] | None = None) -> str:
    """The canonical text of a function with its parameters.

    >>> text_of("clip", {"min": 0.0, "max": 6.0})
    'relu6'
    >>> text_of("leakyrelu", {"alpha": 0.25})
    'leakyrelu_0.25'
    """
    parameters = PARAMETERS.get(function)
    if parameters is None:
        raise InputError(
            f"activation {function!r} is not known",
            hint=suggest(function, PARAMETERS, noun="activation"),
        )
    if not parameters:
        return function
    given = attrs or {}
    values = tuple(float(given.get(k, d)) for k, d in parameters.items())  # type: ignore[arg-type]
    return _text(function, values)


def parse(text: str) -> tuple[str, dict[str, float]]:
    """Function and all its parameters from the canonical text.

    Raises:
        InputError: the text names no known function, or has the wrong number of parameters.
    """
    function, *rest = text.split("_")
    parameters = PARAMETERS.get(function)
    if parameters is None or (rest and len(rest) != len(parameters)):
        raise InputError(
            f"activation {text!r} is not known",
            hint=suggest(function, PARAMETERS, noun="activation"),
        )
    try:
        values = [float(part) for part in rest] or list(parameters.values())
    except ValueError as error:
        raise InputError(f"activation {text!r}: {error}") from error
    return function, dict(zip(parameters, values, strict=True))


def bounds(text: str) -> tuple[float, float] | None:
    """(low, high) if the function only clamps, else None."""
    if text == "none":
        return -math.inf, math.inf
    if text == "relu":
        return 0.0, math.inf
    if text == "relu6":
        return 0.0, 6.0
    if text.startswith("clip"):
        parameters = parse(text)[1]
        return parameters["min"], parameters["max"]
    return None


def _erf(x: F32) -> F32:
    return np.fromiter((math.erf(v) for v in x.ravel().tolist()), np.float32, x.size).reshape(
        x.shape
    )


_ONE, _HALF, _SIX = np.float32(1), np.float32(0.5), np.float32(6)


def _sigmoid(x: F32) -> F32:
    # one exponential of a negative number: cannot overflow
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, _ONE, e) / (_ONE + e), np.float32)


_FUNCTIONS: Mapping[str, Callable[..., F32]] = MappingProxyType(
    {
        "none": lambda x: x,
        "relu": lambda x: np.maximum(x, np.float32(0)),
        "relu6": lambda x: np.clip(x, np.float32(0), _SIX),
        "clip": lambda x, min, max: np.clip(x, np.float32(min), np.float32(max)),  # noqa: A006
        "hardswish": lambda x: x * np.clip(x * np.float32(1 / 6) + _HALF, np.float32(0), _ONE),
        "hardsigmoid": lambda x, alpha, beta: np.clip(
            x * np.float32(alpha) + np.float32(beta), np.float32(0), _ONE
        ),
        "sigmoid": _sigmoid,
        "tanh": np.tanh,
        "leakyrelu": lambda x, alpha: np.where(x >= 0, x, x * np.float32(alpha)),
        "silu": lambda x: x * _sigmoid(x),
        "elu": lambda x, alpha: np.where(
            x >= 0, x, np.float32(alpha) * np.expm1(np.minimum(x, np.float32(0)))
        ),
        "gelu": lambda x: _HALF * x * (_ONE + _erf(x * np.float32(math.sqrt(0.5)))),
    }
)


def apply(text: str, x: F32) -> F32:
    """The function named by its canonical text, in float32."""
    function, parameters = parse(text)
    return np.asarray(_FUNCTIONS[function](x, **parameters), np.float32)

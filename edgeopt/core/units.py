"""Durations, sizes and shares as a user writes them, and back.

Sizes follow SI: ``KB`` and ``kB`` are 1000 bytes, ``KiB`` and ``K`` 1024. Where a user meant 1024
by ``KB``, the reading used here is the smaller one, so a budget still holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from types import MappingProxyType

from edgeopt.core.errors import InputError

_DURATION_NS: Mapping[str, int] = MappingProxyType(
    {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9}
)
_SIZE_BYTES: Mapping[str, int] = MappingProxyType(
    {"": 1, "B": 1, "K": 2**10, "kB": 10**3, "KB": 10**3, "KiB": 2**10, "M": 2**20, "MB": 10**6,
     "MiB": 2**20, "G": 2**30, "GB": 10**9, "GiB": 2**30}
)  # fmt: skip
_NUMBER = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([A-Za-zµ]*)")


def _parse(text: str, units: Mapping[str, int], noun: str, example: str) -> int:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in units:
        names = ", ".join(unit for unit in units if unit)
        raise InputError(
            f"{text!r} is not a {noun}", hint=f"write a number and a unit ({names}): {example}"
        )
    exact = Decimal(match[1]) * units[match[2]]
    value = int(exact.to_integral_value(ROUND_HALF_EVEN))
    if value <= 0:
        raise InputError(f"a {noun} of {text!r} is not positive", hint=f"for example {example}")
    return value


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a duration such as ``10ms`` or ``1.5 s``.

    Raises:
        InputError: no unit, an unknown unit, or not a positive number.
    """
    return _parse(text, _DURATION_NS, "duration", "10ms")


def parse_size_bytes(text: str) -> int:
    """Bytes of a size such as ``64KB`` (64,000) or ``64KiB`` (65,536).

    Raises:
        InputError: an unknown unit, or not a positive number.
    """
    return _parse(text, _SIZE_BYTES, "size", "256KB")


def parse_share(text: str) -> float:
    """A share between 0 and 1 from ``0.85`` or ``85%``.

    Raises:
        InputError: not a number, or outside 0..1.
    """
    raw = text.strip()
    percent = raw.endswith("%")
    try:
        value = float(raw.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"{text!r} is not a share between 0 and 1", hint="write 0.85 or 85%")
    return value


def show_duration(nanoseconds: float) -> str:
    """Three significant digits in the unit that fits: ``3.21 ms``."""
    for limit, divisor, unit in ((1e3, 1.0, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms")):
        if abs(nanoseconds) < limit * 0.9995:
            return f"{_three_digits(nanoseconds / divisor)} {unit}"
    return f"{_three_digits(nanoseconds / 1e9)} s"


def show_size(size_bytes: float) -> str:
    """Three significant digits in SI units: ``16.4 kB``."""
    for limit, divisor, unit in ((1e3, 1.0, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB")):
        if abs(size_bytes) < limit * 0.9995:
            return f"{_three_digits(size_bytes / divisor)} {unit}"
    return f"{_three_digits(size_bytes / 1e9)} GB"


def _three_digits(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"

"""A roofline picture as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from machine import Peaks

from edgeopt.core.files import write_atomic
from edgeopt.core.kernels import OpKey

WIDTH, HEIGHT, MARGIN = 860, 520, 60
COLOURS = {"pointwise": "#1f77b4", "depthwise": "#d62728", "dense": "#2ca02c", "linear": "#9467bd"}


class Point(Protocol):
    """A measured kernel."""

    kind: str
    key: OpKey

    @property
    def moved_bytes(self) -> int:
        """Bytes moved at least."""

    @property
    def operations(self) -> float:
        """Arithmetic of one call."""

    def rate(self) -> float:
        """Operations a nanosecond."""


def draw(path: Path, peaks: Peaks, rows: Sequence[Point]) -> None:
    """One panel a precision: operations a byte against operations a nanosecond, both log."""
    panels = [p for p in ("f32", "i8") if any(r.key.precision == p and r.key.macs for r in rows)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
        f'height="{HEIGHT * len(panels)}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for index, precision in enumerate(panels):
        some = [r for r in rows if r.key.precision == precision and r.key.macs]
        parts.append(f'<g transform="translate(0 {HEIGHT * index})">')
        parts += _panel(precision, peaks, some)
        parts.append("</g>")
    parts.append("</svg>\n")
    write_atomic(path, "\n".join(parts))


def _panel(precision: str, peaks: Peaks, rows: Sequence[Point]) -> list[str]:
    left, right, bottom, top = 0.1, 1000.0, 1.0, 400.0
    compute = peaks.compute(precision)

    def x(value: float) -> float:
        share = math.log(value / left) / math.log(right / left)
        return MARGIN + share * (WIDTH - 2 * MARGIN)

    def y(value: float) -> float:
        share = math.log(max(value, bottom) / bottom) / math.log(top / bottom)
        return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)

    parts = [f'<text x="{MARGIN}" y="24" font-size="15">{precision}: GOP/s against operations a '
             "byte, one core</text>"]  # fmt: skip
    for exponent in range(-1, 4):
        for value, vertical in ((10.0**exponent, True), (10.0**exponent, False)):
            if vertical and left <= value <= right:
                parts.append(_segment(x(value), y(bottom), x(value), y(top), "#ddd"))
                parts.append(f'<text x="{x(value) - 8:.0f}" y="{HEIGHT - 40}">{value:g}</text>')
            elif not vertical and bottom <= value <= top:
                parts.append(_segment(x(left), y(value), x(right), y(value), "#ddd"))
                parts.append(f'<text x="22" y="{y(value) + 4:.0f}">{value:g}</text>')
    for size, rate in peaks.read_gbs:
        ridge = compute / rate
        parts.append(_segment(x(left), y(rate * left), x(ridge), y(compute), "#888"))
        parts.append(_segment(x(ridge), y(compute), x(right), y(compute), "#888"))
        label = f"{rate:.0f} GB/s, {size >> 10} KiB"
        parts.append(f'<text x="{x(left) + 4:.0f}" y="{y(rate * left) - 3:.0f}" fill="#666">'
                     f"{label}</text>")  # fmt: skip
    parts.append(f'<text x="{x(right) - 110:.0f}" y="{y(compute) - 5:.0f}" fill="#666">'
                 f"{compute:.0f} GOP/s</text>")  # fmt: skip
    for row in rows:
        colour = COLOURS.get(row.kind, "#7f7f7f")
        at = row.operations / row.moved_bytes
        parts.append(
            f'<circle cx="{x(at):.1f}" cy="{y(row.rate()):.1f}" r="4" fill="{colour}" '
            f'fill-opacity="0.7"><title>{row.key}</title></circle>'
        )
    for index, (kind, colour) in enumerate(COLOURS.items()):
        place = WIDTH - MARGIN - 90
        parts.append(f'<circle cx="{place}" cy="{HEIGHT - 150 + 18 * index}" r="4" '
                     f'fill="{colour}"/>')  # fmt: skip
        parts.append(f'<text x="{place + 10}" y="{HEIGHT - 146 + 18 * index}">{kind}</text>')
    return parts


def _segment(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        'stroke-width="1.2"/>'
    )

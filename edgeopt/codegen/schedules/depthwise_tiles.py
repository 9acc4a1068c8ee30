"""The tiles of a row of an int8 depthwise convolution; pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edgeopt.codegen.schedules.depthwise_plan import Plan, column_runs, overhang
from edgeopt.core.kernels import OpKey

#: In which tiles of a run a column of the input lies outside the map.
Edge = Literal["", "first", "last", "always"]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles along a row that share their code: ``times`` of them from output column ``low``."""

    low: int
    times: Any  # a number, or an expression
    pixels: int
    edges: tuple[Edge, ...]  # of the columns of a tile


def tiles_of(key: OpKey, plan: Plan) -> list[Tiles]:
    """One loop over all tiles of a row where they are equal and a row of padding is at hand.

    The first and the last tile then read columns outside the map from there, which is decided as
    the kernel runs: half the code or less. Two tiles of few taps are left apart, which would get
    a tenth slower, but where rows are shared to save flash; where there are more of either it makes
    no difference.
    """
    apart = [Tiles(*run, edges_of(key, *run) or ()) for run in column_runs(key, plan)]
    count, rest = divmod(key.out_shape[1], plan.pixels)
    if len(apart) < (2 if key.kernel[1] > 3 or plan.shared else 3) or rest or not plan.pad_bytes:
        return apart
    edges = edges_of(key, 0, count, plan.pixels)
    if edges is None or len(edges) > key.in_shape[1]:
        return apart
    return [Tiles(0, count, plan.pixels, edges)]


def edges_of(key: OpKey, low: int, times: int, pixels: int) -> tuple[Edge, ...] | None:
    """In which of ``times`` tiles from output column ``low`` each column of a tile is outside.

    None where some are that are neither the first, nor the last, nor all.
    """
    step = pixels * key.strides[1]
    first = low * key.strides[1] - key.pads[1]
    width = (pixels - 1) * key.strides[1] + (key.kernel[1] - 1) * key.dilations[1] + 1
    found: list[Edge] = []
    for column in range(width):
        outside = {n for n in range(times) if not 0 <= first + n * step + column < key.in_shape[1]}
        if not outside:
            found.append("")
        elif len(outside) == times:
            found.append("always")
        elif outside in ({0}, {times - 1}):
            found.append("first" if outside == {0} else "last")
        else:
            return None
    return tuple(found)


def of_any_width(key: OpKey, plan: Plan, times: Any) -> Tiles:
    """One loop over a number of tiles that is known as the kernel runs."""
    width = (plan.pixels - 1) * key.strides[1] + (key.kernel[1] - 1) * key.dilations[1] + 1
    left, right = key.pads[1], overhang(key)
    edges: list[Edge] = ["first"] * left
    edges += [""] * (width - left - right)
    edges += ["last"] * right
    return Tiles(0, times, plan.pixels, tuple(edges))

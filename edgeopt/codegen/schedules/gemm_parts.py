"""Along what a matrix product is divided between threads; pure arithmetic.

By rows each part stages its own input and reads all weights; by tiles of a row or panels of output
channels each part stages everything, but of the panels it reads only its own weights. What suits
depends on the layer: early layers have many rows and few weights, late ones the reverse. Every
tile is computed alike whoever computes it, so that the results never depend on the division.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from edgeopt.codegen.schedules import parts
from edgeopt.codegen.schedules.gemm_plan import Plan
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import BYTES, elements, is_table
from edgeopt.core.kernels import OpKey

Axis = Literal["rows", "tiles", "panels"]


@lru_cache(maxsize=4096)
def axis_of(key: OpKey, plan: Plan, isa: Isa, count: int) -> Axis:
    """The axis along which so many parts are fastest."""
    return min(_costs(key, plan, isa, count))[1]


def divide(key: OpKey, plan: Plan, isa: Isa, threads: int) -> parts.Division:
    """Into how many parts the product is divided."""
    whole = min(_costs(key, plan, isa, 1))[0]
    return parts.best(threads, whole, lambda count: min(_costs(key, plan, isa, count))[0])


def tile_sizes(plan: Plan) -> list[int]:
    """Pixels of the tiles of one row."""
    full, rest = divmod(plan.window.out_cols, plan.pixels)
    return [plan.pixels] * full + ([rest] if rest else [])


def panel_sizes(plan: Plan) -> list[int]:
    """Vectors of the panels of one group."""
    full, rest = divmod(plan.output_vectors, plan.vectors)
    return [plan.vectors] * full + ([rest] if rest else [])


def _costs(key: OpKey, plan: Plan, isa: Isa, count: int) -> list[tuple[float, Axis]]:
    work = parts.mac_cycles(key, isa) + elements(key.out_shape) / isa.lanes
    staging = 0.0
    if plan.stage is not None:
        staging = elements(key.in_shape) * BYTES[plan.stage.dtype] / parts.NEAR_BYTES * 2
    far = parts.FAR_BYTES if count > 1 else parts.NEAR_BYTES
    inputs = elements(key.in_shape) * BYTES[key.dtype]
    weights = plan.weight_bytes / parts.NEAR_BYTES

    def share(sizes: list[int]) -> float:
        return parts.largest_share(sizes, count)

    rows, tiles = share([1] * plan.window.out_rows), share(tile_sizes(plan))
    costs: list[tuple[float, Axis]] = [
        ((work + staging + inputs / parts.NEAR_BYTES) * rows + weights, "rows"),
        (work * tiles + staging + inputs / parts.NEAR_BYTES * tiles + weights, "tiles"),
    ]
    # A table is applied to whole pixels.
    if not (key.dtype == "i8" and is_table(key.activation)):
        panels = share(panel_sizes(plan))
        costs.append(((work + weights) * panels + staging + inputs / far, "panels"))
    return costs

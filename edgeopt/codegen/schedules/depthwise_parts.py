"""Along what a depthwise convolution is divided between threads; pure arithmetic.

Rows where there are enough of them, for what follows is divided by rows as well; vectors of
channels otherwise.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from edgeopt.codegen.schedules import parts
from edgeopt.codegen.schedules.depthwise_plan import Plan
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import is_table
from edgeopt.core.kernels import OpKey

Axis = Literal["rows", "blocks"]


def block_runs(key: OpKey, plan: Plan) -> list[tuple[int, int, int, int]]:
    """Runs over vectors of channels: (first, times, vectors at once, channels of the last)."""
    whole, ragged = divmod(key.in_shape[-1], plan.lanes)
    full, rest = divmod(whole, plan.vectors)
    runs = []
    if full:
        runs.append((0, full, plan.vectors, plan.lanes))
    if rest:
        runs.append((full * plan.vectors, 1, rest, plan.lanes))
    if ragged:
        runs.append((whole, 1, 1, ragged))
    return runs


@lru_cache(maxsize=4096)
def axis_of(key: OpKey, plan: Plan, isa: Isa, count: int) -> Axis:
    """The axis along which so many parts are fastest."""
    return min(_costs(key, plan, isa, count))[1]


def divide(key: OpKey, plan: Plan, isa: Isa, threads: int) -> parts.Division:
    """Into how many parts the convolution is divided."""
    whole = min(_costs(key, plan, isa, 1))[0]
    return parts.best(threads, whole, lambda count: min(_costs(key, plan, isa, count))[0])


def _costs(key: OpKey, plan: Plan, isa: Isa, count: int) -> list[tuple[float, Axis]]:
    # The packing of products into lanes helps little here: loads decide.
    work = key.macs / isa.lanes + parts.pass_cycles(key, parts.NEAR_BYTES)
    sizes = [vectors for _, times, vectors, _ in block_runs(key, plan) for _ in range(times)]
    rows = parts.largest_share([1] * key.out_shape[0], count)
    blocks = parts.largest_share(sizes, count)
    far = parts.pass_cycles(key, parts.FAR_BYTES) / 2 if count > 1 else 0.0
    costs: list[tuple[float, Axis]] = [(work * rows, "rows")]
    # A table is applied to whole rows.
    if not (key.dtype == "i8" and is_table(key.activation)):
        costs.append((work * blocks + far * blocks, "blocks"))
    return costs

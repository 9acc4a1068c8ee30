"""Outputs written over inputs that are still being read: how near they may come, and no nearer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from networks import Builder

from edgeopt.codegen.abi import SAME_PLACE
from edgeopt.codegen.lower import lower
from edgeopt.codegen.order import order_for_memory
from edgeopt.codegen.plan import plan
from edgeopt.codegen.plan_check import PlanError, check_plan
from edgeopt.codegen.storage import overlap_distance
from edgeopt.core.kernels import KernelGraph, OpKey

I8 = {"dtype": "i8", "out_dtype": "i8"}
SAME = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("key", "ordered", "distance"),
    [
        (OpKey("pointwise", (4, 4, 8), (4, 4, 8), **I8), 4, 32),  # a row
        (OpKey("pointwise", (4, 4, 8), (4, 4, 8), **I8), 1, 8),  # a pixel
        (OpKey("pointwise", (4, 4, 8), (4, 4, 16), **I8), 1, 15 * 8 + 16),  # it catches up
        (OpKey("pointwise", (4, 4, 8), (4, 4, 4), **I8), 1, 4),  # it falls behind
        (OpKey("depthwise", (4, 4, 8), (4, 4, 8), groups=8, **SAME, **I8), 4, 64),  # two rows
        (OpKey("depthwise", (4, 4, 8), (4, 4, 8), groups=8, **SAME, **I8), 1, 48),  # row, 2 pixels
        (OpKey("depthwise", (4, 4, 8), (2, 2, 8), groups=8, kernel=(3, 3), strides=(2, 2),
               pads=(0, 0, 1, 1), **I8), 2, 16),
        (OpKey("depthwise", (4, 4, 8), (4, 4, 8), groups=8, **SAME, **I8), 0, None),
        (OpKey("add", (4, 4, 8), (4, 4, 8), inputs=2, **I8), 4, None),
        (OpKey("linear", (8,), (8,), **I8), 1, None),
    ],
    ids=str,
)  # fmt: skip
def test_distances(key: OpKey, ordered: int, distance: int | None) -> None:
    assert overlap_distance(key, ordered) == distance


def chain() -> KernelGraph:
    b = Builder(0, integer=True)
    x = b.conv(b.input(1, 8, 8, 8), 16, 3)
    return lower(b.network(b.conv(b.depthwise(x), 32), b.gap(x)))


def test_an_output_may_start_so_far_below_its_input_and_no_later() -> None:
    b = Builder(0, integer=True)
    x = b.conv(b.input(1, 8, 8, 8), 16, 3)
    graph = lower(b.network(b.gap(b.depthwise(x))))
    ordered = [8, 8, 0]
    planned = plan(graph, (), 16, ordered_pixels=ordered, exact=True)
    check_plan(graph, planned, (), ordered)
    low, high = sorted(planned.buffers[:2], key=lambda buffer: buffer.offset_bytes)
    assert (low.first, high.first) == (1, 0)
    assert high.offset_bytes - low.offset_bytes == 2 * 8 * 16
    assert planned.arena_bytes == planned.lower_bound_bytes == 10 * 8 * 16
    nearer = tuple(
        replace(buffer, offset_bytes=buffer.offset_bytes - 16) if buffer == high else buffer
        for buffer in planned.buffers
    )
    with pytest.raises(PlanError, match="overlap while both are live"):
        check_plan(graph, replace(planned, buffers=nearer), (), ordered)
    with pytest.raises(PlanError, match="overlap while both are live"):
        check_plan(graph, planned)  # where nothing was promised
    with pytest.raises(PlanError, match="overlap while both are live"):
        check_plan(graph, planned, (), [8, 16, 0])  # it works on two rows at a time


def test_an_input_that_is_read_again_later_is_not_run_into() -> None:
    graph = chain()
    ordered = [key.out_shape[1] if len(key.out_shape) == 3 else 0 for key in graph.keys]
    graph = order_for_memory(graph, (), ordered)
    planned = plan(graph, (), 16, ordered_pixels=ordered, exact=True)
    check_plan(graph, planned, (), ordered)
    assert planned.gap_bytes == 0


def test_a_plan_below_what_was_proven_is_not_believed() -> None:
    graph = chain()
    planned = plan(graph)
    with pytest.raises(PlanError, match="fewer than were proven to be needed"):
        check_plan(graph, replace(planned, proven_bytes=planned.arena_bytes + 16))


def test_exact_plans_are_the_same_every_time() -> None:
    graph = chain()
    assert plan(graph, exact=True) == plan(graph, exact=True)


def test_an_output_that_takes_exactly_its_inputs_place() -> None:
    b = Builder(0, integer=True)
    x = b.conv(b.input(1, 8, 8, 8), 16, 3)
    graph = lower(b.network(b.gap(b.depthwise(x))))
    ordered = [0, SAME_PLACE, 0]
    planned = plan(graph, (), 16, ordered_pixels=ordered, exact=True)
    check_plan(graph, planned, (), ordered)
    assert planned.arena_bytes == 8 * 8 * 16
    lower_by_a_row = tuple(
        replace(buffer, offset_bytes=128 if buffer.first == 0 else buffer.offset_bytes)
        for buffer in planned.buffers
    )
    moved = replace(planned, buffers=lower_by_a_row, arena_bytes=planned.arena_bytes + 128)
    with pytest.raises(PlanError, match="overlap while both are live"):
        check_plan(graph, moved, (), ordered)

"""Reordering branches: values stay, the largest live set never grows, and shrinks where it can."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Builder, mobilenet, random_inputs
from test_plan import random_graph

from edgeopt.codegen.lower import lower
from edgeopt.codegen.order import order_for_memory
from edgeopt.codegen.plan import check_plan, plan
from edgeopt.codegen.reference import run_kernels
from edgeopt.core.kernels import KernelGraph


def fan() -> KernelGraph:
    """Two branches that widen first and end small; written so that both are wide at once."""
    b = Builder(0)
    x = b.conv(b.input(1, 8, 8, 4), 4)
    wide = [b.conv(x, 32) for _ in range(3)]
    small = [b.conv(y, 2) for y in wide]
    return lower(b.network(b.op("concat", tuple(small), (1, 8, 8, 6), {"axis": 3})))


def test_branches_are_finished_one_after_another() -> None:
    graph = fan()
    ordered = order_for_memory(graph)
    assert sorted(k.name for k in ordered.kernels) == sorted(k.name for k in graph.kernels)
    pixel = 8 * 8 * 4
    assert plan(graph).lower_bound_bytes == pixel * (3 * 32 + 4)
    assert plan(ordered).lower_bound_bytes == pixel * (4 + 32 + 2 + 2)


def test_a_network_without_choice_stays_as_it_is() -> None:
    for integer in (True, False):
        graph = lower(mobilenet(0, integer=integer))
        assert order_for_memory(graph) is graph


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_order_is_valid_and_never_worse(data: Any) -> None:
    graph = random_graph(data, data.draw(st.booleans()))
    scratch = {k.name: data.draw(st.sampled_from([0, 64, 512])) for k in graph.kernels}
    ordered = order_for_memory(graph, scratch)
    planned = plan(ordered, scratch, 4)
    check_plan(ordered, planned, scratch)
    assert planned.lower_bound_bytes <= plan(graph, scratch, 4).lower_bound_bytes
    inputs = random_inputs(graph)
    expected = run_kernels(graph, inputs)
    for name, value in run_kernels(ordered, inputs).items():
        np.testing.assert_array_equal(value, expected[name])


def test_small_graphs_get_the_best_order_there_is() -> None:
    graph = fan()
    producers = {kernel.output: kernel for kernel in graph.kernels}
    best = 10**9
    for order in itertools.permutations(graph.kernels[1:-1]):
        kernels = (graph.kernels[0], *order, graph.kernels[-1])
        seen: set[str] = set(graph.inputs)
        for kernel in kernels:
            if any(name in producers and name not in seen for name in kernel.inputs):
                break
            seen.add(kernel.output)
        else:
            best = min(best, plan(replace(graph, kernels=kernels)).lower_bound_bytes)
    assert plan(order_for_memory(graph)).lower_bound_bytes == best

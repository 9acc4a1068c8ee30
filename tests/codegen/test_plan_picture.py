"""The picture of a memory plan: every buffer where it lies, the peak marked."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from networks import mobilenet

from edgeopt.codegen.lower import lower
from edgeopt.codegen.plan import plan
from edgeopt.codegen.plan_picture import live_bytes, peak, svg

TAG = "{http://www.w3.org/2000/svg}"


def test_every_buffer_is_drawn_to_scale_and_the_peak_is_named() -> None:
    graph = lower(mobilenet(3, integer=True))
    planned = plan(graph, [64] * len(graph.kernels), exact=True)
    root = ET.fromstring(svg(graph, planned))
    drawn = {
        rect[0].text.partition(": bytes")[0]: rect  # type: ignore[union-attr]
        for rect in root.iter(f"{TAG}rect")
        if len(rect)
    }
    assert drawn.keys() == {buffer.name for buffer in planned.buffers}
    scale = 300 / planned.arena_bytes
    for buffer in planned.buffers:
        rect = drawn[buffer.name]
        assert abs(float(rect.attrib["height"]) - max(1, buffer.size_bytes * scale)) < 0.01
        low = 46 + 300 - float(rect.attrib["y"]) - buffer.size_bytes * scale
        assert abs(low - buffer.offset_bytes * scale) < 0.02
    texts = " ".join(text.text or "" for text in root.iter(f"{TAG}text"))
    at = peak(planned.buffers, len(graph.kernels))
    assert f"peak at kernel {at}: {graph.kernels[at].name}" in texts
    assert "proven smallest" in texts
    assert svg(graph, planned) == svg(graph, planned)


def test_the_peak_is_where_most_is_in_use() -> None:
    graph = lower(mobilenet(4, integer=True))
    planned = plan(graph)
    live = live_bytes(planned.buffers, len(graph.kernels))
    assert max(live) >= planned.lower_bound_bytes - 16 * len(planned.buffers)
    assert max(live) <= planned.arena_bytes


def test_names_are_escaped() -> None:
    from dataclasses import replace

    graph = lower(mobilenet(3))
    first = graph.kernels[0]
    graph = replace(graph, kernels=(replace(first, name="<b>&"), *graph.kernels[1:]))
    ET.fromstring(svg(graph, plan(graph)))

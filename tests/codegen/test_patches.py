"""The first kernels in strips of rows: the same values, in less memory, for work that is stated."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from firmware_library import main_program
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Builder, random_inputs
from test_plan import run_in_arena

from edgeopt import devices
from edgeopt.codegen import ckernels, emit, patches, runner
from edgeopt.codegen.lower import lower
from edgeopt.codegen.plan import plan
from edgeopt.codegen.plan_check import PlanError, check_plan
from edgeopt.codegen.reference import run_kernels, run_network
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import KernelGraph, MemoryPlan
from edgeopt.core.network import Network
from edgeopt.pipeline.artifact import make_artifact


def rows_of(graph: KernelGraph) -> list[int]:
    """Kernels that finish whole rows."""
    return [key.out_shape[1] if len(key.out_shape) == 3 else 0 for key in graph.keys]


def planned(graph: KernelGraph) -> MemoryPlan:
    made = plan(graph, (), 16, ordered_pixels=rows_of(graph))
    check_plan(graph, made, (), rows_of(graph))
    return made


def network(data: Any, integer: bool) -> Network:
    """Convolutions of many windows, residuals among them, that end in a small map."""
    draw = data.draw
    b = Builder(draw(st.integers(0, 99)), integer=integer)
    x = b.input(1, draw(st.sampled_from([16, 20, 32])), 16, 4)
    for _ in range(draw(st.integers(2, 6))):
        kind = draw(st.sampled_from(["conv", "depthwise", "stride", "pointwise", "residual"]))
        channels = draw(st.sampled_from([4, 8, 16]))
        if kind == "residual":
            x = b.add(b.conv(b.depthwise(x), b.tensors[x].shape[-1]), x)
        elif kind == "pointwise":
            x = b.conv(x, channels)
        elif kind == "conv":
            x = b.conv(x, channels, draw(st.sampled_from([3, 5])))
        elif kind == "depthwise":
            x = b.depthwise(x, draw(st.sampled_from([3, 5])))
        else:
            x = b.conv(x, channels, 3, 2)
    return b.network(b.linear(b.reshape(b.gap(x), 1, b.tensors[x].shape[-1]), 4))


@settings(max_examples=50)
@given(st.data(), st.booleans())
def test_strips_compute_what_the_whole_network_computes(data: Any, integer: bool) -> None:
    net = network(data, integer)
    graph = lower(net)
    lengths = list(patches.stages(graph))
    if not lengths:
        return
    made = patches.divided(graph, data.draw(st.sampled_from(lengths)), data.draw(st.integers(2, 5)))
    if made is None:
        return
    inputs = random_inputs(graph)
    expected = run_kernels(graph, inputs)
    found = run_kernels(made, inputs)
    in_arena = run_in_arena(made, planned(made), inputs, rows_of(made))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        np.testing.assert_array_equal(in_arena[name], value)
    if integer:
        for name, value in run_network(net, inputs).items():
            np.testing.assert_array_equal(found[name], value)
    assert patches.macs(made) >= patches.macs(graph)


def wide(seed: int = 0) -> Network:
    """First maps far larger than the others, with a residual among the first kernels."""
    b = Builder(seed, integer=True)
    x = b.conv(b.input(1, 32, 32, 4), 16, 3)
    x = b.add(b.conv(b.depthwise(x), 16), x)
    x = b.conv(b.depthwise(x, 3, 2), 16)
    x = b.conv(b.depthwise(x, 3, 2), 16)
    return b.network(b.linear(b.reshape(b.gap(x), 1, 16), 4))


def test_the_peak_falls_and_the_cost_is_stated() -> None:
    graph = lower(wide())
    found = patches.best(graph, planned)
    assert found is not None
    made, info = found
    assert planned(made).arena_bytes < 0.6 * planned(graph).arena_bytes == 0.6 * info.whole_bytes
    assert info.extra_macs == patches.macs(made) - patches.macs(graph) > 0
    assert len(made.kernels) == len(graph.kernels) + info.kernels * (info.strips - 1)
    share = 100 * info.extra_macs / info.macs
    assert f"{info.strips} strips of rows" in str(info)
    assert f"({share:.1f} % more)" in str(info)


def test_a_given_number_of_strips_is_kept() -> None:
    graph = lower(wide())
    found = patches.best(graph, planned, 3)
    assert found is not None
    assert found[1].strips == 3


def test_small_first_maps_stay_whole() -> None:
    b = Builder(0, integer=True)
    x = b.conv(b.conv(b.input(1, 8, 8, 4), 4, 3, 2), 64)
    graph = lower(b.network(b.gap(b.conv(x, 64))))
    assert patches.best(graph, planned) is None


def test_parts_that_lie_elsewhere_are_caught() -> None:
    graph = lower(wide())
    made = patches.divided(graph, next(iter(patches.stages(graph))), 2)
    assert made is not None
    good = planned(made)
    name, whole = next(iter(made.offsets)), made.tensors[made.aliases[next(iter(made.offsets))]]
    for offset, message in [(whole.size_bytes, "lies outside"), (8, "not aligned"),
                            (-16, "lies outside")]:  # fmt: skip
        broken = replace(made, offsets={**made.offsets, name: offset})
        with pytest.raises(PlanError, match=message):
            check_plan(broken, good, (), rows_of(made))


@pytest.mark.parametrize("wanted", ["auto", "4"])
def test_generated_c_runs_in_strips(
    wanted: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """The self-test of a network in strips, compiled for this machine, equals the reference."""
    gcc = needs_tool("gcc")
    target = devices.load("rpi-pico").target
    net = wide(1)
    made = make_artifact(net, target, patches=wanted)
    whole = make_artifact(net, target)
    assert made.patches is not None
    assert whole.patches is None
    assert made.plan.arena_bytes < whole.plan.arena_bytes == made.patches.whole_bytes
    assert made.weight_bytes == whole.weight_bytes  # strips share their constants
    inputs = random_inputs(whole.graph)
    result = run_kernels(whole.graph, inputs, fixed=True)
    kernels = ckernels.source(made.graph.keys, target, runner.kernel_prefix("net"))
    code = emit.render(
        made.graph, made.plan, made.functions, made.constants, {"kernels.c": kernels.encode()},
        name="net", origin=emit.Origin("test"),
        vectors=TestVectors({n: v[None] for n, v in inputs.items()},
                            {n: v[None] for n, v in result.items()}),
    )  # fmt: skip
    for path, content in code.files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "main.c").write_text(main_program())
    sources = [path for path in code.files if path.startswith(("src/", "kernels/"))
               and path.endswith(".c")]  # fmt: skip
    command = [gcc, "-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror",
               "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Iinclude", "-Isrc",
               "main.c", *sources, "-lm", "-o", "app"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "app"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bad_requests_are_refused() -> None:
    target = devices.load("rpi-pico").target
    for wanted in ("1", "many", "-2", "²", "10000"):
        with pytest.raises(InputError, match=r"no number of strips[\s\S]*off, auto"):
            make_artifact(wide(), target, patches=wanted)
    b = Builder(0, integer=True)
    small = b.network(b.linear(b.input(1, 16), 4))
    with pytest.raises(InputError, match="does not make the arena smaller"):
        make_artifact(small, target, patches="3")
    assert make_artifact(small, target, patches="auto").patches is None

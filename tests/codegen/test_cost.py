"""What search is told of RAM and flash, against what the build makes of the same network."""

from __future__ import annotations

import random

import numpy as np
import pytest
from kernel_harness import HOST, NEON
from networks import Builder, mobilenet

from edgeopt.codegen import build, cost, schedules
from edgeopt.codegen.lower import lower, lower_shapes
from edgeopt.codegen.objects import object_size
from edgeopt.codegen.plan import check_plan
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.ofa.describe import describe
from edgeopt.ofa.spaces import load_space


@pytest.mark.parametrize("target", [HOST, NEON], ids=["x86_64", "aarch64"])
@pytest.mark.parametrize("integer", [False, True])
def test_bytes_are_those_of_the_packed_network(target: TargetSpec, integer: bool) -> None:
    graph = lower(mobilenet(1, integer=integer))
    packed, scratch = 0, {}
    for kernel in graph.kernels:
        template = schedules.select(kernel.key, target)
        assert template is not None
        arrays = template.pack(kernel.key, target, kernel.constants)
        packed += sum(array.nbytes for array in arrays.values())
        scratch[kernel.name] = template.function(kernel.key, target).scratch_bytes
    assert cost.flash_bytes(graph, target)[0] == packed
    assert cost.scratch_bytes(graph, target) == scratch
    planned = cost.memory(graph, target)
    check_plan(graph, planned, scratch)
    assert planned.alignment_bytes == 64


@pytest.mark.parametrize("precision", ["f32", "i8"])
def test_evaluate_agrees_with_its_parts(precision: str) -> None:
    space = load_space("cifar")
    for seed in range(3):
        network = describe(space, space.sample(random.Random(seed)))
        found = cost.evaluate(network, precision, NEON)
        graph = lower_shapes(network, precision)
        planned = cost.memory(graph, NEON)
        assert found.keys == graph.keys
        assert found.arena_bytes == planned.arena_bytes
        assert found.lower_bound_bytes == planned.lower_bound_bytes
        assert (found.weight_bytes, found.code_bytes_estimate) == cost.flash_bytes(graph, NEON)
        assert found.flash_bytes_estimate == found.weight_bytes + found.code_bytes_estimate
        assert found == cost.evaluate(network, precision, NEON)  # nothing remembered changes it


def test_int8_takes_about_a_quarter() -> None:
    space = load_space("cifar")
    network = describe(space, space.max_config())
    real, stored = (cost.evaluate(network, p, HOST) for p in ("f32", "i8"))
    assert stored.weight_bytes < 0.35 * real.weight_bytes
    assert stored.arena_bytes < 0.5 * real.arena_bytes


def test_kernels_without_a_template_still_cost_something() -> None:
    key = OpKey("fallback", (8,), (8,), variant="x")
    assert set(cost.code_bytes(key, HOST).values()) == {cost.FALLBACK_CODE_BYTES}
    b = Builder(0)
    b.op("onnx", (b.input(1, 8),), (1, 8), {"node": b"z" * 321})
    weights, code = cost.flash_bytes(lower(b.network()), HOST)
    assert (weights, code) == (321, cost.FALLBACK_CODE_BYTES)


def test_a_kernel_that_runs_twice_is_stored_once_as_code_and_twice_as_weights() -> None:
    b = Builder(0)
    x = b.conv(b.input(1, 4, 4, 8), 8)
    once = cost.flash_bytes(lower(b.network(x)), HOST)
    twice = cost.flash_bytes(lower(b.network(b.conv(x, 8))), HOST)
    assert twice == (2 * once[0], once[1])


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="precision 'i3' is not known"):
        cost.evaluate(mobilenet(), "i3", HOST)


@pytest.mark.slow
def test_the_estimate_of_code_is_near_what_compiles() -> None:
    """Within a factor of two for whole networks: weights are many times larger."""
    space = load_space("cifar")
    for precision in ("f32", "i8"):
        network = describe(space, space.sample(random.Random(7)))
        found = cost.evaluate(network, precision, NEON)
        made = object_size(build.compile_kernels(found.keys, NEON)).code_bytes
        assert np.log2(found.code_bytes_estimate / made) == pytest.approx(0, abs=1)

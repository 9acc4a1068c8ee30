"""Inverted residual blocks in one kernel: when they are, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_harness import AVX512, HOST, NEON, link, run
from networks import Builder, random_inputs

from edgeopt.codegen import build, cost, schedules
from edgeopt.codegen.blocks import fused
from edgeopt.codegen.lower import lower
from edgeopt.codegen.reference import run_kernel, run_kernels, run_network
from edgeopt.codegen.schedules.gemm import GEMM
from edgeopt.codegen.schedules.irb import plans
from edgeopt.core.kernels import Kernel, KernelGraph, OpKey
from edgeopt.core.network import Network
from edgeopt.pipeline.artifact import make_artifact
from edgeopt.pipeline.kernel_constants import constants_of
from tests.emulated.shapes import block

#: Caches so small that the blocks of small networks leave them.
SMALL = replace(HOST, l2_bytes=12000)


def ops(graph: KernelGraph) -> list[str]:
    return [kernel.key.op for kernel in graph.kernels]


def network(seed: int = 0, *, integer: bool = False) -> Network:
    """Two blocks of MobileNetV2, one that shrinks the map and one with a residual."""
    b = Builder(seed, integer=integer)
    x = b.act(b.conv(b.input(1, 32, 32, 3), 8, 3, 2), "relu6")
    x = b.bottleneck(x, 24, 12, 3, 2, "relu6", False)
    x = b.bottleneck(x, 48, 12, 5, 1, "relu6", False)
    return b.network(b.linear(b.reshape(b.gap(x), 1, 12), 5))


@pytest.mark.parametrize("seed", range(3))
def test_a_fused_network_computes_the_same(seed: int) -> None:
    net = network(seed)
    graph = fused(lower(net), SMALL)
    assert ops(graph) == ["conv2d", "irb", "irb", "global_avgpool", "linear"]
    values = random_inputs(net, seed)
    (wanted,) = run_network(net, values).values()
    (found,) = run_kernels(graph, values).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert [len(kernel.sources) for kernel in graph.kernels] == [2, 5, 6, 1, 1]


def test_only_where_the_map_leaves_the_cache_and_its_rows_do_not() -> None:
    graph = lower(network())
    widened = [4 * 16 * 16 * 24, 4 * 8 * 8 * 48]  # bytes
    in_work = [4 * 24 * (3 * 16 + 8), 4 * 48 * (5 * 8 + 8)]
    for l2_bytes in (*widened, *in_work, *(n - 1 for n in (*widened, *in_work))):
        target = replace(HOST, l2_bytes=l2_bytes)
        pairs = zip(widened, in_work, strict=True)
        expected = sum(whole > l2_bytes >= some for whole, some in pairs)
        assert ops(fused(graph, target)).count("irb") == expected


def test_not_for_several_threads_nor_without_vectors_nor_in_int8() -> None:
    graph = lower(network())
    assert fused(graph, replace(SMALL, threads=2)) is graph
    assert fused(graph, replace(SMALL, vector_bits=32)) is graph
    integer = lower(network(integer=True))
    assert fused(integer, SMALL) is integer


def unfused_network(case: str) -> Network:
    b = Builder(1)
    x = b.input(1, 16, 16, 8)
    wide = b.conv(x, 32, 3 if case == "first is no pointwise" else 1)
    wide = b.act(wide, "relu6")
    if case == "depthwise dilated":
        middle = b.conv(wide, 32, 3, groups=32, dilation=2)
    elif case == "channels multiplied":
        middle = b.conv(wide, 64, 3, groups=32)
    else:
        middle = b.depthwise(wide)
    middle = b.act(middle, "relu" if case == "other activation" else "relu6")
    if case == "residual within":
        middle = b.add(middle, wide)
    if case == "squeezed":
        middle = b.squeeze_excite(middle, 8)
    last = b.conv(middle, 8, 3 if case == "last is no pointwise" else 1)
    outputs = [b.add(last, x)]
    if case == "first is an output":
        outputs.append(wide)
    if case == "depthwise is an output":
        outputs.append(middle)
    if case == "first read twice":
        outputs.append(b.gap(wide))
    if case == "depthwise read twice":
        outputs.append(b.conv(middle, 4))
    if case == "output under another name":
        outputs.append(b.reshape(middle, 1, 16 * 16 * 32))
    return b.network(*outputs)


@pytest.mark.parametrize(
    "case",
    ["first is no pointwise", "last is no pointwise", "depthwise dilated", "other activation",
     "residual within", "squeezed", "first is an output", "depthwise is an output",
     "first read twice", "depthwise read twice", "channels multiplied",
     "output under another name"],
)  # fmt: skip
def test_what_is_no_block_stays(case: str) -> None:
    graph = lower(unfused_network(case))
    assert ops(fused(graph, SMALL)) == ops(graph)
    assert "irb" in ops(fused(lower(unfused_network("")), SMALL))


def test_the_arena_shrinks() -> None:
    b = Builder(0)
    x = b.act(b.input(1, 16, 16, 8), "relu")
    graph = lower(b.network(b.gap(b.bottleneck(x, 24, 12, 3, 2, "relu6", False))))
    before, after = cost.memory(graph, SMALL), cost.memory(fused(graph, SMALL), SMALL)
    # The map and the widened map before; now the map, the rows in work and the output.
    assert before.arena_bytes == 4 * 16 * 16 * (8 + 24)
    assert after.arena_bytes == 4 * (16 * 16 * 8 + 24 * (3 * 16 + 8) + 8 * 8 * 12)


def test_search_and_build_see_the_same_kernels() -> None:
    net = network()
    artifact, found = make_artifact(net, SMALL), cost.evaluate(net, "f32", SMALL)
    assert artifact.graph.keys == found.keys
    assert artifact.plan.arena_bytes == found.arena_bytes
    assert artifact.weight_bytes == found.weight_bytes
    assert {function.template for function in artifact.functions} >= {"irb"}


@st.composite
def block_keys(draw: st.DrawFn) -> OpKey:
    kernel = draw(st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2))
    stride = draw(st.tuples(st.integers(1, kernel[0]), st.integers(1, 2)))
    low = [max(draw(st.integers(1, 14)), k) for k in kernel]
    pads = tuple(draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4))
    channels = draw(st.tuples(st.integers(1, 40), st.integers(2, 60), st.integers(1, 40)))
    key = block(
        (low[0], low[1]), channels, kernel, stride=stride, pads=pads,
        activation=draw(st.sampled_from(["none", "relu6", "hardswish"])),
    )  # fmt: skip
    return replace(key, residual=draw(st.booleans()))


@settings(max_examples=2, phases=[Phase.generate], deadline=None)
@given(st.lists(block_keys(), min_size=12, max_size=12, unique=True), st.integers(0, 1000))
@pytest.mark.usefixtures("host_is_x86_64_v3")
def test_a_block_computes_what_its_parts_do(
    tmp_path_factory: pytest.TempPathFactory, keys: list[OpKey], seed: int
) -> None:
    every = list(dict.fromkeys(part for key in keys for part in (key, *key.parts)))
    library = link(build.compile_kernels(every, HOST), tmp_path_factory.mktemp("blocks"))
    rng = np.random.default_rng(seed)
    for key in keys:
        constants = constants_of(key, seed)
        shapes = [key.in_shape, key.out_shape][: 1 + key.residual]
        inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        found = run(library, key, HOST, inputs, constants)
        wanted = run_kernel(Kernel("k", key, (), "y", constants), inputs)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
        apart = inputs[0]
        for part, suffix in zip(key.parts, ("1", "d", "2"), strict=True):
            own = {name: constants[name + suffix] for name in "wb"}
            given_ = [apart, *inputs[1:]] if part.residual else [apart]
            apart = run(library, part, HOST, given_, own)
        first, _, last = plans(key, HOST)
        wholes = [GEMM.plan(part, HOST).split for part in (key.parts[0], key.parts[2])]
        if wholes == [first.split, last.split]:  # sums are added in the same order
            np.testing.assert_array_equal(found, apart)


def test_scratch_is_the_rows_in_work() -> None:
    key = block((56, 56), (24, 144, 24))
    for target in (HOST, AVX512, NEON):
        template = schedules.select(key, target)
        assert template is not None and template.name == "irb"
        assert template.function(key, target).scratch_bytes == 4 * 144 * (3 * 56 + 56)

"""Every tiling of a kernel computes the same; lists are short and tell tilings apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules import CONVS, as_int8

from edgeopt.codegen import build, schedules
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

TARGETS = (harness.HOST, harness.AVX512, harness.NEON, harness.DOTPROD)


def candidates(key: OpKey, target: TargetSpec) -> tuple[Choice, ...]:
    template = schedules.select(key, target)
    assert template is not None
    return template.candidates(key, target)


@st.composite
def keys(draw: st.DrawFn) -> OpKey:
    size = draw(st.integers(1, 12))
    kernel, stride = draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([1, 2]))
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    op = draw(st.sampled_from(["pointwise", "depthwise", "conv2d"]))
    if op == "pointwise":
        kernel, stride = 1, 1
    if op == "depthwise":
        kernel, outputs = max(kernel, 3), inputs
    pad = kernel // 2
    out = (size + 2 * pad - kernel) // stride + 1
    key = OpKey(
        op, (size, size, inputs), (out, out, outputs), kernel=(kernel, kernel),
        strides=(stride, stride), pads=(pad,) * 4,
        groups=inputs if op == "depthwise" else 1,
        activation=draw(st.sampled_from(["none", "relu", "hardswish"])),
    )  # fmt: skip
    return draw(st.sampled_from([key, as_int8(key)]))


def check_all(todo: list[OpKey], folder: Path, seed: int = 0) -> None:
    tilings = [(key, c) for key in todo for c in candidates(key, harness.HOST)]
    library = harness.link(build.compile_kernels((), harness.HOST, choices=tilings), folder)
    for key in todo:
        inputs, constants = harness.case(key, seed)
        expected = harness.reference(key, inputs, constants)
        for choice in candidates(key, harness.HOST):
            got = harness.run(library, key, harness.HOST, inputs, constants, choice)
            harness.check(key, got, expected)


@pytest.mark.usefixtures("host_is_x86_64_v3")
@pytest.mark.parametrize("integer", [False, True], ids=["f32", "i8"])
def test_every_tiling_computes_the_same(integer: bool, tmp_path: Path) -> None:
    chosen = [CONVS[i] for i in (1, 3, 4, 5, 7, 11, 12, 13, 14, 18)]
    check_all([as_int8(key) for key in chosen] if integer else chosen, tmp_path)


@pytest.mark.usefixtures("host_is_x86_64_v3")
@settings(max_examples=12, deadline=None, derandomize=True)
@given(key=keys(), seed=st.integers(0, 1000))
def test_tilings_of_random_kernels(
    key: OpKey, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_all([key], tmp_path_factory.mktemp("kernels"), seed)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(key=keys())
def test_lists_are_short_and_begin_with_the_model(key: OpKey) -> None:
    for target in TARGETS:
        found = candidates(key, target)
        assert found[0] == MODEL and len(found) <= 10
        assert len(set(found)) == len(found)
        template = schedules.select(key, target)
        assert template is not None
        wide = template.candidates(key, target, 40)
        assert wide[0] == MODEL and len(found) <= len(wide) <= 40


def test_ordinary_layers_have_a_choice() -> None:
    for key in (
        OpKey("pointwise", (14, 14, 80), (14, 14, 480)),
        OpKey("depthwise", (14, 14, 480), (14, 14, 480), kernel=(3, 3), pads=(1,) * 4, groups=480),
        OpKey("conv2d", (56, 56, 64), (56, 56, 64), kernel=(3, 3), pads=(1, 1, 1, 1)),
    ):
        for target in TARGETS:
            assert len(candidates(key, target)) >= 4, (str(key), target.mcpu)
            assert len(candidates(as_int8(key), target)) >= 3, (str(key), target.mcpu)


def test_kernels_without_anything_open_have_no_list() -> None:
    key = OpKey("softmax", (10,), (10,))
    assert candidates(key, harness.HOST) == ()


def test_a_choice_past_the_layer_is_cut_to_it() -> None:
    key = replace(CONVS[0], in_shape=(1, 1, 24), out_shape=(1, 1, 16))
    template = schedules.select(key, harness.HOST, Choice(12, 30))
    assert template is not None and template.choice == Choice(12, 30)
    function = template.function(key, harness.HOST)
    assert function.symbol.endswith("_12x30") and function.choice == Choice(12, 30)

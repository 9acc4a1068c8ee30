"""3x3 convolutions in Winograd's domain: errors within the bound, chosen where they pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.codegen import build, schedules
from edgeopt.codegen.schedules import winograd_plan
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.core.choice import Choice
from edgeopt.core.kernels import OpKey

FORMS = (Choice(form="w2"), Choice(form="w4"))


def conv(height: int, width: int, inputs: int, outputs: int, pads: tuple[int, ...]) -> OpKey:
    out = (height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2, outputs)
    return OpKey("conv2d", (height, width, inputs), out, kernel=(3, 3), pads=pads)  # type: ignore[arg-type]


@st.composite
def keys(draw: st.DrawFn) -> OpKey:
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    height, width = draw(st.integers(1, 15)), draw(st.integers(1, 15))
    height, width = max(height, 3 - pads[0] - pads[2]), max(width, 3 - pads[1] - pads[3])
    key = conv(height, width, draw(st.integers(1, 40)), draw(st.integers(1, 40)), pads)
    residual = draw(st.booleans())
    return replace(
        key, activation=draw(st.sampled_from(["none", "relu"])), residual=residual,
        residual_activation=draw(st.sampled_from(["none", "relu"])) if residual else "none",
    )  # fmt: skip


def bound(key: OpKey, side: int, x: np.ndarray, constants: dict[str, np.ndarray]) -> np.ndarray:
    """Of the products' errors, and of adding bias and residual."""
    rows, cols = (-(-size // side) * side + 2 for size in key.out_shape[:2])
    padded = np.zeros((rows, cols, key.in_shape[2]), np.float32)
    top, left = key.pads[:2]
    height, width = min(rows - top, key.in_shape[0]), min(cols - left, key.in_shape[1])
    padded[top : top + height, left : left + width] = x[:height, :width]
    found = winograd_plan.error_bound(side, padded, constants["w"])
    return found[: key.out_shape[0], : key.out_shape[1]]


@pytest.mark.usefixtures("host_is_x86_64_v3")
@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.lists(keys(), min_size=3, max_size=3), st.integers(0, 1000))
def test_errors_are_bounded(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[OpKey], seed: int
) -> None:
    tilings = [(key, form) for key in dict.fromkeys(chosen) for form in FORMS]
    data = build.compile_kernels((), harness.HOST, choices=tilings)
    library = harness.link(data, tmp_path_factory.mktemp("winograd"))
    for key, form in tilings:
        inputs, constants = harness.case(key, seed)
        got = harness.run(library, key, harness.HOST, inputs, constants, form)
        want = harness.reference(key, inputs, constants)
        allowed = bound(key, int(form.form[1:]), inputs[0], constants)
        allowed += 2.0**-22 * (np.abs(want) + 10)
        worst = (np.abs(got - want) / allowed).max()
        assert worst <= 1, f"{key} {form}: {worst:.2f} times the bound"


def test_the_bound_is_near_what_a_direct_sum_has() -> None:
    """The points of 4x4 tiles were chosen for that."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 6, 64)).astype(np.float32)
    w = rng.standard_normal((8, 3, 3, 64)).astype(np.float32)
    found = [float(winograd_plan.error_bound(side, x, w).max()) for side in (2, 4)]
    direct = 576 * 2.0**-24 * float(np.abs(w).sum(axis=(1, 2, 3)).max() * np.abs(x).max())
    assert found[0] < direct and found[1] < 4 * direct


@pytest.mark.parametrize("side", [2, 4])
def test_the_transforms_are_a_convolution(side: int) -> None:
    rng = np.random.default_rng(side)
    d, w = rng.standard_normal((side + 2, side + 2)), rng.standard_normal((3, 3))
    before, g = winograd_plan.input_transform(side), winograd_plan.weight_transform(side)
    after = winograd_plan.output_transform(side)
    found = after @ ((g @ w @ g.T) * (before @ d @ before.T)) @ after.T
    wanted = [
        [(d[i : i + 3, j : j + 3] * w).sum() for j in range(side)] for i in range(side)
    ]  # fmt: skip
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_it_is_chosen_where_it_pays() -> None:
    isa = isa_of(harness.HOST)
    assert isa is not None
    same = (1, 1, 1, 1)
    plan = winograd_plan.plan_of(conv(56, 56, 64, 64, same), isa)
    assert plan is not None and plan.outputs_side == 4
    late = winograd_plan.plan_of(conv(7, 7, 512, 512, same), isa)
    assert late is not None and late.outputs_side == 2  # a quarter less to read than with 4
    assert winograd_plan.plan_of(conv(224, 224, 3, 32, same), isa) is None
    strided = replace(conv(9, 9, 64, 64, same), out_shape=(5, 5, 64), strides=(2, 2))
    assert winograd_plan.plan_of(strided, isa) is None
    integer = replace(conv(9, 9, 64, 64, same), dtype="i8", out_dtype="i8")
    assert winograd_plan.plan_of(integer, isa) is None


def test_a_choice_names_the_way(tmp_path: Path) -> None:
    key = conv(14, 14, 32, 32, (1, 1, 1, 1))
    names = {"d": "gemm", "w2": "winograd", "w4": "winograd"}
    for form, name in names.items():
        template = schedules.select(key, harness.HOST, Choice(form=form))
        assert template is not None and template.name == name
    own = schedules.select(key, harness.HOST)
    assert own is not None
    listed = own.candidates(key, harness.HOST)
    assert {choice.form for choice in listed} >= {"d", "w2"}

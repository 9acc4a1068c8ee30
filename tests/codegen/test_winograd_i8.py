"""Int8 3x3 convolutions in Winograd's domain: exact, and chosen where they pay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_schedules import parity

from edgeopt.codegen import build, schedules
from edgeopt.codegen.schedules import winograd_i8
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.codegen.schedules.template import Template
from edgeopt.codegen.schedules.winograd_i8_plan import MOST_CHANNELS, applies
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from tests.emulated import machines
from tests.emulated.machines import BY_NAME


def conv(
    height: int, width: int, inputs: int, outputs: int, pads: tuple[int, int, int, int], **more: str
) -> OpKey:
    out = (height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2, outputs)
    return OpKey(
        "conv2d", (height, width, inputs), out, "i8", "i8", kernel=(3, 3), pads=pads, **more
    )


@st.composite
def keys(draw: st.DrawFn) -> OpKey:
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    height, width = draw(st.integers(1, 13)), draw(st.integers(1, 13))
    height, width = max(height, 3 - pads[0] - pads[2]), max(width, 3 - pads[1] - pads[3])
    activation = draw(st.sampled_from(["none", "relu", "hardswish"]))
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return conv(height, width, inputs, outputs, pads, activation=activation)  # type: ignore[arg-type]


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The template is chosen wherever it applies, also where it does not pay."""

    def rule(key: OpKey, target: TargetSpec) -> Template | None:
        isa = isa_of(target)
        assert isa is not None
        return winograd_i8.WINOGRAD_I8 if applies(key, isa) else None

    monkeypatch.setattr(schedules, "RULES", (rule, *schedules.RULES))


@pytest.mark.usefixtures("host_is_x86_64_v3", "everywhere")
@settings(
    max_examples=5, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(st.lists(keys(), min_size=4, max_size=4), st.integers(0, 1000))
def test_any_map_is_exact(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[OpKey], seed: int
) -> None:
    assert all(schedules.select(key, harness.HOST).name == "winograd_i8" for key in chosen)
    parity(chosen, tmp_path_factory.mktemp("winograd"), seed)


@pytest.mark.usefixtures("host_is_x86_64_v3", "everywhere")
@pytest.mark.parametrize("signs", ["same", "checkered", "random"])
def test_the_largest_sums_do_not_overflow(signs: str, tmp_path: Path) -> None:
    key = conv(4, 4, MOST_CHANNELS, 16, (1, 1, 1, 1))
    inputs, constants = harness.case(key, 0)
    rng = np.random.default_rng(1)
    if signs == "same":
        inputs[0][...] = -128
        constants["w"][...] = -128
    elif signs == "checkered":
        checks = (np.indices(key.in_shape[:2]).sum(axis=0) % 2 * 255 - 128).astype(np.int8)
        inputs[0][...] = checks[..., None]
        checks = (np.indices((3, 3)).sum(axis=0) % 2 * -255 + 127).astype(np.int8)
        constants["w"][...] = checks[..., None]
    else:
        inputs[0][...] = rng.choice(np.array([-128, 127], np.int8), inputs[0].shape)
        constants["w"][...] = rng.choice(np.array([-128, 127], np.int8), constants["w"].shape)
    constants["multiplier"][...] = 100 / (9 * key.in_shape[2] * 128 * 128)
    library = harness.link(build.compile_kernels([key], harness.HOST), tmp_path)
    got = harness.run(library, key, harness.HOST, inputs, constants)
    harness.check(key, got, harness.reference(key, inputs, constants))


def test_wider_vectors_are_exact(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    machine = BY_NAME["avx512"]
    chosen = [conv(13, 14, 72, 40, (1, 1, 1, 1), activation="hardswish")]
    assert schedules.select(chosen[0], machine.target).name == "winograd_i8"
    machines.run(machine, chosen, tmp_path, needs_tool)


def test_it_is_chosen_where_it_pays() -> None:
    pads = (1, 1, 1, 1)
    deep = [conv(size, size, c, c, pads) for size, c in ((56, 64), (28, 128), (14, 256), (7, 512))]
    assert {schedules.select(key, harness.HOST).name for key in deep} == {"winograd_i8"}
    key = deep[0]
    others = (
        conv(224, 224, 3, 32, pads),
        conv(1, 1, 64, 64, pads),
        conv(14, 14, MOST_CHANNELS + 1, 64, pads),
        replace(key, strides=(2, 2), out_shape=(28, 28, 64)),
        replace(key, dilations=(2, 2), pads=(2, 2, 2, 2)),
        replace(key, groups=2),
    )
    assert {schedules.select(other, harness.HOST).name for other in others} == {"gemm"}
    # Where four bytes are multiplied at once, a direct convolution has fewer products already.
    assert schedules.select(key, harness.AVX512).name == "gemm"
    assert schedules.select(key, harness.NEON).name == "gemm"


def test_weights_are_four_times_the_exact_transform() -> None:
    key = conv(6, 6, 2, 8, (1, 1, 1, 1))
    _, constants = harness.case(key, 3)
    packed = winograd_i8.WINOGRAD_I8.pack(key, harness.HOST, constants)["weights"]
    exact = np.array([[-1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    want = 4 * np.einsum("ai,oijc,bj->aboc", exact, constants["w"].astype(float), exact)
    assert packed.size == math.prod(want.shape)
    assert (packed.reshape(want.shape) == want).all()

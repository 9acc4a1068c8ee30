"""Kernels divided between threads: every piece once, and the same bits for any number of parts."""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_schedules import CONVS, OTHERS

from edgeopt.codegen import build, schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.schedules import parts
from edgeopt.core.kernels import OpKey

BIG = (
    OpKey("pointwise", (28, 28, 48), (28, 28, 96), activation="relu6"),
    OpKey("conv2d", (57, 57, 3), (29, 29, 33), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    OpKey("depthwise", (7, 7, 960), (7, 7, 960), kernel=(5, 5), pads=(2, 2, 2, 2), groups=960),
    OpKey("linear", (1280,), (1000,)),
)
#: In Winograd's domain: several bands, and one.
WINOGRAD = (
    OpKey("conv2d", (30, 30, 24), (30, 30, 40), kernel=(3, 3), pads=(1, 1, 1, 1)),
    OpKey("conv2d", (7, 7, 64), (7, 7, 128), kernel=(3, 3), pads=(1, 1, 1, 1)),
)
#: The same in int8: one band, several, and several whose rows a table is applied to.
WINOGRAD_I8 = (
    WINOGRAD[1],
    OpKey("conv2d", (45, 44, 160), (45, 44, 24), kernel=(3, 3), pads=(1, 1, 1, 1)),
    OpKey(
        "conv2d", (45, 44, 160), (45, 44, 24), kernel=(3, 3), pads=(1, 1, 1, 1),
        activation="hardswish",
    ),
)  # fmt: skip


def integer(key: OpKey) -> OpKey:
    return replace(
        key, dtype="i8", out_dtype="i8", residual=False, residual_activation="none"
    )  # fmt: skip


def keys() -> list[OpKey]:
    """Of every template, in both precisions where it has them."""
    both = [*CONVS, *BIG]
    found = [*both, *map(integer, (*both, *WINOGRAD_I8)), *OTHERS, *WINOGRAD]
    return [key for key in dict.fromkeys(found) if schedules.select(key, harness.HOST)]


def outputs(folder: Path, threads: int, chosen: list[OpKey]) -> list[np.ndarray]:
    """Whatever the kernels write, parts called last to first: no part may rely on another."""
    target = replace(harness.HOST, threads=threads)
    folder.mkdir()
    library = harness.link(build.compile_kernels(chosen, target), folder)
    found = []
    for seed, key in enumerate(chosen):
        function = schedules.select(key, target).function(key, target)
        call = harness.arguments(key, target, *harness.case(key, seed))
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in call]
        for part in reversed(range(function.parts)):
            numbers = [ctypes.c_int32(part)] if function.parts > 1 else []
            assert getattr(library, symbol_of(key))(*pointers, *numbers) == 0
        kinds = [arg.kind for arg in function.args if arg.kind != "part"]
        found.append(call[kinds.index("output")])
    return found


@pytest.mark.usefixtures("host_is_x86_64_v3")
def test_parts_compute_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of every template, divided even where it does not pay."""
    chosen = keys()
    whole = outputs(tmp_path / "1", 1, chosen)
    monkeypatch.setattr(parts, "best", lambda threads, *_: parts.Division(threads, 1e9))
    divided = outputs(tmp_path / "3", 3, chosen)
    for key, expected, found in zip(chosen, whole, divided, strict=True):
        assert np.array_equal(expected.view(np.uint8), found.view(np.uint8)), key


@given(st.integers(1, 500), st.integers(1, 16))
def test_every_piece_belongs_to_one_part(count: int, number: int) -> None:
    bounds = [part * count // number for part in range(number + 1)]
    assert bounds[0] == 0 and bounds[-1] == count
    sizes = [high - low for low, high in pairwise(bounds)]
    assert min(sizes) >= 0 and max(sizes) - min(sizes) <= 1
    assert parts.largest_share([1] * count, number) == pytest.approx(max(sizes) / count)


def test_only_kernels_with_enough_work_are_divided() -> None:
    target = replace(harness.HOST, threads=4)
    small = OpKey("pointwise", (4, 4, 24), (4, 4, 16))
    found = {
        key: schedules.select(key, target).function(key, target) for key in (small, *BIG)
    }  # fmt: skip
    assert found[small].parts == 1 and found[small].args[-1].kind != "part"
    assert all(found[key].parts == 4 and found[key].args[-1].kind == "part" for key in BIG)
    alone = schedules.select(BIG[0], harness.HOST).function(BIG[0], harness.HOST)
    assert alone.parts == 1 and "part" not in {arg.kind for arg in alone.args}


def test_each_part_has_its_own_scratch() -> None:
    key = integer(BIG[0])
    one = schedules.select(key, harness.HOST).function(key, harness.HOST)
    target = replace(harness.HOST, threads=3)
    three = schedules.select(key, target).function(key, target)
    assert three.scratch_bytes == 3 * math.ceil(one.scratch_bytes / 64) * 64


def test_threads_change_what_caches_go_by() -> None:
    two = replace(harness.HOST, threads=2)
    assert two.digest_text == harness.HOST.digest_text + " threads=2"
    assert "threads" not in harness.HOST.digest_text

"""Functions that kernels share: what they compute, and that a network has each once."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.codegen import build, cost, elf, schedules
from edgeopt.codegen.abi import SHARED, symbol_of
from edgeopt.codegen.objects import function_sizes, object_size
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.pipeline.kernel_store import Job, compiled, joined

#: Processors for which flash counts more than time.
VNNI, AVX2 = (replace(target, compact=True) for target in (harness.AVX512, harness.HOST))
VBMI = replace(VNNI, features=VNNI.features | {"avx512vbmi"})
#: The same processor, dividing kernels in two.
TWO = replace(AVX2, threads=2, cores=2)


def pointwise(side: int, inputs: int, outputs: int, **more: object) -> OpKey:
    shape = (side, side, inputs), (side, side, outputs)
    return OpKey("pointwise", *shape, dtype="i8", out_dtype="i8", **more)  # type: ignore[arg-type]


def depthwise(width: int, channels: int, k: int = 3, height: int = 0, **more: object) -> OpKey:
    shape, pad = (height or width, width, channels), k // 2
    return OpKey(
        "depthwise", shape, shape, dtype="i8", out_dtype="i8", kernel=(k, k), pads=(pad,) * 4,
        groups=channels, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def pair(op: str, *shape: int) -> OpKey:
    return OpKey(op, shape, shape, dtype="i8", out_dtype="i8", inputs=2)


def average(height: int, width: int, channels: int) -> OpKey:
    shapes = (height, width, channels), (1, 1, channels)
    return OpKey("global_avgpool", *shapes, dtype="i8", out_dtype="i8")


def called(key: OpKey, target: TargetSpec = AVX2) -> set[str]:
    template = schedules.select(key, target)
    assert template is not None
    return {one.symbol.removeprefix(SHARED) for one in template.shared(key, target)}


def are_exact(keys: Sequence[OpKey], target: TargetSpec, folder: Path, seed: int = 0) -> None:
    library = harness.link(build.compile_kernels(keys, target), folder)
    for index, key in enumerate(keys):
        inputs, constants = harness.case(key, seed + index)
        got = harness.run(library, key, target, inputs, constants)
        np.testing.assert_array_equal(got, harness.reference(key, inputs, constants), str(key))


def skip_without(target: TargetSpec) -> None:
    flags = Path("/proc/cpuinfo").read_text()
    wanted = "avx512_vnni" if target.vector_bits == 512 else "avx2"
    wanted = "avx512vbmi" if "avx512vbmi" in target.features else wanted
    if wanted not in flags:
        pytest.skip(f"the processor has no {wanted}: run on one that has")


@pytest.mark.parametrize("target", [AVX2, VNNI, VBMI], ids=["avx2", "vnni", "vbmi"])
def test_kernels_of_calls_are_bit_exact(target: TargetSpec, tmp_path: Path) -> None:
    """Last vectors that are not full, last tiles that overlap, reductions that leave steps."""
    skip_without(target)
    keys = [
        pointwise(16, 24, 40, activation="relu"),
        pointwise(16, 48, 24, weight_bits=4, activation="hardswish"),
        pointwise(8, 40, 72, weight_bits=2),
        pointwise(4, 24, 24, weight_bits=2),
        OpKey("pointwise", (1, 2, 16), (1, 2, 16), dtype="i8", out_dtype="i8"),
        OpKey("pointwise", (1, 31, 16), (1, 31, 56), dtype="i8", out_dtype="i8"),
        pointwise(1, 96, 24, weight_bits=4),
        depthwise(16, 24, 5, activation="hardswish"),
        depthwise(9, 21, 3, height=2),
        depthwise(32, 40, 3),
        average(7, 3, 40),
        average(2, 2, 240),
        pair("add", 5, 5, 128),
        pair("scale", 3, 5, 64),
        pair("mul", 4, 4, 96),
    ]
    assert all(called(key, target) for key in keys)
    are_exact(keys, target, tmp_path)


@settings(max_examples=20)
@given(
    side=st.integers(1, 9), inputs=st.integers(2, 12), outputs=st.integers(1, 12),
    bits=st.sampled_from((0, 2, 4)), seed=st.integers(0, 99),
)  # fmt: skip
def test_panels_of_any_size_are_bit_exact(
    side: int, inputs: int, outputs: int, bits: int, seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    skip_without(AVX2)
    key = pointwise(side, 8 * inputs, 8 * outputs, weight_bits=bits)
    are_exact([key], AVX2, tmp_path_factory.mktemp("panel"), seed)


@pytest.mark.parametrize("key", [pair("add", 3, 5, 64), pair("mul", 6, 64), pair("scale", 9, 96)])
def test_an_output_may_lie_over_an_input(key: OpKey, tmp_path: Path) -> None:
    skip_without(AVX2)
    shape = key.in_shape if len(key.in_shape) == 3 else (1, *key.in_shape)
    key = replace(key, in_shape=shape, out_shape=shape)
    assert called(key)
    library = harness.link(build.compile_kernels([key], AVX2), tmp_path)
    inputs, constants = harness.case(key, 1)
    call = harness.arguments(key, AVX2, inputs, constants)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in call]
    pointers[-1] = pointers[0]
    assert library[symbol_of(key)](*pointers) == 0
    got = call[0].reshape(-1)[: inputs[0].size].reshape(key.out_shape)
    np.testing.assert_array_equal(got, harness.reference(key, inputs, constants))


def test_layers_of_other_channels_heights_and_widths_share_their_rows() -> None:
    assert called(depthwise(16, 32, 5)) == called(depthwise(8, 64, 5, height=7))
    assert called(depthwise(16, 32, 5)) != called(depthwise(16, 32, 3))
    assert len(called(depthwise(16, 40, 5))) == 2  # of sixteen channels, and of the last eight
    # but those whose tiles are not whole
    assert called(depthwise(14, 32)) == called(depthwise(14, 64, height=7))
    assert called(depthwise(14, 32)) != called(depthwise(7, 32))


def test_where_time_counts_what_is_shared_costs_none() -> None:
    usual = harness.HOST, harness.AVX512
    for key in (depthwise(16, 32), pair("scale", 8, 8, 64), average(8, 8, 64)):
        assert not called(key, usual[0]) and not called(key, usual[1])
    eight, four = pointwise(16, 32, 32), pointwise(16, 32, 32, weight_bits=4)
    assert not called(eight, usual[0]) and not called(four, usual[1])
    assert called(eight, usual[1]) == {"stage16", "gemm_4x2w8l16of16r0"}
    assert called(eight, VNNI) == {"stage16", "gemm_4x1w8l16of16r0"}  # one width for all layers
    assert called(pointwise(8, 32, 32, activation="hardswish"), usual[0]) == {"table"}
    assert not called(pointwise(2, 32, 32, activation="hardswish"), usual[0])


def test_outputs_that_do_not_fill_vectors_share_the_code_of_those_that_do() -> None:
    for bits in (0, 2, 4):
        for outputs in (24, 40, 72):
            ragged = pointwise(8, 64, outputs, weight_bits=bits)
            whole = pointwise(8, 64, outputs // 16 * 16, weight_bits=bits)
            assert called(ragged, VNNI) == called(whole, VNNI)  # the last vector overlaps
            assert len(called(ragged, AVX2)) == len(called(whole, AVX2)) + 1
        assert called(pointwise(8, 64, 8, weight_bits=bits), VNNI) != called(whole, VNNI)


def test_where_flash_counts_convolutions_have_tiles_without_rests() -> None:
    key = OpKey("conv2d", (32, 32, 3), (32, 32, 16), dtype="i8", out_dtype="i8", kernel=(3, 3),
                pads=(1, 1, 1, 1))  # fmt: skip
    for target in (VNNI, AVX2):
        sizes = [
            object_size(build.compile_kernels([key], one)).code_bytes
            for one in (target, replace(target, compact=False))
        ]
        assert sizes[0] < 0.75 * sizes[1], sizes


def test_tables_are_looked_up_by_permutations_of_bytes_where_there_are_such() -> None:
    key = OpKey("activation", (3, 1001), (3, 1001), dtype="i8", out_dtype="i8", activation="lut")
    table = pointwise(8, 32, 32, activation="hardswish")
    assert "table" in called(table, VNNI) and "permuted_table" in called(table, VBMI)
    for one in (key, table):
        with_, without = (
            "".join(text for text, _ in build.assembly([one], target)) for target in (VBMI, VNNI)
        )
        assert "vpermt2b" in with_ or "vpermi2b" in with_
        assert "vpermt2b" not in without and "vpermi2b" not in without


ANY_WIDTH = (
    depthwise(16, 24, 5, activation="hardswish"),
    depthwise(8, 32, 5, height=3),
    depthwise(4, 21, 5),
    depthwise(32, 16, 3),
    depthwise(4, 40, 3, height=9),
    replace(depthwise(32, 24), out_shape=(16, 16, 24), strides=(2, 2)),
    replace(depthwise(9, 24), out_shape=(5, 4, 24), strides=(2, 2), pads=(1, 0, 1, 0)),
    replace(depthwise(8, 16, 5), out_shape=(4, 4, 16), strides=(2, 2)),
)


@pytest.mark.parametrize("target", [AVX2, VNNI], ids=["avx2", "vnni"])
def test_rows_of_any_width_are_bit_exact_and_small(target: TargetSpec, tmp_path: Path) -> None:
    skip_without(target)
    are_exact(ANY_WIDTH, target, tmp_path)
    usual = replace(target, compact=False)
    sizes = [object_size(build.compile_kernels(ANY_WIDTH, t)).code_bytes for t in (usual, target)]
    assert sizes[1] < 0.8 * sizes[0]
    assert usual.digest_text != target.digest_text


def test_kernels_that_are_divided_call_nothing() -> None:
    for key in (pointwise(56, 64, 64), depthwise(56, 64), pair("add", 56, 56, 64)):
        template = schedules.select(key, TWO)
        assert template is not None and template.function(key, TWO).parts == 2
        assert not template.shared(key, TWO) and called(key), key


def test_a_tiling_of_ones_own_is_compiled_for_the_shape() -> None:
    key = pointwise(16, 48, 48)
    template = schedules.select(key, AVX2)
    assert template is not None and template.shared(key, AVX2)
    choice = template.candidates(key, AVX2)[1]
    other = schedules.select(key, AVX2, choice)
    assert other is not None and not other.shared(key, AVX2)


KEYS = (pointwise(8, 32, 48), pointwise(4, 64, 32), pointwise(8, 48, 96, activation="hardswish"))


def symbols(data: bytes, path: Path, nm: str) -> list[tuple[str, str]]:
    path.write_bytes(data)
    text = subprocess.run([nm, str(path)], check=True, capture_output=True, text=True).stdout
    return [(kind, name) for kind, name in (line.split()[-2:] for line in text.splitlines())]


def test_a_network_has_each_function_once_and_to_itself(
    tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    separate = [build.compile_kernels([key], AVX2) for key in KEYS]
    named = [{symbol_of(key): f"net_{symbol_of(key)}"} for key in KEYS]
    data = elf.join(list(zip(separate, named, strict=True)))
    found = symbols(data, tmp_path / "k.o", needs_tool("nm"))
    shared = [(kind, name) for kind, name in found if name.startswith(SHARED)]
    assert {kind for kind, _ in shared} == {"t"}
    assert sorted(name for _, name in shared) == sorted(
        {SHARED + name for key in KEYS for name in called(key)}
    )
    assert {name for kind, name in found if kind == "T"} == {
        name for names in named for name in names.values()
    }
    assert object_size(data).code_bytes < sum(object_size(d).code_bytes for d in separate)
    assert set(function_sizes(data)) == {name for kind, name in found if kind in "tT"}


def test_what_was_joined_computes_the_same(tmp_path: Path) -> None:
    skip_without(AVX2)
    separate = [build.compile_kernels([key], AVX2) for key in KEYS]
    names = [{symbol_of(key): symbol_of(key)} for key in KEYS]
    library = harness.link(elf.join(list(zip(separate, names, strict=True))), tmp_path)
    for index, key in enumerate(KEYS):
        inputs, constants = harness.case(key, index)
        got = harness.run(library, key, AVX2, inputs, constants)
        np.testing.assert_array_equal(got, harness.reference(key, inputs, constants))


def test_a_function_that_nothing_before_it_defines_is_refused() -> None:
    template = schedules.select(KEYS[0], AVX2)
    assert template is not None
    symbol = symbol_of(KEYS[0])
    alone = build.compile_object({symbol: template.primfunc(KEYS[0], AVX2)}, AVX2)
    with pytest.raises(ValueError, match="is called before it is defined"):
        elf.join([(alone, {symbol: symbol})])


@pytest.mark.parametrize("target", [AVX2, VNNI, harness.NEON], ids=lambda target: target.mcpu)
def test_estimates_count_functions_once_and_name_those_that_are_compiled(
    target: TargetSpec, tmp_path: Path
) -> None:
    from edgeopt.pipeline.cache import StageCache

    keys = [*KEYS, depthwise(16, 40, 5, activation="hardswish"), depthwise(16, 64, 5),
            average(8, 8, 96), average(4, 4, 96), pair("add", 8, 8, 32)]  # fmt: skip
    estimated: dict[str, int] = {}
    for key in keys:
        estimated |= cost.code_bytes(key, target)
    jobs = [Job(key) for key in keys]
    objects, _ = compiled(jobs, target, StageCache(tmp_path))
    linked = function_sizes(joined(jobs, objects))
    assert set(estimated) == set(linked)
    staging = [size for name, size in linked.items() if name.startswith(f"{SHARED}stage")]
    assert all(size < 200 for size in staging)  # 512 with its loops unrolled
    assert sum(estimated.values()) == pytest.approx(sum(linked.values()), rel=0.25)

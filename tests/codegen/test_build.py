"""Objects that any program can link: raw pointers, no runtime, the same bytes every time."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest

from edgeopt.codegen import build, rawptr
from edgeopt.codegen.abi import symbol_of
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey

KEYS = (
    OpKey("pointwise", (4, 4, 24), (4, 4, 30), activation="silu"),
    OpKey("depthwise", (8, 8, 24), (8, 8, 24), kernel=(3, 3), pads=(1, 1, 1, 1), groups=24,
          dtype="i8", out_dtype="i8"),
    OpKey("conv2d", (9, 9, 3), (5, 5, 8), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    OpKey("softmax", (10,), (10,)),
    OpKey("copy", (4, 4, 3), (48,)),
)  # fmt: skip


def symbols(data: bytes, path: Path, nm: str) -> dict[str, set[str]]:
    path.write_bytes(data)
    listing = subprocess.run([nm, str(path)], check=True, capture_output=True, text=True).stdout
    found: dict[str, set[str]] = {"T": set(), "U": set()}
    for line in listing.splitlines():
        *_, kind, name = line.split()
        found.setdefault(kind, set()).add(name)
    return found


def test_an_object_needs_no_runtime(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    data = build.compile_kernels(KEYS, harness.HOST)
    found = symbols(data, tmp_path / "k.o", needs_tool("nm"))
    assert found["T"] == {symbol_of(key) for key in KEYS}
    assert found["U"] <= {"memcpy", "memset"}


def test_building_twice_gives_the_same_bytes() -> None:
    once, twice = (build.compile_kernels(KEYS, harness.HOST) for _ in range(2))
    assert once == twice


def test_a_prefix_names_every_symbol(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    data = build.compile_kernels(KEYS[:2], harness.HOST, prefix="net_")
    found = symbols(data, tmp_path / "k.o", needs_tool("nm"))
    assert found["T"] == {f"net_{symbol_of(key)}" for key in KEYS[:2]}


def test_assembly_shows_the_vector_unit() -> None:
    ((text, _),) = build.assembly(KEYS[:1], harness.HOST)
    assert "vfmadd" in text and "%ymm" in text


def test_a_key_without_template_is_refused() -> None:
    key = OpKey("fallback", (4,), (4,), variant="Mod")
    with pytest.raises(InputError, match="no kernel template implements this") as caught:
        build.compile_kernels([key], harness.HOST)
    assert str(key) in str(caught.value) and "fallback path" in str(caught.value)


def legalized() -> object:
    from tvm import te, topi

    x = te.placeholder((1, 8, 10, 10), name="x")
    w = te.placeholder((16, 8, 3, 3), name="w")
    y = topi.nn.softmax(topi.nn.conv2d(x, w, 1, 1, 1, "NCHW"), axis=1)
    return te.create_prim_func([x, w, topi.transpose(y, (0, 2, 3, 1))])


@pytest.mark.usefixtures("host_is_x86_64_v3")
def test_a_legalized_function_runs_over_raw_pointers(tmp_path: Path) -> None:
    raw = rawptr.to_raw_pointer(legalized(), "foreign", harness.HOST)
    assert raw.scratch_bytes >= 8 * 12 * 12 * 4 and raw.scratch_bytes % 64 == 0
    library = harness.link(build.compile_object({"foreign": raw.primfunc}, harness.HOST), tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 10, 8)).astype(np.float32)
    w = (rng.standard_normal((16, 3, 3, 8)) / 8).astype(np.float32)
    y = np.zeros((10, 10, 16), np.float32)
    scratch = np.zeros(raw.scratch_bytes, np.uint8)
    call = [x.transpose(2, 0, 1).copy(), w.transpose(0, 3, 1, 2).copy(), y, scratch]
    assert library.foreign(*(array.ctypes.data_as(ctypes.c_void_p) for array in call)) == 0
    key = OpKey("conv2d", (10, 10, 8), (10, 10, 16), kernel=(3, 3), pads=(1, 1, 1, 1))
    acc = harness.reference(key, [x], {"w": w, "b": np.zeros(16)})
    want = harness.reference(OpKey("softmax", (10, 10, 16), (10, 10, 16)), [acc], {})
    assert np.abs(y - want).max() < 1e-6


def test_a_symbolic_shape_is_refused() -> None:
    from tvm import te

    n = te.var("n")
    x = te.placeholder((n,), name="x")
    symbolic = te.create_prim_func([x, te.compute((n,), lambda i: x[i] + 1)])
    with pytest.raises(InputError, match=r"symbolic size|not a buffer") as caught:
        rawptr.to_raw_pointer(symbolic, "dynamic", harness.HOST)
    assert "fixed shapes" in str(caught.value)

"""Comparing engines, and programs that misbehave."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import handmade
import numpy as np
import pytest

from edgeopt import devices
from edgeopt.codegen import emit, runner, testvectors, toolchain, verify
from edgeopt.core.errors import InputError, ToolError
from edgeopt.core.network import Tensor

HOST = verify.Engine((), "host")


def compare(left: object, right: object, **options: float) -> verify.Comparison:
    arguments: dict[str, float] = {"tolerance": 1e-4, **options}
    return verify.compare(
        {"y": np.asarray(left)}, {"y": np.asarray(right)}, what="a = b", where="host",
        **arguments,  # type: ignore[arg-type]
    )  # fmt: skip


def f32(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def i8(*values: int) -> np.ndarray:
    return np.array([values], np.int8)


def test_equal_floats_are_bit_exact() -> None:
    result = compare(f32(1, 2), f32(1, 2))
    assert result.result == "passed" and result.bit_exact
    assert result.max_error == 0
    assert result.detail == "bit-exact on 2 elements"


def test_the_error_is_relative_to_the_vectors_largest_magnitude() -> None:
    result = compare(f32(100, 1), f32(100, 1.005))
    assert result.result == "passed" and not result.bit_exact and result.mismatches == 1
    assert result.max_error == pytest.approx(5e-5, rel=1e-3)
    assert compare(f32(100, 1), f32(100, 1.02)).result == "failed"


def test_each_vector_has_its_own_scale() -> None:
    left = np.array([[1000.0], [0.001]], np.float32)
    right = np.array([[1000.0], [0.002]], np.float32)
    assert compare(left, right).max_error == pytest.approx(1, rel=1e-3)


def test_minus_zero_is_not_bit_exact_but_equal() -> None:
    result = compare(f32(0.0, 1), f32(-0.0, 1))
    assert result.result == "passed" and result.mismatches == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_fail(bad: float) -> None:
    result = compare(f32(1, 2), f32(1, bad))
    assert result.result == "failed" and result.max_error == float("inf")


def test_integers_must_be_equal_unless_steps_are_allowed() -> None:
    assert compare(i8(1, -128, 127), i8(1, -128, 127)).bit_exact
    off = compare(i8(*[5] * 99, 127), i8(*[5] * 99, 126))
    assert off.result == "failed" and off.max_error == 1
    allowed = compare(i8(*[5] * 99, 127), i8(*[5] * 99, 126), max_steps=1, min_equal=0.99)
    assert allowed.result == "passed"
    assert allowed.detail == "99.00 % of 100 elements equal, largest difference 1 steps"
    assert compare(i8(*[5] * 98, 1, 127), i8(*[5] * 98, 2, 126), max_steps=1,
                   min_equal=0.99).result == "failed"  # fmt: skip
    assert compare(i8(-128), i8(127), max_steps=1).max_error == 255


def test_different_shapes_types_or_names_are_a_bug() -> None:
    with pytest.raises(ValueError, match="int8"):
        compare(f32(1), i8(1))
    with pytest.raises(ValueError, match="outputs"):
        verify.compare({"a": f32(1)}, {"b": f32(1)}, what="", where="", tolerance=0)


def make(folder: Path, vectors: testvectors.TestVectors | None = None) -> emit.Code:
    kernels = handmade.kernel_object(runner.kernel_prefix("net"), folder)
    return emit.render(
        handmade.graph(), handmade.plan(), handmade.FUNCTIONS, handmade.WEIGHTS,
        {"kernels.o": kernels}, name="net", origin=emit.Origin("test"),
        vectors=vectors or handmade.vectors(),
    )  # fmt: skip


def test_an_artifact_runs_on_its_vectors(tmp_path: Path) -> None:
    vectors = handmade.vectors(5, seed=3)
    code = make(tmp_path, vectors)
    compiler = toolchain.find_for(toolchain.host_arch())
    run = verify.run_artifact(code.files, "net", compiler, HOST, vectors)
    assert (run.self_test.result, run.self_test.detail) == ("passed", "net: self-test passed")
    result = verify.compare(
        vectors.outputs, run.outputs, what="numpy = artifact", where="host", tolerance=1e-5
    )
    assert result.result == "passed" and result.vectors == 5
    np.testing.assert_array_equal(run.outputs["q"], vectors.outputs["q"])


def test_a_failing_self_test_is_reported_not_raised(tmp_path: Path) -> None:
    vectors = handmade.vectors()
    wrong = dataclasses.replace(
        vectors, outputs={"y": vectors.outputs["y"] * 2, "q": vectors.outputs["q"]}
    )
    code = make(tmp_path, wrong)
    compiler = toolchain.find_for(toolchain.host_arch())
    run = verify.run_artifact(code.files, "net", compiler, HOST, wrong)
    assert run.self_test.result == "failed"
    assert run.self_test.detail == "net: the outputs differ from the reference"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("while (1) { }", "infer on host: did not finish within 2 s"),
        ("raise(SIGSEGV);", "infer on host: failed with SIGSEGV"),
        ("return 0;", "infer on host: the program wrote 0 bytes where 3 x 15 were expected"),
        ("return 7;", "infer on host: failed with status 7"),
    ],
)
def test_programs_that_misbehave_are_named(tmp_path: Path, source: str, message: str) -> None:
    code = make(tmp_path)
    main = "#include <signal.h>\n#include <stdio.h>\nint main(int c, char **v) {\n" + (
        'if (c > 2) { FILE *f = fopen(v[2], "wb"); if (f) fclose(f); }\n'
    )
    files = {**code.files, "programs/infer.c": f"{main}{source}\nreturn 0; }}\n".encode()}
    compiler = toolchain.find_for(toolchain.host_arch())
    with pytest.raises(ToolError, match=message):
        verify.run_artifact(files, "net", compiler, HOST, handmade.vectors(), timeout_s=2)


def test_bench_prints_json(tmp_path: Path) -> None:
    from edgeopt.codegen import programs

    code = make(tmp_path)
    compiler = toolchain.find_for(toolchain.host_arch())
    built = programs.build(
        code.files, "net", compiler, tmp_path / "b", wanted=("bench", "bench_kernels")
    )
    shown = json.loads(
        verify.run_program(
            HOST, built.paths["bench"], ["--runs", "7", "--min-ms", "0", "--samples"]
        )
    )
    assert shown["name"] == "net" and shown["runs"] == 7 == len(shown["samples_ns"])
    assert shown["min_ns"] <= shown["median_ns"] <= shown["max_ns"]
    kernels = json.loads(
        verify.run_program(HOST, built.paths["bench_kernels"], ["--runs", "3", "--min-ms", "0"])
    )["kernels"]
    assert [k["key"] for k in kernels] == [key.digest for key in handmade.graph().keys]
    with pytest.raises(ToolError, match="option needs a whole number in range: --runs"):
        verify.run_program(HOST, built.paths["bench"], ["--runs", "x"])


def test_where_programs_of_a_device_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert verify.engine_for(devices.load("local")) == HOST
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = verify.engine_for(devices.load("rpi4"))
    assert isinstance(missing, verify.Missing)
    record = verify.skipped("reference = artifact", missing)
    assert record.result == "skipped" and not record.bit_exact
    assert record.where == "qemu-aarch64 (cortex-a72)"
    assert record.detail == "qemu-aarch64 is not installed; apt-get install qemu-user"
    board = verify.engine_for(devices.load("nucleo-l4r5zi"))
    assert isinstance(board, verify.Missing)
    assert "do not run on this machine" in board.reason


def test_emulation_uses_the_devices_processor(needs_tool: Callable[[str], str]) -> None:
    path = needs_tool("qemu-aarch64")
    engine = verify.engine_for(devices.load("rpi4"))
    assert engine == verify.Engine((path, "-cpu", "cortex-a72"), "qemu-aarch64 (cortex-a72)")


def test_vectors_travel_in_files() -> None:
    vectors = handmade.vectors(4)
    loaded = testvectors.load(vectors.files(), "bundle")
    assert list(loaded.inputs) == ["x", "k"] and loaded.tolerance == vectors.tolerance
    for name, array in {**vectors.inputs, **vectors.outputs}.items():
        np.testing.assert_array_equal({**loaded.inputs, **loaded.outputs}[name], array)


@pytest.mark.parametrize(
    "damage",
    [
        {"vectors/vectors.json": b"{}"},
        {"vectors/vectors.json": b"[" * 5000},
        {"vectors/inputs.bin": b"short"},
        {"vectors/vectors.json": b'{"schema": 9}'},
    ],
)
def test_damaged_vectors_are_refused(damage: dict[str, bytes]) -> None:
    with pytest.raises(InputError, match="bundle: test vectors cannot be read"):
        testvectors.load({**handmade.vectors().files(), **damage}, "bundle")


def test_vectors_must_fit_each_other_and_be_finite() -> None:
    x = np.zeros((2, 1), np.float32)
    with pytest.raises(ValueError, match="different numbers"):
        testvectors.TestVectors({"x": x}, {"y": x[:1]})
    with pytest.raises(InputError, match="y: the reference output holds infinities or NaN"):
        testvectors.TestVectors({"x": x}, {"y": x * np.nan})
    with pytest.raises(ValueError, match="3 bytes where 2 x 4"):
        testvectors.unpack(b"abc", [Tensor("x", (1,))], 2)

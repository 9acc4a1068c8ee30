"""The commands on a small network, end to end: what they print, and what they leave."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeopt.cli.main import main
from tests.cli.conftest import Cli


def test_devices_lists_every_board_with_how_its_latency_is_known(cli: Cli) -> None:
    listed = cli("devices")
    assert listed.code == 0
    for name in ("local", "rpi4", "rpi5", "nucleo-l4r5zi", "mps3-an547"):
        assert name in listed.out
    document = json.loads(cli("devices", "--json").out)
    rows = {row["name"]: row for row in document["devices"]}
    assert rows["rpi4"]["latency"].startswith("estimated")
    assert rows["nucleo-l4r5zi"]["flash_bytes"] == 2 * 2**20


def test_compile_prints_one_document_and_keeps_progress_apart(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    done = cli("compile", tiny_model, "-d", "local", "-o", out, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document == json.loads((out / "manifest.json").read_text())
    assert "verify" in done.err
    figures = {f["name"]: f for f in document["figures"]}
    assert figures["latency_ns"]["source"] == "measured"
    assert figures["arena_bytes"]["source"] == "computed"
    assert figures["arena_bytes"]["value"] >= figures["arena_lower_bound_bytes"]["value"] > 0
    assert all(check["result"] == "passed" for check in document["checks"])
    assert [k["name"] for k in document["kernels"] if k["template"] == "fallback"] == ["softplus"]
    assert any("softplus" in note for note in document["notes"])
    for path in ("model.onnx", "include/net.h", "src/net.c", "CMakeLists.txt", "README.md",
                 "report.html", "kernels/kernels.o", "vectors/vectors.json"):  # fmt: skip
        assert path in document["files"], path


def test_a_second_compile_is_cached_and_the_same_to_the_byte(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "a" / "bundle", tmp_path / "b" / "bundle"
    options = ("-d", "rpi4", "--no-cache")
    for out in (first, second):
        monkey = cli("compile", tiny_model, *options, "-o", out)
        assert monkey.code == 0, monkey.err
    files = {p.relative_to(first) for p in first.rglob("*") if p.is_file()}
    assert files == {p.relative_to(second) for p in second.rglob("*") if p.is_file()}
    differing = [str(f) for f in sorted(files)
                 if (first / f).read_bytes() != (second / f).read_bytes()]  # fmt: skip
    # Only what quotes the command line, which names the output folder, may differ.
    quoting = ("README.md", "manifest.json", "report.html", "CMakeLists.txt")
    allowed = (*quoting, "include/", "src/", "programs/net_program.c", "cmake/")
    assert all(name.startswith(allowed) for name in differing), differing


def test_what_was_compiled_can_be_inspected_verified_and_timed(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    assert cli("compile", tiny_model, "-d", "local", "-o", out, "-q").code == 0
    shown = cli("inspect", out, "--kernels")
    assert shown.code == 0
    assert "conv2d in_shape=16x16x3" in shown.out
    assert "NHWC" in shown.out
    # what has no template, and what it takes of the time: it ran on this machine
    note = r"has no template.*?\d+\.\d % of the time \(measured\), 0\.0 % of the multiply"
    assert re.search(note, " ".join(shown.out.split()))
    checked = cli("verify", out, "--json")
    assert checked.code == 0, checked.err
    assert {c["result"] for c in json.loads(checked.out)["checks"]} == {"passed"}
    timed = cli("bench", out, "--runs", "20", "--kernels", "--against-ort", "--json")
    assert timed.code == 0, timed.err
    result = json.loads(timed.out)
    assert [e["name"] for e in result["engines"]] == ["edgeopt", "onnxruntime"]
    assert sum(k["share"] for k in result["kernels"]) == pytest.approx(1.0)


def test_a_bundle_that_was_changed_is_refused(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert cli("compile", tiny_model, "-d", "local", "-o", out, "-q").code == 0
    source = out / "src" / "net.c"
    source.write_text(source.read_text() + "\n")
    again = cli("verify", out)
    assert again.code == 2
    assert "changed since it was generated" in again.err


def test_wrong_weights_fail_verification(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    """A bundle whose constants were altered, digests and all, does not pass."""
    from edgeopt.core.files import digest

    out = tmp_path / "bundle"
    assert cli("compile", tiny_model, "-d", "local", "-o", out, "-q").code == 0
    weights = out / "src" / "net_weights.c"
    text = weights.read_text()
    at = text.index("0x", text.index("{"))
    weights.write_text(text[:at] + "0x40490fdb" + text[at + 10 :])
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["src/net_weights.c"] = digest(weights.read_bytes())
    (out / "manifest.json").write_text(json.dumps(manifest))
    again = cli("verify", out)
    assert again.code == 4, again.out + again.err
    assert "checks failed" in again.err


def test_force_replaces_a_bundle_but_never_a_users_files(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    command = ("compile", tiny_model, "-d", "local", "-o", out, "-q")
    assert cli(*command).code == 0
    refused = cli(*command)
    assert refused.code == 2
    (out / "src" / "notes.txt").write_text("mine")
    refused = cli(*command, "--force")
    assert refused.code == 2
    assert "src/notes.txt" in refused.err
    assert (out / "src" / "notes.txt").read_text() == "mine"
    (out / "src" / "notes.txt").unlink()
    (out / "build").mkdir()
    (out / "build" / "CMakeCache.txt").write_text("")
    (out / "build" / "a.o").write_text("")
    assert cli(*command, "--force").code == 0
    assert not (out / "build").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("form", ["archive", "array", "folder"])
def test_int8_from_a_users_data(cli: Cli, tiny_model: Path, tmp_path: Path, form: str) -> None:
    """As `edgeopt quantize` takes it."""
    inputs = np.random.default_rng(0).standard_normal((64, 3, 16, 16)).astype(np.float32)
    data = tmp_path / {"archive": "d.npz", "array": "d.npy", "folder": "d"}[form]
    if form == "archive":
        np.savez(data, inputs=inputs)
    elif form == "array":
        np.save(data, inputs)
    else:
        data.mkdir()
        np.save(data / "0.npy", inputs[:32])
        np.save(data / "1.npy", inputs[32:])
    out = tmp_path / "bundle"
    done = cli("compile", tiny_model, "-d", "rpi4", "--precision", "int8", "--data",
               data, "-o", out, "--json")  # fmt: skip
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["precision"] == "int8"
    assert "model_int8.onnx" in document["files"]
    results = {(c["what"], c["where"]): c["result"] for c in document["checks"]}
    assert "failed" not in results.values()


def test_dumps_are_numbered_by_stage(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    done = cli("compile", tiny_model, "-d", "local", "-o", tmp_path / "b", "-q", "--dump-dir", dump)
    assert done.code == 0, done.err
    names = sorted(p.name for p in dump.iterdir())
    assert names == ["02-search.json", "03-model.onnx", "04-model.onnx", "05-kernels.txt",
                     "06-kernels.o"]  # fmt: skip


def test_predict_counts_every_kernel(cli: Cli, tiny_model: Path) -> None:
    document = json.loads(cli("predict", tiny_model, "-d", "rpi4", "--json").out)
    total = next(f for f in document["figures"] if f["name"] == "latency_ns")
    assert len(document["kernels"]) == 6
    assert total["source"] == "estimated"
    assert total["low"] < total["value"] < total["high"]
    assert total["value"] >= 0.99 * sum(k["latency_ns"] for k in document["kernels"])


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_bundle_builds_with_cmake(
    cli: Cli, tiny_model: Path, tmp_path: Path, needs_tool: Callable[[str], str], compiler: str
) -> None:
    cmake, cc = needs_tool("cmake"), needs_tool(compiler)
    out = tmp_path / "bundle"
    assert cli("compile", tiny_model, "-d", "local", "-o", out, "-q").code == 0
    _build_and_test(cmake, out, tmp_path / "build", f"-DCMAKE_C_COMPILER={cc}")


@pytest.mark.slow
def test_a_bundle_for_a_board_builds_and_runs_under_emulation(
    cli: Cli, tiny_model: Path, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    cmake = needs_tool("cmake")
    needs_tool("qemu-aarch64")
    needs_tool("aarch64-linux-gnu-gcc")
    out = tmp_path / "bundle"
    assert cli("compile", tiny_model, "-d", "rpi4", "-o", out, "-q").code == 0
    toolchain = out / "cmake" / "aarch64-linux.cmake"
    _build_and_test(cmake, out, tmp_path / "build", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")


def _build_and_test(cmake: str, out: Path, build: Path, option: str) -> None:
    ctest = shutil.which("ctest")
    assert ctest is not None
    flags = "-DCMAKE_C_FLAGS=-Wall -Wextra -Wpedantic -Wconversion -Werror"
    for command in (
        [cmake, "-S", str(out), "-B", str(build), option, flags],
        [cmake, "--build", str(build)],
        [ctest, "--test-dir", str(build), "--output-on-failure", "--no-tests=error"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_entry_point_is_the_function_the_tests_call() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="edgeopt")
    assert script.load() is main


def test_table_calibrate(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "m.csv", tmp_path / "fit.core.json"
    path.write_text(f"model,ms\n{tiny_model.name},0.4\n")
    said = cli("table", "calibrate", path, "-d", "rpi4", "--out", out)
    assert said.code == 0, said.err
    assert "too few measurements to state an error" in said.out and f"wrote {out}" in said.out
    document = json.loads(cli("table", "calibrate", path, "-d", "rpi4", "--out", out, "--json").out)
    assert document["runtime"] == "edgeopt" and document["rows"][0]["name"] == "tiny_cnn.onnx"
    path.write_text("model,ms\nabsent.onnx,1\nalso.onnx,-1\n")
    bad = cli("table", "calibrate", path, "-d", "rpi4", "--out", out)
    assert bad.code == 2 and not bad.out
    for text in ("line 2: no such model: 'absent.onnx'", "line 3: ms must be positive, not -1"):
        assert text in bad.err


def test_predict_says_what_it_rests_on(cli: Cli, tiny_model: Path) -> None:
    said = cli("predict", tiny_model, "-d", "rpi4", "--runtime", "hw-nas-bench")
    assert said.code == 0, said.err
    assert "depthwise f32" in said.out and "measurements of its class" in said.out
    assert "of classes fitted to measurements there" in said.out
    document = json.loads(
        cli("predict", tiny_model, "-d", "rpi4", "--runtime", "hw-nas-bench", "--json").out
    )
    assert document["runtime"] == "hw-nas-bench"
    assert sum(document["coverage"].values()) == pytest.approx(1)
    bad = cli("predict", tiny_model, "-d", "rpi4", "--runtime", "hwnasbench")
    assert bad.code == 2 and "did you mean hw-nas-bench" in bad.err

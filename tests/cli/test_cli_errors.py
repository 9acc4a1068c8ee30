"""Bad input: what a user reads, and the exit code a script sees. Nothing is left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import Cli


def failed(outcome: object, code: int, *parts: str) -> None:
    err, out = outcome.err, outcome.out  # type: ignore[attr-defined]
    assert outcome.code == code, err  # type: ignore[attr-defined]
    assert "Traceback" not in err
    assert out == ""
    flat = " ".join(err.split())
    assert flat.startswith("error: ") or " error: " in flat or "Usage" in flat, err
    for part in parts:
        assert part in flat, f"{part!r} not in:\n{err}"


def test_an_unknown_device_suggests_near_misses(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("compile", "--device", "rpi44", "-o", tmp_path / "b", "-q")
    failed(outcome, 2, "unknown device 'rpi44'", "did you mean rpi4")
    assert not (tmp_path / "b").exists()


def test_a_device_is_required(cli: Cli) -> None:
    outcome = cli("compile")
    assert outcome.code == 2
    assert "--device" in outcome.err


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--latency", "10"), ("'10' is not a duration", "10ms")),
        (("--ram", "many"), ("'many' is not a size", "256KB")),
        (("--accuracy", "85"), ("'85' is not a share", "85%")),
        (("--latency", "0ms"), ("not positive",)),
        (("--precision", "int9"), ("unknown precision 'int9'", "did you mean int8")),
        (("--supernet", "cifar_mbv4"), ("cifar_mbv4", "did you mean cifar_mbv3")),
    ],
)
def test_bad_options(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    failed(cli("compile", "-d", "rpi4", "-o", tmp_path / "b", "-q", *options), 2, *parts)


def test_precision_the_device_lacks(cli: Cli, tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "device_profiles" / "rpi4"
    board = tmp_path / "float-board"
    board.mkdir()
    text = (source / "profile.toml").read_text()
    text = text.replace('"rpi4"', '"float-board"').replace('["f32", "i8"]', '["f32"]')
    (board / "profile.toml").write_text(text)
    outcome = cli(
        "compile", "-d", "float-board", "--profile-dir", tmp_path, "--precision", "int8",
        "-o", tmp_path / "b", "-q",
    )  # fmt: skip
    failed(outcome, 2, "float-board has no int8 kernels", "it has: fp32")


def test_an_impossible_budget_names_the_nearest_candidate(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("compile", "-d", "rpi4", "--latency", "1us", "--precision", "fp32",
                  "-o", tmp_path / "b", "-q")  # fmt: skip
    failed(outcome, 3, "meets the budget", "the nearest, r32-", "latency", "> 1 µs", "relax")
    assert not (tmp_path / "b").exists()


def test_a_contradictory_budget_names_each_slack(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("compile", "-d", "rpi4", "--flash", "40KB", "--accuracy", "99%",
                  "--precision", "fp32", "-o", tmp_path / "b", "-q")  # fmt: skip
    failed(outcome, 3, "flash", "> 40 kB", "accuracy", "< 99.00%")


def test_an_accuracy_floor_for_a_given_network(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    outcome = cli("compile", tiny_model, "-d", "rpi4", "--accuracy", "50%", "-o", tmp_path / "b",
                  "-q")  # fmt: skip
    failed(outcome, 2, "--accuracy", "is not known")


@pytest.mark.parametrize(
    ("option", "message"), [("--flash", "flash "), ("--ram", "RAM ")], ids=["flash", "ram"]
)
def test_a_given_network_over_its_budget(
    cli: Cli, tiny_model: Path, tmp_path: Path, option: str, message: str
) -> None:
    outcome = cli("compile", tiny_model, "-d", "rpi4", option, "1KB", "-o", tmp_path / "b", "-q")
    failed(outcome, 3, message, "where at most 1,000 bytes was asked for", "rpi4", "allow more")
    assert not (tmp_path / "b").exists()


def test_a_given_network_that_is_late_is_noted(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    done = cli("compile", tiny_model, "-d", "rpi4", "--latency", "1ns", "-o", tmp_path / "b")
    assert done.code == 0
    assert "note: over the budget: latency" in done.err
    assert "where at most 1 ns was asked for" in done.err


def test_quantizing_needs_data(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    outcome = cli("compile", tiny_model, "-d", "rpi4", "--precision", "int8",
                  "-o", tmp_path / "b", "-q")  # fmt: skip
    failed(outcome, 2, "needs inputs to calibrate on", "--data")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 3, 8, 8), np.float32), "shape 4x3x8x8, not Nx3x16x16"),
        (np.zeros((4, 3, 16, 16), np.uint8), "type uint8, not float32"),
        (np.full((4, 3, 16, 16), np.nan, np.float32), "NaN or infinite"),
        (np.zeros((4, 3, 16, 16), np.float32), "every calibration value is 0"),
        (np.zeros((0, 3, 16, 16), np.float32), "no calibration images"),
    ],
)
def test_bad_calibration_data(
    cli: Cli, tiny_model: Path, tmp_path: Path, array: np.ndarray, message: str
) -> None:
    np.savez(tmp_path / "data.npz", inputs=array)
    outcome = cli("compile", tiny_model, "-d", "rpi4", "--precision", "int8", "--data",
                  tmp_path / "data.npz", "-o", tmp_path / "b", "-q")  # fmt: skip
    failed(outcome, 2, "data.npz", message)


def test_output_that_exists_is_kept(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    failed(cli("compile", tiny_model, "-d", "rpi4", "-o", out, "-q"), 2, "already exists",
           "--force")  # fmt: skip
    failed(cli("compile", tiny_model, "-d", "rpi4", "-o", out, "-q", "--force"), 2,
           "not a bundle")  # fmt: skip
    assert (out / "thesis.txt").read_text() == "years of work"


def test_output_in_the_way(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed(cli("compile", tiny_model, "-d", "rpi4", "-o", tmp_path / "file", "-q"), 2,
           "not a folder")  # fmt: skip
    failed(cli("compile", tiny_model, "-d", "rpi4", "-o", tmp_path / "file" / "b", "-q"), 2,
           "cannot write")  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    failed(cli("compile", tiny_model, "-d", "rpi4", "-o", closed / "b", "-q"), 2, "cannot write")


def test_a_missing_model(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("compile", tmp_path / "no.onnx", "-d", "rpi4", "-o", tmp_path / "b", "-q")
    failed(outcome, 2, "no.onnx", "no such ONNX model")


def test_a_truncated_model(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    tiny_model.write_bytes(tiny_model.read_bytes()[:1500])
    outcome = cli("compile", tiny_model, "-d", "rpi4", "-o", tmp_path / "b", "-q")
    failed(outcome, 2, "tiny_cnn.onnx")
    assert not (tmp_path / "b").exists()


def model(node: onnx.NodeProto, shape: list[object], path: Path, **tensors: np.ndarray) -> Path:
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    )
    return path


def test_an_unsupported_operator_is_named_with_its_node(cli: Cli, tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="frob_3", domain="acme")
    path = model(node, [1, 3, 8, 8], tmp_path / "m.onnx")
    outcome = cli("compile", path, "-d", "rpi4", "-o", tmp_path / "b", "-q")
    failed(outcome, 2, "Frobnicate", "frob_3")


def test_dynamic_shapes_say_how_to_fix_them(cli: Cli, tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="r")
    path = model(node, [1, 3, "height", "width"], tmp_path / "m.onnx")
    outcome = cli("compile", path, "-d", "rpi4", "-o", tmp_path / "b", "-q")
    failed(outcome, 2, "height", "--input-shape")
    good = cli("predict", path, "-d", "rpi4", "--input-shape", "x=1x3x8x8", "--json")
    assert good.code == 0, good.err
    assert json.loads(good.out)["schema"] == 1


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname"])
def test_external_data_may_not_leave_the_folder(cli: Cli, tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 3))
    inner = tmp_path / "model"
    inner.mkdir()
    node = helper.make_node("Add", ["x", "c"], ["y"], name="a")
    path = model(node, [1, 3], inner / "m.onnx", c=np.zeros(3, np.float32))
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(proto.SerializeToString())
    outcome = cli("compile", path, "-d", "rpi4", "-o", tmp_path / "b", "-q")
    failed(outcome, 2, "m.onnx", location)


def test_what_is_no_bundle(cli: Cli, tmp_path: Path) -> None:
    failed(cli("inspect", tmp_path / "no"), 2, "no such bundle folder")
    failed(cli("verify", tmp_path), 2, "manifest")


def test_a_bad_profile_names_file_line_and_key(cli: Cli, tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "device_profiles" / "rpi4" / "profile.toml"
    board = tmp_path / "rpi4"
    board.mkdir()
    text = source.read_text()
    line = text.splitlines().index("[runner]") + 2
    (board / "profile.toml").write_text(text.replace("[runner]", '[runner]\ncolour = "red"'))
    outcome = cli("devices", "--profile-dir", tmp_path)
    failed(outcome, 2, "profile.toml", "colour", f"{line}")

"""``edgeopt quantize``: what it writes, and every way to use it wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.core.precision import LayerPrecision, PrecisionPlan, read_plan, write_plan
from edgeopt.graph.importer import import_network
from edgeopt.quant.evaluate import evaluate_int8
from tests.cli.conftest import Cli
from tests.cli.test_cli_errors import failed


def network(seed: int = 0) -> onnx.ModelProto:
    """A classifier of 3x8x8 images with named layers, one of them depthwise."""
    rng = np.random.default_rng(seed)
    made: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        fan = int(np.prod(shape[1:]))
        values = rng.standard_normal(shape) * np.sqrt(2 / fan)
        made.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(name: str, x: str, *shape: int, groups: int = 1) -> onnx.NodeProto:
        pads = [shape[2] // 2] * 4
        return helper.make_node(
            "Conv", [x, weight(f"{name}.w", *shape)], [f"{name}_y"], name=name, pads=pads,
            group=groups,
        )  # fmt: skip

    nodes = [
        conv("stem", "image", 8, 3, 3, 3),
        helper.make_node("Relu", ["stem_y"], ["a"], name="act1"),
        conv("expand", "a", 32, 8, 1, 1),
        helper.make_node("Relu", ["expand_y"], ["b"], name="act2"),
        conv("depth", "b", 32, 1, 3, 3, groups=32),
        helper.make_node("Relu", ["depth_y"], ["c"], name="act3"),
        conv("project", "c", 16, 32, 1, 1),
        helper.make_node("GlobalAveragePool", ["project_y"], ["d"], name="pool"),
        helper.make_node("Flatten", ["d"], ["e"], name="flat"),
        helper.make_node("Gemm", ["e", weight("head.w", 6, 16)], ["scores"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 6])], made,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(network(), path)
    return path


def pictures(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, 4, 4)).repeat(2, 2).repeat(2, 3)
    return (coarse + 0.3 * rng.standard_normal((count, 3, 8, 8))).astype(np.float32)


def truth(images: np.ndarray) -> np.ndarray:
    """Classes the float network finds, a tenth of them wrong."""
    from edgeopt.quant.simulate import simulate

    found = simulate(import_network(network()), images, channels_first=True).argmax(1)
    found[::10] = (found[::10] + 1) % 6
    return found.astype(np.int64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    images = pictures(640)
    np.savez(path, images=images, labels=truth(images))
    return path


def test_int8_with_labels(cli: Cli, tmp_path: Path, model: Path, data: Path) -> None:
    out = tmp_path / "q.onnx"
    outcome = cli("quantize", model, "--data", data, "-o", out, "-q")
    assert outcome.code == 0, outcome.err
    for text in ("depthwise", "project", "top-1", "8.00 on average", "± ", "report"):
        assert text in outcome.out
    images, labels = (np.load(data)[key][256:] for key in ("images", "labels"))
    made = import_network(onnx.load(out))
    exact = evaluate_int8(made, images, labels, channels_first=True)
    document = json.loads(
        cli("quantize", model, "--data", data, "-o", out, "--force", "--json", "-q").out
    )
    assert document["images"] == 384 and document["calibration_images"] == 256
    assert document["float_accuracy"] - document["drop"] == pytest.approx(exact)
    assert document["unit"] == "points of top-1"
    page = (tmp_path / "q.html").read_text()
    assert "Bits and bytes by layer" in page and "plotly" in page and "http-equiv" not in page
    assert read_plan((tmp_path / "q.plan.json").read_text()).of("project").weight_bits == 8


def test_mixed_within_a_drop_and_the_plan_again(
    cli: Cli, tmp_path: Path, model: Path, data: Path
) -> None:
    out = tmp_path / "m.onnx"
    run = ("quantize", model, "--data", data, "-q", "--json")
    outcome = cli(*run, "--precision", "mixed", "--max-drop", "2", "-o", out)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["drop"] <= 2 and found["weight_bytes"] < found["int8_bytes"]
    assert len(found["curve"]) >= 2
    within = [point for point in found["curve"] if point["drop"] <= 2]
    assert found["weight_bytes"] == min(point["weight_bytes"] for point in within)
    bits = {row["name"]: row["bits"] for row in found["layers"]}
    assert bits["depth"] == 8 and set(bits.values()) <= {2, 4, 8}
    assert set(found["layers"][0]["sensitivity"]) == {"8", "4", "2"}
    assert "Drop over flash" in (tmp_path / "m.html").read_text()
    again = cli(*run, "--plan", tmp_path / "m.plan.json", "-o", tmp_path / "n.onnx")
    assert json.loads(again.out)["drop"] == found["drop"]
    assert (tmp_path / "n.onnx").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("how", ["loss", "hessian"])
def test_mixed_within_a_budget(cli: Cli, tmp_path: Path, model: Path, data: Path, how: str) -> None:
    run = ("quantize", model, "--data", data, "-q", "--json", "--precision", "mixed", "--force",
           "-o", tmp_path / "m.onnx", "--sensitivity", how)  # fmt: skip
    found = json.loads(cli(*run, "--average-bits", "4.5").out)
    assert found["optimal"] is True and found["average_bits"] <= 4.5
    assert found["sensitivity_method"] == how
    found = json.loads(cli(*run, "--flash", "1.4KB").out)
    assert found["weight_bytes"] <= 1400
    failed(cli(*run, "--flash", "600B"), 3, "no plan meets flash of at most 600 B: the least is")
    failed(cli(*run, "--max-drop", "0"), 3, "int8 alone drops") if found["drop"] < 0 else None


def test_w4_without_labels_says_what_the_drop_is(cli: Cli, tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(pictures(24)):
        np.save(folder / f"{index:03}.npy", image)
    out = tmp_path / "q.onnx"
    outcome = cli("quantize", model, "--data", folder, "--precision", "w4", "-o", out, "-q")
    assert outcome.code == 0, outcome.err
    notes = " ".join(outcome.err.split())
    assert "no labels, so the drop is stated in points of agreement with the float" in notes
    assert "measured on the 24 images that it was calibrated on" in notes
    assert "depthwise layers keep 8 bits" in notes
    bits = {op.name: op.attrs.get("weight_bits", 8) for op in import_network(onnx.load(out)).ops
            if op.kind in ("conv2d", "linear")}  # fmt: skip
    assert bits == {"stem": 4, "expand": 4, "depth": 8, "project": 4, "head": 4}


def test_a_quantized_model_is_kept(cli: Cli, tmp_path: Path, model: Path, data: Path) -> None:
    first, second = tmp_path / "q.onnx", tmp_path / "again.onnx"
    assert cli("quantize", model, "--data", data, "-o", first, "-q").code == 0
    outcome = cli("quantize", first, "--data", data, "-o", second, "-q")
    assert outcome.code == 0
    assert "quantized already and was kept as it is" in outcome.err
    assert second.read_bytes() == first.read_bytes()


def test_figures_on_a_board(cli: Cli, tmp_path: Path, model: Path, data: Path) -> None:
    run = ("quantize", model, "--data", data, "-q", "--json", "--device", "rpi4", "--force",
           "-o", tmp_path / "q.onnx")  # fmt: skip
    found = json.loads(cli(*run).out)
    before, after = ({f["name"]: f["value"] for f in found[key]} for key in ("before", "after"))
    assert after["weight_bytes"] < before["weight_bytes"] and after["latency_ns"] > 0
    assert any("before is the network in float" in note for note in found["notes"])


def test_precisions_that_a_board_lacks(
    cli: Cli, tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_pointwise(op: str, bits: int, target: object) -> bool:
        return op == "pointwise" and bits == 4

    monkeypatch.setattr("edgeopt.codegen.lowbits.supported", only_pointwise)
    run = ("quantize", model, "--data", data, "-q", "-d", "rpi4", "-o", tmp_path / "q.onnx")
    failed(cli(*run, "--precision", "w4"), 2, "rpi4 has no conv2d kernel for weights of 4 bits",
           "layer 'stem'", "its conv2d kernels take weights of 8 bits")  # fmt: skip
    plan = tmp_path / "p.json"
    plan.write_text(write_plan(PrecisionPlan(layers={"project": LayerPrecision(2)})))
    failed(cli(*run, "--plan", plan), 2, "rpi4 has no pointwise kernel for weights of 2 bits",
           "layer 'project'", "take weights of 4, 8 bits")  # fmt: skip
    found = json.loads(cli(*run, "--precision", "mixed", "--average-bits", "7", "--json").out)
    bits = {row["name"]: row["bits"] for row in found["layers"]}
    assert bits["stem"] == bits["depth"] == bits["head"] == 8
    assert {bits["expand"], bits["project"]} <= {4, 8} and min(bits.values()) == 4
    monkeypatch.setattr("edgeopt.codegen.lowbits.supported", lambda *_: False)
    failed(cli(*run, "--precision", "mixed", "--force"), 2, "kernels for weights of 8 bits only")
    failed(cli("quantize", model, "--data", data, "-d", "rpi44"), 2, "unknown device 'rpi44'")


def test_plans_that_do_not_fit(cli: Cli, tmp_path: Path, model: Path, data: Path) -> None:
    plan = tmp_path / "p.json"
    run = ("quantize", model, "--data", data, "-q", "-o", tmp_path / "q.onnx", "--plan", plan)
    failed(cli(*run), 2, "p.json: no such precision plan")
    plan.write_text(write_plan(PrecisionPlan(layers={"projekt": LayerPrecision(4)})))
    failed(cli(*run), 2, "there is no layer 'projekt'", "did you mean project?")
    plan.write_text(write_plan(PrecisionPlan(layers={"project": LayerPrecision(3)})))
    failed(cli(*run), 2, "layer 'project'", "weights of 3 bits are not packed")
    plan.write_text("{")
    failed(cli(*run), 2, "p.json: not JSON")
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--precision", "int4"), ("unknown precision 'int4'", "did you mean int8")),
        (("--sensitivity", "guess"), ("unknown sensitivity 'guess'",)),
        (("--average-bits", "3"), ("int8 leaves nothing to choose", "--precision mixed")),
        (("--precision", "mixed", "--average-bits", "1"), ("1 bits on average", "between 2 and")),
        (("--precision", "mixed", "--max-drop", "-1"), ("a drop of -1 points",)),
        (("--precision", "mixed", "--max-drop", "1", "--flash", "1KB"), ("a budget is met, or a",)),
        (("--plan", "p.json", "--precision", "mixed", "--flash", "1KB"), ("is not searched for",)),
        (("-o", "q.bin"), ("the output is no .onnx file",)),
    ],
)
def test_bad_options(
    cli: Cli, model: Path, data: Path, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    failed(cli("quantize", model, "--data", data, "-q", *options), 2, *parts)


def _npz(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)


GOOD = pictures(8)
BAD = {
    "no array": ({"pictures": GOOD}, ("holds no array 'images' but pictures", "numpy.savez")),
    "shape": ({"images": GOOD.transpose(0, 2, 3, 1)}, ("8x8x8x3, not Nx3x8x8",)),
    "type": ({"images": (GOOD * 50).astype(np.uint8)}, ("have type uint8, not float32",)),
    "nan": ({"images": GOOD * np.float32("nan")}, ("hold NaN or infinite values",)),
    "infinite": ({"images": np.where(GOOD > 1, np.float32("inf"), GOOD)}, ("NaN or infinite",)),
    "none": ({"images": GOOD[:0]}, ("there are no calibration images",)),
    "constant": ({"images": GOOD * 0}, ("every calibration value is 0",)),
    "huge": ({"images": GOOD * np.float32(1e37)}, ("NaN or infinite",)),
    "labels": ({"images": GOOD, "labels": np.zeros(7, int)}, ("8 images but 7 labels",)),
    "classes": ({"images": GOOD, "labels": np.full(8, 6)}, ("from 6 to 6", "has 6 classes")),
    "real labels": ({"images": GOOD, "labels": np.zeros(8)}, ("labels are float64 [8]",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_data(cli: Cli, tmp_path: Path, model: Path, kind: str) -> None:
    arrays, parts = BAD[kind]
    path = tmp_path / "bad.npz"
    _npz(path, **arrays)
    out = tmp_path / "q.onnx"
    failed(cli("quantize", model, "--data", path, "-o", out, "-q"), 2, *parts)
    assert not out.exists()


def test_files_that_are_no_arrays(cli: Cli, tmp_path: Path, model: Path) -> None:
    run = ("quantize", model, "-q", "-o", tmp_path / "q.onnx", "--data")
    failed(cli(*run, tmp_path / "none.npz"), 2, "no such data file")
    empty = tmp_path / "empty"
    empty.mkdir()
    failed(cli(*run, empty), 2, "the folder holds no .npy files")
    for name, content in (("a.npz", b"PK\x03\x04broken"), ("b.npy", b"text"), ("c.npz", b"")):
        (tmp_path / name).write_bytes(content)
        failed(cli(*run, tmp_path / name), 2, name)
    np.save(tmp_path / "d.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    failed(cli(*run, tmp_path / "d.npy"), 2, "not a readable npz or npy file")
    np.save(empty / "0.npy", pictures(2))
    np.save(empty / "1.npy", pictures(2)[:, :2])
    failed(cli(*run, empty), 2, "1.npy", "2x2x8x8, not Nx3x8x8")


def test_what_exists_is_not_replaced(cli: Cli, tmp_path: Path, model: Path, data: Path) -> None:
    (tmp_path / "q.html").write_text("mine")
    out = tmp_path / "q.onnx"
    failed(cli("quantize", model, "--data", data, "-o", out, "-q"), 2, "q.html", "exists already")
    assert (tmp_path / "q.html").read_text() == "mine"


def test_integers_that_are_half_there(cli: Cli, tmp_path: Path, model: Path, data: Path) -> None:
    whole = tmp_path / "q.onnx"
    assert cli("quantize", model, "--data", data, "-o", whole, "-q").code == 0
    broken = onnx.load(whole)
    node = next(n for n in broken.graph.node if n.op_type == "QuantizeLinear")
    scale = next(i for i in broken.graph.initializer if i.name == node.input[1])
    scale.CopyFrom(numpy_helper.from_array(np.array(np.inf, np.float32), scale.name))
    onnx.save(broken, tmp_path / "half.onnx")
    out = tmp_path / "again.onnx"
    outcome = cli("quantize", tmp_path / "half.onnx", "--data", data, "-o", out, "-q")
    failed(outcome, 2)
    assert not out.exists()

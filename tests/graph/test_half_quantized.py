"""Models that are quantized by half: each is named, and computes what it says all the same."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.core.errors import InputError
from edgeopt.graph.importer import Imported, import_model
from edgeopt.graph.load import load_model
from edgeopt.graph.qdq_narrow import widened
from edgeopt.graph.reference import run_onnx
from edgeopt.quant.simulate import Simulator

Q, DQ = "QuantizeLinear", "DequantizeLinear"


def layer(
    *, reads: bool = True, stored: bool = True, writes: bool = True, **changes: object
) -> onnx.ModelProto:
    """x -> Conv "the_conv" -> y; its input, weights and output quantized or not."""
    rng = np.random.default_rng(0)
    constants: dict[str, object] = {
        "s": np.float32(0.04), "z": np.uint8(120), "t": np.float32(0.05), "u": np.uint8(130),
        "w": rng.integers(-127, 128, (6, 4, 1, 1)).astype(np.int8),
        "ws": rng.uniform(0.004, 0.006, 6).astype(np.float32), "wz": np.zeros(6, np.int8),
        "real": rng.standard_normal((6, 4, 1, 1)).astype(np.float32) / 2, **changes,
    }  # fmt: skip
    axis = changes.pop("axis", 0)
    block = changes.pop("block_size", 0)
    how = {"axis": axis, **({"block_size": block} if block else {})}
    nodes = []
    x, w = "x", "real"
    if reads:
        nodes += [helper.make_node(Q, ["x", "s", "z"], ["xq"], "x_q"),
                  helper.make_node(DQ, ["xq", "s", "z"], ["xf"], "x_dq")]  # fmt: skip
        x = "xf"
    if stored:
        nodes.append(helper.make_node(DQ, ["w", "ws", "wz"], ["wf"], "w_dq", **how))
        w = "wf"
    result = "c" if writes else "y"
    nodes.append(helper.make_node("Conv", [x, w], [result], "the_conv"))
    if writes:
        nodes += [helper.make_node(Q, ["c", "t", "u"], ["cq"], "y_q"),
                  helper.make_node(DQ, ["cq", "t", "u"], ["y"], "y_dq")]  # fmt: skip
    return finished(nodes, constants)


def finished(nodes: list[onnx.NodeProto], constants: dict[str, object]) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "half", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 5, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, None, 5, 5))],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def loaded(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    path = folder / "half.onnx"
    path.write_bytes(model.SerializeToString())
    return load_model(path, isolated=False)


def checked(model: onnx.ModelProto, folder: Path, atol: float = 1e-5) -> Imported:
    """Imported; the simulation gives what onnxruntime gives for the model as written."""
    imported = import_model(loaded(model, folder), isolated=False)
    x = np.random.default_rng(1).standard_normal((1, 4, 5, 5)).astype(np.float32)
    stored = imported.inputs["x"].from_onnx(x)
    found = Simulator(imported.network).run({imported.network.inputs[0]: stored})
    ours = imported.outputs["y"].to_onnx(found[imported.network.outputs[0]])
    theirs = run_onnx(model.SerializeToString(), {"x": x})["y"]
    np.testing.assert_allclose(ours, theirs, atol=atol)
    return imported


def kind_of(imported: Imported) -> str:
    op = next(op for op in imported.network.ops if op.kind == "conv2d")
    return str(op.constants["w"].dtype)


def test_a_whole_pattern_has_no_note(tmp_path: Path) -> None:
    imported = checked(layer(), tmp_path)
    assert kind_of(imported) == "int8"
    assert imported.notes == ()
    assert checked(layer(reads=False, stored=False, writes=False), tmp_path).notes == ()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reads": False}, "its weights are quantized, its input is not"),
        ({"reads": False, "writes": False}, "its weights are quantized, its input is not"),
        ({"writes": False}, "its input and weights are quantized, its output is not"),
        ({"stored": False}, "its input and output are quantized, its weights are not"),
        ({"axis": 1, "ws": np.full(4, 0.005, np.float32), "wz": np.zeros(4, np.int8)},
         "the scales of its weights are not those of its outputs"),
        ({"wz": np.full(6, -100, np.int8)},
         "its weights, less their zero points, need more than 8 bits"),
        ({"axis": 1, "block_size": 2, "ws": np.full((6, 2, 1, 1), 0.005, np.float32),
          "wz": np.zeros((6, 2, 1, 1), np.int8)},
         "one scale serves 2 inputs of a weight, not an output"),
    ],
)  # fmt: skip
def test_layers_that_compute_in_float_say_why(
    changes: dict[str, object], why: str, tmp_path: Path
) -> None:
    imported = checked(layer(**changes), tmp_path)  # type: ignore[arg-type]
    assert kind_of(imported) == "float32"
    assert imported.notes == (f"node 'the_conv' (Conv) computes in float32: {why}",)


@pytest.mark.parametrize(
    ("changes", "what", "hint"),
    [
        ({"ws": np.ones(5, np.float32), "wz": np.zeros(5, np.int8)},
         "scales [5] do not fit a constant [6, 4, 1, 1] along axis 0", "for each index"),
        ({"ws": np.ones((6, 1), np.float32), "wz": np.zeros((6, 1), np.int8)},
         "scales [6, 1] do not fit a constant [6, 4, 1, 1] along axis 0", "for each index"),
        ({"ws": np.ones(6, np.float32), "wz": np.zeros(3, np.int8)},
         "3 zero points and 6 scales", "a zero point for each scale"),
        ({"axis": 1, "block_size": 2, "ws": np.ones((6, 3, 1, 1), np.float32),
          "wz": np.zeros((6, 3, 1, 1), np.int8)},
         "scales [6, 3, 1, 1] do not fit", "blocks of 2 need [6, 2, 1, 1]"),
        ({"axis": 1, "block_size": 2, "ws": np.ones((6,), np.float32)},
         "scales [6] do not fit", "blocks of 2 need [6, 2, 1, 1]"),
    ],
)  # fmt: skip
def test_scales_of_the_wrong_shape(
    changes: dict[str, object], what: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        import_model(loaded(layer(**changes), tmp_path), isolated=False)  # type: ignore[arg-type]
    assert what in caught.value.what
    assert "w_dq" in caught.value.where
    assert hint in caught.value.hint


def test_integers_that_nobody_makes_real(tmp_path: Path) -> None:
    """A QuantizeLinear whose result a float operator reads: ONNX's own types forbid it."""
    nodes = [helper.make_node(Q, ["x", "s", "z"], ["xq"], "x_q"),
             helper.make_node("Conv", ["xq", "real"], ["y"], "the_conv")]  # fmt: skip
    constants = {"s": np.float32(0.04), "z": np.uint8(120),
                 "real": np.ones((6, 4, 1, 1), np.float32)}  # fmt: skip
    with pytest.raises(InputError) as caught:
        import_model(loaded(finished(nodes, constants), tmp_path), isolated=False)
    assert "the_conv" in str(caught.value)


def test_integers_read_with_another_scale(tmp_path: Path) -> None:
    """Two dequantizations of one quantized tensor: each reader has its own scale."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (6, 4, 1, 1)).astype(np.int8)
    constants = {
        "s": np.float32(0.04), "z": np.uint8(120), "s2": np.float32(0.02), "t": np.float32(0.05),
        "u": np.uint8(130), "w": w, "ws": np.float32(0.00513), "wz": np.int8(0),
    }  # fmt: skip
    nodes = [helper.make_node(Q, ["x", "s", "z"], ["xq"], "x_q"),
             helper.make_node(DQ, ["w", "ws", "wz"], ["wf"], "w_dq")]  # fmt: skip
    for index, scale in enumerate(("s", "s2")):
        nodes += [
            helper.make_node(DQ, ["xq", scale, "z"], [f"x{index}"], f"x{index}_dq"),
            helper.make_node("Conv", [f"x{index}", "wf"], [f"c{index}"], f"conv{index}"),
            helper.make_node(Q, [f"c{index}", "t", "u"], [f"q{index}"], f"c{index}_q"),
            helper.make_node(DQ, [f"q{index}", "t", "u"], [f"f{index}"], f"c{index}_dq"),
        ]
    nodes.append(helper.make_node("Concat", ["f0", "f1"], ["y"], "joined", axis=1))
    imported = checked(finished(nodes, constants), tmp_path)
    ops = [op for op in imported.network.ops if op.kind == "conv2d"]
    quants = [imported.network.tensors[op.inputs[0]].quant for op in ops]
    assert [quant.scale for quant in quants if quant] == pytest.approx([0.04, 0.02])
    assert {str(op.constants["w"].dtype) for op in ops} == {"int8"}
    assert imported.notes == ()


def test_one_dequantization_with_an_integer_and_a_float_reader(tmp_path: Path) -> None:
    constants = {
        "s": np.float32(0.04), "z": np.uint8(120), "t": np.float32(0.05), "u": np.uint8(130),
        "w": np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1)).astype(np.int8),
        "ws": np.float32(0.005), "wz": np.int8(0),
    }  # fmt: skip
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["xq"], "x_q"),
        helper.make_node(DQ, ["xq", "s", "z"], ["xf"], "x_dq"),
        helper.make_node(DQ, ["w", "ws", "wz"], ["wf"], "w_dq"),
        helper.make_node("Conv", ["xf", "wf"], ["c"], "the_conv"),
        helper.make_node(Q, ["c", "t", "u"], ["cq"], "c_q"),
        helper.make_node(DQ, ["cq", "t", "u"], ["cf"], "c_dq"),
        helper.make_node("Exp", ["xf"], ["e"], "the_exp"),
        helper.make_node("Add", ["cf", "e"], ["y"], "the_sum"),
    ]
    imported = checked(finished(nodes, constants), tmp_path)
    assert kind_of(imported) == "int8"
    assert imported.notes == ()


@pytest.mark.parametrize(
    ("kind", "zero", "bits"),
    [("int4", 0, 4), ("uint4", 8, 4), ("int2", 0, 4), ("uint2", 2, 4), ("uint4", 7, 8),
     ("int4", -3, 8), ("uint2", 0, 4)],
)  # fmt: skip
def test_narrow_weights_are_packed_where_they_fit_without_their_zero_point(
    kind: str, zero: int, bits: int, tmp_path: Path
) -> None:
    dtype = getattr(ml_dtypes, kind)
    width = int(kind[-1])
    low = 0 if kind.startswith("u") else -(2 ** (width - 1))
    values = np.random.default_rng(3).integers(low, low + 2**width, (6, 4, 1, 1))
    values[0, :2, 0, 0] = low, low + 2**width - 1
    scale = np.full(6, 0.1, np.float32)
    model = layer(w=values.astype(dtype), ws=scale, wz=np.full(6, zero).astype(dtype))
    if width == 2:
        model.opset_import[0].version, model.ir_version = 25, 13
    imported = checked(model, tmp_path, atol=0.051)
    assert imported.notes == ()
    op = next(op for op in imported.network.ops if op.kind == "conv2d")
    np.testing.assert_array_equal(op.constants["w"][:, 0, 0], values[:, :, 0, 0] - zero)
    assert op.attrs.get("weight_bits", 8) == bits


def halves(values: np.ndarray, scale: np.ndarray, term: np.ndarray) -> onnx.ModelProto:
    """A layer whose weights are INT2 and what an Add puts on top."""
    model = layer(w=values.astype(ml_dtypes.int2), ws=scale, wz=np.zeros(6, ml_dtypes.int2))
    model.opset_import[0].version, model.ir_version = 25, 13
    at = next(i for i, node in enumerate(model.graph.node) if node.name == "the_conv")
    model.graph.node[at].input[1] = "w_more"
    model.graph.node.insert(at, helper.make_node("Add", ["wf", "term"], ["w_more"], "w_add"))
    model.graph.initializer.append(numpy_helper.from_array(term, "term"))
    return model


def test_integers_of_two_bits_and_half_a_step_are_odd(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values, scale = rng.integers(-2, 2, (6, 4, 1, 1)), rng.uniform(0.1, 0.3, 6).astype(np.float32)
    term = (scale / 2).reshape(6, 1, 1, 1)
    imported = checked(halves(values, scale, term), tmp_path, atol=0.051)
    assert imported.notes == ()
    op = next(op for op in imported.network.ops if op.kind == "conv2d")
    np.testing.assert_array_equal(op.constants["w"][:, 0, 0], 2 * values[:, :, 0, 0] + 1)
    np.testing.assert_array_equal(op.constants["w_scale"], scale / 2)
    assert op.attrs["weight_bits"] == 2
    model = halves(values, scale, term).SerializeToString()
    twin = widened(model)
    assert twin is not None
    assert [node.op_type for node in onnx.load_from_string(twin).graph.node].count("Add") == 0
    x = {"x": rng.standard_normal((1, 4, 5, 5)).astype(np.float32)}
    np.testing.assert_array_equal(run_onnx(twin, x)["y"], run_onnx(model, x)["y"])


@pytest.mark.parametrize("shared", ["wf", "ws"])
def test_constants_that_others_read_stay_what_they_are(shared: str) -> None:
    """Of the twin with int8: the operand of the Add, or the scale, is an output as well."""
    rng = np.random.default_rng(3)
    values, scale = rng.integers(-2, 2, (6, 4, 1, 1)), rng.uniform(0.1, 0.3, 6).astype(np.float32)
    model = halves(values, scale, (scale / 2).reshape(6, 1, 1, 1))
    model.graph.node.append(helper.make_node("Identity", [shared], ["seen"], "look"))
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    twin = widened(model.SerializeToString())
    assert twin is not None
    x = {"x": rng.standard_normal((1, 4, 5, 5)).astype(np.float32)}
    ours, theirs = run_onnx(twin, x), run_onnx(model.SerializeToString(), x)
    for name in ("y", "seen"):
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("term", [
    np.full((6, 1, 1, 1), 0.1, np.float32), np.full((1, 4, 1, 1), 0.1, np.float32),
    np.float32(0.1), np.full((6, 4, 1, 1), 0.1, np.float32),
])  # fmt: skip
def test_other_terms_are_refused_by_name(term: np.ndarray, tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(-2, 2, (6, 4, 1, 1))
    scale = np.linspace(0.1, 0.3, 6).astype(np.float32)
    model = halves(values, scale, np.asarray(term))
    with pytest.raises(InputError, match=r"^node 'w_add' \(Add\): does not depend on any input"):
        import_model(loaded(model, tmp_path), isolated=False)
    twin = widened(model.SerializeToString())
    assert twin is not None and "w_add" in [n.name for n in onnx.load_from_string(twin).graph.node]

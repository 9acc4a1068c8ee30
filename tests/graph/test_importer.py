"""Whole networks: exported by torch, quantized by onnxruntime, converted by tf2onnx."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nets
import numpy as np
import onnx
import parity
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.core.errors import InputError
from edgeopt.core.network import Network
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model


def kinds(network: Network) -> Counter[str]:
    return Counter(op.kind for op in network.ops if op.kind != "reshape")


def functions(network: Network) -> Counter[object]:
    return Counter(op.attrs["function"] for op in network.ops if op.kind == "activation")


EXPECTED = {
    "mobilenet_v2": {"conv2d": 8, "activation": 6, "add": 1, "global_avgpool": 1, "linear": 1},
    "mobilenet_v3": {
        "conv2d": 13, "activation": 11, "add": 1, "mul": 2, "global_avgpool": 3, "linear": 1,
    },
    "resnet": {
        "conv2d": 6, "activation": 5, "maxpool": 1, "add": 2, "global_avgpool": 1, "linear": 1,
    },
    "squeezenet": {"conv2d": 8, "activation": 8, "maxpool": 2, "concat": 2, "global_avgpool": 1},
    "plain": {
        "conv2d": 3, "activation": 3, "avgpool": 1, "maxpool": 1, "linear": 2, "softmax": 1,
    },
    "shuffle": {
        "conv2d": 3, "activation": 3, "slice": 2, "concat": 1, "transpose": 1, "mul": 1,
        "global_avgpool": 2, "linear": 1,
    },
    "keywords": {
        "conv2d": 2, "activation": 2, "maxpool": 1, "global_avgpool": 1, "linear": 1,
        "transpose": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_torch_exports_import_without_moving_elements(name: str) -> None:
    imported = parity.check(nets.export(name))
    assert dict(kinds(imported.network)) == EXPECTED[name]


def test_composed_activations_are_found() -> None:
    v3 = parity.check(nets.export("mobilenet_v3")).network
    assert functions(v3) == {"hardswish": 5, "relu": 4, "hardsigmoid": 2}
    plain = parity.check(nets.export("plain")).network
    assert functions(plain) == {"silu": 1, "gelu": 1, "leakyrelu": 1}


@pytest.mark.parametrize("name", ["mobilenet_v3", "resnet"])
def test_the_newer_exporter_gives_the_same_network(name: str) -> None:
    network = parity.check(nets.export(name, dynamo=True)).network
    assert dict(kinds(network)) == EXPECTED[name]


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3", "resnet", "squeezenet"])
def test_quantized_networks_are_integer_throughout(
    name: str, unsigned: bool, tmp_path: Path
) -> None:
    model = nets.quantize(nets.export(name), tmp_path, unsigned=unsigned, per_channel=not unsigned)
    imported = parity.check(model)
    network = imported.network
    counted = kinds(network)
    assert counted["quantize"] == 1 and counted["dequantize"] == 1 and not counted["onnx"]
    for op in network.ops:
        if op.kind in ("conv2d", "linear"):
            assert op.constants["w"].dtype == np.int8 and op.constants["b"].dtype == np.int32
            assert op.constants["w_scale"].shape == op.constants["w"].shape[:1]


@pytest.mark.parametrize("name", ["plain", "shuffle", "keywords"])
def test_what_has_no_integer_form_runs_between_conversions(name: str, tmp_path: Path) -> None:
    network = parity.check(nets.quantize(nets.export(name), tmp_path)).network
    assert sum(op.kind in ("conv2d", "linear") for op in network.ops) >= 3
    for op in network.ops:
        if op.kind in ("conv2d", "linear") and op.constants["w"].dtype == np.float32:
            assert network.tensors[op.inputs[0]].dtype == "f32"


@pytest.mark.parametrize(
    ("file", "layers"),
    [("kws_ref_model", 10), ("vww_96_int8", 28), ("vww_96_float", 28)],
)
def test_reference_models_of_mlperf_tiny(data_dir: Path, file: str, layers: int) -> None:
    model = load_model(data_dir / "mlperf_tiny" / f"{file}.op18.onnx", isolated=False)
    imported = parity.check(model, share=0.5)
    counted = kinds(imported.network)
    assert counted["conv2d"] + counted["linear"] == layers
    assert not counted["transpose"] and not counted["onnx"]
    (image,) = imported.inputs.values()
    assert image.perm == (0, 1, 2, 3)  # these models take channels last already
    integer = [op for op in imported.network.ops if "w_scale" in op.constants]
    assert len(integer) == (0 if file == "vww_96_float" else layers)


def test_real_keyword_input_through_the_quantized_model(data_dir: Path) -> None:
    folder = data_dir / "mlperf_tiny"
    text = (folder / "kws_input_data.cc").read_text()
    listed = text.split("{")[-1].split("}")[0]
    numbers = [int(part) for part in listed.split(",") if part.strip()]
    feed = np.array(numbers, np.int64).astype(np.int8).reshape(1, 49, 10, 1)
    model = load_model(folder / "kws_ref_model.op18.onnx", isolated=False)
    from edgeopt.graph.reference import run_onnx

    imported = import_model(model, isolated=False)
    got = parity.outputs_of(imported, {"input_1": feed})
    want = run_onnx(model.SerializeToString(), {"input_1": feed})
    np.testing.assert_array_equal(got["Identity"], want["Identity"])


def one(
    *nodes: onnx.NodeProto, shape: object = (1, 4, 6, 6),
    constants: dict[str, object] | None = None, element: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("y",), opset: int = 17,
) -> onnx.ModelProto:  # fmt: skip
    made = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", element, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs], made,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_inputs_and_outputs_say_how_they_relate_to_the_model() -> None:
    imported = parity.check(one(helper.make_node("Relu", ["x"], ["y"]), shape=(1, 3, 4, 5)))
    image, result = imported.inputs["x"], imported.outputs["y"]
    assert imported.network.tensors["x"].shape == (1, 4, 5, 3)
    assert image.perm == result.perm == (0, 2, 3, 1) and image.onnx_shape == (1, 3, 4, 5)
    value = floats(1, 3, 4, 5)
    np.testing.assert_array_equal(image.from_onnx(value), value.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(result.to_onnx(image.from_onnx(value)), value)


def test_a_flattened_map_costs_no_transpose() -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b"], ["y"], alpha=0.5, beta=2.0),
    ]
    constants = {"w": floats(144, 5), "b": floats(5)}
    assert not kinds(parity.check(one(*nodes, constants=constants)).network)["transpose"]


def test_batch_norm_goes_into_the_convolution_or_becomes_one() -> None:
    stats = {"s": floats(4), "b": floats(4, seed=1), "m": floats(4, seed=2)}
    stats["v"] = np.abs(floats(4, seed=3)) + 0.5
    norm = helper.make_node("BatchNormalization", ["h", "s", "b", "m", "v"], ["y"])
    conv = helper.make_node("Conv", ["x", "w"], ["h"])
    model = one(conv, norm, constants={**stats, "w": floats(4, 4, 1, 1)})
    assert dict(kinds(parity.check(model).network)) == {"conv2d": 1}
    alone = parity.check(one(helper.make_node("Relu", ["x"], ["h"]), norm, constants=stats)).network
    (depthwise,) = [op for op in alone.ops if op.kind == "conv2d"]
    assert depthwise.attrs["groups"] == 4


def test_a_convolution_read_twice_keeps_its_weights() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "c"], ["m"]),
        helper.make_node("Add", ["h", "m"], ["y"]),
    ]
    model = one(*nodes, constants={"w": floats(4, 4, 1, 1), "c": floats(4, 1, 1)})
    assert dict(kinds(parity.check(model).network)) == {"conv2d": 1, "mul": 1, "add": 1}


def test_padding_goes_into_the_layer_behind_it() -> None:
    pads = {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64)}
    pad = helper.make_node("Pad", ["x", "p"], ["h"])
    conv = helper.make_node("Conv", ["h", "w"], ["y"])
    network = parity.check(one(pad, conv, constants={**pads, "w": floats(4, 4, 3, 3)})).network
    assert network.ops[0].attrs["pads"] == (1, 2, 0, 1) and len(network.ops) == 1
    pool = helper.make_node("AveragePool", ["h"], ["y"], kernel_shape=[3, 3])
    assert dict(kinds(parity.check(one(pad, pool, constants=pads)).network)) == {"avgpool": 1}


def test_padding_of_quantized_values_goes_into_the_layer_too() -> None:
    constants = {
        "p": np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64), "s": np.float32(0.04),
        "z": np.int8(-20), "w": floats(4, 4, 3, 3), "sw": np.float32(0.02), "zw": np.int8(0),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"]),
        helper.make_node("Pad", ["f", "p"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["hq"]),
        helper.make_node("DequantizeLinear", ["hq", "s", "z"], ["hf"]),
        helper.make_node("QuantizeLinear", ["w", "sw", "zw"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "sw", "zw"], ["wf"]),
        helper.make_node("Conv", ["hf", "wf"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    network = parity.check(one(*nodes, constants=constants)).network
    assert [op.kind for op in network.ops] == ["quantize", "conv2d"]
    assert network.ops[1].attrs["pads"] == (1, 2, 0, 1)


@pytest.mark.parametrize("channels", [False, True])
def test_integer_operators_of_the_older_form(channels: bool) -> None:
    rng = np.random.default_rng(4)
    scale = rng.uniform(0.01, 0.02, 3).astype(np.float32) if channels else np.float32(0.015)
    constants = {
        "s": np.float32(0.04), "z": np.uint8(120), "t": np.float32(0.3), "u": np.uint8(90),
        "w": rng.integers(-127, 128, (3, 4, 3, 3)).astype(np.int8), "sw": scale,
        "zw": np.zeros(scale.shape, np.int8), "b": rng.integers(-900, 900, 3).astype(np.int32),
        "m": rng.integers(-127, 128, (48, 5)).astype(np.int8), "sm": np.float32(0.01),
        "zm": np.int8(0), "flat": np.array([1, -1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "sw", "zw", "t", "u", "b"], ["c"]),
        helper.make_node("Reshape", ["c", "flat"], ["r"]),
        helper.make_node("QLinearMatMul", ["r", "t", "u", "m", "sm", "zm", "t", "u"], ["g"]),
        helper.make_node("DequantizeLinear", ["g", "t", "u"], ["y"]),
    ]
    network = parity.check(one(*nodes, constants=constants), atol=1e-6).network
    assert dict(kinds(network)) == {"quantize": 1, "conv2d": 1, "linear": 1, "dequantize": 1}


def test_shape_arithmetic_is_folded() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["r"]),
        helper.make_node("Cast", ["r"], ["k"], to=1),
        helper.make_node("Dropout", ["k"], ["d"]),
        helper.make_node("Identity", ["d"], ["y"]),
    ]
    constants = {
        "zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1, 9], np.int64),
    }  # fmt: skip
    model = one(*nodes, constants=constants, shape=(1, 4, 3, 3))
    network = parity.check(model).network
    assert kinds(network)["onnx"] == 0 and network.outputs == ("y",)


def test_integers_of_the_model_keep_their_layout_and_offset() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    constants = {"s": np.float32(0.05), "z": np.uint8(100)}
    model = one(*nodes, constants=constants, element=TensorProto.UINT8)
    imported = parity.check(model)
    assert imported.inputs["x"].offset == imported.outputs["y"].offset == -128
    tensor = imported.network.tensors["x"]
    assert tensor.dtype == "i8" and tensor.quant is not None and tensor.quant.zero_point == -28
    assert [op.kind for op in imported.network.ops] == ["activation"]


def test_unsigned_weights_are_shifted_if_symmetric_else_float() -> None:
    def quantized(zero: int) -> Network:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"]),
            helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["k"]),
            helper.make_node("Conv", ["f", "k"], ["c"]),
            helper.make_node("QuantizeLinear", ["c", "s", "z"], ["p"]),
            helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
        ]
        rng = np.random.default_rng(0)
        constants = {
            "s": np.float32(0.05), "z": np.int8(3), "sw": np.float32(0.01),
            "w": rng.integers(0, 256, (4, 4, 3, 3)).astype(np.uint8), "zw": np.uint8(zero),
        }  # fmt: skip
        return parity.check(one(*nodes, constants=constants), atol=0.06).network

    assert kinds(quantized(128)) == {"quantize": 1, "conv2d": 1, "dequantize": 1}
    assert kinds(quantized(120))["dequantize"] == 2


@pytest.mark.parametrize(("scale", "beta", "integer"), [(0.05, 1, 1), (0.05, 3, 1), (90, 1, 0)])
def test_a_float_bias_is_rounded_only_where_that_is_harmless(
    scale: float, beta: float, integer: int
) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"]),
        helper.make_node("QuantizeLinear", ["w", "sw", "z"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "sw", "z"], ["wf"]),
        helper.make_node("Gemm", ["f", "wf", "b"], ["g"], beta=float(beta)),
        helper.make_node("QuantizeLinear", ["g", "t", "z"], ["gq"]),
        helper.make_node("DequantizeLinear", ["gq", "t", "z"], ["y"]),
    ]
    constants = {
        "s": np.float32(scale), "sw": np.float32(0.02), "t": np.float32(0.1), "z": np.int8(0),
        "w": floats(12, 6), "b": floats(6),
    }  # fmt: skip
    network = parity.check(one(*nodes, constants=constants, shape=(1, 12)), atol=1e-6).network
    (linear,) = [op for op in network.ops if op.kind == "linear"]
    assert ("w_scale" in linear.constants) == bool(integer)


def test_a_network_that_does_nothing_and_outputs_that_depend_on_nothing() -> None:
    model = one(helper.make_node("Identity", ["c"], ["y"]), constants={"c": floats(1, 2)})
    with pytest.raises(InputError, match=r"'y' .Identity.: does not depend on any input"):
        import_model(model, isolated=False)


def test_several_outputs_of_one_value() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["y"]),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["a"], ["f"]),
    ]
    imported = parity.check(one(*nodes, outputs=("y", "t", "f", "a")))
    assert imported.network.outputs == ("y", "t", "f", "a")
    assert imported.outputs["t"].perm == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("node", "constants", "text"),
    [
        (helper.make_node("Greater", ["x", "c"], ["y"], name="n"), {"c": np.float32(0)},
         "node 'n' (Greater): operator Greater is supported only where its operands are constants"),
        (helper.make_node("Cast", ["x"], ["y"], name="n", to=TensorProto.FLOAT16), {},
         "values of type float16 are not supported"),
    ],
)  # fmt: skip
def test_what_kernels_do_not_have_is_named(
    node: onnx.NodeProto, constants: dict[str, object], text: str
) -> None:
    with pytest.raises(InputError) as caught:
        import_model(one(node, constants=constants), isolated=False)
    assert text in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(
    ("nodes", "constants", "text"),
    [
        (
            [helper.make_node("BatchNormalization", ["x", "s", "s", "s", "v"], ["y"], name="n")],
            {"s": floats(4), "v": -np.ones(4, np.float32)},
            "node 'n' (BatchNormalization): its variance is negative",
        ),
        (
            [helper.make_node("BatchNormalization", ["x", "s", "s", "s", "v"], ["y"], name="n")],
            {"s": floats(4), "v": np.ones(5, np.float32)},
            "BatchNormalization",
        ),
        (
            [helper.make_node("Reshape", ["x", "t"], ["y"], name="n")],
            {"t": np.array([1, 5, 5], np.int64)},
            "node 'n' (Reshape): shape [1, 4, 6, 6] cannot become [1, 5, 5]",
        ),
        (
            [
                helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
                helper.make_node("GatherElements", ["x", "i"], ["y"], name="n", axis=1),
            ],
            {},
            "node 'n' (GatherElements): GatherElements by indices that are computed",
        ),
        (
            [helper.make_node("Conv", ["x", "w"], ["y"], name="n")],
            {"w": np.full((4, 4, 1, 1), np.inf, np.float32)},
            "node 'n' (Conv): a weight is NaN or infinite",
        ),
    ],
)
def test_constants_that_make_no_sense(
    nodes: list[onnx.NodeProto], constants: dict[str, object], text: str
) -> None:
    with pytest.raises(InputError) as caught:
        import_model(one(*nodes, constants=constants), isolated=False)
    assert text in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-40, 1e30, float("inf"), float("nan")])
def test_quantization_scales_must_be_positive(scale: float) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="the_q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = {"s": np.float32(scale), "z": np.int8(0)}
    with pytest.raises(InputError, match=r"node 'the_q'.*is not a positive finite number"):
        import_model(one(*nodes, constants=constants), isolated=False)

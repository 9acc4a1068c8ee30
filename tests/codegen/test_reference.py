"""The numpy reference against torch (float) and onnxruntime (int8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import Builder, mobilenet, random_inputs
from onnx import TensorProto, helper, numpy_helper

from edgeopt.codegen.lower import lower
from edgeopt.codegen.plan import check_plan, plan
from edgeopt.codegen.reference import run_kernels, run_network
from edgeopt.core.errors import InputError
from edgeopt.core.network import Network, Op, Quant, Tensor
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model
from edgeopt.graph.reference import run_onnx as run_model

F = torch.nn.functional


def nchw(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> Any:
    return x.permute(0, 2, 3, 1).numpy()


def agree(network: Network, expected: Any, seed: int = 0) -> None:
    """Both executors give the expected value; exactly so between themselves."""
    inputs = random_inputs(network, seed)
    (output,) = network.outputs
    got = run_network(network, inputs)[output]
    np.testing.assert_allclose(got, expected(inputs), rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(run_kernels(lower(network), inputs)[output], got)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "groups", "pads", "dilation"),
    [
        (5, 7, 1, 1, 1, (0, 0, 0, 0), 1),
        (5, 7, 1, 2, 1, (0, 0, 0, 0), 1),
        (3, 8, 3, 2, 1, (0, 0, 1, 1), 1),
        (3, 8, 3, 1, 1, (2, 1, 0, 3), 2),
        (8, 8, 5, 2, 8, (2, 2, 2, 2), 1),
        (8, 8, 3, 1, 8, (2, 2, 2, 2), 2),
        (8, 12, 3, 1, 4, (1, 1, 1, 1), 1),
        (6, 12, 3, 1, 6, (1, 1, 1, 1), 1),
        (1, 4, 3, 1, 1, (1, 1, 1, 1), 1),
    ],
)
def test_convolutions_equal_torch(
    channels: int, outputs: int, kernel: int, stride: int, groups: int,
    pads: tuple[int, int, int, int], dilation: int,
) -> None:  # fmt: skip
    b = Builder(3)
    x = b.input(1, 9, 11, channels)
    b.conv(x, outputs, kernel, stride, groups=groups, pads=pads, dilation=dilation)
    w, bias = b.ops[-1].constants["w"], b.ops[-1].constants["b"]
    top, left, bottom, right = pads

    def expected(inputs: Any) -> Any:
        padded = F.pad(nchw(inputs[x]), (left, right, top, bottom))
        weight = torch.from_numpy(w).permute(0, 3, 1, 2)
        y = F.conv2d(
            padded, weight, torch.from_numpy(bias), stride, dilation=dilation, groups=groups
        )
        return nhwc(y)

    agree(b.network(), expected)


def test_linear_equals_torch() -> None:
    b = Builder(1)
    x = b.input(1, 33)
    b.act(b.linear(x, 17), "silu")
    c = b.ops[0].constants
    agree(b.network(), lambda i: F.silu(torch.from_numpy(i[x] @ c["w"].T + c["b"])).numpy())


@pytest.mark.parametrize("counted", [True, False])
def test_pooling_equals_torch(counted: bool) -> None:
    for pad in (0, 1):
        b = Builder(1)
        x = b.input(1, 9, 8, 6)
        b.pool("maxpool", x, 3, 2, pad)
        agree(b.network(), lambda i, p=pad: nhwc(F.max_pool2d(nchw(i["in0"]), 3, 2, p)))
        b = Builder(1)
        x = b.input(1, 9, 8, 6)
        b.pool("avgpool", x, 3, 2, pad, count_include_pad=counted)
        agree(
            b.network(),
            lambda i, p=pad: nhwc(F.avg_pool2d(nchw(i["in0"]), 3, 2, p, count_include_pad=counted)),
        )
    b = Builder(1)
    b.gap(b.input(1, 9, 8, 6))
    agree(b.network(), lambda i: i["in0"].mean(axis=(1, 2), keepdims=True))


def test_pooling_that_hangs_over_the_edge_equals_torch() -> None:
    for kind, function in (("maxpool", F.max_pool2d), ("avgpool", F.avg_pool2d)):
        b = Builder(1)
        x = b.input(1, 8, 8, 4)
        attrs = {"kernel": (3, 3), "strides": (2, 2), "pads": (0, 0, 0, 0)}
        b.op(kind, (x,), (1, 4, 4, 4), attrs)
        agree(
            b.network(),
            lambda i, f=function: nhwc(f(nchw(i["in0"]), 3, 2, ceil_mode=True)),
        )


def test_moving_and_normalising_operators_equal_numpy() -> None:
    b = Builder(2)
    x = b.input(1, 4, 6, 8)
    turned = b.op("transpose", (x,), (1, 8, 4, 6), {"perm": (0, 3, 1, 2)})
    b.op("softmax", (turned,), (1, 8, 4, 6), {"axis": 1})
    agree(
        b.network(),
        lambda i: torch.softmax(torch.from_numpy(i[x].transpose(0, 3, 1, 2)), 1).numpy(),
    )
    b = Builder(2)
    x, y = b.input(1, 4, 6, 8), b.input(1, 4, 6, 3)
    joined = b.op("concat", (x, y), (1, 4, 6, 11), {"axis": 3})
    b.op("resize", (joined,), (1, 8, 18, 11), {"mode": "nearest", "scales": (2, 3)})
    agree(
        b.network(),
        lambda i: np.concatenate([i[x], i[y]], 3).repeat(2, axis=1).repeat(3, axis=2),
    )


@pytest.mark.parametrize("shape", [(), (8,), (1, 1, 1, 8), (1, 4, 6, 8), (4, 6, 8), (6, 1)])
def test_constant_operands_broadcast_as_in_numpy(shape: tuple[int, ...]) -> None:
    for kind, function in (("add", np.add), ("mul", np.multiply)):
        b = Builder(4)
        x = b.input(1, 4, 6, 8)
        c = b.random.normal(0, 1, shape).astype(np.float32)
        b.act(b.op(kind, (x,), (1, 4, 6, 8), {}, {"c": c}), "relu")
        agree(b.network(), lambda i, f=function, c=c: np.maximum(f(i["in0"], c), 0))


def test_gates_scale_channels_from_either_side() -> None:
    for gate_shape in ((1, 1, 1, 8), (1, 8)):
        for swap in (False, True):
            b = Builder(5)
            x, gate = b.input(1, 4, 6, 8), b.input(1, *gate_shape[1:])
            b.mul(*((gate, x) if swap else (x, gate)))
            agree(b.network(), lambda i: i["in0"] * i["in1"].reshape(1, 1, 1, 8))
            (kernel,) = lower(b.network()).kernels
            assert (kernel.key.op, kernel.inputs) == ("scale", (x, gate))


def test_foreign_operators_run_in_onnxruntime() -> None:
    node = helper.make_node("Softplus", ["a"], ["b"])
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 6)) for n in "ab"]
    model = helper.make_model(
        helper.make_graph([node], "one", value[:1], value[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    b = Builder(6)
    x = b.input(1, 6)
    b.op("onnx", (x,), (1, 6), {"node": model.SerializeToString()})
    agree(b.network(), lambda i: np.log1p(np.exp(i[x])))


def qdq_model(network: Network) -> onnx.ModelProto:
    """The network as QDQ ONNX in NHWC order where it matters not (one map of 1x1 convolutions,
    linear layers, elementwise operators) and NCHW inside convolutions and poolings."""
    nodes, constants, count = [], [], 0

    def name(prefix: str) -> str:
        nonlocal count
        count += 1
        return f"{prefix}_{count}"

    def constant(value: Any) -> str:
        label = name("c")
        constants.append(numpy_helper.from_array(np.asarray(value), label))
        return label

    def node(op: str, inputs: list[str], **attrs: Any) -> str:
        label = name(op)
        nodes.append(helper.make_node(op, inputs, [label], **attrs))
        return label

    def parameters(quant: Quant) -> list[str]:
        return [constant(np.float32(quant.scale)), constant(np.int8(quant.zero_point))]

    def back(stored: str, tensor: Tensor) -> str:
        assert tensor.quant is not None
        return node("DequantizeLinear", [stored, *parameters(tensor.quant)])

    stored = {n: n for n in network.inputs}
    for op in network.ops:
        x = [back(stored[n], network.tensors[n]) for n in op.inputs]
        y = network.tensors[op.output]
        spatial = op.kind in ("conv2d", "avgpool", "global_avgpool", "maxpool")
        if spatial:
            x = [node("Transpose", x, perm=[0, 3, 1, 2])]
        if op.kind in ("conv2d", "linear"):
            w, scale = op.constants["w"], op.constants["w_scale"]
            if op.kind == "conv2d":
                w = np.ascontiguousarray(w.transpose(0, 3, 1, 2))
            zeros = np.zeros(w.shape[0], np.int8)
            real_w = node(
                "DequantizeLinear", [constant(w), constant(scale), constant(zeros)], axis=0
            )
            scale_b = (np.float32(network.tensors[op.inputs[0]].quant.scale) * scale).astype("f4")
            bias = [constant(op.constants["b"]), constant(scale_b), constant(zeros.astype("i4"))]
            real_b = node("DequantizeLinear", bias, axis=0)
            if op.kind == "linear":
                real = node("Gemm", [x[0], real_w, real_b], transB=1)
            else:
                real = node(
                    "Conv", [x[0], real_w, real_b], group=op.attrs["groups"],
                    kernel_shape=op.attrs["kernel"], strides=op.attrs["strides"],
                    pads=op.attrs["pads"], dilations=op.attrs["dilations"],
                )  # fmt: skip
        elif op.kind == "activation":
            function = op.attrs["function"]
            if function == "relu6":
                real = node("Clip", [x[0], constant(np.float32(0)), constant(np.float32(6))])
            elif function == "hardsigmoid":
                real = node("HardSigmoid", x, alpha=op.attrs["alpha"], beta=op.attrs["beta"])
            else:
                real = node({"relu": "Relu", "hardswish": "HardSwish"}[str(function)], x)
        elif op.kind == "avgpool":
            real = node(
                "AveragePool", x, kernel_shape=op.attrs["kernel"], strides=op.attrs["strides"],
                pads=op.attrs["pads"], count_include_pad=int(op.attrs["count_include_pad"]),
            )  # fmt: skip
        elif op.kind == "concat":
            real = node("Concat", x, axis=op.attrs["axis"])
        elif op.kind == "reshape":
            real = node("Reshape", [x[0], constant(np.array(y.shape))])
        else:
            kinds = {"add": "Add", "mul": "Mul", "global_avgpool": "GlobalAveragePool"}
            real = node(kinds[op.kind], x)
        if spatial:
            real = node("Transpose", [real], perm=[0, 2, 3, 1])
        assert y.quant is not None
        stored[op.output] = node("QuantizeLinear", [real, *parameters(y.quant)])

    def info(label: str, tensor: Tensor) -> Any:
        return helper.make_tensor_value_info(label, TensorProto.INT8, tensor.shape)

    outputs = [info(stored[n], network.tensors[n]) for n in network.outputs]
    inputs = [info(n, network.tensors[n]) for n in network.inputs]
    graph = helper.make_graph(nodes, "qdq", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run_onnx(model: onnx.ModelProto, inputs: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, inputs)[0]


def integer_cases() -> dict[str, Network]:
    cases = {}
    for name in (
        "conv",
        "conv_relu6",
        "conv_hardswish",
        "conv_other_scale",
        "depthwise",
        "grouped",
    ):
        b = Builder(7, integer=True)
        x = b.input(1, 9, 9, 8)
        if name == "depthwise":
            b.depthwise(x, 5, 2)
        elif name == "grouped":
            b.conv(x, 12, 3, groups=4)
        else:
            y = b.conv(x, 24, 3, 2)
            if name == "conv_relu6":
                b.act(y, "relu6")
            elif name == "conv_hardswish":
                b.act(y, "hardswish")
            elif name == "conv_other_scale":
                b.act(y, "relu", same=False)
        cases[name] = b.network()
    for name in ("add", "add_relu", "mul", "scale", "concat", "gap", "linear", "sigmoid",
                 "average", "average_all"):  # fmt: skip
        b = Builder(8, integer=True)
        x = b.input(1, 6, 6, 16)
        if name.startswith("add"):
            y = b.add(x, b.input(1, 6, 6, 16))
            if name == "add_relu":
                b.act(y, "relu")
        elif name == "mul":
            b.mul(x, b.input(1, 6, 6, 16))
        elif name == "scale":
            b.mul(x, b.input(1, 1, 1, 16))
        elif name == "concat":
            b.op("concat", (x, b.input(1, 6, 6, 8)), (1, 6, 6, 24), {"axis": 3})
        elif name == "gap":
            b.gap(x)
        elif name == "linear":
            b.linear(b.reshape(x, 1, 576), 30)
        elif name == "average":
            b.pool("avgpool", x, 3, 2, 1, count_include_pad=False)
        elif name == "average_all":
            b.pool("avgpool", x, 3, 2, 1, count_include_pad=True)
        else:
            b.act(x, "hardsigmoid", alpha=1 / 6, beta=0.5)
        cases[name] = b.network()
    return cases


CASES = integer_cases()


@pytest.mark.parametrize("name", sorted(CASES))
def test_int8_equals_onnxruntime(name: str) -> None:
    network = CASES[name]
    inputs = random_inputs(network, 9)
    (output,) = network.outputs
    got = run_network(network, inputs)[output]
    np.testing.assert_array_equal(run_kernels(lower(network), inputs)[output], got)
    expected = run_onnx(qdq_model(network), inputs)
    steps = np.abs(got.astype(int) - expected.astype(int))
    assert len(np.unique(got)) > 10
    assert steps.max() <= 1
    assert (steps == 0).mean() >= 0.99


def test_int8_network_equals_onnxruntime() -> None:
    network = mobilenet(1, integer=True)
    inputs = random_inputs(network)
    kept = run_network(network, inputs, keep=True)
    kernels = run_kernels(lower(network), inputs, keep=True)
    for name, value in kernels.items():
        np.testing.assert_array_equal(value, kept[name])
    expected = run_onnx(qdq_model(network), inputs)
    assert np.abs(kept[network.outputs[0]].astype(int) - expected).max() <= 2


def test_float_network_gives_the_same_either_way() -> None:
    network = mobilenet(2)
    inputs = random_inputs(network)
    one, other = run_network(network, inputs), run_kernels(lower(network), inputs)
    for name in network.outputs:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-6)


def test_a_conversion_chain_keeps_what_it_can() -> None:
    quant = Quant(0.25, -3)
    tensors = {
        "x": Tensor("x", (1, 5)),
        "q": Tensor("q", (1, 5), "i8", quant),
        "y": Tensor("y", (1, 5)),
    }
    ops = (Op("a", "quantize", ("x",), "q"), Op("b", "dequantize", ("q",), "y"))
    network = Network("n", tensors, ops, ("x",), ("y",))
    x = np.array([[-100, -1.0, 0.1, 0.375, 100]], np.float32)
    for y in (run_network(network, {"x": x}), run_kernels(lower(network), {"x": x})):
        np.testing.assert_array_equal(y["y"], np.float32([[-31.25, -1, 0, 0.5, 32.5]]))


def test_wrong_inputs_are_named() -> None:
    network = mobilenet()
    with pytest.raises(InputError, match="input 'in0' is missing"):
        run_network(network, {})
    with pytest.raises(InputError, match=r"input 'in0' is float64\[1, 2\], not float32\[1, 32"):
        run_kernels(lower(network), {"in0": np.zeros((1, 2))})


def test_an_accumulator_that_does_not_fit_is_not_hidden() -> None:
    b = Builder(0, integer=True)
    b.linear(b.input(1, 4), 2)
    network = b.network()
    network.ops[0].constants["w"][:] = 1
    network.ops[0].constants["b"][:] = 2**31 - 1
    with pytest.raises(OverflowError, match="32 bits"):
        run_network(network, {"in0": np.full((1, 4), 127, np.int8)})


@pytest.mark.parametrize(
    "name", ["kws_ref_model.op18.onnx", "vww_96_int8.op18.onnx", "vww_96_float.op18.onnx"]
)
def test_published_models_equal_onnxruntime(data_dir: Path, name: str) -> None:
    """Import, lowering and both executors on the MLPerf Tiny reference models."""
    model = load_model(data_dir / "mlperf_tiny" / name, isolated=False)
    imported = import_model(model, isolated=False)
    draw = np.random.default_rng(2)
    given = {}
    for key, known in imported.inputs.items():
        if known.onnx_dtype == "float32":
            given[key] = draw.uniform(0, 1, known.onnx_shape).astype(np.float32)
        else:
            given[key] = draw.integers(-128, 128, known.onnx_shape).astype(known.onnx_dtype)
    stored = {key: imported.inputs[key].from_onnx(value) for key, value in given.items()}
    graph = lower(imported.network)
    check_plan(graph, plan(graph))
    expected = run_model(model.SerializeToString(), given)
    one, other = run_network(imported.network, stored), run_kernels(graph, stored)
    for key, value in one.items():
        np.testing.assert_array_equal(other[key], value)
        result = imported.outputs[key].to_onnx(value)
        if value.dtype == np.int8:
            np.testing.assert_array_equal(result, expected[key])
        else:
            np.testing.assert_allclose(result, expected[key], rtol=1e-4, atol=1e-6)

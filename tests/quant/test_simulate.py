"""The torch simulation against the numpy definition and against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import quant_models as models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.codegen.reference import run_network
from edgeopt.core import affine
from edgeopt.core.errors import InputError
from edgeopt.core.network import Network, Op, Quant, Tensor
from edgeopt.graph.importer import import_network
from edgeopt.quant.accumulate import Accumulator
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model
from edgeopt.quant.simulate import Simulator, simulate
from edgeopt.quant.steps import prepare

BUILDERS = {"mobile": models.mobile, "varied": models.varied}


def quantized(name: str, seed: int = 0) -> tuple[onnx.ModelProto, np.ndarray]:
    model = BUILDERS[name](seed)
    pictures = models.images(model, 24)
    return quantize_model(model, calibrate(model, pictures)), pictures


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize("seed", [0, 1])
def test_every_tensor_equals_the_numpy_definition(name: str, seed: int) -> None:
    model, pictures = quantized(name, seed)
    network = import_network(model, isolated=False)
    names = [op.output for op in network.ops if network.tensors[op.output].dtype == "i8"]
    assert len(names) > 10
    stored = pictures[:5].transpose(0, 2, 3, 1)
    found = Simulator(network).run({network.inputs[0]: stored}, keep=names, batch=2)
    for index in range(5):
        one = {network.inputs[0]: np.ascontiguousarray(stored[index : index + 1])}
        expected = run_network(network, one, keep=True)
        for tensor in names:
            np.testing.assert_array_equal(found[tensor][index : index + 1], expected[tensor])


def _runtime(model: onnx.ModelProto, pictures: np.ndarray, names: list[str]) -> list[np.ndarray]:
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for name in names:
        shown.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None)
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without this, processors that lack VNNI saturate 16-bit sums.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options)
    runs = [session.run(names, {"image": p[None]}) for p in pictures]
    return [np.concatenate(parts).astype(int) - 128 for parts in zip(*runs, strict=True)]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_onnxruntime_agrees_within_a_step(name: str) -> None:
    """Operator by operator, each reading what onnxruntime wrote before it."""
    model, pictures = quantized(name)
    network = import_network(model, isolated=False)
    names = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    names = [n for n in names if n in network.tensors]
    assert len(names) >= 8
    theirs = {}
    for tensor, stored in zip(names, _runtime(model, pictures, names), strict=True):
        moved = stored.transpose(0, 2, 3, 1) if stored.ndim == 4 else stored
        shape = (len(moved), *network.tensors[tensor].shape[1:])
        theirs[tensor] = torch.from_numpy(moved.reshape(shape).astype(np.float32))
    pixels = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))
    values = {network.inputs[0]: torch.from_numpy(pixels)}
    same = total = 0
    for op in network.ops:
        ours = prepare(op, network)([values[n] for n in op.inputs])
        values[op.output] = theirs.get(op.output, ours)
        if op.output in theirs:
            steps = (ours - theirs[op.output]).abs()
            assert steps.max() <= 1, op.output
            same += int((steps == 0).sum())
            total += steps.numel()
    assert total > 100_000
    assert same / total >= 0.99  # averages of four or six whole numbers often tie


def _one_layer(
    kind: str, w: np.ndarray, b: np.ndarray, quant_x: Quant, quant_y: Quant, scale_w: np.ndarray,
    attrs: dict[str, object], in_shape: tuple[int, ...], out_shape: tuple[int, ...],
) -> Network:  # fmt: skip
    op = Op("layer", kind, ("x",), "y", attrs, {"w": w, "b": b, "w_scale": scale_w})
    tensors = {
        "x": Tensor("x", in_shape, "i8", quant_x),
        "y": Tensor("y", out_shape, "i8", quant_y),
    }
    return Network("one", tensors, (op,), ("x",), ("y",))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    groups=st.sampled_from(["one", "two", "depthwise"]),
    zeros=st.tuples(st.integers(-128, 127), st.integers(-128, 127)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.integers(1, 2),
)
def test_convolution_by_the_definition(
    seed: int, kernel: int, stride: int, groups: str, zeros: tuple[int, int],
    pads: tuple[int, int, int, int], dilation: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    channels, outputs, size = 4, 8, 9
    count = {"one": 1, "two": 2, "depthwise": channels}[groups]
    w = rng.integers(-127, 128, (outputs, kernel, kernel, channels // count)).astype(np.int8)
    b = rng.integers(-20000, 20000, outputs).astype(np.int32)
    quant_x = Quant(float(np.float32(rng.uniform(1e-3, 1))), zeros[0])
    quant_y = Quant(float(np.float32(rng.uniform(0.5, 50))), zeros[1])
    scale_w = rng.uniform(1e-3, 1e-1, outputs).astype(np.float32)
    top, left, bottom, right = pads
    span = dilation * (kernel - 1) + 1
    high = (size + top + bottom - span) // stride + 1
    wide = (size + left + right - span) // stride + 1
    attrs: dict[str, object] = {
        "kernel": (kernel, kernel), "strides": (stride, stride), "pads": pads,
        "dilations": (dilation, dilation), "groups": count,
    }  # fmt: skip
    network = _one_layer(
        "conv2d", w, b, quant_x, quant_y, scale_w, attrs,
        (1, size, size, channels), (1, high, wide, outputs),
    )  # fmt: skip
    x = rng.integers(-128, 128, (3, size, size, channels)).astype(np.int8)
    found = Simulator(network).run({"x": x})["y"]

    # The definition, position by position, in Python integers.
    per_group = channels // count
    factor = affine.multiplier(quant_x.scale, scale_w, quant_y.scale)
    padded = np.full((size + top + bottom, size + left + right, channels), zeros[0], np.int64)
    padded[top : top + size, left : left + size] = x[1]
    acc = np.zeros((high, wide, outputs), np.int64)
    for o in range(outputs):
        first = o // (outputs // count) * per_group
        folded = int(b[o]) - zeros[0] * int(w[o].astype(np.int64).sum())
        for i in range(high):
            for j in range(wide):
                patch = padded[
                    i * stride : i * stride + span : dilation,
                    j * stride : j * stride + span : dilation,
                    first : first + per_group,
                ]
                acc[i, j, o] = int((patch * w[o].astype(np.int64)).sum()) + folded
    expected = affine.requantize(acc.astype(np.int32), factor, zeros[1])
    np.testing.assert_array_equal(found[1], expected)


def test_large_sums_are_exact_in_float64() -> None:
    rng = np.random.default_rng(5)
    inputs = 4096
    w = rng.integers(100, 128, (6, inputs)).astype(np.int8)
    b = np.array([0, 1, 2**30, -(2**30), 7, -7], np.int32)
    quant_x, quant_y = Quant(0.5, -128), Quant(2.0**19, -3)
    scale_w = np.full(6, 0.37, np.float32)
    network = _one_layer("linear", w, b, quant_x, quant_y, scale_w, {}, (1, inputs), (1, 6))
    assert not Accumulator(network.ops[0], quant_x, quant_y).exact_f32
    x = rng.integers(-128, 128, (4, inputs)).astype(np.int8)
    found = Simulator(network).run({"x": x})["y"]
    for index in range(4):
        expected = run_network(network, {"x": x[index : index + 1]})["y"]
        np.testing.assert_array_equal(found[index : index + 1], expected)


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    w = np.full((1, 8), 127, np.int8)
    network = _one_layer(
        "linear", w, np.array([2**31 - 1], np.int32), Quant(1.0, 0), Quant(1.0, 0),
        np.ones(1, np.float32), {}, (1, 8), (1, 1),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"op 'layer': an int32 accumulator could overflow"):
        Simulator(network)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["add", "mul"]),
    gate=st.booleans(),
    zeros=st.tuples(*[st.integers(-128, 127)] * 3),
)
def test_sums_and_products_by_the_definition(
    seed: int, kind: str, gate: bool, zeros: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.uniform(-6, 1, 3)).astype(np.float32)
    quants = [Quant(float(s), z) for s, z in zip(scales, zeros, strict=True)]
    gated = gate and kind == "mul"
    shapes = [(1, 5, 6, 8), (1, 1, 1, 8) if gated else (1, 5, 6, 8), (1, 5, 6, 8)]
    tensors = {
        n: Tensor(n, shape, "i8", q) for n, shape, q in zip("aby", shapes, quants, strict=True)
    }
    network = Network("two", tensors, (Op("op", kind, ("a", "b"), "y"),), ("a", "b"), ("y",))
    a, b = (rng.integers(-128, 128, (2, *shape[1:])).astype(np.int8) for shape in shapes[:2])
    found = Simulator(network).run({"a": a, "b": b})["y"]
    sa, sb, sy = scales
    if kind == "add":
        factors = np.array([sa / sy, sb / sy], np.float32)
        expected = affine.add(a, b, factors, *zeros)
    else:
        expected = affine.mul(a, b, np.float32(np.float32(sa * sb) / sy), *zeros)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    function=st.sampled_from(["hardswish", "hardsigmoid", "sigmoid", "relu6", "silu", "tanh"]),
    zeros=st.tuples(*[st.integers(-128, 127)] * 2),
)
def test_activations_are_their_tables(seed: int, function: str, zeros: tuple[int, int]) -> None:
    from edgeopt.core import activations

    rng = np.random.default_rng(seed)
    quant_x, quant_y = (Quant(float(np.float32(np.exp(rng.uniform(-7, 0)))), z) for z in zeros)
    attrs: dict[str, object] = {"function": function}
    if function == "hardsigmoid":
        attrs.update(alpha=1 / 6, beta=0.5)
    tensors = {
        "x": Tensor("x", (1, 256), "i8", quant_x), "y": Tensor("y", (1, 256), "i8", quant_y)
    }  # fmt: skip
    network = Network("one", tensors, (Op("f", "activation", ("x",), "y", attrs),), ("x",), ("y",))
    every = np.arange(-128, 128).astype(np.int8)[None]
    found = Simulator(network).run({"x": every})["y"]
    expected = activations.table(function, attrs, quant_x, quant_y)
    np.testing.assert_array_equal(found[0], expected)


def test_float_networks_run_too() -> None:
    import onnxruntime

    model = models.varied()
    pictures = models.images(model, 3)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = np.concatenate([session.run(None, {"image": p[None]})[0] for p in pictures])
    network = import_network(model, isolated=False)
    found = simulate(network, pictures, channels_first=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_inputs_that_do_not_fit_are_refused() -> None:
    model, pictures = quantized("mobile")
    network = import_network(model, isolated=False)
    with pytest.raises(InputError, match=r"float32 24x3x12x12, not float32 Nx12x12x3") as caught:
        simulate(network, pictures)
    assert "channels_first=True" in caught.value.hint
    with pytest.raises(InputError, match="images are float64"):
        simulate(network, pictures.astype(np.float64), channels_first=True)
    with pytest.raises(InputError, match="there are no images"):
        simulate(network, pictures[:0], channels_first=True)
    with pytest.raises(InputError, match="input 'image' is missing"):
        Simulator(network).run({})


def test_networks_that_make_no_sense_are_refused() -> None:
    tensors = {n: Tensor(n, (1, 4), "i8") for n in "aby"}
    network = Network("sum", tensors, (Op("op", "add", ("a", "b"), "y"),), ("a", "b"), ("y",))
    with pytest.raises(InputError, match=r"^tensor 'a': integer tensor has no quantization"):
        Simulator(network)
    known = {n: Tensor(n, (1, 4), "i8", Quant(1.0, 0)) for n in "aby"}
    network = Network("sum", known, network.ops, ("a", "b"), ("y",))
    rows = np.zeros((3, 4), np.int8)
    with pytest.raises(InputError, match=r"^sum: inputs have different numbers of images"):
        Simulator(network).run({"a": rows, "b": rows[:2]})

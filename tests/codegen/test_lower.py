"""Lowering: what becomes one kernel, which key it gets, and that nothing changes in value."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Builder, mobilenet, random_inputs
from test_plan import random_network

from edgeopt.codegen.lower import lower, lower_shapes
from edgeopt.codegen.reference import run_kernels, run_network
from edgeopt.core import activations
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import KernelGraph, OpKey
from edgeopt.core.network import Network, Op, Quant, Tensor
from edgeopt.graph.build import build_onnx
from edgeopt.graph.importer import import_network
from edgeopt.ofa.describe import describe
from edgeopt.ofa.spaces import load_space
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model


def texts(graph: KernelGraph) -> list[str]:
    return [str(key) for key in graph.keys]


def test_float_fusions() -> None:
    b = Builder(0)
    x = b.act(b.conv(b.input(1, 8, 8, 3), 16, 3, 2), "relu6")
    y = b.act(b.depthwise(x, 5), "hardswish")
    y = b.squeeze_excite(y, 4)
    y = b.act(b.add(b.conv(y, 16), x), "relu")
    graph = lower(b.network(b.linear(b.reshape(b.gap(y), 1, 16), 10)))
    assert texts(graph) == [
        "conv2d in_shape=8x8x3 out_shape=4x4x16 kernel=3x3 strides=2x2 pads=1x1x1x1"
        " activation=relu6",
        "depthwise in_shape=4x4x16 out_shape=4x4x16 kernel=5x5 pads=2x2x2x2 groups=16"
        " activation=hardswish",
        "global_avgpool in_shape=4x4x16 out_shape=1x1x16",
        "pointwise in_shape=1x1x16 out_shape=1x1x4 activation=relu",
        "pointwise in_shape=1x1x4 out_shape=1x1x16 activation=hardsigmoid",
        "scale in_shape=4x4x16 out_shape=4x4x16 inputs=2",
        "pointwise in_shape=4x4x16 out_shape=4x4x16 residual=1 residual_activation=relu",
        "global_avgpool in_shape=4x4x16 out_shape=1x1x16",
        "linear in_shape=16 out_shape=10",
    ]
    assert graph.kernels[6].inputs[1] == x
    assert len(graph.kernels[6].sources) == 3


def test_int8_fusions() -> None:
    b = Builder(0, integer=True)
    x = b.act(b.conv(b.input(1, 8, 8, 3), 16, 3, 2), "relu6")
    y = b.act(b.depthwise(x, 5), "hardswish")
    y = b.act(b.conv(y, 16), "relu", same=False)
    y = b.act(b.add(y, x), "relu")
    y = b.act(b.add(y, x), "hardswish")
    graph = lower(b.network(y))
    assert texts(graph) == [
        "conv2d in_shape=8x8x3 out_shape=4x4x16 dtype=i8 out_dtype=i8 kernel=3x3 strides=2x2"
        " pads=1x1x1x1",
        "depthwise in_shape=4x4x16 out_shape=4x4x16 dtype=i8 out_dtype=i8 kernel=5x5"
        " pads=2x2x2x2 groups=16 activation=lut",
        "pointwise in_shape=4x4x16 out_shape=4x4x16 dtype=i8 out_dtype=i8 activation=lut",
        "add in_shape=4x4x16 out_shape=4x4x16 dtype=i8 out_dtype=i8 inputs=2",
        "add in_shape=4x4x16 out_shape=4x4x16 dtype=i8 out_dtype=i8 inputs=2",
        "activation in_shape=4x4x16 out_shape=4x4x16 dtype=i8 out_dtype=i8 activation=lut",
    ]
    first, second, third = graph.kernels[0], graph.kernels[1], graph.kernels[3]
    quant = graph.tensors[x].quant
    assert quant is not None
    zero, (lo, hi) = quant.zero_point, activations.clamp("relu6", {}, quant)
    assert (lo, hi) == (zero, min(127, zero + round(6 / quant.scale)))
    assert first.constants["qparams"].tolist()[1:] == [zero, lo, hi]
    assert first.constants["multiplier"].dtype == np.float32
    assert second.constants["lut"].shape == (256,)
    assert third.constants["qparams"][3] == third.constants["qparams"][2]  # relu starts at zero


def test_int8_constants_follow_the_definition() -> None:
    b = Builder(1, integer=True)
    x = b.input(1, 4, 4, 8)
    network = b.network(b.conv(x, 4))
    (kernel,) = lower(network).kernels
    op, tensors = network.ops[0], network.tensors
    quant_x, quant_y = tensors[x].quant, tensors[op.output].quant
    assert quant_x is not None and quant_y is not None
    product = (np.float32(quant_x.scale) * op.constants["w_scale"]).astype(np.float32)
    np.testing.assert_array_equal(
        kernel.constants["multiplier"], product / np.float32(quant_y.scale)
    )
    np.testing.assert_array_equal(kernel.constants["b"], op.constants["b"])  # zero point unfolded
    assert kernel.constants["qparams"].tolist() == [
        quant_x.zero_point, quant_y.zero_point, -128, 127,
    ]  # fmt: skip


def test_an_intermediate_that_is_needed_is_not_fused_away() -> None:
    b = Builder(0)
    x = b.conv(b.input(1, 4, 4, 4), 4)
    y = b.act(x, "relu")
    assert texts(lower(b.network(x, y)))[1].startswith("activation")  # x is an output
    z = b.mul(x, y)
    assert len(lower(b.network(z)).kernels) == 3  # x is read twice


def test_of_two_convolutions_the_later_takes_the_sum() -> None:
    b = Builder(0)
    x = b.input(1, 4, 4, 4)
    early, late = b.conv(x, 8), b.conv(x, 8, 3)
    graph = lower(b.network(b.act(b.add(early, late))))
    assert [key.residual for key in graph.keys] == [False, True]
    assert graph.kernels[1].inputs == (x, early)


def test_a_residual_written_after_the_convolution_delays_it() -> None:
    b = Builder(0)
    x = b.input(1, 4, 4, 4)
    y, late = b.conv(x, 4), b.pool("maxpool", x, 3, 1, 1)
    graph = lower(b.network(b.add(y, late)))
    assert [key.op for key in graph.keys] == ["maxpool", "pointwise"]
    inputs = random_inputs(b.network())
    name = b.ops[-1].output
    np.testing.assert_allclose(
        run_kernels(graph, inputs)[name], run_network(b.network(), inputs)[name], rtol=1e-6
    )


def test_a_sum_with_itself_or_another_shape_is_no_residual() -> None:
    b = Builder(0)
    x = b.conv(b.input(1, 4, 4, 4), 4)
    assert [key.op for key in lower(b.network(b.add(x, x))).keys] == ["pointwise", "add"]


def test_averages_of_the_whole_map_are_global() -> None:
    for integer in (False, True):
        b = Builder(0, integer=integer)
        b.pool("avgpool", b.input(1, 6, 6, 4), 6, 6)
        assert [key.op for key in lower(b.network()).keys] == ["global_avgpool"]


def test_variants_are_those_of_the_kernel_table() -> None:
    b = Builder(0)
    x = b.input(1, 4, 6, 8)
    b.pool("avgpool", x, 3, 1, 1, count_include_pad=True)
    b.pool("avgpool", x, 3, 1, 0, count_include_pad=True)
    b.op("transpose", (x,), (1, 8, 4, 6), {"perm": (0, 3, 1, 2)})
    b.op("softmax", (x,), (1, 4, 6, 8), {"axis": -1})
    b.op("softmax", (x,), (1, 4, 6, 8), {"axis": 1})
    y = b.input(1, 4, 2, 8)
    b.op("concat", (x, y), (1, 4, 8, 8), {"axis": 2})
    b.op("add", (x,), (1, 4, 6, 8), {}, {"c": np.float32(2)})
    b.op("mul", (x,), (1, 4, 6, 8), {}, {"c": np.zeros((4, 6, 8), np.float32)})
    b.op("resize", (x,), (1, 8, 12, 8), {"mode": "nearest", "scales": (2, 2)})
    graph = lower(b.network(*(op.output for op in b.ops)))
    assert [key.variant for key in graph.keys] == [
        "include", "", "perm2-0-1", "", "axis0", "axis1.6-2", "channel", "full", "",
    ]  # fmt: skip
    b = Builder(0, integer=True)
    x = b.input(1, 4, 6, 8)
    same, other = b.act(x, "relu"), b.act(x, "hardswish")
    one = b.op("concat", (x, same), (1, 4, 6, 16), {"axis": 3}, quant=b.quant(x))
    two = b.op("concat", (x, other), (1, 4, 6, 16), {"axis": 3}, quant=b.quant(x))
    keys = lower(b.network(one, two)).keys
    assert [key.variant for key in keys[2:]] == ["axis2.8-8.same", "axis2.8-8"]


def test_what_moves_nothing_is_an_alias() -> None:
    b = Builder(0)
    x = b.gap(b.conv(b.input(1, 4, 4, 8), 8))
    turned = b.op("transpose", (x,), (1, 8, 1, 1), {"perm": (0, 3, 1, 2)})
    flat = b.reshape(turned, 1, 8)
    graph = lower(b.network(b.linear(flat, 3)))
    assert graph.aliases == {turned: x, flat: x}
    assert len(graph.kernels) == 3


def test_outputs_that_would_share_storage_are_copied() -> None:
    b = Builder(0)
    x = b.input(1, 2, 2, 4)
    y = b.act(x)
    flat, seen = b.reshape(y, 1, 16), b.reshape(x, 1, 16)
    late = b.act(seen, "sigmoid")
    network = b.network(flat, seen, y, late)
    graph = lower(network)
    assert [key.op for key in graph.keys] == ["activation", "activation", "copy", "copy"]
    assert not graph.aliases
    inputs = random_inputs(network)
    expected = run_network(network, inputs)
    for name, value in run_kernels(graph, inputs).items():
        np.testing.assert_array_equal(value, expected[name])


def test_names_are_unique_and_sources_complete() -> None:
    b = Builder(0)
    x = b.input(1, 4, 4, 4)
    for _ in range(3):
        x = b.act(b.conv(x, 4), "relu")
    ops = tuple(replace(op, name="same") for op in b.ops)
    graph = lower(replace(b.network(), ops=ops))
    assert len({kernel.name for kernel in graph.kernels}) == 3
    network = mobilenet()
    sources = [name for kernel in lower(network).kernels for name in kernel.sources]
    assert sorted(sources) == sorted(op.name for op in network.ops if op.kind != "reshape")


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans())
def test_random_networks_keep_their_values(data: Any, integer: bool) -> None:
    network = random_network(data, integer)
    inputs = random_inputs(network)
    expected = run_network(network, inputs)
    graph = lower(network)
    for name, value in run_kernels(graph, inputs).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)
        if integer:
            np.testing.assert_array_equal(value, expected[name])
    for key in graph.keys:
        assert OpKey.parse(str(key)) == key


@pytest.mark.parametrize("integer", [True, False])
def test_shapes_alone_give_the_same_keys(integer: bool) -> None:
    full = lower(mobilenet(0, integer=integer))
    bare = lower(mobilenet(0, integer=integer, constants=False))
    assert bare.keys == full.keys


def with_weights(network: Network, seed: int) -> Network:
    """Random weights for a shape-only network."""
    draw = np.random.default_rng(seed)
    ops = []
    for op in network.ops:
        if op.kind in ("conv2d", "linear"):
            inputs = network.tensors[op.inputs[0]].shape[-1]
            outputs = network.tensors[op.output].shape[-1]
            shape: tuple[int, ...] = (outputs, inputs)
            if op.kind == "conv2d":
                kernel: Any = op.attrs["kernel"]
                groups: Any = op.attrs["groups"]
                shape = (outputs, *kernel, inputs // groups)
            scale = (2 / np.prod(shape[1:])) ** 0.5
            w = draw.normal(0, scale, shape).astype(np.float32)
            b = draw.normal(0, 0.1, outputs).astype(np.float32)
            op = replace(op, constants={"w": w, "b": b})
        ops.append(op)
    return replace(network, ops=tuple(ops))


def sizes(graph: KernelGraph) -> list[tuple[str, int]]:
    """Type and bytes of what each kernel writes."""
    tensors = (graph.tensors[kernel.output] for kernel in graph.kernels)
    return [(tensor.dtype, tensor.size_bytes) for tensor in tensors]


@pytest.mark.parametrize("index", range(4))
def test_search_sees_the_kernels_of_the_exported_network(index: int) -> None:
    """Shapes alone, as float and as int8, against export, quantization and import."""
    space = load_space("cifar")
    choices = [space.max_config(), space.min_config()]
    choices += [space.sample(random.Random(index)) for index in (1, 2)]
    network = describe(space, choices[index])
    model = onnx.load_from_string(build_onnx(with_weights(network, index)))
    floats = lower(import_network(model, isolated=False))
    assert floats.keys == lower_shapes(network, "f32").keys
    side = space.max_config().resolution
    images = np.random.default_rng(0).normal(0, 1, (2, 3, side, side)).astype(np.float32)
    quantized = quantize_model(model, calibrate(model, images))
    imported = import_network(quantized, isolated=False)
    full, bare = lower(imported), lower_shapes(network, "i8")
    assert bare.keys == full.keys
    assert sizes(bare) == sizes(full)
    inputs = random_inputs(imported)
    expected = run_network(imported, inputs)
    for name, value in run_kernels(full, inputs).items():
        np.testing.assert_array_equal(value, expected[name])


def random_exportable(draw: Any) -> Network:
    """A random network of the operators that the exporter writes."""
    b = Builder(draw(st.integers(0, 99)))
    names = [b.input(1, 8, 8, 3)]
    kinds = st.sampled_from(["conv", "depthwise", "act", "act", "add", "mul", "gate"])
    for _ in range(draw(st.integers(1, 8))):
        x = draw(st.sampled_from(names[-3:]))
        shape = b.tensors[x].shape
        peers = [n for n in names if b.tensors[n].shape == shape and n != x]
        kind = draw(kinds)
        if kind == "conv":
            size, stride = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))
            names.append(b.conv(x, draw(st.sampled_from([4, 8])), size, stride))
        elif kind == "depthwise":
            names.append(b.depthwise(x))
        elif kind == "act":
            # no sigmoid: its product with its own input is imported as one function, silu
            names.append(b.act(x, draw(st.sampled_from(["relu", "hardswish", "tanh"]))))
        elif kind == "gate":
            names.append(b.squeeze_excite(x, 4))
        elif peers:
            names.append(getattr(b, kind)(x, draw(st.sampled_from(peers))))
    pooled = b.gap(names[-1])
    last = b.linear(b.reshape(pooled, 1, b.tensors[pooled].shape[-1]), 5)
    needed, ops = {last}, []
    for op in reversed(b.ops):
        if op.output in needed:
            ops.append(op)
            needed.update(op.inputs)
    tensors = {name: b.tensors[name] for name in b.tensors if name in needed}
    return Network("random", tensors, tuple(ops[::-1]), tuple(b.inputs), (last,))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_exported_network_has_the_kernels_foreseen(data: Any) -> None:
    network = random_exportable(data.draw)
    model = onnx.load_from_string(build_onnx(network))

    def counted(graph: KernelGraph) -> list[str]:
        return sorted(texts(graph))

    floats = lower(import_network(model, isolated=False))
    assert counted(floats) == counted(lower_shapes(network, "f32"))
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    quantized = import_network(quantize_model(model, calibrate(model, images)), isolated=False)
    assert counted(lower(quantized)) == counted(lower_shapes(network, "i8"))


def test_float_islands_of_an_int8_network_stand_between_conversions() -> None:
    b = Builder(0, constants=False)
    x = b.act(b.conv(b.input(1, 4, 4, 4), 8), "relu")
    y = b.op("softmax", (x,), (1, 4, 4, 8), {"axis": 3})
    z = b.conv(b.pool("maxpool", y, 2, 2), 4)
    keys = lower_shapes(b.network(b.reshape(z, 1, 16)), "i8").keys
    assert [(key.op, key.out_dtype) for key in keys] == [
        ("quantize", "i8"), ("pointwise", "i8"), ("dequantize", "f32"), ("softmax", "f32"),
        ("maxpool", "f32"), ("quantize", "i8"), ("pointwise", "i8"), ("dequantize", "f32"),
    ]  # fmt: skip


def test_what_no_kernel_computes_is_refused_by_name() -> None:
    quant = Quant(0.1, 0)
    shape = (1, 2, 2, 4)

    def refuse(kind: str, x: Tensor, y: Tensor, message: str, **attrs: object) -> None:
        op = Op("the_op", kind, (x.name,), y.name, attrs)
        network = Network("n", {x.name: x, y.name: y}, (op,), (x.name,), (y.name,))
        with pytest.raises(InputError, match=message) as caught:
            lower(network)
        assert "the_op" in str(caught.value)

    real, stored = Tensor("x", shape), Tensor("x", shape, "i8", quant)
    mixed = r"activation from i8 to f32 is not supported"
    refuse("activation", stored, Tensor("y", shape), mixed, function="relu")
    unsigned = Tensor("x", shape, "u8", quant)
    refuse(
        "maxpool", unsigned, Tensor("y", shape, "u8", quant), "u8 to u8",
        kernel=(1, 1), strides=(1, 1), pads=(0, 0, 0, 0),
    )  # fmt: skip
    refuse("softmax", stored, Tensor("y", shape, "i8", quant), "log softmax", axis=3, log=True)
    refuse("softmax", real, Tensor("y", shape), "softmax along the batch axis", axis=0)
    refuse(
        "maxpool", stored, Tensor("y", shape, "i8", Quant(0.2, 0)), "cannot change the quantiz",
        kernel=(1, 1), strides=(1, 1), pads=(0, 0, 0, 0),
    )  # fmt: skip
    b = Builder(0)
    b.op("add", (b.input(1, 4, 4, 2), b.input(1, 4, 1, 2)), (1, 4, 4, 2))
    with pytest.raises(InputError, match=r"add of shapes \(1, 4, 4, 2\) and \(1, 4, 1, 2\)"):
        lower(b.network())
    with pytest.raises(InputError, match="precision 'i4' is not known"):
        lower_shapes(b.network(), "i4")
    b = Builder(0)
    x = b.input(1, 4)
    with pytest.raises(InputError, match="output 'in0' is also an input"):
        lower(b.network(x, b.act(x)))

"""Parity of compiled kernels with plain numpy, over every template and many shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.codegen import build, schedules
from edgeopt.codegen.abi import ROLLED
from edgeopt.codegen.objects import object_size
from edgeopt.codegen.schedules import depthwise_tiles
from edgeopt.codegen.schedules.depthwise_plan import plan_of
from edgeopt.codegen.schedules.isa import known_isa
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from tests.emulated.shapes import readable

pytestmark = pytest.mark.usefixtures("host_is_x86_64_v3")

MAP = (5, 3, 21)


def conv(op: str, size: int, inputs: int, outputs: int, kernel: int, **rest: object) -> OpKey:
    stride, pad = int(rest.pop("stride", 1)), int(rest.pop("pad", kernel // 2))  # type: ignore[call-overload]
    out = (size + 2 * pad - kernel) // stride + 1
    return OpKey(
        op, (size, size, inputs), (out, out, outputs), kernel=(kernel, kernel),
        strides=(stride, stride), pads=(pad,) * 4, **rest,  # type: ignore[arg-type]
    )  # fmt: skip


CONVS = (
    OpKey("pointwise", (4, 4, 24), (4, 4, 16)),
    OpKey("pointwise", (4, 4, 7), (4, 4, 13), activation="hardswish"),
    OpKey("pointwise", (1, 1, 33), (1, 1, 40), activation="hardsigmoid"),
    OpKey("pointwise", (7, 7, 40), (7, 7, 99), residual=True, residual_activation="relu"),
    conv("conv2d", 9, 3, 16, 3, stride=2, activation="hardswish"),
    conv("conv2d", 6, 8, 16, 3),
    conv("conv2d", 6, 8, 12, 1, stride=2, pad=0),
    conv("conv2d", 6, 8, 16, 3, groups=2),
    conv("conv2d", 6, 6, 6, 1, pad=0, groups=3),
    OpKey("conv2d", (9, 8, 5), (9, 8, 9), kernel=(3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)),
    OpKey("linear", (100,), (10,)),
    OpKey("linear", (101,), (133,), activation="relu6"),
    conv("depthwise", 8, 16, 16, 3, groups=16, activation="hardswish"),
    conv("depthwise", 9, 24, 24, 5, groups=24, stride=2),
    conv("depthwise", 4, 20, 20, 5, groups=20, residual=True),
    conv("depthwise", 16, 8, 8, 7, groups=8),
    conv("depthwise", 1, 8, 8, 3, groups=8),
    conv("depthwise", 5, 4, 8, 3, groups=4),
    conv("depthwise", 40, 8, 8, 3, groups=8),
    OpKey("depthwise", (9, 11, 21), (9, 6, 21), kernel=(3, 5), strides=(1, 2),
          pads=(1, 2, 1, 2), groups=21),
    OpKey("depthwise", (9, 11, 21), (9, 11, 21), kernel=(3, 3), dilations=(2, 2),
          pads=(2, 2, 2, 2), groups=21),
    OpKey("depthwise", (32, 32, 8), (15, 15, 8), kernel=(4, 4), strides=(2, 2), groups=8),
)  # fmt: skip

OTHERS = (
    OpKey("add", MAP, MAP, inputs=2, activation="relu"),
    OpKey("mul", MAP, MAP, inputs=2),
    OpKey("scale", MAP, MAP, inputs=2),
    OpKey("add", MAP, MAP, variant="channel"),
    OpKey("mul", MAP, MAP, variant="full"),
    OpKey("global_avgpool", MAP, (1, 1, 21)),
    OpKey("global_avgpool", (7, 7, 96), (1, 1, 96)),
    OpKey("maxpool", (9, 9, 40), (5, 5, 40), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    OpKey("avgpool", (9, 9, 40), (5, 5, 40), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1),
          variant="include"),
    OpKey("avgpool", (8, 8, 33), (4, 4, 33), kernel=(2, 2), strides=(2, 2)),
    OpKey("copy", MAP, (315,)),
    OpKey("concat", (4, 4, 8), (4, 4, 29), inputs=3, variant="axis2.8-13-8"),
    OpKey("concat", (4, 4, 8), (9, 4, 8), inputs=2, variant="axis0.4-5"),
    OpKey("concat", (4, 4, 8), (9, 4, 8), inputs=2, variant="axis0.4-5.same"),
    OpKey("transpose", (4, 5, 9), (9, 4, 5), variant="perm2-0-1"),
    OpKey("transpose", (4, 5, 9), (5, 4, 9), variant="perm1-0-2"),
    OpKey("resize", (4, 3, 9), (8, 9, 9)),
    OpKey("activation", MAP, MAP, activation="hardswish"),
    OpKey("activation", (16, 16, 24), (16, 16, 24), activation="sigmoid"),
)  # fmt: skip

FLOAT_ONLY = (
    OpKey("add", MAP, MAP, inputs=2, residual=True, residual_activation="relu6"),
    OpKey("avgpool", (9, 9, 40), (5, 5, 40), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    OpKey("quantize", MAP, MAP, out_dtype="i8"),
    OpKey("dequantize", MAP, MAP, dtype="i8"),
    OpKey("softmax", (1000,), (1000,)),
    OpKey("softmax", (10,), (10,)),
    OpKey("softmax", (5,), (5,)),
    OpKey("softmax", (3, 4, 25), (3, 4, 25), variant="axis1"),
)

ACTIVATIONS = (
    "relu", "relu6", "clip_-1.0_1.0", "hardsigmoid", "hardsigmoid_0.2_0.5", "sigmoid", "silu",
    "tanh", "leakyrelu_0.01", "elu_1.0", "gelu", "gelu_tanh",
)  # fmt: skip


def as_int8(key: OpKey) -> OpKey:
    return replace(key, dtype="i8", out_dtype="i8", residual=False, residual_activation="none")


def parity(
    keys: list[OpKey], folder: Path, seed: int = 0, target: TargetSpec = harness.HOST
) -> None:
    keys = list(dict.fromkeys(keys))
    library = harness.link(build.compile_kernels(keys, target), folder)
    for index, key in enumerate(keys):
        inputs, constants = harness.case(key, seed + index)
        got = harness.run(library, key, target, inputs, constants)
        harness.check(key, got, harness.reference(key, inputs, constants))


@pytest.mark.parametrize("keys", [CONVS, OTHERS, FLOAT_ONLY], ids=["conv", "other", "float"])
def test_float_kernels_compute_what_numpy_does(keys: tuple[OpKey, ...], tmp_path: Path) -> None:
    parity(list(keys), tmp_path)


def test_kernels_of_layers_larger_than_the_caches(tmp_path: Path) -> None:
    """They walk in other orders and fetch ahead; small caches make small layers large."""
    target = replace(harness.HOST, l1d_bytes=1024, l2_bytes=2048)
    keys = [
        OpKey("pointwise", (4, 4, 24), (4, 4, 99), activation="relu"),
        OpKey("pointwise", (4, 4, 24), (4, 4, 33), residual=True),
        conv("conv2d", 9, 24, 40, 3, stride=2),
        conv("conv2d", 9, 24, 40, 3),
        conv("depthwise", 12, 12, 12, 3, groups=12, activation="hardswish"),
        conv("depthwise", 9, 8, 8, 5, groups=8, stride=2),
    ]
    parity(keys, tmp_path, target=target)


@pytest.mark.parametrize("keys", [CONVS, OTHERS], ids=["conv", "other"])
def test_int8_kernels_are_bit_exact(keys: tuple[OpKey, ...], tmp_path: Path) -> None:
    parity([as_int8(key) for key in keys], tmp_path)


def test_tiles_of_a_row_share_their_code_and_read_padding_where_they_end(tmp_path: Path) -> None:
    """Rows of many equal tiles, or of two with many taps; pads that differ, and strides."""
    keys = [
        conv("depthwise", 24, 21, 21, 3, groups=21),
        conv("depthwise", 16, 16, 16, 5, groups=16),
        conv("depthwise", 32, 5, 5, 5, groups=5, stride=2),
        OpKey("depthwise", (3, 32, 24), (2, 32, 24), kernel=(4, 5), pads=(1, 1, 1, 3), groups=24),
        OpKey("depthwise", (5, 32, 9), (5, 32, 9), kernel=(3, 3), dilations=(2, 2),
              pads=(2, 2, 2, 2), groups=9),
        OpKey("depthwise", (4, 32, 16), (4, 28, 16), kernel=(3, 5), pads=(1, 0, 1, 0), groups=16),
    ]  # fmt: skip
    isa = known_isa(harness.HOST)
    for key in map(as_int8, keys):
        (tiles,) = depthwise_tiles.tiles_of(key, plan_of(key, isa))
        assert tiles.times > 1, key
    uneven = OpKey("depthwise", (4, 9, 8), (4, 12, 8), kernel=(3, 6), pads=(1, 4, 1, 4), groups=8)
    parity([as_int8(key) for key in (*keys, uneven)], tmp_path)


def test_kernels_that_stay_loops_are_smaller_among_others_too(tmp_path: Path) -> None:
    rolled, other = as_int8(CONVS[3]), CONVS[-1]
    alone = object_size(build.compile_kernels([rolled], harness.HOST)).code_bytes
    function = schedules.select(rolled, harness.HOST).primfunc(rolled, harness.HOST)
    unrolled = build.compile_object({"k": function.without_attr(ROLLED)}, harness.HOST)
    assert alone < object_size(unrolled).code_bytes
    both = object_size(build.compile_kernels([rolled, other], harness.HOST)).code_bytes
    apart = object_size(build.compile_kernels([other], harness.HOST)).code_bytes
    assert both <= alone + apart


@pytest.mark.parametrize("vnni", [True, False], ids=["vnni", "bw"])
def test_kernels_agree_on_avx512(vnni: bool, tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512bw" not in flags or (vnni and "avx512_vnni" not in flags):
        pytest.skip("the processor has no AVX-512: run on one that has")
    features = harness.AVX512.features - (set() if vnni else {"avx512vnni"})
    target = replace(harness.AVX512, features=features)
    keys = [*CONVS, *OTHERS, *map(as_int8, (*CONVS, *OTHERS))]
    parity(keys, tmp_path, target=target)


def test_avx512_kernels_compile() -> None:
    keys = [as_int8(CONVS[0]), CONVS[0], as_int8(CONVS[12])]
    text = "".join(text for text, _ in build.assembly(keys, harness.AVX512))
    assert "vpdpbusd" in text and "%zmm" in text


def test_every_activation_is_accurate_over_its_range(tmp_path: Path) -> None:
    shape = (3, 1001)
    keys = [OpKey("activation", shape, shape, activation=name) for name in ACTIVATIONS]
    library = harness.link(build.compile_kernels(keys, harness.HOST), tmp_path)
    ends = np.array([-1e30, -200, 200, 1e30, 0.0, -0.0, 1e-8, -1e-8])
    x = np.concatenate([ends, np.linspace(-20, 20, 2995)]).astype(np.float32).reshape(shape)
    for key in keys:
        got = harness.run(library, key, harness.HOST, [x], {})
        harness.check(key, got, harness.activate(key.activation, x))


#: Channels around multiples of the vector, maps down to one pixel.
channels = st.integers(1, 40)
side = st.integers(1, 9)


@st.composite
def conv_keys(draw: st.DrawFn) -> OpKey:
    op = draw(st.sampled_from(["pointwise", "depthwise", "conv2d", "linear"]))
    integer = draw(st.booleans())
    bits = draw(st.sampled_from([0, 2, 4])) if integer and op != "depthwise" else 0
    activation = draw(st.sampled_from(["none", "relu", "hardswish", "sigmoid"]))
    types = {"dtype": "i8", "out_dtype": "i8", "weight_bits": bits} if integer else {}
    residual = {} if integer else {"residual": draw(st.booleans())}
    inputs, outputs = draw(channels), draw(channels)
    if op == "linear":
        return OpKey(op, (inputs,), (outputs,), activation=activation, **types, **residual)
    height, width = draw(side), draw(side)
    if op == "pointwise":
        return OpKey(
            op, (height, width, inputs), (height, width, outputs), activation=activation,
            **types, **residual,
        )  # fmt: skip
    groups = 1
    if op == "depthwise":
        groups = outputs = inputs
    elif draw(st.booleans()):
        groups = draw(st.sampled_from([1, 2, 3]))
        inputs, outputs = inputs * groups, outputs * groups
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    strides = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    dilations = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = tuple(draw(st.integers(0, spans[i % 2] - 1)) for i in range(4))
    padded = (height + pads[0] + pads[2], width + pads[1] + pads[3])
    height += max(spans[0] - padded[0], 0)
    width += max(spans[1] - padded[1], 0)
    out = (
        (height + pads[0] + pads[2] - spans[0]) // strides[0] + 1,
        (width + pads[1] + pads[3] - spans[1]) // strides[1] + 1,
    )
    return OpKey(
        op, (height, width, inputs), (*out, outputs), kernel=kernel, strides=strides,
        pads=pads, dilations=dilations, groups=groups, activation=activation,  # type: ignore[arg-type]
        **types, **residual,
    )  # fmt: skip


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(conv_keys(), min_size=6, max_size=6), st.integers(0, 1000))
def test_any_convolution(
    tmp_path_factory: pytest.TempPathFactory, keys: list[OpKey], seed: int
) -> None:
    keys = [readable(key, harness.HOST) for key in keys]
    parity(keys, tmp_path_factory.mktemp("any"), seed)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.data())
def test_any_elementwise_and_pooling(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    keys = []
    for op in ("add", "mul", "scale", "global_avgpool", "maxpool", "avgpool"):
        shape = (data.draw(side), data.draw(side), data.draw(channels))
        if op == "global_avgpool":
            key = OpKey(op, shape, (1, 1, shape[2]))
        elif op in ("maxpool", "avgpool"):
            kernel = (data.draw(st.integers(1, shape[0])), data.draw(st.integers(1, shape[1])))
            out = (shape[0] - kernel[0] + 1, shape[1] - kernel[1] + 1, shape[2])
            key = OpKey(op, shape, out, kernel=kernel)
        else:
            key = OpKey(op, shape, shape, inputs=2)
        keys.append(as_int8(key) if data.draw(st.booleans()) else key)
    parity(keys, tmp_path_factory.mktemp("any"))


def test_a_key_no_template_knows_is_left_to_the_fallback() -> None:
    unknown = (
        OpKey("fallback", MAP, MAP, variant="Mod"),
        OpKey("softmax", MAP, MAP, dtype="u8", out_dtype="u8"),
        OpKey("add", MAP, MAP, dtype="u8", out_dtype="u8", inputs=2),
        OpKey("concat", MAP, MAP, inputs=2, variant="axis9.1-2"),
        OpKey("transpose", MAP, MAP, variant="perm0-0-1"),
        OpKey("pointwise", MAP, MAP, dtype="i8", out_dtype="i8", residual=True),
    )
    assert [schedules.select(key, harness.HOST) for key in unknown] == [None] * len(unknown)


def test_a_target_without_vectors_has_no_templates() -> None:
    scalar = replace(harness.HOST, vector_bits=32)
    assert all(schedules.select(key, scalar) is None for key in (*CONVS, *OTHERS))

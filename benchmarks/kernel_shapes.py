"""The kernels that `benchmarks/kernels.py` measures: layers of known networks, by class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgeopt.core.kernels import OpKey

#: (map side, channels in, channels out) of 1x1 layers, by the network they come from.
POINTWISE = {
    "mobilenet_v2/224": (
        (112, 32, 16), (112, 16, 96), (56, 96, 24), (56, 24, 144), (56, 144, 24), (28, 144, 32),
        (28, 32, 192), (28, 192, 32), (14, 192, 64), (14, 64, 384), (14, 384, 64), (14, 384, 96),
        (14, 96, 576), (14, 576, 96), (7, 576, 160), (7, 160, 960), (7, 960, 160), (7, 960, 320),
        (7, 320, 1280),
    ),
    "mobilenet_v3/224": (
        (112, 16, 64), (56, 64, 24), (56, 24, 72), (28, 72, 40), (28, 40, 120), (28, 120, 40),
        (28, 40, 240), (14, 240, 80), (14, 80, 200), (14, 200, 80), (14, 80, 480), (14, 480, 112),
        (14, 112, 672), (14, 672, 112), (7, 672, 160),
    ),
    "mobilenet_v3/128": ((64, 16, 64), (32, 24, 72), (16, 120, 40), (8, 80, 480), (4, 672, 160)),
    "mobilenet_v3/32": (
        (16, 16, 64), (16, 24, 72), (8, 32, 128), (8, 128, 32), (8, 48, 192), (4, 80, 320),
        (4, 320, 80), (4, 80, 240),
    ),
}  # fmt: skip
#: (map side, channels, kernel, stride) of depthwise layers.
DEPTHWISE = {
    "mobilenet_v2/224": (
        (112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (56, 144, 3, 2), (28, 192, 3, 1),
        (28, 192, 3, 2), (14, 384, 3, 1), (14, 576, 3, 2), (7, 960, 3, 1),
    ),
    "mobilenet_v3/224": (
        (56, 72, 5, 2), (28, 120, 5, 1), (28, 240, 3, 2), (14, 672, 5, 2), (7, 960, 5, 1),
        (14, 480, 7, 1), (28, 120, 7, 2),
    ),
    "mobilenet_v3/32": (
        (32, 16, 3, 2), (16, 64, 3, 1), (16, 96, 5, 2), (8, 128, 5, 1), (8, 192, 3, 2),
        (4, 320, 5, 1), (8, 128, 7, 1),
    ),
}  # fmt: skip
#: (map side, channels in, channels out, kernel, stride) of dense convolutions.
DENSE = {
    "stem": ((224, 3, 32, 3, 2), (224, 3, 16, 3, 2), (224, 3, 64, 7, 2), (32, 3, 16, 3, 1)),
    "resnet18/224": (
        (56, 64, 64, 3, 1), (56, 64, 128, 3, 2), (28, 128, 128, 3, 1), (28, 128, 256, 3, 2),
        (14, 256, 256, 3, 1), (14, 256, 512, 3, 2), (7, 512, 512, 3, 1), (56, 64, 128, 1, 2),
        (14, 256, 512, 1, 2),
    ),
    "small 3x3": ((32, 16, 16, 3, 1), (16, 32, 32, 3, 1), (8, 64, 64, 3, 1), (16, 32, 64, 3, 2)),
}  # fmt: skip


def square(op: str, side: int, inputs: int, outputs: int, k: int, s: int, act: str) -> OpKey:
    """A convolution on a square map, padded as its kernel asks."""
    pad = k // 2
    out = (side + 2 * pad - k) // s + 1
    return OpKey(
        op, (side, side, inputs), (out, out, outputs), kernel=(k, k), strides=(s, s),
        pads=(pad,) * 4, groups=inputs if op == "depthwise" else 1, activation=act,
    )  # fmt: skip


def _float() -> Iterator[tuple[str, str, OpKey]]:
    for net, shapes in POINTWISE.items():
        for side, inputs, outputs in shapes:
            yield "pointwise", net, square("pointwise", side, inputs, outputs, 1, 1, "relu")
    for net, layers in DEPTHWISE.items():
        for side, channels, k, s in layers:
            yield "depthwise", net, square("depthwise", side, channels, channels, k, s, "relu")
    for net, convs in DENSE.items():
        for side, inputs, outputs, k, s in convs:
            yield "dense", net, square("conv2d", side, inputs, outputs, k, s, "relu")
    for length, channels in ((128, 64), (49, 64)):
        yield "dense", "1xk", OpKey(
            "conv2d", (1, length, channels), (1, length, channels), kernel=(1, 9),
            pads=(0, 4, 0, 4), activation="relu",
        )  # fmt: skip
    for inputs, outputs in ((1280, 1000), (960, 1280), (512, 1000), (128, 10), (640, 128)):
        yield "linear", "classifier", OpKey("linear", (inputs,), (outputs,))
    for channels, squeezed in ((672, 168), (120, 32), (48, 16)):
        one = (1, 1, channels)
        mid = (1, 1, squeezed)
        yield "pointwise", "se", OpKey("pointwise", one, mid, activation="relu")
        yield "pointwise", "se", OpKey("pointwise", mid, one, activation="hardsigmoid")
    for shape in ((28, 28, 120), (14, 14, 672), (8, 8, 128)):
        yield "se", "se", OpKey("global_avgpool", shape, (1, 1, shape[2]))
        yield "se", "se", OpKey("scale", shape, shape, inputs=2)
    yield "pooling", "head", OpKey("global_avgpool", (7, 7, 1280), (1, 1, 1280))
    yield "pooling", "resnet18/224", square("maxpool", 112, 64, 64, 3, 2, "none")
    yield (
        "pooling",
        "densenet/224",
        OpKey("avgpool", (56, 56, 128), (28, 28, 128), kernel=(2, 2), strides=(2, 2)),
    )
    yield "elementwise", "residual", OpKey("add", (56, 56, 64), (56, 56, 64), inputs=2)


def layers(precision: str) -> list[tuple[str, str, OpKey]]:
    """(class, network, key) of every measured kernel."""
    found = list(_float())
    if precision == "f32":
        return found
    return [(c, n, replace(key, dtype="i8", out_dtype="i8")) for c, n, key in found]

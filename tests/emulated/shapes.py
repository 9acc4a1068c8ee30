"""The conformance suite: shape classes every kernel template must be right on.

`CLASSES` is the one table. Each class is run in every precision that has a template, on every
machine of `machines.MACHINES`: every key on AVX2, on the others a sample that still holds each
class and operator. A new template is in the suite once its operator is here
(`test_conformance.py` fails until it is); a new instruction set, once it is a machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgeopt.codegen import lowbits, schedules
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

Pair = tuple[int, int]


def conv(
    size: Pair, channels: Pair, kernel: Pair = (3, 3), *, op: str = "conv2d", stride: Pair = (1, 1),
    pads: tuple[int, int, int, int] | None = None, dilation: Pair = (1, 1), groups: int = 1,
    **rest: object,
) -> OpKey:  # fmt: skip
    """A convolution, by default padded so that stride 1 keeps the size."""
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if pads is None:
        pads = tuple((span - 1 + side) // 2 for side in (0, 1) for span in spans)  # type: ignore[assignment]
    assert pads is not None
    out = tuple(
        (size[i] + pads[i] + pads[i + 2] - spans[i]) // stride[i] + 1 for i in range(2)
    )  # fmt: skip
    return OpKey(
        op, (*size, channels[0]), (*out, channels[1]), kernel=kernel, strides=stride, pads=pads,
        dilations=dilation, groups=groups, **rest,  # type: ignore[arg-type]
    )  # fmt: skip


def pointwise(size: Pair, inputs: int, outputs: int, **rest: object) -> OpKey:
    return conv(size, (inputs, outputs), (1, 1), op="pointwise", **rest)  # type: ignore[arg-type]


def depthwise(size: Pair, channels: int, kernel: Pair = (3, 3), **rest: object) -> OpKey:
    return conv(size, (channels, channels), kernel, op="depthwise", groups=channels, **rest)  # type: ignore[arg-type]


def linear(inputs: int, outputs: int, **rest: object) -> OpKey:
    return OpKey("linear", (inputs,), (outputs,), **rest)  # type: ignore[arg-type]


def pool(op: str, size: Pair, channels: int, kernel: Pair, **rest: object) -> OpKey:
    if op == "global_avgpool":
        return OpKey(op, (*size, channels), (1, 1, channels))
    rest.setdefault("pads", (0, 0, 0, 0))
    return conv(size, (channels, channels), kernel, op=op, **rest)  # type: ignore[arg-type]


def same(op: str, shape: tuple[int, ...], **rest: object) -> OpKey:
    return OpKey(op, shape, shape, **rest)  # type: ignore[arg-type]


def moving(shape: tuple[int, int, int]) -> tuple[OpKey, ...]:
    """What moves elements about, and what works on each alone."""
    h, w, c = shape
    return (
        same("add", shape, inputs=2, activation="relu"),
        same("mul", shape, inputs=2),
        same("scale", shape, inputs=2),
        same("add", shape, variant="channel"),
        same("mul", shape, variant="full"),
        same("activation", shape, activation="hardswish"),
        same("activation", shape, activation="sigmoid"),
        OpKey("copy", shape, (h * w * c,)),
        OpKey("concat", shape, (h, w, 2 * c + 5), inputs=3, variant=f"axis2.{c}-5-{c}"),
        OpKey("concat", shape, (h + 1, w, c), inputs=2, variant=f"axis0.{h}-1.same"),
        OpKey("transpose", shape, (c, h, w), variant="perm2-0-1"),
        OpKey("transpose", shape, (w, h, c), variant="perm1-0-2"),
        OpKey("resize", shape, (2 * h, 3 * w, c)),
        same("quantize", shape, out_dtype="i8"),
        same("dequantize", shape, dtype="i8"),
        OpKey("softmax", (h * w * c,), (h * w * c,)),
        same("softmax", shape, variant="axis1"),
        *(same(op, shape, inputs=2) for op in ("sub", "div", "max", "min")),
        *(same("mul", shape, inputs=2, variant=variant) for variant in ("pixel", "channel")),
        same("prelu", shape, variant="channel"),
        *(OpKey("reduce", shape, (1, 1, c), variant=variant) for variant in ("sum", "max", "min")),
        OpKey("slice", shape, (h, w, -(-c // 2)), variant=f"start0-0-{c // 2}"),
        OpKey("slice", shape, (-(-h // 2), w, c), variant="start0-0-0.step2-1-1"),
        OpKey("pad", shape, (h + 3, w + 1, c), variant="pad1-1-0.2-0-0"),
        OpKey("gather", shape, (h, w, c + 2), variant="axis2"),
        OpKey("gather", shape, (2, w, c), variant="axis0"),
        OpKey("resize", shape, (h + 2, 2 * w + 1, c), variant="linear"),
        same("softmax", shape, variant="log"),
    )


def block(
    size: Pair, channels: tuple[int, int, int], kernel: Pair = (3, 3), *, activation: str = "relu6",
    stride: Pair = (1, 1), pads: tuple[int, int, int, int] | None = None, **rest: object,
) -> OpKey:  # fmt: skip
    """An inverted residual block: channels in, of the widened map, out."""
    inputs, wide, outputs = channels
    return conv(
        size, (inputs, outputs), kernel, op="irb", stride=stride, pads=pads,
        variant=f"e{wide}.{activation}", **rest,
    )  # fmt: skip


#: name -> keys in f32; `both` derives those in int8.
CLASSES: dict[str, tuple[OpKey, ...]] = {
    "whole vectors": (
        pointwise((6, 6), 32, 48), conv((6, 5), (16, 32)), depthwise((7, 7), 32),
        linear(64, 64), pool("global_avgpool", (4, 4), 64, (1, 1)),
        pool("maxpool", (6, 6), 32, (2, 2), stride=(2, 2)),
        pool("avgpool", (6, 6), 32, (2, 2), stride=(2, 2)), *moving((4, 4, 32)),
    ),
    "odd channels": (
        pointwise((5, 3), 7, 13), pointwise((3, 3), 1, 1), pointwise((3, 5), 17, 33),
        pointwise((4, 4), 47, 71), conv((5, 5), (3, 5)), conv((4, 5), (1, 3)),
        conv((5, 4), (9, 17)), depthwise((6, 5), 21), depthwise((4, 4), 1), depthwise((5, 4), 35),
        linear(101, 133), linear(1, 1), linear(5, 3),
        pool("global_avgpool", (5, 3), 21, (1, 1)), pool("global_avgpool", (3, 3), 3, (1, 1)),
        pool("maxpool", (5, 5), 13, (3, 3), stride=(2, 2)), pool("avgpool", (4, 4), 33, (2, 2)),
        *moving((5, 3, 21)), *moving((3, 2, 3)),
    ),
    "one pixel": (
        pointwise((1, 1), 33, 40), pointwise((1, 1), 96, 24), conv((1, 1), (8, 12)),
        depthwise((1, 1), 19, (5, 5)), pool("global_avgpool", (1, 1), 40, (1, 1)),
        pool("maxpool", (1, 1), 9, (1, 1)), pool("avgpool", (1, 1), 9, (1, 1)),
        *moving((1, 1, 24)), *moving((1, 1, 1)),
    ),
    "thin maps": (
        pointwise((1, 37), 12, 20), pointwise((29, 1), 12, 7), conv((1, 31), (8, 12), (1, 5)),
        conv((31, 1), (6, 10), (7, 1)), depthwise((1, 40), 24, (1, 7)),
        depthwise((33, 1), 10, (3, 1)), depthwise((2, 19), 16),
        pool("maxpool", (1, 20), 12, (1, 4), stride=(1, 4)),
        pool("avgpool", (20, 1), 12, (3, 1), stride=(2, 1)),
    ),
    "strides": (
        conv((9, 9), (3, 16), stride=(2, 2)), conv((8, 9), (8, 8), (1, 1), stride=(2, 2)),
        conv((9, 8), (4, 9), stride=(1, 2)), conv((10, 7), (5, 8), stride=(3, 2)),
        depthwise((9, 9), 24, (5, 5), stride=(2, 2)), depthwise((8, 8), 13, stride=(2, 2)),
        depthwise((9, 11), 21, (3, 5), stride=(1, 2)), depthwise((11, 9), 8, stride=(3, 3)),
        pool("maxpool", (9, 9), 24, (3, 3), stride=(2, 2), pads=(1, 1, 1, 1)),
        pool("avgpool", (9, 7), 20, (3, 2), stride=(2, 2)),
    ),
    "uneven paddings": (
        conv((6, 6), (3, 8), pads=(0, 1, 2, 0), stride=(2, 2)),
        conv((7, 7), (8, 9), (5, 5), pads=(4, 0, 1, 3)), conv((2, 3), (5, 8), pads=(2, 2, 2, 2)),
        depthwise((8, 8), 16, pads=(0, 0, 1, 1), stride=(2, 2)),
        depthwise((6, 7), 11, (5, 5), pads=(1, 4, 3, 0)), depthwise((2, 2), 8, (7, 7)),
        pool("maxpool", (6, 6), 10, (3, 3), pads=(0, 1, 1, 0), stride=(2, 2)),
        pool("avgpool", (7, 6), 17, (3, 3), pads=(1, 0, 1, 2), variant="include"),
        pool("avgpool", (7, 6), 17, (3, 3), pads=(1, 0, 1, 2)),
    ),
    "kernels": (
        *(conv((8, 8), (5, 9), kernel) for kernel in
          ((1, 1), (2, 2), (4, 4), (5, 5), (7, 7), (1, 7), (5, 1), (2, 3))),
        *(depthwise((9, 8), 18, kernel) for kernel in
          ((2, 2), (4, 4), (5, 5), (7, 7), (1, 5), (7, 1), (9, 9))),
        pool("maxpool", (9, 9), 18, (5, 5), pads=(2, 2, 2, 2)),
        pool("avgpool", (9, 9), 18, (7, 1)),
    ),
    "dilations": (
        conv((9, 8), (5, 9), dilation=(2, 2)), conv((9, 9), (8, 16), dilation=(1, 3)),
        depthwise((9, 11), 21, dilation=(2, 2)), depthwise((8, 8), 12, (5, 3), dilation=(2, 1)),
    ),
    "groups": (
        conv((6, 6), (8, 16), groups=2), conv((5, 5), (6, 6), (1, 1), groups=3),
        conv((5, 4), (20, 15), groups=5, stride=(2, 2)), conv((4, 4), (32, 64), groups=2),
        conv((5, 5), (4, 8), op="depthwise", groups=4),
        conv((5, 5), (9, 27), op="depthwise", groups=9, stride=(2, 2)),
    ),
    "fused": (
        *(pointwise((3, 3), 10, 18, activation=name) for name in
          ("relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu", "leakyrelu_0.01")),
        *(depthwise((4, 4), 18, activation=name) for name in ("relu6", "hardswish", "gelu")),
        conv((4, 4), (3, 9), activation="silu"), linear(20, 19, activation="tanh"),
        pointwise((5, 5), 24, 20, residual=True, residual_activation="relu"),
        depthwise((4, 5), 20, residual=True),
        conv((4, 4), (8, 9), activation="relu", residual=True, residual_activation="hardswish"),
        linear(20, 19, residual=True),
        same("add", (4, 4, 9), inputs=2, residual=True, residual_activation="relu6"),
    ),
    "blocks": (
        block((6, 6), (16, 32, 24)), block((7, 9), (8, 48, 8), residual=True),
        block((9, 9), (3, 19, 5), (5, 5), stride=(2, 2), activation="hardswish"),
        block((8, 7), (7, 21, 11), pads=(0, 0, 1, 1), stride=(2, 2)),
        block((1, 1), (9, 16, 13), (5, 5)), block((2, 3), (5, 1, 3), (7, 7)),
        block((6, 7), (16, 40, 16), pads=(0, 0, 0, 0)), block((1, 30), (4, 9, 8), (1, 5)),
        block((13, 1), (8, 33, 6), (3, 1), stride=(3, 1), activation="none"),
        block((5, 5), (12, 24, 12), (2, 2), residual=True, activation="silu",
              residual_activation="relu"),
        block((4, 5), (8, 16, 8), pads=(2, 2, 0, 0), activation="clip_-1.0_1.0"),
        block((9, 4), (6, 24, 7), (5, 3), pads=(4, 1, 3, 1), stride=(4, 1)),
        block((20, 21), (24, 72, 40)), block((6, 5), (8, 16, 10), (3, 3), stride=(3, 3)),
    ),
    "larger than a tile": (
        pointwise((14, 14), 96, 160), pointwise((9, 9), 320, 72), pointwise((3, 3), 600, 200),
        conv((23, 23), (3, 24), stride=(2, 2)), conv((12, 11), (24, 40)),
        depthwise((24, 23), 40), depthwise((14, 14), 72, (5, 5)), linear(700, 300),
        pool("global_avgpool", (9, 9), 150, (1, 1)),
    ),
}  # fmt: skip


def as_int8(key: OpKey) -> OpKey:
    return replace(key, dtype="i8", out_dtype="i8")


def packed(key: OpKey, bits: int) -> OpKey:
    return replace(key, dtype="i8", out_dtype="i8", weight_bits=bits)


#: Run in other tilings and divided between threads as well.
VARIED = (
    pointwise((5, 7), 24, 40), conv((9, 9), (3, 20), stride=(2, 2)), depthwise((9, 8), 21, (5, 5)),
    linear(70, 50),
)  # fmt: skip

FEW_BITS = (packed(VARIED[0], 2), packed(VARIED[1], 4), packed(VARIED[3], 4))


def both(keys: tuple[OpKey, ...], target: TargetSpec) -> Iterator[OpKey]:
    """Every key in each precision that has a template; of packed weights each width in turn."""
    for number, key in enumerate(keys):
        yield key
        plain = replace(key, residual=False, residual_activation="none")
        for quantized in (as_int8(key), as_int8(plain)):
            if key.out_dtype == key.dtype and schedules.select(quantized, target):
                yield quantized
                if widths := lowbits.widths(key.op, target):
                    yield readable(packed(quantized, widths[number % len(widths)]), target)
                break


def readable(key: OpKey, target: TargetSpec) -> OpKey:
    """The key with its weights in the fewest bits that a target reads."""
    if not key.weight_bits:
        return key
    whole = replace(key, weight_bits=0)
    return packed(whole, lowbits.stored_bits(whole, key.weight_bits, target) % 8)


def whole(target: TargetSpec) -> list[OpKey]:
    """Everything."""
    found = [key for keys in CLASSES.values() for key in both(keys, target)]
    return list(dict.fromkeys(found))


def sample(target: TargetSpec, turn: int, precision: str = "") -> list[OpKey]:
    """A key of each class, operator and template; in one precision if given, else in turns.

    Packed weights of one width a class, in turns as well.
    """
    found: list[OpKey] = []
    for number, keys in enumerate(CLASSES.values()):
        kinds: dict[tuple[str, str], list[OpKey]] = {}
        for key in both(keys, target):
            template = schedules.select(key, target)
            assert template is not None, f"no template for {key}"
            bits = " packed" if key.weight_bits else ""
            kinds.setdefault((key.op + bits, template.name), []).append(key)
        for index, of_kind in enumerate(kinds.values()):
            wanted = precision or ("f32", "i8")[(turn + number + index) % 2]
            chosen = [key for key in of_kind if key.precision == wanted] or of_kind
            found.append(chosen[turn % len(chosen)])
    return list(dict.fromkeys(found))

"""Copies, transpositions, slices, pads, gathers, concatenations and resizes in C."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.template import CTemplate, bits, requantization
from edgeopt.codegen.schedules.template import Const
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

Numbers = tuple[int, ...]


def _numbers(text: str) -> Numbers:
    return tuple(int(part) for part in text.split("-"))


def steps_of(shape: Sequence[int]) -> Numbers:
    """How far apart neighbours along each axis lie."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def box(sizes: Sequence[int], source: str, x: Sequence[int], target: str, y: Sequence[int]) -> str:
    """A copy of a box of elements: loops over what one call cannot hold around the call."""
    merged = [(1, 0, 0)] * 2
    for size, a, b in zip(sizes, x, y, strict=True):
        last = merged[-1]
        if size == 1 and len(merged) > 2:
            continue
        if last[0] > 1 and last[1] == size * a and last[2] == size * b:
            merged[-1] = (last[0] * size, a, b)
        else:
            merged.append((size, a, b))
    while len(merged) > 3 and merged[0][0] == 1:
        merged.pop(0)
    text, names = "", "ijklmn"
    for depth, (size, a, b) in enumerate(merged[:-3]):
        name = names[depth]
        text += f"for (int32_t {name} = 0; {name} < {size}; ++{name})\n"
        source, target = f"{source} + {name} * {a}", f"{target} + {name} * {b}"
    count, near, far = zip(*merged[-3:], strict=True)
    args = ", ".join(
        (*map(str, count), source, *map(str, near), target, *map(str, far))
    )  # fmt: skip
    return f"{text}edgeopt_box({args});"


class CMove(CTemplate):
    """What moves elements as they are stored."""

    name = "c_move"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """The value around a map, or a table of indices."""
        if key.op == "pad":
            return (Const("value", "i8", 1),)
        if key.op == "gather":
            axis = int(key.variant.removeprefix("axis"))
            return (Const("index", "i32", key.out_shape[axis]),)
        if key.op == "resize" and key.variant == "index":
            return (Const("index", "i32", sum(key.out_shape[:2])),)
        return ()

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loops."""
        return ("base", {"gather": "gather", "resize": "resize"}.get(key.op, "move"))

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call, or a few."""
        return _BODIES[key.op](key)


def _copy(key: OpKey) -> str:
    return f"memcpy(y, x0, {math.prod(key.in_shape)});"


def _transpose(key: OpKey) -> str:
    perm = _numbers(key.variant.removeprefix("perm"))
    near = steps_of(key.in_shape)
    return box(key.out_shape, "x0", [near[axis] for axis in perm], "y", steps_of(key.out_shape))


def _slice(key: OpKey) -> str:
    start, _, step = key.variant.partition(".")
    starts = _numbers(start.removeprefix("start"))
    strides = _numbers(step.removeprefix("step")) if step else (1,) * len(starts)
    near = steps_of(key.in_shape)
    at = sum(a * b for a, b in zip(starts, near, strict=True))
    apart = [a * b for a, b in zip(strides, near, strict=True)]
    return box(key.out_shape, f"x0 + {at}", apart, "y", steps_of(key.out_shape))


def _pad(key: OpKey) -> str:
    begins = _numbers(key.variant.removeprefix("pad").split(".")[0])
    far = steps_of(key.out_shape)
    at = sum(a * b for a, b in zip(begins, far, strict=True))
    fill = f"memset(y, value[0], {math.prod(key.out_shape)});\n"
    return fill + box(key.in_shape, "x0", steps_of(key.in_shape), f"y + {at}", far)


def _gather(key: OpKey) -> str:
    axis = int(key.variant.removeprefix("axis"))
    outer, inner = math.prod(key.in_shape[:axis]), math.prod(key.in_shape[axis + 1 :])
    sizes = f"{outer}, {key.in_shape[axis]}, {inner}, {key.out_shape[axis]}"
    return f"edgeopt_gather({sizes}, x0, index, y);"


def _concat(key: OpKey) -> str:
    axis, sizes = concat_parts(key)
    inner = math.prod(key.out_shape[axis + 1 :])
    lines, at = [], 0
    for number, size in enumerate(sizes):
        block, row = size * inner, key.out_shape[axis] * inner
        shape = (math.prod(key.out_shape[:axis]), block)
        lines.append(box(shape, f"x{number}", (block, 1), f"y + {at}", (row, 1)))
        at += block
    return "\n".join(lines)


def concat_parts(key: OpKey) -> tuple[int, Numbers]:
    """The axis of a concatenation, and the inputs' sizes along it."""
    axis, sizes = key.variant.split(".")[:2]
    return int(axis.removeprefix("axis")), _numbers(sizes)


def _resize(key: OpKey) -> str:
    (ih, iw, channels), (oh, ow, _) = key.in_shape, key.out_shape
    if key.variant == "index":
        return f"edgeopt_nearest({iw}, {channels}, {oh}, {ow}, x0, index, y);"
    return f"edgeopt_repeat({ih}, {iw}, {channels}, {oh // ih}, {ow // iw}, x0, y);"


_BODIES = {
    "copy": _copy, "transpose": _transpose, "slice": _slice, "pad": _pad, "gather": _gather,
    "concat": _concat, "resize": _resize,
}  # fmt: skip


class CConcat(CTemplate):
    """A concatenation of maps that are quantized differently."""

    name = "c_concat"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """The output's zero point; zero point and factor of each input."""
        return (Const("p", "i32", 1 + 2 * key.inputs),)

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Requantization and the loops."""
        return (*requantization(isa_of(target).fpu), "concat")

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """One array of all."""
        zeros = np.asarray(constants["qparams"], np.int32)
        pairs = np.stack([zeros[:-1], bits(constants["factors"])], axis=1)
        return {"p": np.concatenate([zeros[-1:], pairs.reshape(-1)])}

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """A call for each input."""
        axis, sizes = concat_parts(key)
        inner = math.prod(key.out_shape[axis + 1 :])
        outer, row = math.prod(key.out_shape[:axis]), key.out_shape[axis] * inner
        lines, at = [], 0
        for number, size in enumerate(sizes):
            lines.append(
                f"edgeopt_requantize({outer}, {size * inner}, x{number}, p[{1 + 2 * number}], "
                f"p[{2 + 2 * number}], p[0], y + {at}, {row});"
            )
            at += size * inner
        return "\n".join(lines)


class CBilinear(CTemplate):
    """Four neighbours weighted, in binary32."""

    name = "c_bilinear"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Neighbours and their shares, zero points and scales."""
        count = 2 * sum(key.out_shape[:2])
        return (
            Const("index", "i32", count), Const("share", "f32", count),
            Const("p", "i32", 2), Const("s", "f32", 2),
        )  # fmt: skip

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The arithmetic and the loops."""
        return ("base", "round", "placed", "pair", "resize_linear")

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """As they are."""
        return {
            "index": np.asarray(constants["index"], np.int32).reshape(-1),
            "share": np.asarray(constants["share"], np.float32).reshape(-1),
            "p": np.asarray(constants["qparams"], np.int32),
            "s": np.asarray(constants["scales"], np.float32),
        }

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        sizes = f"{key.in_shape[1]}, {key.in_shape[2]}, {key.out_shape[0]}, {key.out_shape[1]}"
        return f"edgeopt_bilinear({sizes}, x0, index, share, p, s, y);"


MOVE, CONCAT, BILINEAR = CMove(), CConcat(), CBilinear()


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of a kernel that moves int8 elements."""
    if key.dtype != "i8" or key.out_dtype != "i8" or key.op not in _BODIES:
        return None
    if key.op == "concat" and not key.variant.endswith(".same"):
        return CONCAT
    return BILINEAR if key.op == "resize" and key.variant == "linear" else MOVE

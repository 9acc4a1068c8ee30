"""Sums, products, tables and conversions in C."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.template import CTemplate, bits, requantization
from edgeopt.codegen.schedules.template import Const
from edgeopt.core import affine, moves
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


def spread(key: OpKey) -> tuple[int, int, int, int]:
    """Rows and channels, and how far the second operand moves on from each to the next."""
    channels = key.in_shape[-1]
    rows = math.prod(key.in_shape[:-1])
    if key.op == "scale" or key.variant == "channel":
        return rows, channels, 0, 1
    if key.variant == "pixel":
        return rows, channels, 1, 0
    return 1, rows * channels, 0, 1


def _operand(key: OpKey, dtype: str = "i8") -> tuple[Const, ...]:
    """The constant second operand, if there is one."""
    if key.inputs == 2:
        return ()
    rows, channels, step, _ = spread(key)
    return (Const("c", dtype, rows * channels if step else channels),)


class CBinary(CTemplate):
    """Sums and products of two maps, or of one and a constant."""

    name = "c_binary"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """The constant operand, and zero points, clamps and factors in one array."""
        fixed_sum = key.op == "add" and not isa_of(target).fpu
        size = 7 if fixed_sum else 5 if key.op == "add" else 6
        return (*_operand(key), Const("p", "i32", size))

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The arithmetic and the loops."""
        kind = "add" if key.op == "add" else "mul"
        isa = isa_of(target)
        saturating = ("dsp",) if isa.dsp and isa.fpu else ()
        part = f"{kind}_{'float' if isa.fpu else 'fixed'}"
        return (*requantization(isa.fpu), *saturating, part)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """What the loops need, computed as `core.affine` says."""
        values = _add if key.op == "add" else _mul
        packed = {"p": values(constants, fpu=isa_of(target).fpu)}
        if key.inputs == 1:
            c = np.ascontiguousarray(constants["c"], np.int8).reshape(-1)
            packed = {"c": np.broadcast_to(c, _operand(key)[0].elements).copy(), **packed}
        return packed

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        kind = "add" if key.op == "add" else "mul"
        other = "x1" if key.inputs == 2 else "c"
        sizes = ", ".join(map(str, spread(key)))
        return f"edgeopt_{kind}({sizes}, x0, {other}, p, y);"


def _add(constants: Mapping[str, Array], *, fpu: bool) -> Array:
    zero_a, zero_b, zero_y, lo, hi = (int(v) for v in constants["qparams"])
    factors = np.asarray(constants["factors"], np.float32)
    if fpu:
        offset = affine.offset_of_sum(factors, zero_a, zero_b, zero_y)
        found = bits(np.array([*factors, offset], np.float32))
        return np.concatenate([np.array([lo, hi], np.int32), found])
    left, right, shift = affine.fixed_factors(factors)
    addend = (1 << (shift - 1)) - zero_a * left - zero_b * right
    return np.array([lo, hi, left, right, addend, shift, zero_y], np.int32)


def _mul(constants: Mapping[str, Array], *, fpu: bool) -> Array:
    zero_a, zero_b, zero_y, lo, hi = (int(v) for v in constants["qparams"])
    header = np.array([zero_a, zero_b, lo, hi], np.int32)
    factor = bits(constants["multiplier"])
    grid = bits(np.array([zero_y + affine.GRID], np.float32))
    last = grid if fpu else np.array([zero_y], np.int32)
    return np.concatenate([header, factor, last])


class CPair(CTemplate):
    """Differences, quotients, maxima, minima and PReLU, by way of binary32."""

    name = "c_pair"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """The constant operand (real numbers), zero points and scales."""
        count = key.inputs + 1
        return (*_operand(key, "f32"), Const("p", "i32", count), Const("s", "f32", count))

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The arithmetic and the loops."""
        part = "pair_tensor" if key.inputs == 2 else "pair_constant"
        return ("base", "round", "placed", "pair", part)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """As they are."""
        packed: dict[str, Array] = {}
        if key.inputs == 1:
            c = np.ascontiguousarray(constants["c"], np.float32).reshape(-1)
            packed["c"] = np.broadcast_to(c, _operand(key, "f32")[0].elements).copy()
        packed["p"] = np.asarray(constants["qparams"], np.int32)
        packed["s"] = np.asarray(constants["scales"], np.float32)
        return packed

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        rows, channels, row_step, channel_step = spread(key)
        if key.inputs == 2:
            sizes = f"{rows}, {channels}, {row_step}, {channel_step}"
            return f"edgeopt_pairs(EDGEOPT_{key.op.upper()}, {sizes}, x0, x1, p, s, y);"
        sizes = f"{rows}, {channels}, {row_step}"
        return f"edgeopt_pairs_constant(EDGEOPT_{key.op.upper()}, {sizes}, x0, c, p, s, y);"


class CActivation(CTemplate):
    """A table of 256 entries."""

    name = "c_activation"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """The table."""
        return (Const("lut", "i8", 256),)

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loop."""
        return ("base", "activation")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        return f"edgeopt_activation({math.prod(key.in_shape)}, x0, lut, y);"


class CConversion(CTemplate):
    """Binary32 to int8 and back, at the borders of a network."""

    name = "c_conversion"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Scale and zero point."""
        return (Const("s", "f32", 1), Const("p", "i32", 1))

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loops."""
        return ("base", "round", "placed", "convert")

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """As they are."""
        scale = np.asarray(constants["scale"], np.float32).reshape(-1)
        return {"s": scale, "p": np.asarray(constants["qparams"], np.int32)}

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        return f"edgeopt_{key.op}({math.prod(key.in_shape)}, x0, s, p, y);"


class CSoftmax(CTemplate):
    """Softmax along any axis."""

    name = "c_softmax"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Exponentials, scale and zero point."""
        return (Const("t", "i32", 256), Const("s", "f32", 1), Const("p", "i32", 1))

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The loops."""
        return ("base", "round", "placed", "softmax")

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """As they are."""
        return {
            "t": np.asarray(constants["table"], np.int32).reshape(-1),
            "s": np.asarray(constants["scale"], np.float32).reshape(-1),
            "p": np.asarray(constants["qparams"], np.int32).reshape(-1),
        }

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        last = len(key.in_shape) - 1
        axis = int(key.variant.removeprefix("axis")) if key.variant else last
        outer, inner = math.prod(key.in_shape[:axis]), math.prod(key.in_shape[axis + 1 :])
        return f"edgeopt_softmax({outer}, {key.in_shape[axis]}, {inner}, x0, t, s, p, y);"


BINARY, PAIR, ACTIVATION = CBinary(), CPair(), CActivation()
CONVERSION, SOFTMAX = CConversion(), CSoftmax()


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of an elementwise kernel."""
    if key.op in ("quantize", "dequantize"):
        return CONVERSION
    if key.dtype != "i8" or key.out_dtype != "i8" or key.residual:
        return None
    if key.op in ("add", "mul", "scale"):
        return BINARY
    if key.op in moves.PAIRS and key.activation == "none":
        return PAIR
    if key.op == "activation" and key.activation == "lut":
        return ACTIVATION
    return SOFTMAX if key.op == "softmax" and "log" not in key.variant else None

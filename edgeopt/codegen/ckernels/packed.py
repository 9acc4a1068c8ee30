"""Convolutions and linear layers with weights of four or two bits, packed into bytes.

No weight is unpacked one by one. Weights of some output channels for the same input share a byte,
and the loops multiply the inputs with what a mask or a shift leaves of it: one channel's field, or
that of several channels as one number whose sum is taken apart after the last product. So an
inner loop has the instructions of the int8 one (``gemm_w4.h``, ``gemm_w2.h``, ``plain_packed.h``,
``mve_packed.h``), no memory is needed to unpack into, and results are exact for any sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeopt.codegen.ckernels.gemm import CHANNELS, FOUR, PIXELS
from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.mve import (
    LANES,
    VECTOR,
    blocks_of_four,
    in_registers,
    row_steps,
)
from edgeopt.codegen.ckernels.template import (
    HEADER,
    CTemplate,
    folded,
    looked_up,
    params_const,
    requantization,
    window,
)
from edgeopt.codegen.schedules.template import Const, flat, is_table, round_up
from edgeopt.core import lowbits
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: Kernels that exist with packed weights.
OPERATORS = frozenset({"pointwise", "conv2d", "linear"})
#: What blocks of pairs allow (``packed_dsp.h``): more inputs would leave int32 where fields stand.
MOST_INPUTS = 131_071
#: Words in front of the widened inputs of a block.
STARTS = 8


class Packed(CTemplate):
    """What all have in common: constants, and nothing but the layout of the weights of its own."""

    def weight_bytes(self, key: OpKey) -> int:
        """Of the packed weights."""
        raise NotImplementedError

    def layout(self, key: OpKey, w: Array) -> Array:
        """Weights [outputs, products of a sum] as the loops read them."""
        raise NotImplementedError

    def channels(self, key: OpKey) -> int:
        """Channels that have parameters."""
        return key.out_shape[-1]

    def weights_const(self, key: OpKey) -> Const:
        """The weights' parameter."""
        return Const("w", "u8", self.weight_bytes(key))

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights, biases and multipliers, and the table of an activation."""
        found = [self.weights_const(key), params_const(self.channels(key))]
        if is_table(key.activation):
            found.append(Const("lut", "i8", 256))
        return tuple(found)

    def parameters(self, constants: Mapping[str, Array]) -> Array:
        """Zero points, clamps, biases and multipliers."""
        return folded(constants)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """All constants.

        Raises:
            ValueError: a weight does not fit the key's bits.
        """
        w = np.asarray(constants["w"], np.int8).reshape(key.out_shape[-1], -1)
        values = {
            "w": self.layout(key, w), "p": self.parameters(constants),
            "lut": constants.get("lut"),
        }  # fmt: skip
        consts = self.consts(key, target)
        return {const.name: flat(np.asarray(values[const.name]), const) for const in consts}


def _length(key: OpKey) -> int:
    """Products of a sum."""
    return key.weight_count // key.out_shape[-1]


def _padded(w: Array, outputs: int, length: int) -> Array:
    """Zeros for outputs and inputs that are not there."""
    found = np.zeros((round_up(len(w), outputs), round_up(w.shape[1], length)), w.dtype)
    found[: len(w), : w.shape[1]] = w
    return found


def by_input(w: Array, bits: int, *, length: int = 1) -> Array:
    """Bytes with an input's weights of neighbouring outputs; the last has its sign, others a bias.

    Returns:
        [outputs / fields, inputs in whole ``length``], int8.
    """
    fields = 8 // bits
    padded = _padded(lowbits.fields(w, bits), fields, length)
    groups = padded.reshape(-1, fields, padded.shape[1]).transpose(0, 2, 1)
    biased = lowbits.join(np.ascontiguousarray(groups), bits)
    return (biased ^ 0x80).view(np.int8).reshape(groups.shape[:2])


# Pairs (DSP) ------------------------------------------------------------------------------------


class _Pairs(Packed):
    """Blocks of four pixels and two channels."""

    part = ""

    def channels(self, key: OpKey) -> int:
        """Whole pairs."""
        return round_up(key.out_shape[-1], CHANNELS)

    def taps(self, key: OpKey) -> int:
        """Inputs of a sum, in whole words of weights."""
        return round_up(_length(key), FOUR if key.weight_bits == 4 else 2 * FOUR)

    def row_bytes(self, key: OpKey) -> int:
        """Of the weights of two channels."""
        return self.taps(key) * CHANNELS * key.weight_bits // 8

    def weight_bytes(self, key: OpKey) -> int:
        """Of all pairs."""
        return self.channels(key) // CHANNELS * self.row_bytes(key)

    def layout(self, key: OpKey, w: Array) -> Array:
        """See ``gemm_w4.h`` and ``gemm_w2.h``."""
        if key.weight_bits == 4:
            return by_input(w, 4, length=FOUR).view(np.uint8)
        padded = _padded(lowbits.fields(w, 2), CHANNELS, 2 * FOUR)
        # [channel pairs][eights] of [four][twos of it][even or odd][channel]
        split = padded.reshape(len(padded) // 2, 2, -1, 2, 2, 2).transpose(0, 2, 4, 3, 5, 1)
        return lowbits.join(np.ascontiguousarray(split), 2)

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """A block's inputs are widened before its outputs are written."""
        return PIXELS

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Inputs of a block, widened, and where sums start."""
        return 4 * STARTS + 2 * PIXELS * self.taps(key)

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Blocks."""
        bits = key.weight_bits
        gathered = ("gather_dsp", "conv_packed") if self.part == "conv" else ()
        own = (f"gemm_w{bits}", f"block_wBITS:{bits}", f"{self.part}_wBITS:{bits}")
        return (*requantization(isa_of(target).fpu), "dsp", "packed_dsp", *gathered, *own)


class PairsPointwise(_Pairs):
    """Pointwise convolutions and linear layers."""

    name = "c_pointwise_packed_dsp"
    part = "pointwise"

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        pixels = math.prod(key.out_shape[:-1])
        sizes = f"{pixels}, {key.in_shape[-1]}, {key.out_shape[-1]}, {self.row_bytes(key)}"
        call = f"edgeopt_pointwise_w{key.weight_bits}({sizes}, x0, w, p, y, scratch);"
        return call + looked_up(key, math.prod(key.out_shape))


class PairsConv(_Pairs):
    """Other convolutions of one group, windows gathered."""

    name = "c_conv2d_packed_dsp"
    part = "conv"

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Windows of a block as bytes as well."""
        return super().scratch_bytes(key, target) + PIXELS * self.taps(key)

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        sizes = f"{self.taps(key)}, {self.row_bytes(key)}"
        call = f"edgeopt_conv2d_w{key.weight_bits}(&g, {sizes}, x0, w, p, y, scratch);"
        return f"{window(key)}\n{call}" + looked_up(key, math.prod(key.out_shape))


# Plain C ----------------------------------------------------------------------------------------


class _Plain(Packed):
    """Two rows of inputs with some channels."""

    parts: tuple[str, ...] = ("plain_rows", "plain_patches", "plain_packed")

    def weights_const(self, key: OpKey) -> Const:
        """Bytes with a sign."""
        return Const("w", "i8", self.weight_bytes(key))

    def weight_bytes(self, key: OpKey) -> int:
        """A byte an input, for some channels."""
        return -(-key.out_shape[-1] // (8 // key.weight_bits)) * _length(key)

    def layout(self, key: OpKey, w: Array) -> Array:
        """See ``plain_packed.h``."""
        return by_input(w, key.weight_bits)

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """Two at a time."""
        return 2

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Requantization and the loops."""
        return (*requantization(isa_of(target).fpu), *self.parts)


class PlainPointwise(_Plain):
    """Pointwise convolutions and linear layers."""

    name = "c_pointwise_packed"

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The same, and what is made for each width."""
        return (*super().sections(key, target), f"plain_pointwise_wBITS:{key.weight_bits}")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        pixels = math.prod(key.out_shape[:-1])
        sizes = f"{pixels}, {key.in_shape[-1]}, {key.out_shape[-1]}"
        call = f"edgeopt_plain_pointwise_w{key.weight_bits}({sizes}, x0, w, p, y);"
        return call + looked_up(key, math.prod(key.out_shape))


class PlainConv(_Plain):
    """Convolutions of one group: what lies under two windows is copied into rows."""

    name = "c_conv2d_packed"

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Two rows."""
        return 2 * _length(key)

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        call = f"edgeopt_plain_patches_packed({key.weight_bits}, &g, x0, w, p, y, scratch);"
        return f"{window(key)}\n{call}" + looked_up(key, math.prod(key.out_shape))


class PlainGroups(_Plain):
    """Convolutions of several groups, one product at a time."""

    name = "c_groups_packed"
    parts = ("plain_groups_packed",)

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """One after the other."""
        return 1

    def weights_const(self, key: OpKey) -> Const:
        """Bytes without a sign."""
        return Const("w", "u8", self.weight_bytes(key))

    def weight_bytes(self, key: OpKey) -> int:
        """In the model's order."""
        return lowbits.packed_bytes(key.weight_count, key.weight_bits)

    def layout(self, key: OpKey, w: Array) -> Array:
        """In the model's order."""
        return lowbits.pack(np.asarray(w, np.int8), key.weight_bits)

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        call = f"edgeopt_plain_groups_packed({key.weight_bits}, &g, x0, w, p, y);"
        return f"{window(key)}\n{call}" + looked_up(key, math.prod(key.out_shape))


# Vectors (MVE) ----------------------------------------------------------------------------------


class _Vectors(Packed):
    """Rows of inputs with rows of bytes, 16 products an instruction."""

    part: tuple[str, ...] = ()
    channel_block = LANES

    def channels(self, key: OpKey) -> int:
        """Whole fours."""
        return round_up(key.out_shape[-1], LANES)

    def weight_bytes(self, key: OpKey) -> int:
        """Rows in whole vectors, in whole fours."""
        rows = self.channels(key) * key.weight_bits // 8
        return rows * round_up(_length(key), VECTOR)

    def layout(self, key: OpKey, w: Array) -> Array:
        """See ``mve_packed.h``."""
        bits = key.weight_bits
        if not holds_signed(w, bits):
            raise ValueError(f"a weight does not fit {bits} bits, symmetric")
        if bits == 4:
            rows = row_steps(w).astype(np.int16)
            # [block, 2 (of four: high), 2 (low), step, 16] -> [block, low, step, 16]
            split = rows.reshape(-1, 2, 2, *rows.shape[1:])
            joined = split[:, 0] + 16 * split[:, 1]
        else:
            # outputs 0, 2, 1 and 3 from below
            fields = _padded(lowbits.fields(w, 2), LANES, 1).reshape(-1, LANES, w.shape[1])
            placed = fields[:, [0, 2, 1, 3]].astype(np.int16) << np.arange(0, 8, 2)[:, None]
            joined = row_steps(placed.sum(axis=1).astype(np.int8), 1).astype(np.int16)
        return np.ascontiguousarray(joined.astype(np.int8)).view(np.uint8)

    def parameters(self, constants: Mapping[str, Array]) -> Array:
        """Four channels at a time."""
        return blocks_of_four(folded(constants), HEADER)

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """Two at a time."""
        return 2

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Vectors and the loops."""
        table = ("mve_table",) if is_table(key.activation) else ()
        return ("base", "mve", "mve_rows", *self.part, *table)

    def finish(self, key: OpKey) -> str:
        """The statement that evaluates a table activation of the whole output, if there is one."""
        count = math.prod(key.out_shape)
        return f"\nedgeopt_mve_table({count}, y, lut, y);" if is_table(key.activation) else ""


class VectorsPointwise(_Vectors):
    """Pointwise convolutions and linear layers."""

    name = "mve_pointwise_packed"
    part = ("mve_packed",)

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The same, and what is made for each width."""
        return (*super().sections(key, target), f"mve_pointwise_wBITS:{key.weight_bits}")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        pixels = math.prod(key.out_shape[:-1])
        sizes = f"{pixels}, {key.in_shape[-1]}, {key.out_shape[-1]}"
        call = (
            f"edgeopt_mve_pointwise_w{key.weight_bits}_{in_registers(key)}({sizes}, x0, w, p, y);"
        )
        return call + self.finish(key)


class VectorsConv(_Vectors):
    """Convolutions of one group: windows are copied into rows."""

    name = "mve_conv2d_packed"
    part = ("mve_patch", "mve_packed", "mve_conv_packed")

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Two rows, and what copies of whole vectors write behind them."""
        return 2 * _length(key) + VECTOR

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        call = f"edgeopt_mve_conv2d_packed({key.weight_bits}, &g, x0, w, p, y, scratch);"
        return f"{window(key)}\n{call}" + self.finish(key)


VECTORS = (VectorsPointwise(), VectorsConv())
PAIRS = (PairsPointwise(), PairsConv())
PLAIN = (PlainPointwise(), PlainConv())
GROUPS = PlainGroups()


def widths(op: str) -> tuple[int, ...]:
    """Bits that packed weights of an operator may have, on any microcontroller."""
    return lowbits.PACKED_BITS if op in OPERATORS else ()


def holds(w: Array, bits: int, target: TargetSpec) -> bool:
    """Whether a target's kernels read such weights: vectors have no room for the smallest one."""
    return not isa_of(target).mve or holds_signed(w, bits)


def holds_signed(w: Array, bits: int) -> bool:
    """Whether fields that are not biased hold such weights."""
    wide = w.astype(np.int16)
    return lowbits.fits(w, bits) and int(np.abs(wide).max(initial=0)) <= lowbits.largest(bits)


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of a key with packed weights."""
    if key.op not in OPERATORS or key.out_dtype != "i8" or key.residual:
        return None
    if key.op == "conv2d" and key.groups > 1:
        return GROUPS
    isa, window_ = isa_of(target), int(key.op == "conv2d")
    if isa.mve:
        return VECTORS[window_]
    if isa.dsp and key.dilations[1] == 1 and _length(key) <= MOST_INPUTS:
        return PAIRS[window_]
    return PLAIN[window_]

"""Convolutions and linear layers for cores with vectors (MVE): see ``mve.h``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.template import (
    HEADER,
    CTemplate,
    folded,
    shared_window,
    window,
)
from edgeopt.codegen.schedules.template import Const, flat, is_table, round_up
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: Bytes of a vector.
VECTOR = 16
#: Channels whose sums fill one.
LANES = 4
#: Windows that are woven: rows at most, and columns.
MOST_ROWS, MOST_COLUMNS = 8, 16
#: Channels of a map that is woven: an instruction moves on by so many bytes.
MOST_CHANNELS = 4095


class _Mve(CTemplate):
    """What the templates share: parameters in blocks of four channels."""

    part: tuple[str, ...] = ()
    channel_block = LANES

    def weight_bytes(self, key: OpKey) -> int:
        """Of the weights as they are packed."""
        raise NotImplementedError

    def layout(self, key: OpKey, w: Array) -> Array:
        """Weights as the loops read them."""
        raise NotImplementedError

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights, biases and multipliers, and the table of an activation."""
        blocks = -(-key.out_shape[-1] // LANES)
        found = [
            Const("w", "i8", self.weight_bytes(key)),
            Const("p", "i32", HEADER + 2 * LANES * blocks),
        ]
        if is_table(key.activation):
            found.append(Const("lut", "i8", 256))
        return tuple(found)

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Vectors and the loops."""
        table = ("mve_table",) if is_table(key.activation) else ()
        return ("base", "mve", *self.part, *table)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights, and parameters four channels at a time."""
        values = {
            "w": self.layout(key, np.asarray(constants["w"], np.int8)),
            "p": blocks_of_four(folded(constants), HEADER),
            "lut": constants.get("lut"),
        }
        consts = self.consts(key, target)
        return {const.name: flat(np.asarray(values[const.name]), const) for const in consts}


def blocks_of_four(params: Array, header: int) -> Array:
    """Biases and multipliers of single channels as four biases and four multipliers each."""
    pairs = params[header:].reshape(-1, 2)
    padded = np.zeros((round_up(len(pairs), LANES), 2), np.int32)
    padded[: len(pairs)] = pairs
    blocks = padded.reshape(-1, LANES, 2).transpose(0, 2, 1)
    return np.concatenate([params[:header], blocks.reshape(-1)])


def row_steps(w: Array, outputs: int = LANES) -> Array:
    """Weights [outputs, inputs] as [whole ``outputs``, steps, 16].

    The last step ends with the row, so it overlaps the one before: weights there are zero.
    """
    length = w.shape[1]
    steps = -(-length // VECTOR)
    rows = np.zeros((round_up(len(w), outputs), steps, VECTOR), np.int8)
    whole = (steps - 1) * VECTOR
    rows[: len(w), : steps - 1] = w[:, :whole].reshape(len(w), steps - 1, VECTOR)
    last = w[:, whole:]
    at = VECTOR - last.shape[1] if length > VECTOR else 0
    rows[: len(w), -1, at : at + last.shape[1]] = last
    return rows


def _looked_up(key: OpKey) -> str:
    """The statement that evaluates a table activation of the whole output, if there is one."""
    count = math.prod(key.out_shape)
    return f"\nedgeopt_mve_table({count}, y, lut, y);" if is_table(key.activation) else ""


def _length(key: OpKey) -> int:
    """Inputs of an output."""
    return math.prod(key.kernel) * key.in_shape[-1]


def in_registers(key: OpKey) -> int:
    """Most inputs that such a kernel keeps in registers, of a row: 16, 32, or none."""
    return next((most for most in (16, 32) if _length(key) <= most), 0)


class MveRows(_Mve):
    """Rows of inputs with rows of weights, 16 products an instruction."""

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """Two pixels at a time."""
        return 2

    def weight_bytes(self, key: OpKey) -> int:
        """Rows in whole vectors, in whole fours."""
        return round_up(key.out_shape[-1], LANES) * round_up(_length(key), VECTOR)

    def layout(self, key: OpKey, w: Array) -> Array:
        """Steps of 16 for outputs 0 and 2 of each four, then for 1 and 3."""
        rows = row_steps(w.reshape(len(w), _length(key)))
        # [block, 2 (of four: high), 2 (low), step, 16] -> [block, low, step, high, 16]
        split = rows.reshape(-1, 2, 2, *rows.shape[1:])
        return np.ascontiguousarray(split.transpose(0, 2, 3, 1, 4))


class MvePointwise(MveRows):
    """Pointwise convolutions and linear layers."""

    name = "mve_pointwise"
    part = ("mve_rows", "mve_pointwise")

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        pixels = math.prod(key.out_shape[:-1])
        sizes = f"{pixels}, {key.in_shape[-1]}, {key.out_shape[-1]}"
        call = f"edgeopt_mve_pointwise_{in_registers(key)}({sizes}, x0, w, p, y);"
        return call + _looked_up(key)


class MveConv(MveRows):
    """Convolutions of one group: windows are copied into rows."""

    name = "mve_conv2d"
    part = ("mve_rows", "mve_patch", "mve_conv")

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Two rows, and what copies of whole vectors write behind them."""
        return 2 * _length(key) + VECTOR

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        call = f"{window(key)}\nedgeopt_mve_conv2d(&g, x0, w, p, y, scratch);"
        return call + _looked_up(key)


class MveDepthwise(_Mve):
    """Depthwise convolutions: four or eight rows woven together."""

    name = "mve_depthwise"
    part = ("mve_patch", "mve_depthwise")

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """As many rows of outputs as a weave serves, one group of channels after the other."""
        lines = (4 - key.kernel[0]) // key.strides[0] + 1 if self._rows(key) == 4 else 1
        return lines * key.out_shape[1]

    @staticmethod
    def _rows(key: OpKey) -> int:
        return 4 if key.kernel[0] <= 4 else MOST_ROWS

    def _taps(self, key: OpKey) -> int:
        return round_up(key.kernel[1] * self._rows(key), VECTOR)

    def _pitch(self, key: OpKey) -> int:
        """Bytes of a channel that is woven: all columns, and all that is read."""
        read = (key.out_shape[1] - 1) * key.strides[1] * self._rows(key) + self._taps(key)
        return max(read, (key.pads[1] + key.in_shape[1]) * self._rows(key))

    @staticmethod
    def _outside(key: OpKey) -> int:
        """Bytes of a row of zero points, as far as it is read, where windows leave the map."""
        _, wide, channels = key.in_shape
        below = (key.out_shape[0] - 1) * key.strides[0] + key.kernel[0] - key.pads[0]
        leaves = key.pads[0] > 0 or below > key.in_shape[0]
        return (wide - 1) * channels + min(VECTOR, channels) if leaves else 0

    def weight_bytes(self, key: OpKey) -> int:
        """Windows in whole vectors, in whole fours."""
        return round_up(key.out_shape[-1], LANES) * self._taps(key)

    def layout(self, key: OpKey, w: Array) -> Array:
        """[channel][column][row], padded."""
        height, width = key.kernel
        windows = np.zeros((round_up(len(w), LANES), self._taps(key)), np.int8)
        woven = np.zeros((len(w), width, self._rows(key)), np.int8)
        woven[:, :, :height] = w.reshape(len(w), height, width).transpose(0, 2, 1)
        windows[: len(w), : width * self._rows(key)] = woven.reshape(len(w), -1)
        return windows

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """A group of channels, woven; a row outside of the map."""
        group = min(VECTOR, round_up(key.in_shape[-1], LANES))
        return group * self._pitch(key) + self._outside(key)

    @staticmethod
    def _shared(key: OpKey, target: TargetSpec) -> tuple[int, int] | None:
        """A copy for all windows of a size weaves 16 channels, whether they are there or not."""
        return shared_window(key, target) if key.in_shape[-1] >= VECTOR else None

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """The same, and a copy for all windows of a size where flash is short."""
        shared = self._shared(key, target)
        own = (f"mve_depthwise_{shared[0]}_{shared[1]}",) if shared else ()
        return (*super().sections(key, target), *own)

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """One call."""
        sizes = f"{self._pitch(key)}, {self._outside(key)}"
        if shared := self._shared(key, target):
            name = f"edgeopt_mve_depthwise_{shared[0]}_{shared[1]}"
        else:
            name, sizes = "edgeopt_mve_depthwise", f"{self._rows(key)}, {sizes}"
        call = f"{window(key)}\n{name}(&g, {sizes}, x0, w, p, y, scratch);"
        return call + _looked_up(key)


POINTWISE, CONV, DEPTHWISE = MvePointwise(), MveConv(), MveDepthwise()


def rule(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template of a convolution or linear layer in int8 on a core with vectors."""
    if not isa_of(target).mve or key.dtype != "i8" or key.out_dtype != "i8" or key.residual:
        return None
    if key.op in ("pointwise", "linear"):
        return POINTWISE
    channels = key.in_shape[-1]
    if key.op == "depthwise" and key.groups == channels == key.out_shape[-1]:
        fits = key.kernel[0] <= MOST_ROWS and key.kernel[1] <= MOST_COLUMNS
        fits &= key.strides[1] * (4 if key.kernel[0] <= 4 else 8) < 128
        fits &= channels <= MOST_CHANNELS and key.dilations == (1, 1)
        return DEPTHWISE if fits else None
    return CONV if key.op == "conv2d" and key.groups == 1 else None

"""The template of depthwise convolutions: channels in vectors, taps unrolled along a row.

f32 reads the input where it lies; the columns whose window leaves the map are emitted apart with
their taps clipped, and rows outside are skipped by loop bounds, so no inner loop branches.
int8 first widens (and pads) a block of channels of a band of rows into scratch; where the
processor multiplies and adds pairs, each row interleaved with the one below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from edgeopt.codegen.schedules import table
from edgeopt.codegen.schedules.gemm import fold_bias, requantization
from edgeopt.codegen.schedules.isa import Isa, isa_of
from edgeopt.codegen.schedules.template import BaseTemplate, Const, Template, is_table, round_up
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """Tile of one output row, and for int8 the staged band."""

    lanes: int
    blocks: int  # vectors of channels
    pixels: int  # neighbouring output columns computed at once
    vectors: int  # vectors of channels computed at once
    band: int  # int8: output rows computed from one staged band
    rows: int  # int8: staged input rows
    cols: int  # int8: staged input columns
    step: int  # int8: input rows between staged rows
    stage_elements: int  # int8: int16 elements of scratch

    @property
    def channels(self) -> int:
        """Channels padded to whole vectors."""
        return self.blocks * self.lanes


@lru_cache(maxsize=4096)
def plan_of(key: OpKey, isa: Isa) -> Plan:
    """Choose the tile of a depthwise key."""
    integer = key.dtype == "i8"
    lanes = isa.lanes * (2 if integer else 1)
    channels = key.in_shape[-1]
    blocks = -(-channels // lanes)
    out_h, out_w = key.out_shape[0], key.out_shape[1]
    kernel_w = key.kernel[1]
    if integer:
        # paired rows: one accumulator a pixel, since halves of the lanes take turns; else two
        room = isa.registers - kernel_w - 3 if pairs_rows(isa) else (isa.registers - 8) // 2
        vectors = 1
    else:
        room = isa.registers - 2 - kernel_w  # one accumulator a pixel, the weights of a row
        vectors = 2 if blocks >= 2 and isa.registers > 16 and out_w <= 8 else 1
    limit = max(min(room // vectors, 8 if integer else 10), 1)
    count = -(-out_w // limit)
    pixels = -(-out_w // count)
    used_w = (kernel_w - 1) * key.dilations[1] + 1
    cols = (out_w - 1) * key.strides[1] + used_w
    # Staged rows: each input row, or (where rows are paired) row r beside row r + dilation.
    paired = pairs_rows(isa)
    down = key.dilations[0]
    last = 2 * (-(-key.kernel[0] // 2) - 1) * down if paired else round_up(key.kernel[0], 2) * down
    step = math.gcd(key.strides[0], 2 * down) if paired else 1
    row_elements = cols * lanes * (2 if paired else 1)
    fitting = isa.l1d_bytes * 2 // 3 // (row_elements * 2) * step
    band = min(out_h, max((fitting - last - 1) // key.strides[0] + 1, 4, 1))
    band = -(-out_h // -(-out_h // band))
    rows = ((band - 1) * key.strides[0] + last) // step + 1
    return Plan(lanes, blocks, pixels, vectors, band, rows, cols, step, rows * row_elements)


class Depthwise(BaseTemplate):
    """Depthwise convolution over vectors of channels."""

    name = "depthwise"

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """Weights [vector][tap][lane] and what follows the sum."""
        plan = plan_of(key, _isa(target))
        taps = key.kernel[0] * key.kernel[1]
        if key.dtype == "f32":
            weights = Const("weights", "f32", plan.channels * taps)
            return weights, Const("bias", "f32", plan.channels)
        rows = round_up(key.kernel[0], 2)
        weights = Const("weights", "i16", plan.channels * rows * key.kernel[1])
        return (weights, *requantization(key, plan.channels))

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Bytes of the widened band of one block of channels."""
        if key.dtype == "f32":
            return 0
        return round_up(plan_of(key, _isa(target)).stage_elements * 2, 64)

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Weights by vector of channels; for int8 pairs of vertical taps interleaved."""
        isa = _isa(target)
        plan = plan_of(key, isa)
        channels = key.in_shape[-1]
        spare = (0, plan.channels - channels)
        weights = constants["w"].reshape(channels, *key.kernel)
        full = np.pad(weights, (spare, (0, 0), (0, 0)))
        by_vector = full.reshape(plan.blocks, plan.lanes, *key.kernel)
        if key.dtype == "f32":
            bias = constants.get("b")
            if bias is None:
                bias = np.zeros(channels, np.float32)
            return {
                "weights": np.ascontiguousarray(by_vector.transpose(0, 2, 3, 1)).reshape(-1),
                "bias": np.pad(np.asarray(bias, np.float32), spare),
            }
        rows = round_up(key.kernel[0], 2)
        paired = np.pad(by_vector, ((0, 0), (0, 0), (0, rows - key.kernel[0]), (0, 0)))
        # [vector][row pair][column][lane][row], lanes in the order of the accumulators
        paired = paired.reshape(plan.blocks, plan.lanes, rows // 2, 2, key.kernel[1])
        ordered = paired.transpose(0, 2, 4, 1, 3)[:, :, :, sum(lane_order(isa), ())]
        if not pairs_rows(isa):
            ordered = ordered.swapaxes(3, 4)
        packed: dict[str, Array] = {
            "weights": np.ascontiguousarray(ordered, np.int16).reshape(-1),
            "bias": np.pad(fold_bias(constants), spare),
            "multiplier": np.pad(np.asarray(constants["multiplier"], np.float32), spare),
            "qparams": np.ascontiguousarray(constants["qparams"], np.int32),
        }
        if is_table(key.activation):
            packed["lut"] = table.pack(isa, constants["lut"])
        return packed

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Emit the kernel."""
        from edgeopt.codegen.schedules import depthwise_f32, depthwise_i8

        isa = _isa(target)
        sizes = {const.name: const.elements for const in self.consts(key, target)}
        module = depthwise_f32 if key.dtype == "f32" else depthwise_i8
        return module.emit(self.function(key, target), plan_of(key, isa), isa, sizes)


def _isa(target: TargetSpec) -> Isa:
    isa = isa_of(target)
    assert isa is not None
    return isa


def pairs_rows(isa: Isa) -> bool:
    """Whether two rows of the kernel are multiplied and added in one instruction."""
    return isa.arch == "x86_64"


def lane_order(isa: Isa) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels of the two accumulators of a pixel.

    Interleaving instructions work within 128 bits: of each eight channels, the first
    accumulator holds four and the second the others.
    """
    lanes = 2 * isa.lanes
    if not pairs_rows(isa):
        return tuple(range(isa.lanes)), tuple(range(isa.lanes, lanes))
    low = tuple(c for c in range(lanes) if c % 8 < 4)
    return low, tuple(c for c in range(lanes) if c % 8 >= 4)


DEPTHWISE = Depthwise()


def rule(key: OpKey, target: TargetSpec) -> Template | None:
    """Depthwise keys without channel multiplier."""
    if key.op != "depthwise" or key.inputs != 1 or isa_of(target) is None:
        return None
    if key.dtype != key.out_dtype or key.dtype not in ("f32", "i8"):
        return None
    if key.in_shape[-1] != key.out_shape[-1] or (key.dtype == "i8" and key.residual):
        return None
    return DEPTHWISE

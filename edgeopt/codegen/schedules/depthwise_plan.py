"""How a depthwise convolution is tiled, and for int8 staged; pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import round_up
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey


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
def plan_of(key: OpKey, isa: Isa, choice: Choice = MODEL) -> Plan:
    """Choose the tile of a depthwise key, or take the chosen one."""
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
    if choice.pixels:
        pixels, vectors = min(choice.pixels, out_w), min(choice.vectors, 1 if integer else blocks)
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
    band = min(out_h, choice.band) or -(-out_h // -(-out_h // band))
    rows = ((band - 1) * key.strides[0] + last) // step + 1
    return Plan(lanes, blocks, pixels, vectors, band, rows, cols, step, rows * row_elements)


def pairs_rows(isa: Isa) -> bool:
    """Whether two rows of the kernel are multiplied and added in one instruction."""
    return isa.arch == "x86_64"

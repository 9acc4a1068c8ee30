"""How a depthwise convolution is tiled, and for int8 staged; pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import round_up
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey

#: Pixels of a tile where rows of all widths share their code.
_COMPACT_PIXELS = 2


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
    stage_elements: int  # int8: elements of scratch
    pad_bytes: int = 0  # pairs of int8: a row of padding in scratch
    slots: int = 0  # pairs of int8: vectors of pairs of weights
    shared: bool = False  # pairs of int8: rows of some channels are functions that kernels share
    any_width: bool = False  # and those of all widths are one function

    @property
    def channels(self) -> int:
        """Channels padded to whole vectors."""
        return self.blocks * self.lanes


@lru_cache(maxsize=4096)
def plan_of(key: OpKey, isa: Isa, choice: Choice = MODEL) -> Plan:
    """Choose the tile of a depthwise key, or take the chosen one."""
    integer = key.dtype == "i8"
    if integer and pairs_taps(isa):
        return _paired(key, isa, choice)
    if integer:
        return _staged(key, isa, choice)
    lanes = isa.lanes
    blocks = -(-key.in_shape[-1] // lanes)
    out_h, out_w = key.out_shape[0], key.out_shape[1]
    kernel_w = key.kernel[1]
    # One accumulator a pixel, the weights of a row, an input.
    room = isa.registers - 1 - kernel_w
    # Fewer sums than eight wait for one another.
    vectors = 2 if blocks >= 2 and out_w <= (8 if isa.registers > 16 else 4) else 1
    if vectors == 2:  # the compiler takes weights from memory where registers run out
        room = isa.registers - 2 - kernel_w // 2
    limit = max(min(room // vectors, 10), 1)
    pixels = -(-out_w // -(-out_w // limit))
    if choice.pixels:
        pixels, vectors = min(choice.pixels, out_w), min(choice.vectors, blocks)
    return Plan(lanes, blocks, pixels, vectors, out_h, 0, 0, 0)


def _staged(key: OpKey, isa: Isa, choice: Choice) -> Plan:
    """A padded copy of sixteen channels of a band of rows."""
    lanes = 4 * isa.lanes
    blocks = -(-key.in_shape[-1] // lanes)
    out_h, out_w = key.out_shape[0], key.out_shape[1]
    kernel_w, stride = key.kernel[1], key.strides[1]
    # four accumulators and two open products a pixel, inputs and weights of a row of the kernel
    limit = max((isa.registers - 2 * kernel_w + stride) // (6 + stride), 1)
    pixels = min(choice.pixels, out_w) or -(-out_w // -(-out_w // limit))
    cols = (out_w - 1) * stride + (kernel_w - 1) * key.dilations[1] + 1
    used = (key.kernel[0] - 1) * key.dilations[0] + 1
    fitting = isa.l1d_bytes * 2 // 3 // (cols * lanes)
    band = min(out_h, max((fitting - used) // key.strides[0] + 1, 4))
    band = min(out_h, choice.band) or -(-out_h // -(-out_h // band))
    rows = (band - 1) * key.strides[0] + used
    return Plan(lanes, blocks, pixels, 1, band, rows, cols, rows * cols * lanes)


def _paired(key: OpKey, isa: Isa, choice: Choice) -> Plan:
    """The input is read where it lies; only rows outside the map need scratch.

    Vectors of 512 bits are no faster here (benchmarks/kernel_versions.py): loads and shuffles
    decide. Half of them pad fewer channels and take a quarter less code.
    """
    kernel_w = key.kernel[1]
    _, width, channels = key.in_shape
    out_h, out_w = key.out_shape[0], key.out_shape[1]
    # two accumulators a pixel; weights of wide kernels need not stay in registers, inputs do
    limit = 8 if kernel_w <= 5 or isa.registers > 16 else 4
    pixels = min(choice.pixels, out_w) or -(-out_w // -(-out_w // limit))
    pad_bytes = round_up(width * channels, 64) if key.pads[0] or key.pads[2] else 0
    slots = slots_of(key.kernel)
    lanes = 2 * paired_isa(isa).lanes
    blocks = -(-channels // lanes)
    shared = isa.compact and not choice.pixels
    any_width = shared and _suits_any_width(key, pad_bytes)
    pixels = _COMPACT_PIXELS if any_width else pixels
    return Plan(lanes, blocks, pixels, 1, out_h, 0, 0, 0, pad_bytes, slots, shared, any_width)


def overhang(key: OpKey) -> int:
    """Columns of padding behind the last that outputs read."""
    used = key.strides[1] * (key.out_shape[1] - 1) + (key.kernel[1] - 1) * key.dilations[1] + 1
    return max(used - key.pads[1] - key.in_shape[1], 0)


def _suits_any_width(key: OpKey, pad_bytes: int) -> bool:
    """Whether all tiles are whole, and no column is outside but in the first or the last."""
    most = max(key.pads[1], overhang(key))
    step = _COMPACT_PIXELS * key.strides[1]
    whole = key.out_shape[1] % _COMPACT_PIXELS == 0
    return whole and pad_bytes > 0 and most <= min(key.in_shape[1], step)


def slots_of(kernel: tuple[int, int]) -> int:
    """Pairs of taps: of two rows, then of the columns of a last odd one."""
    height, width = kernel
    return height // 2 * width + height % 2 * -(-width // 2)


def column_runs(key: OpKey, plan: Plan) -> list[tuple[int, int, int]]:
    """Runs over output columns: (first, times, columns at once).

    Tiles whose windows all lie inside the map share one loop; the others are apart.
    """
    out_w, pixels = key.out_shape[1], plan.pixels
    tiles = [(start, min(pixels, out_w - start)) for start in range(0, out_w, pixels)]
    runs: list[tuple[int, int, int]] = []
    inside = False
    for start, width in tiles:
        interior = width == pixels and _interior(key, start, width)
        if interior and inside:
            low, times, _ = runs[-1]
            runs[-1] = (low, times + 1, width)
        else:
            runs.append((start, 1, width))
        inside = interior
    return runs


def _interior(key: OpKey, start: int, width: int) -> bool:
    low = start * key.strides[1] - key.pads[1]
    last = (start + width - 1) * key.strides[1] - key.pads[1]
    return low >= 0 and last + (key.kernel[1] - 1) * key.dilations[1] < key.in_shape[1]


def lane_order(lanes: int) -> tuple[int, ...]:
    """Channels as interleaving instructions leave them, which work within 128 bits.

    Of each eight channels the first half of the lanes holds four, the second the others.
    """
    low = tuple(c for c in range(lanes) if c % 8 < 4)
    return low + tuple(c for c in range(lanes) if c % 8 >= 4)


def paired_isa(isa: Isa) -> Isa:
    """The processor as pairs of taps use it."""
    return replace(isa, lanes=min(isa.lanes, 8))


def pairs_taps(isa: Isa) -> bool:
    """Whether two taps of the kernel are multiplied and added in one instruction."""
    return isa.arch == "x86_64"

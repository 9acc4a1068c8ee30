"""How a convolution or linear layer becomes a tiled matrix product; pure arithmetic.

A tile is ``pixels`` neighbouring output pixels of one row by ``vectors`` vectors of output
channels, all accumulators in registers. Weights lie in panels of ``vectors`` vectors. Tile and
loop order come from a small cost model over the registers, load ports and caches of the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import BYTES, round_up
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey

#: Cycles to start, finish and store a tile, and to multiply-accumulate once (latency).
_TILE_CYCLES, _LATENCY = 12.0, 4.0
#: Reductions from which on adding lanes up at the end costs less than broadcasting.
_LONG = 64
#: Pixels of the tiles of functions that kernels share; how much slower than what is made for one
#: kernel they may be by the model, which takes short tiles of 512 bits for slower than they are
#: (benchmarks/kernel_versions.py); and by how many cycles.
_SHARED_PIXELS = (1, 4)
_SHARED_SLOWER, _SHARED_CYCLES = 1.35, 100.0
#: Output channels of their tiles where flash is limited: one width for all layers.
_COMPACT_OUTPUTS = 16
#: Of all pixels, those that overlapping tiles may compute twice.
_SHARED_TWICE = 0.07
#: Their inner loop goes round at least once, also where it does as many steps at once.
_SHARED_STEPS = 4
#: Cycles a tile for each sum beyond half of the registers, found by benchmarks/tile_regret.py.
_CROWDED_CYCLES = 6.0


@dataclass(frozen=True, slots=True)
class Window:
    """Where activations lie, and which of them one output reads.

    Offsets and strides are in elements of the buffer that is read: the input itself, or the
    staged copy of a band of it.
    """

    out_rows: int
    out_cols: int
    row_stride: int  # between output rows
    col_stride: int  # between output columns
    taps_h: int  # runs, vertically
    tap_h_stride: int
    taps_w: int  # runs, horizontally
    tap_w_stride: int
    run: int  # contiguous elements of one run
    run_packed: int  # the same, rounded up to what one dot product consumes
    group_stride: int  # between the channels of neighbouring groups


@dataclass(frozen=True, slots=True)
class Stage:
    """A padded, widened or rounded-up copy of some input rows in scratch."""

    dtype: str
    rows: int  # input rows of one band
    cols: int  # with padding
    channels: int  # elements between pixels
    top: int
    left: int
    elements: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the emitter and the packer need."""

    window: Window
    stage: Stage | None
    band: int  # output rows computed from one staged copy
    groups: int
    outputs: int  # output channels of one group
    reduction: int  # packed elements of one output channel's weights
    pixels: int
    vectors: int
    panel_outer: bool
    split: int  # independent partial sums along the reduction
    pack: int  # reduction elements a lane consumes at once
    lanes: int
    bits: int  # of a weight in memory
    shared: bool = False  # panels are computed by functions that kernels share
    overlaps: bool = False  # the last vector of outputs begins early, so that it is a whole one

    @property
    def output_vectors(self) -> int:
        """Vectors of output channels of one group."""
        return -(-self.outputs // self.lanes)

    @property
    def weight_elements(self) -> int:
        """Packed weights of all groups."""
        return self.groups * self.output_vectors * self.lanes * self.reduction

    @property
    def weight_bytes(self) -> int:
        """Bytes of these weights, but for blocks that are filled up."""
        return self.weight_elements * self.bits // 8

    @property
    def is_packed(self) -> bool:
        """Whether several weights share a byte."""
        return self.bits < 8

    @property
    def bias_elements(self) -> int:
        """Packed biases of all groups."""
        return self.groups * self.output_vectors * self.lanes


def _shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    return 1, math.prod(shape[:-1]), shape[-1]


@lru_cache(maxsize=4096)
def plan_of(key: OpKey, isa: Isa, choice: Choice = MODEL) -> Plan:
    """Choose geometry, staging and tile for a conv-like or linear key; ``choice`` comes first."""
    integer = key.dtype == "i8"
    pack = isa.pack if integer else 1
    in_h, in_w, in_c = _shape(key.in_shape)
    out_h, out_w, out_c = _shape(key.out_shape)
    per_group = in_c // key.groups
    kernel_h, kernel_w = key.kernel
    padded = any(key.pads)
    flat = key.kernel == (1, 1) and key.strides == (1, 1) and not padded
    ragged = per_group % pack != 0
    staged = padded or (integer and (isa.must_stage or ragged))
    if flat:
        window = flat_window(in_h * in_w, in_c, per_group, pack, key.groups)
        if staged:
            return _flat_staged(key, isa, window, out_c, choice)
        return tiled(key, isa, window, None, 1, out_c, pack, choice)
    # A run is a whole row of the kernel where its pixels are neighbours in memory.
    joined = key.groups == 1 and key.dilations[1] == 1
    run = kernel_w * in_c if joined else per_group
    used_rows = (kernel_h - 1) * key.dilations[0] + 1
    used_cols = (out_w - 1) * key.strides[1] + (kernel_w - 1) * key.dilations[1] + 1
    staged = staged or (integer and run % pack != 0)
    cols, channels = (used_cols, in_c) if staged else (in_w, in_c)
    window = Window(
        out_rows=out_h,
        out_cols=out_w,
        row_stride=key.strides[0] * cols * channels,
        col_stride=key.strides[1] * channels,
        taps_h=kernel_h,
        tap_h_stride=key.dilations[0] * cols * channels,
        taps_w=1 if joined else kernel_w,
        tap_w_stride=key.dilations[1] * channels,
        run=run,
        run_packed=round_up(run, pack),
        group_stride=per_group,
    )
    if not staged:
        return tiled(key, isa, window, None, out_h, out_c, pack, choice)
    dtype = isa.stage_dtype if integer else "f32"
    row_bytes = cols * channels * BYTES[dtype]
    fitting = max(isa.l1d_bytes // 2 // row_bytes, used_rows + 3 * key.strides[0])
    band = min(out_h, max((fitting - used_rows) // key.strides[0] + 1, 1))
    band = min(out_h, choice.band) or -(-out_h // -(-out_h // band))
    rows = (band - 1) * key.strides[0] + used_rows
    stage = Stage(
        dtype, rows, cols, channels, key.pads[0], key.pads[1],
        round_up(rows * cols * channels + pack, 64),
    )  # fmt: skip
    return tiled(key, isa, window, stage, band, out_c, pack, choice)


def flat_window(pixels: int, channels: int, run: int, pack: int, groups: int) -> Window:
    """The window of a product of matrices: ``pixels`` rows, ``channels`` elements apart."""
    return Window(
        out_rows=1, out_cols=pixels, row_stride=pixels * channels, col_stride=channels,
        taps_h=1, tap_h_stride=0, taps_w=1, tap_w_stride=0,
        run=run, run_packed=round_up(run, pack), group_stride=run,
    )  # fmt: skip


def _flat_staged(key: OpKey, isa: Isa, window: Window, out_c: int, choice: Choice) -> Plan:
    """A 1x1 layer whose activations are staged: a chunk of pixels at a time."""
    pack = isa.pack
    dtype = isa.stage_dtype
    pixels = window.out_cols
    channels = round_up(window.run * key.groups, pack) if key.groups == 1 else window.run
    if key.groups > 1:
        channels = window.run * key.groups
    budget = max(isa.l1d_bytes // 3 // (channels * BYTES[dtype]), 1)
    divisors = [d for d in range(1, pixels + 1) if pixels % d == 0]
    if choice.band in divisors:
        divisors = [choice.band]
    best: tuple[float, Plan] | None = None
    for chunk in divisors:
        if chunk > budget and chunk != divisors[0] and chunk > 24:
            continue
        stage = Stage(dtype, 1, chunk, channels, 0, 0, round_up(chunk * channels + pack, 64))
        part = Window(
            out_rows=pixels // chunk, out_cols=chunk, row_stride=0, col_stride=channels,
            taps_h=1, tap_h_stride=0, taps_w=1, tap_w_stride=0,
            run=window.run, run_packed=window.run_packed, group_stride=window.run,
        )  # fmt: skip
        plan = tiled(key, isa, part, stage, 1, out_c, pack, choice)
        of_band = _shared_cost if plan.shared else tile_cost
        cost = of_band(plan, isa, plan.pixels, plan.vectors) * part.out_rows
        cost += part.out_rows * plan.weight_bytes / 32
        if best is None or cost < best[0]:
            best = cost, plan
    assert best is not None
    return best[1]


def tiled(
    key: OpKey,
    isa: Isa,
    window: Window,
    stage: Stage | None,
    band: int,
    out_c: int,
    pack: int,
    choice: Choice,
) -> Plan:
    """Choose tile, loop order and partial sums."""
    outputs = out_c // key.groups
    reduction = window.taps_h * window.taps_w * window.run_packed
    base = Plan(
        window=window, stage=stage, band=band, groups=key.groups, outputs=outputs,
        reduction=reduction, pixels=1, vectors=1, panel_outer=False, split=1, pack=pack,
        lanes=isa.lanes, bits=key.weight_bits or 8 * BYTES[key.dtype],
    )  # fmt: skip
    shared = False
    if choice.pixels:
        pixels = min(choice.pixels, window.out_cols)
        vectors = min(choice.vectors, base.output_vectors)
    else:
        cost, pixels, vectors = _tile(base, isa, key.dtype == "i8")
        if not choice.order and _can_share(base, isa):
            found, *tile = _shared_tile(base, isa)
            if isa.compact or found <= _SHARED_SLOWER * cost + _SHARED_CYCLES:
                (pixels, vectors), shared = tile, True
    split = choice.split if choice.split and key.dtype != "i8" else 1
    if not choice.split and pixels * vectors < 8 and key.dtype != "i8":
        split = max(s for s in (1, 2, 4, 8) if s * pixels * vectors <= 8)
        while split > 1 and window.run_packed < 4 * split:
            split //= 2
    weight_bytes = base.weight_bytes // key.groups
    rows = window.out_cols * band
    element = BYTES[stage.dtype if stage else key.dtype]
    input_bytes = rows * reduction * element
    panels = -(-base.output_vectors // vectors)
    tiles = -(-window.out_cols // pixels) * band
    near = isa.l1d_bytes * 3 // 4
    rows_outer = 0 if weight_bytes <= near else weight_bytes * tiles
    panels_outer = 0 if input_bytes <= near // 2 else input_bytes * panels
    panel_outer = choice.order == "p" if choice.order else panels_outer < rows_outer
    ragged = outputs > isa.lanes and outputs % isa.lanes > 0
    return replace(
        base, pixels=pixels, vectors=vectors, panel_outer=panel_outer, split=split, shared=shared,
        overlaps=shared and isa.compact and vectors == 1 and ragged,
    )  # fmt: skip


def suited(key: OpKey, isa: Isa) -> Isa:
    """The target with the way of summing int8 products that suits a key.

    Instructions that take eight neighbours of one reduction at once pay where runs are long
    enough not to be mostly padding.
    """
    if key.dtype != "i8" or not (isa.matrix or isa.dot == "pair8"):
        return isa
    joined = key.groups == 1 and key.dilations[1] == 1
    run = key.in_shape[-1] // key.groups * (key.kernel[1] if joined else 1)
    if 4 * round_up(run, 8) > 5 * run:
        return isa
    if isa.matrix:
        return isa if math.prod(key.out_shape[:-1]) == 1 else replace(isa, dot="matrix")
    reduction = run * key.kernel[0] * (1 if joined else key.kernel[1])
    return replace(isa, dot="along") if reduction >= _LONG else isa


def tiles_ahead(plan: Plan, isa: Isa, vectors: int, products: int = 1) -> int:
    """How many tiles it takes to ask for the next panel, a line a step; 0 if it will be near.

    Processors fetch ahead within a page only, and only while a panel is first read.
    """
    size_bytes = 4 * plan.weight_elements * products
    return -(-vectors * plan.lanes // 16) if size_bytes > isa.l2_bytes // 2 else 0


def fits(isa: Isa, pixels: int, vectors: int, integer: bool, packed: bool = False) -> bool:
    """Whether a tile and what its inner loop holds stay in registers."""
    accumulators = pixels * vectors + packed  # and the block that is being unpacked
    if integer and isa.dot == "along":
        # four a vector of outputs; all activations and weights of a step, three products
        held = pixels + min(4 * vectors, 4) + 3 + packed
        return 4 * pixels * vectors + held <= isa.registers
    if integer and isa.dot == "matrix":
        return round_up(pixels, 2) * (vectors + 1) + 2 * vectors + packed <= isa.registers
    if integer:
        # weights of the step, one broadcast (or one vector of each pixel), one product
        held = vectors + (pixels if isa.by_element else 1) + 1
        if isa.dot == "pair8":  # weights in halves, two broadcasts, two products
            held = 2 * vectors + pixels + 4
    elif isa.by_element:
        held = pixels + vectors  # all of a step, since the compiler loads them first
    elif pixels == 1:
        held = 1  # weights are memory operands
    else:
        held = vectors + (0 if isa.registers > 16 else 1)
    return accumulators + held <= isa.registers


def _instructions(isa: Isa, rows: int, panel: int, pack: int) -> float:
    """Instructions of one step of a tile where activations are read by element or as vectors."""
    if pack == 8 and isa.dot == "along":
        return 6.0 * rows * panel + panel + rows / 2 + 1.5
    if pack == 8:
        paired = round_up(rows, 2)
        return paired * panel + panel + paired + 1.5
    pairs = pack == 4 and isa.dot == "pair8"
    products = rows * panel * (3 if pairs else 1)
    chain = max(_LATENCY, products)
    return chain + (panel + 1) // 2 + rows * (2.25 if pairs else 0.25) + 0.75


def unpack_instructions(plan: Plan) -> float:
    """Instructions a vector of packed weights costs beyond a load of its own.

    Two shifts each but for the uppermost of a block, and one load for all: one more on average.
    """
    return 1.0 if plan.is_packed else 0.0


def _work(plan: Plan, isa: Isa, rows: int, panel: int) -> float:
    """Cycles of one tile, roughly."""
    steps = plan.reduction / plan.pack
    if isa.by_element:
        # The narrow cores issue loads and multiplications from the same few slots: count
        # instructions, weights loaded in pairs and activations in whole vectors.
        unpacking = unpack_instructions(plan) * panel * plan.pack * isa.lanes / 16
        instructions = _instructions(isa, rows, panel, plan.pack) + unpacking
        return instructions * steps + 20.0 + 5.0 * rows * panel
    work = rows * panel / 2
    loads = (panel + rows) / 2
    split = 1 if rows * panel >= 8 else 8 // (rows * panel)
    # the load ports are never quite as busy as the multipliers can be
    per_step = max(work, loads * 1.1, _LATENCY / split) + 0.05 * (rows + panel)
    per_step += unpack_instructions(plan) * panel / 3  # vector instructions a cycle
    # With most registers in sums, a float tile's end (activation, stores) finds none to work in
    # and does not overlap with the next tile's beginning: it shows where reductions are short.
    crowded = max(0, rows * panel - isa.registers // 2) if plan.pack == 1 else 0
    return per_step * steps + _TILE_CYCLES + rows * panel + _CROWDED_CYCLES * crowded


def tile_cost(plan: Plan, isa: Isa, pixels: int, vectors: int) -> float:
    """Cycles of one band of one group, roughly."""
    total = 0.0
    full_rows, rest_rows = divmod(plan.window.out_cols, pixels)
    full_panels, rest_panels = divmod(plan.output_vectors, vectors)
    for count_rows, rows in ((full_rows, pixels), (1, rest_rows)):
        for count_panels, panel in ((full_panels, vectors), (1, rest_panels)):
            if count_rows and rows and count_panels and panel:
                total += count_rows * count_panels * _work(plan, isa, rows, panel)
    return total * plan.band


def _can_share(plan: Plan, isa: Isa) -> bool:
    """Whether the panels of a product are to be computed by functions that kernels share.

    These are int8 products of matrices with AVX2 or AVX-512; other processors were not measured.
    It costs no time with AVX-512 and weights of eight bits; elsewhere some, for fewer bytes.
    """
    window, free = plan.window, isa.lanes == 16 and not plan.is_packed
    return (
        (isa.compact or free)
        and isa.arch == "x86_64"
        and isa.lanes in (8, 16)
        and plan.stage is not None
        and plan.pack == isa.pack > 1
        and plan.groups == window.taps_h == window.taps_w == 1
        and window.row_stride == 0
        and plan.outputs % 8 == 0
        and window.run == window.run_packed >= _SHARED_STEPS * plan.pack
    )


def _shared_cost(plan: Plan, isa: Isa, pixels: int, vectors: int) -> float:
    """Cycles of one band, roughly: the last tile of pixels overlaps the one before."""
    full, rest = divmod(plan.output_vectors, vectors)
    work = full * _work(plan, isa, pixels, vectors)
    work += _work(plan, isa, pixels, rest) if rest else 0.0
    return -(-plan.window.out_cols // pixels) * work


def _shared_tile(plan: Plan, isa: Isa) -> tuple[float, int, int]:
    """The best of few sizes, so that few functions suffice: (cycles, pixels, vectors)."""
    cols, found = plan.window.out_cols, []
    for pixels in _SHARED_PIXELS:
        if pixels > cols or -(-cols // pixels) * pixels > (1 + _SHARED_TWICE) * cols:
            continue
        most = _COMPACT_OUTPUTS // isa.lanes if isa.compact else 3 if pixels > 1 else 2
        for vectors in range(1, min(plan.output_vectors, most) + 1):
            if fits(isa, pixels, vectors, True, plan.is_packed):
                found.append((_shared_cost(plan, isa, pixels, vectors), pixels, vectors))
    return min(found)


def _tile(plan: Plan, isa: Isa, integer: bool) -> tuple[float, int, int]:
    """The tile of the fewest cycles; where flash is limited, one without rests if it is near."""
    best: tuple[float, int, int] | None = None
    even: tuple[float, int, int] | None = None
    for vectors in range(1, min(plan.output_vectors, isa.registers - 2) + 1):
        for pixels in range(1, min(plan.window.out_cols, 14) + 1):
            if not fits(isa, pixels, vectors, integer, plan.is_packed):
                break
            found = tile_cost(plan, isa, pixels, vectors), pixels, vectors
            if best is None or found[0] < best[0]:
                best = found
            whole = not plan.window.out_cols % pixels and not plan.output_vectors % vectors
            if whole and (even is None or found[0] < even[0]):
                even = found
    assert best is not None
    if isa.compact and integer and even is not None and even[0] <= _SHARED_SLOWER * best[0]:
        return even
    return best

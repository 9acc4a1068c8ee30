"""When and how a 3x3 convolution becomes products in Winograd's domain; pure arithmetic.

F(m x m, 3 x 3) of Lavin and Gray (arXiv:1509.09308): tiles of (m + 2) x (m + 2) inputs give m x m
outputs by (m + 2)^2 products a channel instead of 9 m^2: 2.25 times fewer with m = 2, 4 times
with m = 4. The interpolation points of m = 4 are 0, +-5/8, +-3/2 and infinity, whose rounding
errors are a fifth of those of the usual 0, +-1, +-2 and infinity (`error_bound`).

A band of tile rows is staged with its padding and transformed into one matrix a product, [tiles]
by [channels]; each is multiplied with its transformed weights by the tiles of `gemm_plan`, and
what comes out is transformed back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgeopt.codegen.schedules import gemm_plan
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import round_up
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array

#: Points a and b of m = 4; m = 2 has 0, +-1 and infinity.
POINTS = 0.625, 1.5
#: Rounding steps a sum over one channel may add, and those of both transforms.
_STEPS = 24
#: Vector instructions of transforming one vector of channels of one tile in, and out.
_TRANSFORMS = {2: (50.0, 40.0), 4: (190.0, 150.0)}
#: Bytes a cycle that weights stream at where they exceed the second-level cache.
_STREAM_BYTES = {"x86_64": 8.0, "aarch64": 3.0}
#: More weights must pay: the estimated time must be at most this share of that of the convolution
#: with fewer, be it direct or by the smaller tiles.
_WORTH = 0.86


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the emitter and the packer need."""

    outputs_side: int  # m
    tile_rows: int  # of the whole map
    tile_cols: int
    band: int  # tile rows staged, transformed and multiplied together
    channels: int  # input channels, rounded up to whole vectors
    input_stride: int  # floats between the transformed inputs of two products
    output_stride: int  # floats between the results of two products
    product: gemm_plan.Plan  # one product of a band: tiles by output channels

    @property
    def side(self) -> int:
        """Inputs along one side of a tile."""
        return self.outputs_side + 2

    @property
    def products(self) -> int:
        """Products a tile and pair of channels."""
        return self.side**2

    @property
    def tiles(self) -> int:
        """Tiles of one band."""
        return self.band * self.tile_cols

    @property
    def bands(self) -> int:
        """Bands of the map; the last may reach beyond it."""
        return -(-self.tile_rows // self.band)

    @property
    def stage_rows(self) -> int:
        """Staged input rows of one band."""
        return self.band * self.outputs_side + 2

    @property
    def stage_cols(self) -> int:
        """Staged input columns."""
        return self.tile_cols * self.outputs_side + 2

    def stage_elements(self, in_c: int) -> int:
        """Floats of the staged band; whole vectors may be read past its last pixel."""
        return round_up(self.stage_rows * self.stage_cols * in_c + self.product.lanes, 16)


def applies(key: OpKey) -> bool:
    """Whether the algorithm computes this key at all."""
    same = key.strides == key.dilations == (1, 1) and key.kernel == (3, 3)
    return key.op == "conv2d" and key.dtype == key.out_dtype == "f32" and same and key.groups == 1


@lru_cache(maxsize=4096)
def plan_of(key: OpKey, isa: Isa, choice: Choice = MODEL) -> Plan | None:
    """How to compute a key, or None where the direct convolution is estimated to be as fast."""
    if not applies(key) or choice.form == "d":
        return None
    sides = (2, 4) if not choice.form else (int(choice.form[1:]),)
    best: tuple[float, Plan] | None = None
    for side in sides:
        plan = _banded(key, isa, side, choice)
        cost = cycles(plan, key, isa)
        if best is None or cost < _WORTH * best[0]:
            best = cost, plan
    assert best is not None
    if choice.form:
        return best[1]
    direct = gemm_plan.plan_of(key, isa)
    bands = -(-key.out_shape[0] // direct.band)
    whole = gemm_plan.tile_cost(direct, isa, direct.pixels, direct.vectors) * bands
    whole += _streaming(4.0 * direct.weight_elements, isa)
    return best[1] if best[0] < _WORTH * whole else None


def _banded(key: OpKey, isa: Isa, side: int, choice: Choice) -> Plan:
    out_h, out_w, out_c = key.out_shape
    in_c = key.in_shape[-1]
    channels = round_up(in_c, isa.lanes)
    rows, cols = -(-out_h // side), -(-out_w // side)
    found: tuple[float, Plan] | None = None
    for count in range(1, rows + 1):
        band = min(choice.band, rows) or -(-rows // count)
        tiles = band * cols
        window = gemm_plan.flat_window(tiles, channels, in_c, 1, 1)
        product = gemm_plan.tiled(key, isa, window, None, 1, out_c, 1, choice)
        wide = product.output_vectors * isa.lanes
        # One line more, or every product's matrix would begin in the same set of the cache.
        plan = Plan(
            side, rows, cols, band, channels, tiles * channels + 16, tiles * wide + 16, product
        )
        cost = cycles(plan, key, isa)
        if found is None or cost < found[0]:
            found = cost, plan
    assert found is not None
    return found[1]


def cycles(plan: Plan, key: OpKey, isa: Isa) -> float:
    """Estimated time of the whole layer."""
    product, in_c = plan.product, key.in_shape[-1]
    multiply = plan.products * gemm_plan.tile_cost(product, isa, product.pixels, product.vectors)
    before, after = _TRANSFORMS[plan.outputs_side]
    vectors = plan.channels // isa.lanes, product.output_vectors
    transform = plan.tiles * (before * vectors[0] + after * vectors[1])
    stage = plan.stage_elements(in_c) / isa.lanes * 1.5
    weights = _streaming(4.0 * plan.products * product.weight_elements, isa)
    # What is written by one step and read by the next should still be near.
    between = 4.0 * plan.products * (plan.input_stride + plan.output_stride)
    spilled = _streaming(2 * between, isa) if between > isa.l2_bytes else 0.0
    return plan.bands * (multiply + transform + stage + weights + spilled)


def _streaming(size_bytes: float, isa: Isa) -> float:
    far = max(size_bytes - isa.l2_bytes // 2, 0.0)
    return 0.5 * far / _STREAM_BYTES.get(isa.arch, 4.0)  # half hides behind arithmetic


def weight_transform(side: int) -> Array:
    """G, [m + 2, 3]: transformed weights are G w G^T."""
    if side == 2:
        return np.array([[-1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    a, b = POINTS
    rows = [[1 / (a * a * b * b), 0.0, 0.0]]
    for point, other in ((a, b), (b, a)):
        scale = 1 / (2 * point * point * (point * point - other * other))
        rows += [[scale, s * point * scale, point * point * scale] for s in (1, -1)]
    return np.array([*rows, [0.0, 0.0, 1.0]])


def input_transform(side: int) -> Array:
    """B^T, [m + 2, m + 2]: transformed inputs are B^T d B."""
    if side == 2:
        return np.array([[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]], float)
    a, b = POINTS
    both, product = a * a + b * b, a * a * b * b
    return np.array(
        [
            [product, 0, -both, 0, 1, 0],
            [0, -a * b * b, -b * b, a, 1, 0],
            [0, a * b * b, -b * b, -a, 1, 0],
            [0, -b * a * a, -a * a, b, 1, 0],
            [0, b * a * a, -a * a, -b, 1, 0],
            [0, product, 0, -both, 0, 1],
        ]
    )


def output_transform(side: int) -> Array:
    """A^T, [m, m + 2]: outputs are A^T p A."""
    if side == 2:
        return np.array([[1, 1, 1, 0], [0, 1, -1, 1]], float)
    a, b = POINTS
    rows = [[0.0**i, a**i, (-a) ** i, b**i, (-b) ** i, float(i == 3)] for i in range(4)]
    return np.array(rows)


def error_bound(side: int, x: Array, weights: Array) -> Array:
    """What rounding may change of each output at most, [tile rows * m, tile columns * m, O].

    Each product passes at most a number of roundings: one for each channel it is summed over and
    those of the transforms; so errors are bounded by that number of units of the last place times
    what comes out where every coefficient and every number is taken by its magnitude.

    Args:
        side: m.
        x: the padded input, [m * tile rows + 2, m * tile columns + 2, I].
        weights: [O, 3, 3, I].
    """
    transforms = input_transform(side), weight_transform(side), output_transform(side)
    before, g, after = (np.abs(transform).astype(np.float64) for transform in transforms)
    rows, cols = (x.shape[0] - 2) // side, (x.shape[1] - 2) // side
    u = np.einsum("ai,oijc,bj->aboc", g, np.abs(weights.astype(np.float64)), g)
    found = np.zeros((rows * side, cols * side, weights.shape[0]))
    for r in range(rows):
        for c in range(cols):
            d = np.abs(x[r * side : r * side + side + 2, c * side : c * side + side + 2])
            v = np.einsum("ai,ijc,bj->abc", before, d.astype(np.float64), before)
            p = np.einsum("abc,aboc->abo", v, u)
            y = np.einsum("ia,abo,jb->ijo", after, p, after)
            found[r * side : (r + 1) * side, c * side : (c + 1) * side] = y
    found *= (x.shape[2] + _STEPS) * 2.0**-24
    return found

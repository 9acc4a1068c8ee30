"""When and how an int8 3x3 convolution becomes products in Winograd's domain; pure arithmetic.

F(2x2, 3x3) computed exactly: transformed inputs are sums of at most four int8 values, and
weights transformed with a doubled G are integers as well, so that both fit int16 and sums come
out four times what a direct convolution gives. Products are pairwise multiply-adds of int16, as
a direct convolution has them on such a processor, but 2.25 times fewer.

A band of tile rows is widened and transformed once; then one panel of output channels after
another is multiplied, all sixteen products, and transformed back while its sums are near.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from edgeopt.codegen.schedules import gemm_plan
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import round_up
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey

SIDE, PRODUCTS = 4, 16
#: Transforming back adds sums of 512 * 1152 a channel six at a time, which must stay int32.
MOST_CHANNELS = 2**31 // (6 * 512 * 1152)
#: Cycles of transforming one vector of one tile in, and out.
_IN, _OUT = 26.0, 24.0
#: Bytes a cycle at which weights beyond the second-level cache stream.
_STREAM_BYTES = 16.0
#: More weights must pay: the estimate must be at most this share of the direct convolution's.
_WORTH = 0.85


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the emitter and the packer need."""

    tile_rows: int  # of the whole map
    tile_cols: int
    band: int  # tile rows staged and transformed together
    channels: int  # input channels, rounded up to whole vectors of int16
    product: gemm_plan.Plan  # one product of a band: tiles by output channels

    @property
    def tiles(self) -> int:
        """Tiles of one band."""
        return self.band * self.tile_cols

    @property
    def bands(self) -> int:
        """Bands of the map; the last may reach beyond it."""
        return -(-self.tile_rows // self.band)

    @property
    def panels(self) -> int:
        """Panels of output channels; the last may have fewer vectors."""
        return -(-self.product.output_vectors // self.product.vectors)

    @property
    def stage_rows(self) -> int:
        """Staged input rows of one band."""
        return 2 * self.band + 2

    @property
    def stage_cols(self) -> int:
        """Staged input columns."""
        return 2 * self.tile_cols + 2

    def stage_elements(self, in_c: int) -> int:
        """Int16 elements of the staged band; whole vectors may be read past its last pixel."""
        return round_up(self.stage_rows * self.stage_cols * in_c + 2 * self.product.lanes, 32)

    @property
    def input_stride(self) -> int:
        """Int16 elements between the transformed inputs of two products."""
        # One line more, or every product's matrix would begin in the same set of the cache.
        return self.tiles * self.channels + 32

    @property
    def sum_stride(self) -> int:
        """Int32 elements between the sums of two products."""
        return self.tiles * self.product.vectors * self.product.lanes + 16


def applies(key: OpKey, isa: Isa) -> bool:
    """Whether the algorithm computes this key at all."""
    same = key.strides == key.dilations == (1, 1) and key.kernel == (3, 3)
    integer = key.dtype == key.out_dtype == "i8" and not key.residual
    fits = key.in_shape[-1] <= MOST_CHANNELS and isa.dot == "pair16"
    if key.weight_bits:  # transformed weights have no fewer bits than others
        return False
    return key.op == "conv2d" and integer and same and key.groups == 1 and fits


@lru_cache(maxsize=4096)
def pays(key: OpKey, isa: Isa) -> bool:
    """Whether this is estimated to be clearly faster than the direct convolution."""
    if not applies(key, isa):
        return False
    direct = gemm_plan.plan_of(key, isa)
    bands = -(-key.out_shape[0] // direct.band)
    whole = gemm_plan.tile_cost(direct, isa, direct.pixels, direct.vectors) * bands
    whole += _streaming(direct.weight_elements, isa)
    return cycles(plan_of(key, isa), key, isa) < _WORTH * whole


@lru_cache(maxsize=4096)
def plan_of(key: OpKey, isa: Isa, choice: Choice = MODEL) -> Plan:
    """How to compute a key; ``choice`` comes first."""
    out_h, out_w, out_c = key.out_shape
    in_c = key.in_shape[-1]
    channels = round_up(in_c, 2 * isa.lanes)
    rows, cols = -(-out_h // 2), -(-out_w // 2)
    # The transformed band takes half of the second-level cache.
    near = max(isa.l2_bytes // (2 * 2 * PRODUCTS * channels * cols), 1)
    band = min(choice.band, rows) or -(-rows // -(-rows // min(near, rows)))
    window = gemm_plan.flat_window(band * cols, channels, in_c, 2, 1)
    product = gemm_plan.tiled(key, isa, window, None, 1, out_c, 2, choice)
    return Plan(rows, cols, band, channels, product)


def cycles(plan: Plan, key: OpKey, isa: Isa) -> float:
    """Estimated time of the whole layer."""
    product = plan.product
    multiply = PRODUCTS * gemm_plan.tile_cost(product, isa, product.pixels, product.vectors)
    vectors = plan.channels // (2 * isa.lanes), product.output_vectors
    transform = plan.tiles * (_IN * vectors[0] + _OUT * vectors[1])
    stage = plan.stage_elements(key.in_shape[-1]) / isa.lanes
    weights = _streaming(2 * PRODUCTS * product.weight_elements, isa)
    return plan.bands * (multiply + transform + stage + weights)


def _streaming(size_bytes: float, isa: Isa) -> float:
    return max(size_bytes - isa.l2_bytes // 2, 0.0) / _STREAM_BYTES

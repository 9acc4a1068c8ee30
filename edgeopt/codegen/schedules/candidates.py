"""Tilings worth measuring: a short list a kernel, the model's own choice first.

The lists hold what the models cannot know: how a processor trades loads for registers, which
loop order its prefetchers like, whether a band of rows stays in the cache. Whatever stands in a
list computes the same; only its time differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from edgeopt.codegen.schedules import (
    depthwise_plan,
    gemm_plan,
    winograd_i8_plan,
    winograd_plan,
)
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.template import AT_MOST
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey

#: Tiles within this factor of the best cost are worth measuring; in a long list, within the other.
_NEAR, _FAR = 1.6, 2.5


@lru_cache(maxsize=4096)
def of_gemm(key: OpKey, isa: Isa, at_most: int = AT_MOST) -> tuple[Choice, ...]:
    """Register tiles, loop orders, partial sums and bands near the model's best.

    A list longer than usual has more tiles, and every loop order and band with the best of them.
    """
    own = gemm_plan.plan_of(key, isa)
    here = Choice(own.pixels, own.vectors)
    wide = at_most > AT_MOST
    tiles = _tiles(own, gemm_plan.suited(key, isa), integer=key.dtype == "i8", wide=wide)
    other = "r" if own.panel_outer else "p"
    found = [Choice(*tiles[0])] if tiles else []
    if own.output_vectors > own.vectors and own.window.out_cols * own.band > own.pixels:
        found.append(Choice(here.pixels, here.vectors, other))
    for split in (1, 2, 4):
        fits = split * own.pixels * own.vectors <= isa.registers - 4
        if fits and split != own.split and own.window.run_packed >= 8 * split:
            found.append(Choice(here.pixels, here.vectors, split=split))
    if own.stage is not None:
        found += [Choice(band=band) for band in _bands(key, own)]
    found += [Choice(*tile) for tile in tiles[1 : at_most // 2 if wide else None]]
    if wide:
        bands = [] if own.stage is None else _bands(key, own)
        found += [Choice(*tile, order) for tile in tiles[:6] for order in ("p", "r")]
        found += [Choice(*tile, band=band) for tile in tiles[:6] for band in bands]
        found += [Choice(*tile) for tile in tiles[at_most // 2 :]]
    plans: list[object] = [gemm_plan.plan_of(key, isa, choice) for choice in found]
    if winograd_plan.applies(key):
        forms = [Choice(form="w2"), Choice(form="w4")]
        found = [*forms, *found]
        plans = [*(winograd_plan.plan_of(key, isa, form) for form in forms), *plans]
    if winograd_i8_plan.applies(key, isa):
        found = [Choice(form="w2"), *found]
        plans = [winograd_i8_plan.plan_of(key, isa), *plans]
    return _distinct(found, plans, own, at_most)


@lru_cache(maxsize=4096)
def of_winograd(key: OpKey, isa: Isa, at_most: int = AT_MOST) -> tuple[Choice, ...]:
    """The direct convolution, the other size of tiles, other bands and register tiles."""
    own = winograd_plan.plan_of(key, isa)
    assert own is not None
    form = f"w{own.outputs_side}"
    found = [Choice(form="d"), Choice(form="w2"), Choice(form="w4")]
    bands = {-(-own.band // 2), min(own.band * 2, own.tile_rows)} - {own.band}
    found += [Choice(band=band, form=form) for band in sorted(bands)]
    wide = at_most > AT_MOST
    tiles = _tiles(own.product, isa, integer=False, wide=wide)[: 12 if wide else 3]
    found += [Choice(pixels, vectors, form=form) for pixels, vectors in tiles]
    plans = [winograd_plan.plan_of(key, isa, choice) for choice in found]
    return _distinct(found, plans, own, at_most)


@lru_cache(maxsize=4096)
def of_winograd_i8(key: OpKey, isa: Isa, at_most: int = AT_MOST) -> tuple[Choice, ...]:
    """The direct convolution, other bands and register tiles."""
    own = winograd_i8_plan.plan_of(key, isa)
    wide = at_most > AT_MOST
    bands = {-(-own.band // 2), min(own.band * 2, own.tile_rows)} - {own.band}
    found = [Choice(band=band, form="w2") for band in sorted(bands)]
    tiles = _tiles(own.product, isa, integer=True, wide=wide)[: 12 if wide else 4]
    found += [Choice(pixels, vectors, form="w2") for pixels, vectors in tiles]
    plans: list[object] = [winograd_i8_plan.plan_of(key, isa, choice) for choice in found]
    direct = gemm_plan.plan_of(key, isa)
    return _distinct([Choice(form="d"), *found], [direct, *plans], own, at_most)


def _tiles(own: gemm_plan.Plan, isa: Isa, *, integer: bool, wide: bool) -> list[tuple[int, int]]:
    """Register tiles by their cost; of those that differ in one pixel only the better."""
    ranked = sorted(
        (gemm_plan.tile_cost(own, isa, pixels, vectors), pixels, vectors)
        for vectors in range(1, min(own.output_vectors, isa.registers - 2) + 1)
        for pixels in range(1, min(own.window.out_cols, 14) + 1)
        if gemm_plan.fits(isa, pixels, vectors, integer, own.is_packed)
    )
    kept: list[tuple[int, int]] = []
    for cost, pixels, vectors in ranked:
        near = not wide and any(v == vectors and abs(p - pixels) <= 1 for p, v in kept)
        if cost <= (_FAR if wide else _NEAR) * ranked[0][0] and not near:
            kept.append((pixels, vectors))
    return kept


def _bands(key: OpKey, own: gemm_plan.Plan) -> list[int]:
    """Bands about half and twice as tall as the model's."""
    flat = own.band == 1 and own.window.row_stride == 0
    if not flat:
        rows = own.window.out_rows
        return sorted({max(own.band // 2, 1), min(own.band * 2, rows)} - {own.band})
    pixels = own.window.out_rows * own.window.out_cols
    chunk = own.window.out_cols
    divisors = [d for d in range(1, pixels + 1) if pixels % d == 0]
    smaller = [d for d in divisors if d <= chunk // 2][-1:]
    larger = [d for d in divisors if d >= chunk * 2][:1]
    return smaller + larger


@lru_cache(maxsize=4096)
def of_depthwise(key: OpKey, isa: Isa, at_most: int = AT_MOST) -> tuple[Choice, ...]:
    """Tiles of pixels and vectors; for int8 bands as well."""
    own = depthwise_plan.plan_of(key, isa)
    out_h, out_w = key.out_shape[0], key.out_shape[1]
    integer = key.dtype == "i8"
    even = sorted({-(-out_w // count) for count in range(1, out_w + 1)}, reverse=True)
    found = []
    for vectors in (1,) if integer else (1, 2, 3):
        if vectors > own.blocks:
            break
        room = isa.registers - key.kernel[1] // (1 if vectors == 1 else 2) - 1
        fitting = [p for p in even if p * vectors <= room and p <= 14]
        found += [Choice(pixels, vectors) for pixels in fitting[: at_most // 3]]
    if integer:
        heights = {max(own.band // 2, 1), min(own.band * 2, out_h)} - {own.band}
        found += [Choice(band=band) for band in sorted(heights)]
    plans = [depthwise_plan.plan_of(key, isa, choice) for choice in found]
    return _distinct(found, plans, own, at_most)


def _distinct(
    found: list[Choice], plans: Sequence[object], own: object, at_most: int
) -> tuple[Choice, ...]:
    """The model's own, and the choices that lead to other plans than those before them."""
    kept, seen = [MODEL], [own]
    for choice, plan in zip(found, plans, strict=True):
        if plan not in seen:
            kept.append(choice)
            seen.append(plan)
    return tuple(kept[:at_most])

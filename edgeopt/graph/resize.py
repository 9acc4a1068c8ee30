"""Where Resize and Upsample take their values from: tables of indices and weights.

Coordinates are computed in float32 as onnxruntime does, so that the same neighbours are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeopt.core.network import Array
from edgeopt.graph.convert_layers import map_layout
from edgeopt.graph.importer import Importer
from edgeopt.graph.ir import Node
from edgeopt.graph.layout import Layout

F32 = npt.NDArray[np.float32]
_MAPPINGS = frozenset(
    {"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn",
     "half_pixel_symmetric"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resize:
    """A resize of maps: what the operator of the network carries."""

    mode: str
    attrs: Mapping[str, object]
    constants: Mapping[str, Array] = field(default_factory=dict)

    @staticmethod
    def layouts(
        shape: tuple[int, ...], out: tuple[int, ...]
    ) -> tuple[Layout, tuple[int, ...], Layout, tuple[int, ...]]:
        """Layout and shape in memory before and after."""
        return (*map_layout(shape), *map_layout(out))


def resize_of(imp: Importer, node: Node) -> Resize | None:
    """What a node does, if it leaves batch and channels alone and is nearest or linear."""
    shape, out = imp.shape(node.inputs[0]), imp.shape(node.outputs[0])
    mode = str(node.attrs.get("mode", "nearest"))
    mode = {"bilinear": "linear"}.get(mode, mode)
    if len(shape) not in (3, 4) or out[:2] != shape[:2] or mode not in ("nearest", "linear"):
        return None
    old = node.op == "Upsample" or imp.graph.opset < 11
    mapping = str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))
    mapping = "asymmetric" if old else mapping
    rounding = str(node.attrs.get("nearest_mode", "round_prefer_floor"))
    rounding = "simple" if old else rounding
    if mapping not in _MAPPINGS or node.attrs.get("antialias", 0):
        return None
    if node.attrs.get("exclude_outside", 0):
        return None
    scales = _scales(imp, node, old)
    if scales is None:
        return None
    flat = (1,) if len(shape) == 3 else ()
    sizes, outs = (*flat, *shape[2:]), (*flat, *out[2:])
    factors = (*(np.float32(1) for _ in flat), *scales[2:])
    places = [
        _coordinates(mapping, size, to, factor)
        for size, to, factor in zip(sizes, outs, factors, strict=True)
    ]
    if mode == "linear":
        tables = [_between(place, size) for place, size in zip(places, sizes, strict=True)]
        index = np.concatenate([part for table in tables for part in table[:2]])
        share = np.concatenate([part for table in tables for part in table[2:]])
        constants = {"index": index.astype(np.int32), "share": share.astype(np.float32)}
        return Resize("linear", {"mode": "linear"}, constants)
    lines = [
        _nearest(place, size, rounding, bool(factor < 1))
        for place, size, factor in zip(places, sizes, factors, strict=True)
    ]
    whole = all(to % size == 0 for size, to in zip(sizes, outs, strict=True))
    if whole and all(
        (line == np.arange(to) * size // to).all()
        for line, size, to in zip(lines, sizes, outs, strict=True)
    ):
        return Resize("nearest", {"mode": "nearest"})
    return Resize(
        "nearest", {"mode": "nearest", "table": True},
        {"index": np.concatenate(lines).astype(np.int32)},
    )  # fmt: skip


def _scales(imp: Importer, node: Node, old: bool) -> list[np.float32] | None:
    """One factor for each axis of the input."""
    shape, out = imp.shape(node.inputs[0]), imp.shape(node.outputs[0])
    if node.op == "Upsample" and "scales" in node.attrs:
        return [np.float32(v) for v in node.attrs["scales"]]
    name = node.input(1 if old else 2)
    if name:
        given = imp.constant(name)
        if given is None:
            return None
        if given.size:
            values = [np.float32(v) for v in given.reshape(-1)]
            axes = node.ints("axes", range(len(shape)))
            if len(values) != len(axes):
                return None
            factors = [np.float32(1)] * len(shape)
            for axis, value in zip(axes, values, strict=True):
                factors[axis % len(shape)] = value
            return factors
    return [np.float32(to) / np.float32(size) for size, to in zip(shape, out, strict=True)]


def _coordinates(mapping: str, size: int, out: int, factor: np.float32) -> F32:
    """Where each result lies among the sources."""
    at = np.arange(out, dtype=np.float32)
    one, half = np.float32(1), np.float32(0.5)
    if factor == 1 and size == out:
        return at
    if mapping == "asymmetric":
        return at / factor
    if mapping == "align_corners":
        if out == 1:
            return np.zeros(1, np.float32)
        return at * np.float32(size - 1) / np.float32(out - 1)
    if mapping == "tf_half_pixel_for_nn":
        return (at + half) / factor
    if mapping == "pytorch_half_pixel" and out == 1:
        return np.zeros(1, np.float32)
    if mapping == "half_pixel_symmetric":
        adjusted = np.float32(out) / (factor * np.float32(size))
        offset = np.float32(size) / np.float32(2) * (one - adjusted)
        return offset + (at + half) / factor - half
    return (at + half) / factor - half


def _nearest(place: F32, size: int, rounding: str, smaller: bool) -> Array:
    if rounding == "simple":
        found = np.ceil(place) if smaller else np.trunc(place)
    elif rounding == "round_prefer_ceil":
        found = np.floor(place + np.float32(0.5))
    elif rounding == "floor":
        found = np.floor(place)
    elif rounding == "ceil":
        found = np.ceil(place)
    else:
        found = np.ceil(place - np.float32(0.5))
    return np.clip(found, 0, size - 1).astype(np.int32)


def _between(place: F32, size: int) -> tuple[Array, Array, F32, F32]:
    """Two neighbours and what each weighs."""
    inside = np.clip(place, np.float32(0), np.float32(size - 1))
    first = np.minimum(inside.astype(np.int32), size - 1)
    second = np.minimum(first + 1, size - 1)
    far = np.abs(inside - first.astype(np.float32)).astype(np.float32)
    near = np.abs(inside - second.astype(np.float32)).astype(np.float32)
    same = first == second
    half = np.float32(0.5)
    return first, second, np.where(same, half, near), np.where(same, half, far)

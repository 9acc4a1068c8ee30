"""What kernels do, as numbers that costs are multiplied with: the columns of a core's model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import CLASS_OF
from edgeopt.latency.fit import Matrix
from edgeopt.latency.peaks import Peaks

PRECISIONS = ("f32", "i8")
#: Classes of kernels with costs of their own: those of `analytic.CLASS_OF`, and convolutions of
#: several groups apart, since few runtimes have a good kernel for them.
CLASSES = (
    "pointwise", "conv2d", "grouped", "depthwise", "linear", "pooling", "elementwise", "movement",
    "softmax", "fallback",
)  # fmt: skip
#: call: one call. mac: multiply-accumulates, output channels rounded up to whole vectors.
#: activation, weight: bytes moved once. far: bytes that do not fit the core's own cache.
#: curve: values of an activation function, in exponentials. unpack: packed weights that are made
#: int8 ones, as often as they are.
TERMS = ("call", "mac", "activation", "weight", "far", "curve", "unpack")
#: Of a network as a whole: weights that come from memory each time, and one run.
NETWORK_TERMS = ("cold", "run")

COLUMNS: tuple[tuple[str, str, str], ...] = (
    *((kind, term, precision) for precision in PRECISIONS for kind in CLASSES for term in TERMS),
    *(("network", term, "") for term in NETWORK_TERMS),
)
_INDEX = {column: index for index, column in enumerate(COLUMNS)}
_COLD, _RUN = (_INDEX["network", term, ""] for term in NETWORK_TERMS)
WIDTH = len(COLUMNS)

#: Pixels that share a weight once it is in a register.
UNPACKED_PIXELS = 4

#: From one to this multiple of the last cache, a loop over weights goes from all hits to all
#: misses: a cache that replaces the least recently used line keeps nothing of a longer loop.
_THRASH = 1.1


def class_of(key: OpKey) -> str:
    """The class whose costs a kernel shares."""
    if key.op == "conv2d" and key.groups > 1:
        return "grouped"
    return CLASS_OF[key.op]


def weight_bytes(key: OpKey) -> int:
    """Bytes of a kernel's weights."""
    return key.weight_bytes


def work_of(key: OpKey, peaks: Peaks) -> Matrix:
    """One row [WIDTH]: the work of a kernel; a block's is that of its parts."""
    row: Matrix = np.zeros(WIDTH)
    for part in key.parts or (key,):
        start = _INDEX[class_of(part), TERMS[0], part.precision]
        weights = weight_bytes(part)
        channels = part.out_shape[-1]
        whole = math.ceil(channels / peaks.lanes) * peaks.lanes
        far = part.activation_bytes + weights - peaks.l2_bytes if peaks.l2_bytes else 0
        row[start : start + len(TERMS)] += (
            1.0,
            part.macs * whole / channels,
            part.activation_bytes,
            weights,
            max(0, far),
            math.prod(part.out_shape) * _curve(part),
            _unpacked(part) * whole / channels,
        )
    return row


def _unpacked(key: OpKey) -> float:
    """Weights that are unpacked, each once for a tile of pixels."""
    if not key.weight_bits:
        return 0.0
    pixels = math.prod(key.out_shape[:-1])
    return key.macs / min(UNPACKED_PIXELS, pixels)


def _curve(key: OpKey) -> float:
    """Exponentials a value, roughly: the piecewise linear functions cost a quarter."""
    total = 0.0
    for name in (key.activation, key.residual_activation):
        if name.startswith("hard"):
            total += 0.25
        elif name != "none" and not name.startswith(("relu", "clip", "leaky")):
            total += 1.0
    return total


@dataclass(frozen=True, slots=True)
class Unit:
    """Kernels that run one after another, again and again: a network, a block, a single kernel.

    `removed` is what the figure is relative to: published tables often give a block's time less
    that of the path it replaces.
    """

    name: str
    keys: tuple[OpKey, ...]
    removed: tuple[OpKey, ...] = ()


def total_work(keys: Sequence[OpKey], peaks: Peaks) -> Matrix:
    """One row [WIDTH]: kernels in a loop, with what only the whole of them has."""
    row: Matrix = np.zeros(WIDTH)
    for key in keys:
        row += work_of(key, peaks)
    row[_COLD] = cold_bytes(sum(weight_bytes(key) for key in keys), peaks)
    row[_RUN] = 1.0
    return row


def cold_bytes(weights: int, peaks: Peaks) -> float:
    """Bytes of a network's weights that come from memory in every run."""
    if not peaks.last_bytes:
        return 0.0
    share = (weights / peaks.last_bytes - 1) / (_THRASH - 1)
    return weights * min(1.0, max(0.0, share))


def unit_work(unit: Unit, peaks: Peaks) -> Matrix:
    """One row [WIDTH]: what a unit does, less what it is relative to."""
    row = total_work(unit.keys, peaks)
    if unit.removed:
        row = row - total_work(unit.removed, peaks)
    return row

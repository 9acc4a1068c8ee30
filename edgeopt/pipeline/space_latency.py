"""Latency of very many subnets at once: what `TableModel.predict` says, to the last bit.

What every choice of every block adds is summed up once; a subnet is then a few look-ups. What a
kernel adds is on a grid on which sums are exact, so that their order does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeopt.core.space import SubnetConfig
from edgeopt.pipeline.space_kernels import SpaceKernels

if TYPE_CHECKING:
    from edgeopt.latency.model import TableModel

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_CHUNK = 16384  # subnets whose sums are in the caches together


@dataclass(frozen=True, slots=True)
class Latencies:
    """Predictions in nanoseconds, one a subnet; `low` to `high` is the 90 % interval."""

    value: Floats
    low: Floats
    high: Floats
    coverage: Floats


class SpaceLatency:
    """Predicts subnets of one space in one precision from one table.

    Args:
        kernels: the space, taken apart for the target that the table is of.
        model: predicts.

    Raises:
        InputError: the model is strict and a kernel is missing.
    """

    def __init__(self, kernels: SpaceKernels, model: TableModel) -> None:
        space = self.space = kernels.space
        self.model = model
        names = kernels.keys
        rows = {
            key: np.array(share.row) for key, share in zip(names, model.shares(names), strict=True)
        }
        zero = np.zeros(7)
        self._fixed = np.array(
            [sum((rows[k] for k in kernels.fixed[size]), zero) for size in space.resolutions]
        )
        # Row 0 is a block that is not used.
        self._blocks = np.array(
            [zero]
            + [
                sum((rows[k] for k in kernels.blocks[size, index, kernel, expand]), zero)
                for size in space.resolutions
                for index in range(space.block_count)
                for kernel in space.kernels
                for expand in space.expands
            ]
        )
        self._values = np.ascontiguousarray(self._blocks[:, 0])
        stages = list(zip(space.stages, space.stage_starts, strict=True))
        self._stage_of = np.array(
            [i for i, (s, _) in enumerate(stages) for _ in range(s.max_depth)]
        )
        self._offset = np.array([offset for s, _ in stages for offset in range(s.max_depth)])
        longest = max(len(s.depths) for s in space.stages)
        self._depths = np.array(
            [list(s.depths) + [0] * (longest - len(s.depths)) for s, _ in stages]
        )

    def encode(self, configs: Sequence[SubnetConfig]) -> Integers:
        """The genes of subnets, [subnets, genes] (see `edgeopt.ofa.genes.SubnetDomain`)."""
        space = self.space
        count = len(configs)
        if not count:
            return np.empty((0, 1 + len(space.stages) + 2 * space.block_count), np.int64)
        size = np.searchsorted(space.resolutions, [c.resolution for c in configs])
        depths = np.array([c.depths for c in configs], np.int64).reshape(count, -1)
        stages = [
            np.searchsorted(stage.depths, depths[:, at]) for at, stage in enumerate(space.stages)
        ]
        pairs = np.empty((count, space.block_count, 2), np.int64)
        pairs[:, :, 0] = np.searchsorted(space.kernels, [c.kernels for c in configs])
        pairs[:, :, 1] = np.searchsorted(space.expands, [c.expands for c in configs])
        return np.column_stack([size, *stages, pairs.reshape(count, -1)])

    def rows(self, genes: Integers) -> Integers:
        """Which row of the table of blocks each block of each subnet takes, [subnets, blocks]."""
        space = self.space
        first = 1 + len(space.stages)
        size, depth = genes[:, :1], genes[:, 1:first]
        pairs = genes[:, first : first + 2 * space.block_count]
        lengths = self._depths[np.arange(len(space.stages)), depth]
        index = (size * space.block_count + np.arange(space.block_count)) * len(space.kernels)
        index = (index + pairs[:, ::2]) * len(space.expands) + pairs[:, 1::2] + 1
        used = lengths[:, self._stage_of] > self._offset
        found: Integers = np.where(used, index, 0)
        return found

    def values(self, genes: Integers) -> Floats:
        """Nanoseconds of subnets given by their genes, without intervals: the fastest."""
        found = np.empty(len(genes))
        for start in range(0, len(genes), _CHUNK):
            part = genes[start : start + _CHUNK]
            rows = self.rows(part)
            if self.model.table.calibration is None:
                sums = self._values[rows].sum(1) + self._fixed[part[:, 0], 0]
                found[start : start + _CHUNK] = sums
            else:
                found[start : start + _CHUNK] = self._network(part, rows).value
        return found

    def predict(self, genes: Integers) -> Latencies:
        """Predictions of subnets given by their genes."""
        parts = [
            self._network(part, self.rows(part))
            for start in range(0, max(len(genes), 1), _CHUNK)
            if len(part := genes[start : start + _CHUNK]) or not start
        ]
        return Latencies(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("value", "low", "high", "coverage")
            )
        )

    def predict_configs(self, configs: Sequence[SubnetConfig]) -> Latencies:
        """Predictions of subnets."""
        return self.predict(self.encode(configs))

    def _network(self, genes: Integers, rows: Integers) -> Latencies:
        sums = self._fixed[genes[:, 0]]
        for block in range(rows.shape[1]):
            sums += self._blocks[rows[:, block]]
        return Latencies(*self.model.network(sums))

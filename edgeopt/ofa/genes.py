"""Candidates as short integer vectors, so that search and prediction need not know their shape.

A gene is the index of one choice, smallest first. Genes of unused blocks mean nothing; `canonical`
sets them to 0, so that one network has one vector. What else is to be chosen together with the
architecture (precision) is a domain with more genes whose `decode` gives a richer candidate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgeopt.core.space import SearchSpace, SubnetConfig

T_co = TypeVar("T_co", covariant=True)
Genes = tuple[int, ...]


class Domain(Protocol[T_co]):
    """Everything that can be chosen."""

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many values each gene takes."""
        ...

    @property
    def size(self) -> int:
        """Number of different candidates."""
        ...

    def canonical(self, genes: Genes) -> Genes:
        """The one vector of the candidate that ``genes`` describe."""
        ...

    def decode(self, genes: Genes) -> T_co:
        """The candidate."""
        ...

    def enumerate(self) -> Iterator[Genes]:
        """Every candidate once, as canonical genes."""
        ...


class SubnetDomain:
    """The subnets of a search space: resolution, depths, then kernel and expand of each block."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        blocks = (len(space.kernels), len(space.expands)) * space.block_count
        self.cardinalities: tuple[int, ...] = (
            len(space.resolutions),
            *(len(stage.depths) for stage in space.stages),
            *blocks,
        )
        self.size: int = space.size
        self._first = 1 + len(space.stages)
        # Searches ask for hundreds of thousands of candidates, and depths are few.
        self._active = {
            depths: _used(space, depths)
            for depths in itertools.product(*(range(len(stage.depths)) for stage in space.stages))
        }
        self._unused = {
            depths: tuple(i for i in range(space.block_count) if i not in used)
            for depths, used in self._active.items()
        }

    def canonical(self, genes: Genes) -> Genes:
        """The same subnet with the genes of unused blocks at 0."""
        unused = self._unused[genes[1 : self._first]]
        if not unused:
            return genes
        result = list(genes)
        for index in unused:
            at = self._first + 2 * index
            result[at] = result[at + 1] = 0
        return tuple(result)

    def decode(self, genes: Genes) -> SubnetConfig:
        """The subnet, in canonical form."""
        space = self.space
        blocks = self.canonical(genes)[self._first :]
        return SubnetConfig(
            tuple(space.kernels[g] for g in blocks[::2]),
            tuple(space.expands[g] for g in blocks[1::2]),
            self._depths(genes),
            space.resolutions[genes[0]],
        )

    def encode(self, config: SubnetConfig) -> Genes:
        """The canonical genes of a subnet that belongs to the space."""
        space = self.space
        config = space.canonical(config)
        blocks: list[int] = []
        for kernel, expand in zip(config.kernels, config.expands, strict=True):
            blocks += [space.kernels.index(kernel), space.expands.index(expand)]
        depths = [s.depths.index(d) for s, d in zip(space.stages, config.depths, strict=True)]
        return self.canonical((space.resolutions.index(config.resolution), *depths, *blocks))

    def enumerate(self) -> Iterator[Genes]:
        """Every subnet once, as canonical genes."""
        space = self.space
        per_block = list(itertools.product(range(len(space.kernels)), range(len(space.expands))))
        heads = itertools.product(*(range(n) for n in self.cardinalities[: self._first]))
        for head in heads:
            active = self.active(head)
            for choice in itertools.product(per_block, repeat=len(active)):
                blocks = [0] * (2 * space.block_count)
                for index, pair in zip(active, choice, strict=True):
                    blocks[2 * index : 2 * index + 2] = pair
                yield (*head, *blocks)

    def _depths(self, genes: Genes) -> tuple[int, ...]:
        picks = zip(self.space.stages, genes[1 : self._first], strict=True)
        return tuple(stage.depths[gene] for stage, gene in picks)

    def active(self, genes: Genes) -> tuple[int, ...]:
        """Indices of the blocks that the subnet uses."""
        return self._active[genes[1 : self._first]]


def _used(space: SearchSpace, depths: Genes) -> tuple[int, ...]:
    """Blocks that subnets with these genes of depths use."""
    return tuple(
        start + offset
        for stage, start, gene in zip(space.stages, space.stage_starts, depths, strict=True)
        for offset in range(stage.depths[gene])
    )


#: What `features` gives, per space: named so that a stored predictor can refuse another meaning.
FEATURES = "resolution one-hot; depth one-hot; per block used, kernel and expand one-hot; totals"


def features(space: SearchSpace, configs: Sequence[SubnetConfig]) -> npt.NDArray[np.float64]:
    """Describe subnets by numbers [subnets, features]; the meaning is `FEATURES`.

    A block that is not used is all zeros. The totals are the logarithms of the multiplications in
    convolutions and of the weights, which carry the trend that single choices share.
    """
    blocks = space.block_count
    kernels = np.array([c.kernels for c in configs], np.int64).reshape(len(configs), blocks)
    expands = np.array([c.expands for c in configs], np.int64).reshape(len(configs), blocks)
    depths = np.array([c.depths for c in configs], np.int64).reshape(len(configs), -1)
    sizes = np.array([c.resolution for c in configs], np.int64)
    used = np.zeros((len(configs), blocks), bool)
    parts = [sizes[:, None] == np.array(space.resolutions)]
    for index, (stage, start) in enumerate(zip(space.stages, space.stage_starts, strict=True)):
        parts.append(depths[:, index, None] == np.array(stage.depths))
        for offset in range(stage.max_depth):
            used[:, start + offset] = depths[:, index] > offset
    kernel_hot = (kernels[:, :, None] == np.array(space.kernels)) & used[:, :, None]
    expand_hot = (expands[:, :, None] == np.array(space.expands)) & used[:, :, None]
    parts += [used, kernel_hot.reshape(len(configs), -1), expand_hot.reshape(len(configs), -1)]
    macs, weights = _totals(space, kernels, expands, used, sizes)
    return np.concatenate([*parts, np.log(macs)[:, None], np.log(weights)[:, None]], 1).astype(
        np.float64
    )


def _totals(
    space: SearchSpace,
    kernels: npt.NDArray[np.int64],
    expands: npt.NDArray[np.int64],
    used: npt.NDArray[np.bool_],
    sizes: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Multiply-accumulates and weights of the elastic blocks (their 1x1 and depthwise parts)."""
    macs = np.zeros(len(sizes))
    weights = np.zeros(len(sizes))
    edge = sizes // (space.stem_stride * space.first_stride)
    channels = space.first_width
    for stage, start in zip(space.stages, space.stage_starts, strict=True):
        for offset in range(stage.max_depth):
            block = start + offset
            out = edge // (stage.stride if offset == 0 else 1)
            mid = np.rint(channels * expands[:, block] / 8) * 8
            taps = kernels[:, block] ** 2
            mask = used[:, block]
            macs += mask * (edge**2 * mid * channels + out**2 * mid * (taps + stage.width))
            weights += mask * mid * (channels + taps + stage.width)
            edge, channels = out, stage.width
    return macs, weights

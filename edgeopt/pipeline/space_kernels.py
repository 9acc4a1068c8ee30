"""A search space taken apart: which kernels each choice of each block brings.

The stages of a space have fixed widths, so what a block is lowered to depends on the resolution and
on its own kernel size and expansion alone. Lowering each of these once, everywhere at the same
time, gives every kernel of every subnet, how often a random subnet runs it, and, summed up by a
table, its time (`edgeopt.pipeline.space_latency`). That it is so is checked, not assumed: subnets
drawn at random must consist of exactly the parts found.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeopt.core.errors import InputError
from edgeopt.core.kernels import KernelGraph, OpKey
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.core.target import TargetSpec

Keys = tuple[OpKey, ...]

_BLOCK = re.compile(r"block([0-9]+)\.")
#: Subnets that a decomposition is checked with.
CHECKS = 24


@dataclass(frozen=True, slots=True)
class SpaceKernels:
    """The kernels of a space in one precision.

    Attributes:
        space: the space.
        precision: ``f32`` or ``i8``.
        fixed: resolution -> kernels that every subnet of it has.
        blocks: (resolution, elastic block, kernel size, expansion) -> the block's kernels.
    """

    space: SearchSpace
    precision: str
    fixed: Mapping[int, Keys]
    blocks: Mapping[tuple[int, int, int, int], Keys]
    _usage: dict[OpKey, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def keys(self) -> Keys:
        """Every kernel once."""
        found: dict[OpKey, None] = {}
        for part in (*self.fixed.values(), *self.blocks.values()):
            found.update(dict.fromkeys(part))
        return tuple(found)

    def keys_of(self, config: SubnetConfig) -> Keys:
        """A subnet's kernels: those of every subnet first, then the blocks' in order."""
        size = config.resolution
        found = list(self.fixed[size])
        for index in self.space.active(config):
            found += self.blocks[size, index, config.kernels[index], config.expands[index]]
        return tuple(found)

    @property
    def usage(self) -> Mapping[OpKey, float]:
        """How often a random subnet (`SearchSpace.sample`) runs each kernel, on average."""
        if not self._usage:
            space = self.space
            used = [
                sum(depth > offset for depth in stage.depths) / len(stage.depths)
                for stage in space.stages
                for offset in range(stage.max_depth)
            ]
            choices = len(space.kernels) * len(space.expands)
            counts: Counter[OpKey] = Counter()
            for keys in self.fixed.values():
                for key in keys:
                    counts[key] += 1.0  # type: ignore[assignment]
            for (_, index, _, _), keys in self.blocks.items():
                for key in keys:
                    counts[key] += used[index] / choices  # type: ignore[assignment]
            sizes = len(space.resolutions)
            self._usage.update((key, count / sizes) for key, count in counts.items())
        return self._usage


def space_kernels(
    space: SearchSpace, precision: str, target: TargetSpec | None = None
) -> SpaceKernels:
    """Take a space apart; with a target, its blocks are as they are fused for it.

    Raises:
        InputError: a block's kernels depend on other blocks, so that this cannot be done.
    """
    from edgeopt.pipeline.enumerate import lowered

    fixed: dict[int, Keys] = {}
    blocks: dict[tuple[int, int, int, int], Keys] = {}
    for size in space.resolutions:
        for kernel in space.kernels:
            for expand in space.expands:
                config = space.uniform(kernel, expand, max, size)
                rest, parts = _by_block(lowered(space, config, precision, target))
                fixed.setdefault(size, rest)
                for index, keys in parts.items():
                    blocks[size, index, kernel, expand] = keys
    found = SpaceKernels(space, precision, fixed, blocks)
    source = random.Random(0)
    configs = [space.min_config(), space.max_config()]
    for config in configs + [space.sample(source) for _ in range(CHECKS)]:
        expected = Counter(lowered(space, config, precision, target).keys)
        if Counter(found.keys_of(config)) != expected:
            raise InputError(
                f"the kernels of subnet {config} are not those of its blocks one by one",
                where=f"search space {space.name}", hint="predict its subnets one at a time",
            )  # fmt: skip
    return found


def _by_block(graph: KernelGraph) -> tuple[Keys, dict[int, Keys]]:
    """Kernels outside elastic blocks, and those of each (numbered from 0, as choices are)."""
    rest: list[OpKey] = []
    parts: dict[int, list[OpKey]] = {}
    for kernel in graph.kernels:
        match = _BLOCK.match(kernel.name)
        if match is None or match[1] == "0":
            rest.append(kernel.key)
        else:
            parts.setdefault(int(match[1]) - 1, []).append(kernel.key)
    return tuple(rest), {index: tuple(keys) for index, keys in parts.items()}

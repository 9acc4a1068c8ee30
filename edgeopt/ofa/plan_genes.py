"""Architecture and precision plan as one vector of genes, and plans as rows of features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.genes import Genes, SubnetDomain
from edgeopt.ofa.plans import (
    DEPLOYABLE_BITS,
    HEAD_LAYERS,
    NEUTRAL,
    BlockPlan,
    canonical,
    uniform,
)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Planned:
    """A subnet and the bits of its weights."""

    subnet: SubnetConfig
    plan: BlockPlan

    def __str__(self) -> str:
        return f"{self.subnet} with {self.plan}"


class PlanDomain:
    """Every subnet with every plan: the subnet's genes, then one a block, then the head's.

    Args:
        space: the space.
        bits: widths that may be chosen; the largest stands for blocks that are not used.
    """

    def __init__(self, space: SearchSpace, bits: Sequence[int] = DEPLOYABLE_BITS) -> None:
        self.space = space
        self.bits = tuple(sorted(bits))
        self.subnets = SubnetDomain(space)
        self._first = len(self.subnets.cardinalities)
        self._count = space.block_count + len(HEAD_LAYERS)
        self.cardinalities: tuple[int, ...] = (
            *self.subnets.cardinalities, *(len(self.bits),) * self._count,
        )  # fmt: skip
        self.size: int = _size(space, len(self.bits))

    def canonical(self, genes: Genes) -> Genes:
        """The same candidate with the genes of unused blocks at 0, their bits at the largest."""
        subnet = self.subnets.canonical(genes[: self._first])
        plan = [len(self.bits) - 1] * self.space.block_count
        for index in self.subnets.active(genes):
            plan[index] = genes[self._first + index]
        return (*subnet, *plan, *genes[self._first + self.space.block_count :])

    def decode(self, genes: Genes) -> Planned:
        """The candidate, in canonical form."""
        genes = self.canonical(genes)
        subnet = self.subnets.decode(genes[: self._first])
        used = set(self.subnets.active(genes))
        bits = [self.bits[gene] for gene in genes[self._first :]]
        blocks = (
            b if index in used else NEUTRAL
            for index, b in enumerate(bits[: self.space.block_count])
        )
        return Planned(subnet, BlockPlan(tuple(blocks), tuple(bits[self.space.block_count :])))

    def encode(self, candidate: Planned) -> Genes:
        """The canonical genes of a candidate that belongs to the domain."""
        subnet = self.subnets.encode(candidate.subnet)
        used = set(self.space.active(candidate.subnet))
        last = len(self.bits) - 1
        plan = [
            self.bits.index(b) if index in used else last
            for index, b in enumerate(candidate.plan.blocks)
        ]
        return (*subnet, *plan, *(self.bits.index(b) for b in candidate.plan.head))

    def enumerate(self) -> Iterator[Genes]:
        """Every candidate once, as canonical genes."""
        last = len(self.bits) - 1
        for subnet in self.subnets.enumerate():
            used = list(self.space.active(self.subnets.decode(subnet)))
            free = len(used) + len(HEAD_LAYERS)
            for choice in itertools.product(range(len(self.bits)), repeat=free):
                plan = [last] * self.space.block_count
                for index, gene in zip(used, choice, strict=False):
                    plan[index] = gene
                yield (*subnet, *plan, *choice[len(used) :])

    def start(self, count: int, rng: np.random.Generator) -> list[Genes]:
        """A population to begin with: all sizes of subnets with all averages of bits."""
        values = np.asarray(self.cardinalities)
        plan = np.arange(len(values)) >= self._first
        # A uniform draw makes middle-sized candidates only; two biases a draw reach all corners.
        bias = np.where(plan, rng.random((count, 1)), rng.random((count, 1)))
        drawn = rng.binomial(values - 1, bias)
        # Half of them have the same bits everywhere: plans that are good for some size.
        same = rng.integers(len(self.bits), size=(count, 1))
        drawn = np.where(plan & (np.arange(count)[:, None] % 2 == 0), same, drawn)
        ends = [
            np.where(plan, (values - 1) * large_bits, (values - 1) * large)
            for large in (0, 1)
            for large_bits in (0, 1)
        ]
        return [tuple(int(g) for g in row) for row in (*ends, *drawn)]


class OneWidth:
    """The subnets of a domain with the same bits everywhere: genes are the subnet's.

    Args:
        domain: whose space and subnets these are.
        bits: of all blocks and layers that plans decide.
    """

    def __init__(self, domain: PlanDomain, bits: int) -> None:
        self._domain = domain
        self._plan = uniform(domain.space, bits)
        self.cardinalities: tuple[int, ...] = domain.subnets.cardinalities
        self.size: int = domain.subnets.size

    def canonical(self, genes: Genes) -> Genes:
        """The same subnet with the genes of unused blocks at 0."""
        return self._domain.subnets.canonical(genes)

    def decode(self, genes: Genes) -> Planned:
        """The candidate, in canonical form."""
        subnet = self._domain.subnets.decode(genes)
        return Planned(subnet, canonical(self._domain.space, subnet, self._plan))

    def enumerate(self) -> Iterator[Genes]:
        """Every subnet once, as canonical genes."""
        return self._domain.subnets.enumerate()


class PlansOf:
    """The plans of given subnets: which of them, then one gene a block and the head's.

    Args:
        domain: whose bits and space these are.
        subnets: may be one.
    """

    def __init__(self, domain: PlanDomain, subnets: Sequence[SubnetConfig]) -> None:
        self._domain = domain
        self._heads = [domain.subnets.encode(subnet) for subnet in subnets]
        self._first = len(domain.subnets.cardinalities)
        self.cardinalities: tuple[int, ...] = (
            len(self._heads), *domain.cardinalities[self._first :],
        )  # fmt: skip
        free = [len(list(domain.space.active(s))) + len(HEAD_LAYERS) for s in subnets]
        self.size: int = sum(len(domain.bits) ** count for count in free)

    def _whole(self, genes: Genes) -> Genes:
        return self._domain.canonical((*self._heads[genes[0]], *genes[1:]))

    def canonical(self, genes: Genes) -> Genes:
        """The same candidate with the bits of unused blocks at the largest."""
        return (genes[0], *self._whole(genes)[self._first :])

    def decode(self, genes: Genes) -> Planned:
        """The candidate, in canonical form."""
        return self._domain.decode(self._whole(genes))

    def enumerate(self) -> Iterator[Genes]:
        """Every candidate once, as canonical genes."""
        seen: set[Genes] = set()
        for genes in itertools.product(*(range(n) for n in self.cardinalities)):
            found = self.canonical(genes)
            if found not in seen:
                seen.add(found)
                yield found

    def start(self, count: int, rng: np.random.Generator) -> list[Genes]:
        """A population to begin with: every subnet in the largest bits, then all averages."""
        values = np.asarray(self.cardinalities)
        last = [int(v) - 1 for v in values[1:]]
        first: list[Genes] = [(index, *last) for index in range(len(self._heads))]
        drawn = rng.binomial(values - 1, rng.random((max(0, count - len(first)), 1)))
        drawn[:, 0] = rng.integers(len(self._heads), size=len(drawn))
        return first + [tuple(int(g) for g in row) for row in drawn]


def _size(space: SearchSpace, widths: int) -> int:
    """Number of different candidates."""
    total = len(space.resolutions) * widths ** len(HEAD_LAYERS)
    choices = len(space.kernels) * len(space.expands) * widths
    for stage in space.stages:
        total *= sum(choices**depth for depth in stage.depths)
    return int(total)


# -- features ------------------------------------------------------------------------------------

#: What `plan_features` gives; a stored predictor refuses another meaning.
PLAN_FEATURES = (
    "noise of each block and head layer; its sums over stages, over all, over widths, its mean"
)


def noise(bits: Integers) -> Floats:
    """Power of the error of rounding to so many bits, relative to that of two: 4 a bit."""
    return np.asarray(4.0 ** (2.0 - bits))


def plan_features(space: SearchSpace, candidates: Sequence[Planned]) -> Floats:
    """Describe plans by numbers [candidates, features]: see `PLAN_FEATURES`.

    Few and smooth: measurements are some hundred. A block that is not used makes no noise; wide
    blocks average it out, so it also counts by width; sums carry the trend that blocks share.
    """
    blocks, rows = space.block_count, len(candidates)
    bits = np.array([c.plan.blocks for c in candidates], np.int64).reshape(rows, blocks)
    head = np.array([c.plan.head for c in candidates], np.int64).reshape(rows, -1)
    expands = np.array([c.subnet.expands for c in candidates], np.int64).reshape(rows, blocks)
    depths = np.array([c.subnet.depths for c in candidates], np.int64).reshape(rows, -1)
    used = np.zeros((rows, blocks), bool)
    stage_of = np.zeros((blocks, len(space.stages)))
    for index, (stage, start) in enumerate(zip(space.stages, space.stage_starts, strict=True)):
        for offset in range(stage.max_depth):
            used[:, start + offset] = depths[:, index] > offset
            stage_of[start + offset, index] = 1.0
    low, total = noise(bits) * used, (noise(bits) * used).sum(1, keepdims=True)
    count = used.sum(1, keepdims=True)
    parts = [
        low, noise(head), low @ stage_of, total, total / count,
        (low / expands).sum(1, keepdims=True), count,
    ]  # fmt: skip
    return np.concatenate(parts, 1).astype(np.float64)

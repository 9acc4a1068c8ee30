"""Precision plans of a space: the bits of each block's weights, chosen beside the architecture.

One choice serves all pointwise layers of an elastic block (expand, project, squeeze-and-excite),
and there is one for each layer of the head. The stem, the static first block and all depthwise
layers keep eight bits: they hold few weights, and no kernel packs them.
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import WEIGHT_BITS
from edgeopt.core.network import Network, Op
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.describe import describe

#: What a block or a layer of the head may take on a board; three bits exist in simulation only.
DEPLOYABLE_BITS = (2, 4, 8)
#: Layers of the head, in the order of `BlockPlan.head`.
HEAD_LAYERS = ("head.expand.conv", "head.mix.conv", "head.classifier")
#: Roles of a block's layers that follow its choice.
BLOCK_ROLES = ("expand.conv", "se.reduce.conv", "se.expand.conv", "project.conv")
#: What an unused block has in canonical form.
NEUTRAL = 8

_COLUMNS = ("subnet", "plan", "right", "images", "accuracy")


@dataclass(frozen=True, slots=True, order=True)
class BlockPlan:
    """Bits of weights: one number for every elastic block, used or not, and one a head layer.

    `str` and `parse` are inverses: ``w4.4.8.2.4.4.8.8.4.4-h4.4.8``.
    """

    blocks: tuple[int, ...]
    head: tuple[int, ...]

    def __str__(self) -> str:
        return f"w{_join(self.blocks)}-h{_join(self.head)}"

    @classmethod
    def parse(cls, text: str) -> BlockPlan:
        """Read the text that `str` writes.

        Raises:
            InputError: the text has another form, or a width that weights cannot have.
        """
        hint = f"write it as w<bits of each block>-h<bits of {', '.join(HEAD_LAYERS)}>"
        parts = text.strip().split("-")
        if len(parts) != 2 or [part[:1] for part in parts] != ["w", "h"]:
            raise InputError(f"{text[:120]!r} is not a plan", where="precision plan", hint=hint)
        numbers: list[tuple[int, ...]] = []
        for part in parts:
            fields = part[1:].split(".")
            known = {str(bits): bits for bits in WEIGHT_BITS}
            odd = [f for f in fields if f not in known]
            if odd:
                raise InputError(
                    f"{odd[0][:20]!r} is no width of weights", where="precision plan",
                    hint=f"choose from {', '.join(known)}",
                )  # fmt: skip
            numbers.append(tuple(known[f] for f in fields))
        if len(numbers[1]) != len(HEAD_LAYERS):
            raise InputError(
                f"{len(numbers[1])} widths for {len(HEAD_LAYERS)} layers of the head",
                where="precision plan", hint=hint,
            )  # fmt: skip
        return cls(*numbers)

    @property
    def genes(self) -> tuple[int, ...]:
        """All bits in a row: blocks, then the head."""
        return (*self.blocks, *self.head)


def uniform(space: SearchSpace, bits: int) -> BlockPlan:
    """The same width everywhere a plan may choose."""
    return BlockPlan((bits,) * space.block_count, (bits,) * len(HEAD_LAYERS))


def validate(space: SearchSpace, plan: BlockPlan) -> BlockPlan:
    """Return ``plan`` if it is one of the space.

    Raises:
        InputError: it has another number of blocks, or a width that weights cannot have.
    """
    where = f"precision plan of {space.name}"
    if len(plan.blocks) != space.block_count or len(plan.head) != len(HEAD_LAYERS):
        raise InputError(
            f"bits of {len(plan.blocks)} blocks and {len(plan.head)} head layers, "
            f"not {space.block_count} and {len(HEAD_LAYERS)}", where=where,
        )  # fmt: skip
    for bits in plan.genes:
        if bits not in WEIGHT_BITS:
            raise InputError(
                f"weights of {bits} bits do not exist", where=where,
                hint=f"choose one of {', '.join(str(b) for b in WEIGHT_BITS)}",
            )  # fmt: skip
    return plan


def canonical(space: SearchSpace, config: SubnetConfig, plan: BlockPlan) -> BlockPlan:
    """The same plan with the choices of blocks that the subnet does not use at eight bits."""
    blocks = [NEUTRAL] * space.block_count
    for index in space.active(config):
        blocks[index] = plan.blocks[index]
    return BlockPlan(tuple(blocks), plan.head)


def layer_bits(space: SearchSpace, config: SubnetConfig, plan: BlockPlan) -> dict[str, int]:
    """Bits of every layer of a subnet that a plan decides, by the layer's name."""
    found: dict[str, int] = {}
    for block in space.layout(config).blocks:
        if block.expand is None:
            continue
        for role in BLOCK_ROLES:
            if block.se_channels or not role.startswith("se."):
                found[f"block{block.index}.{role}"] = plan.blocks[block.index - 1]
    found.update(zip(HEAD_LAYERS, plan.head, strict=True))
    return found


def to_precision(space: SearchSpace, config: SubnetConfig, plan: BlockPlan) -> PrecisionPlan:
    """The plan of one subnet, its layers by name; those it does not decide have eight bits."""
    bits = layer_bits(space, space.validate(config), validate(space, plan))
    return PrecisionPlan(
        layers={name: LayerPrecision(weight_bits=b) for name, b in bits.items() if b != 8}
    )


# -- sampling ------------------------------------------------------------------------------------


def sample(
    space: SearchSpace,
    config: SubnetConfig,
    rng: random.Random,
    choices: Sequence[int] = DEPLOYABLE_BITS,
) -> BlockPlan:
    """A canonical plan whose average bits are drawn uniformly between all smallest and all largest.

    Choices drawn independently would all average the same. So the average is drawn first, then the
    bits from the distribution of most entropy that has it, ``p(b)`` in proportion to ``exp(λ b)``.
    """
    average = rng.uniform(min(choices), max(choices))
    weights = _with_mean(tuple(choices), average)
    picks = rng.choices(list(choices), weights, k=space.block_count + len(HEAD_LAYERS))
    plan = BlockPlan(tuple(picks[: space.block_count]), tuple(picks[space.block_count :]))
    return canonical(space, config, plan)


def _with_mean(choices: tuple[int, ...], mean: float) -> list[float]:
    """Probabilities of most entropy of values whose mean is given."""

    def weights(slope: float) -> list[float]:
        powers = [slope * (value - mean) for value in choices]
        top = max(powers)
        return [math.exp(power - top) for power in powers]

    def found(slope: float) -> float:
        given = weights(slope)
        return sum(w * v for w, v in zip(given, choices, strict=True)) / sum(given)

    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) < mean else (low, middle)
    return weights((low + high) / 2)


# -- sizes ---------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def weight_counts(space: SearchSpace, config: SubnetConfig) -> Mapping[str, int]:
    """Weights of every convolution and linear layer of a subnet, by the layer's name."""
    network = describe(space, config)
    return {op.name: _weights(network, op) for op in network.ops if op.kind in ("conv2d", "linear")}


def _weights(network: Network, op: Op) -> int:
    inputs = network.tensors[op.inputs[0]].shape[-1]
    outputs = network.tensors[op.output].shape[-1]
    if op.kind == "linear":
        return inputs * outputs
    kernel, groups = op.attrs["kernel"], op.attrs["groups"]
    assert isinstance(kernel, tuple) and isinstance(groups, int)
    return math.prod(kernel) * inputs // groups * outputs


def average_bits(space: SearchSpace, config: SubnetConfig, plan: BlockPlan) -> float:
    """Bits of a weight of the subnet on average, those of eight bits counted."""
    counts = weight_counts(space, config)
    bits = layer_bits(space, config, plan)
    return sum(bits.get(name, 8) * n for name, n in counts.items()) / sum(counts.values())


# -- evaluations as a file -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanEvaluation:
    """What a subnet scored under a plan; without one, in fp32."""

    config: SubnetConfig
    plan: BlockPlan | None
    right: int
    images: int

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, 0..1."""
        return self.right / self.images


def write_evaluations(rows: Iterable[PlanEvaluation]) -> bytes:
    """Evaluations as CSV: ``subnet,plan,right,images,accuracy``; the plan of fp32 is empty."""
    lines = [",".join(_COLUMNS)]
    lines += [
        f"{r.config},{'' if r.plan is None else r.plan},{r.right},{r.images},{r.accuracy:.4f}"
        for r in rows
    ]
    return ("\n".join(lines) + "\n").encode()


def read_evaluations(
    data: bytes, space: SearchSpace, where: str = "evaluations"
) -> list[PlanEvaluation]:
    """What `write_evaluations` wrote, or a file without plans: canonical subnets and plans.

    Raises:
        InputError: not such a file, naming the line.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", where=where) from error
    return list(_rows(text, space, where))


def _rows(text: str, space: SearchSpace, where: str) -> Iterator[PlanEvaluation]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    needed = ("subnet", "right", "images")
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"there is no column {missing[0]!r}", where=where)
    for number, row in enumerate(reader, 2):
        at = f"{where}, line {number}"
        try:
            config = space.canonical(space.validate(SubnetConfig.parse(row["subnet"] or "")))
            written = row.get("plan") or ""
            plan = (
                canonical(space, config, validate(space, BlockPlan.parse(written)))
                if written
                else None
            )
        except InputError as error:
            raise InputError(error.what, where=at, hint=error.hint) from error
        counts = [value or "" for value in (row["right"], row["images"])]
        if not all(c.isascii() and c.isdigit() and len(c) < 10 for c in counts):
            raise InputError(f"{counts} are not counts of images", where=at)
        right, images = (int(c) for c in counts)
        if not 0 <= right <= images or not images:
            raise InputError(f"{right} of {images} images cannot be right", where=at)
        yield PlanEvaluation(config, plan, right, images)


def _join(values: Sequence[int]) -> str:
    return ".".join(str(value) for value in values)

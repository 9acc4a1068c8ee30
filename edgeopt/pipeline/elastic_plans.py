"""Mixed plans for one subnet, greedily: at each move the width whose loss a saved bit is least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgeopt.core.space import SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.data import ImageSet, batches, normalize
from edgeopt.ofa.evaluate import fold_batch_norm
from edgeopt.ofa.plans import BlockPlan
from edgeopt.pipeline.elastic import ElasticNet

U8 = npt.NDArray[np.uint8]

_BATCH = 100


def mixed_plans(
    net: ElasticNet,
    config: SubnetConfig,
    calibration: U8,
    held: ImageSet,
    targets: Sequence[float],
    choices: tuple[int, ...] = plans.DEPLOYABLE_BITS,
) -> list[BlockPlan]:
    """For each target, the plan of at most so many bits a weight that additive losses say is best.

    Each choice's cross-entropy is measured alone, the others at the most bits; widths are then
    lowered one by one, least added loss for the bits saved first.

    Args:
        net: the elastic supernet.
        config: the subnet.
        calibration: uint8 [N,H,W,C] images for batch-norm statistics.
        held: labelled images that losses are measured on; no test images.
        targets: bits of a weight on average, all layers counted.
        choices: widths to choose from.
    """
    space = net.net.space
    top = plans.canonical(space, config, plans.uniform(space, max(choices)))
    active = [*space.active(config), *range(space.block_count, len(top.genes))]
    alone = _losses(net, config, calibration, held, [
        (gene, bits) for gene in active for bits in choices if bits < max(choices)
    ])  # fmt: skip

    def size(plan: BlockPlan) -> float:
        return plans.average_bits(space, config, plan)

    def lowered(target: float) -> BlockPlan:
        plan = top
        while size(plan) > target:
            moves: list[tuple[float, int, int, BlockPlan]] = []
            for gene, bits in alone:
                now = plan.genes[gene]
                if bits < now:
                    after = _with(space.block_count, plan, gene, bits)
                    added = max(alone[gene, bits] - alone.get((gene, now), 0.0), 0.0)
                    moves.append((added / (size(plan) - size(after)), gene, -bits, after))
            if not moves:
                break
            plan = min(moves, key=lambda move: move[:3])[3]
        return plan

    return [lowered(target) for target in targets]


def _losses(
    net: ElasticNet, config: SubnetConfig, calibration: U8, held: ImageSet,
    choices: Sequence[tuple[int, int]],
) -> dict[tuple[int, int], float]:  # fmt: skip
    """Cross-entropy that each (gene, bits) adds to that of eight bits everywhere."""
    space = net.net.space
    images = normalize(calibration, space)
    x, y = normalize(held.images, space), torch.from_numpy(held.labels)

    def loss(plan: BlockPlan) -> float:
        static = fold_batch_norm(net.prepare(config, plan, images).net)
        with torch.inference_mode():
            parts = [F.cross_entropy(static(x[part]), y[part], reduction="sum")
                     for part in batches(len(y), _BATCH)]  # fmt: skip
        return float(torch.stack(parts).sum()) / len(y)

    top = plans.uniform(space, 8)
    start = loss(top)
    return {
        (gene, bits): loss(_with(space.block_count, top, gene, bits)) - start
        for gene, bits in choices
    }


def _with(blocks: int, plan: BlockPlan, gene: int, bits: int) -> BlockPlan:
    genes = list(plan.genes)
    genes[gene] = bits
    return BlockPlan(tuple(genes[:blocks]), tuple(genes[blocks:]))

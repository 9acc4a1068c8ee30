"""A mixed plan for one subnet, greedily: at each move the width whose loss a saved bit is least."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgeopt.core.space import SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.data import ImageSet, normalize
from edgeopt.ofa.evaluate import fold_batch_norm
from edgeopt.ofa.plans import BlockPlan
from edgeopt.pipeline.elastic import ElasticNet

U8 = npt.NDArray[np.uint8]


def mixed_plan(
    net: ElasticNet,
    config: SubnetConfig,
    calibration: U8,
    held: ImageSet,
    target: float,
    choices: tuple[int, ...] = plans.DEPLOYABLE_BITS,
) -> BlockPlan:
    """The plan of at most ``target`` bits a weight that additive losses say is best.

    Each choice's cross-entropy is measured alone, the others at eight bits; widths are then lowered
    one by one, least added loss for the bits saved first.

    Args:
        net: the elastic supernet.
        config: the subnet.
        calibration: uint8 [N,H,W,C] images for batch-norm statistics.
        held: labelled images that losses are measured on; no test images.
        target: bits of a weight on average, all layers counted.
        choices: widths to choose from.
    """
    space = net.net.space
    images = normalize(calibration, space)
    x, y = normalize(held.images, space), torch.from_numpy(held.labels)

    def loss(plan: BlockPlan) -> float:
        static = fold_batch_norm(net.prepare(config, plan, images).net)
        with torch.inference_mode():
            return float(F.cross_entropy(static(x), y))

    top = plans.uniform(space, max(choices))
    start = loss(top)
    active = [*space.active(config), *range(space.block_count, len(top.genes))]
    widths = sorted(choices, reverse=True)[1:]
    alone = {
        (gene, bits): loss(_with(space.block_count, top, gene, bits)) - start
        for gene in active
        for bits in widths
    }
    plan = plans.canonical(space, config, top)
    while plans.average_bits(space, config, plan) > target:
        moves = []
        for gene in active:
            now = plan.genes[gene]
            for bits in widths:
                if bits < now:
                    after = _with(space.block_count, plan, gene, bits)
                    saved = plans.average_bits(space, config, plan) - plans.average_bits(
                        space, config, after
                    )
                    added = max(alone[gene, bits] - alone.get((gene, now), 0.0), 0.0)
                    moves.append((added / saved, gene, after))
        if not moves:
            break
        plan = min(moves, key=lambda move: move[:2])[2]
    return plan


def _with(blocks: int, plan: BlockPlan, gene: int, bits: int) -> BlockPlan:
    genes = list(plan.genes)
    genes[gene] = bits
    return BlockPlan(tuple(genes[:blocks]), tuple(genes[blocks:]))

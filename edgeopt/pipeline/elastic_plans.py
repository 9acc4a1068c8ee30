"""Mixed plans for one subnet: the least divergence that so many bits a weight allow.

What is measured of a choice is how far it moves the outputs from those at eight bits, not the loss
on labels: images that the network was trained on have next to none, and the rest is noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.data import batches, normalize
from edgeopt.ofa.evaluate import fold_batch_norm
from edgeopt.ofa.plans import BlockPlan
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.quant.allocate import Limit, Table, allocate

U8 = npt.NDArray[np.uint8]

_BATCH = 100


def mixed_plans(
    net: ElasticNet,
    config: SubnetConfig,
    calibration: U8,
    held: U8,
    targets: Sequence[float],
    choices: tuple[int, ...] = plans.DEPLOYABLE_BITS,
) -> list[BlockPlan]:
    """For each target, the plan of at most so many bits a weight of least summed divergence.

    Divergences of single choices are taken to add up; an integer program then picks (as in
    HAWQ-V3: Yao et al. 2021).

    Args:
        net: the elastic supernet.
        config: the subnet.
        calibration: uint8 [N,H,W,C] images for batch-norm statistics.
        held: uint8 [N,H,W,C] images that divergences are measured on; no test images.
        targets: bits of a weight on average, all layers counted; one that no plan has gets the
            narrowest plan.
        choices: widths to choose from.
    """
    space = net.net.space
    sensitivity = divergences(net, config, calibration, held, choices)
    found = []
    for target in targets:
        limit = average_limit(space, config, sensitivity, target)
        bits = allocate(sensitivity, [limit]).bits
        found.append(with_genes(space, config, {int(n): b for n, b in bits.items()}, max(choices)))
    return found


def with_genes(
    space: SearchSpace, config: SubnetConfig, bits: Mapping[int, int], others: int = 8
) -> BlockPlan:
    """The canonical plan with these bits by gene; blocks come first, then the head's layers."""
    genes = list(plans.uniform(space, others).genes)
    for gene, width in bits.items():
        genes[gene] = width
    blocks = space.block_count
    plan = BlockPlan(tuple(genes[:blocks]), tuple(genes[blocks:]))
    return plans.canonical(space, config, plan)


def average_limit(
    space: SearchSpace, config: SubnetConfig, sensitivity: Table, target: float
) -> Limit:
    """Bits of a weight on average as a limit on choices of single genes.

    It is at least what the narrowest choices have: layers that no gene decides keep eight bits.
    """
    top = max(max(row) for row in sensitivity.values())

    def average(bits: Mapping[int, int]) -> float:
        return plans.average_bits(space, config, with_genes(space, config, bits, top))

    # A gene's share is what it saves, counted from its narrowest choice.
    costs: dict[str, dict[int, float]] = {}
    fixed = average({})
    for name, row in sensitivity.items():
        at = {bits: average({int(name): bits}) - average({}) for bits in row}
        costs[name] = {bits: value - min(at.values()) for bits, value in at.items()}
        fixed += min(at.values())
    return Limit("average bits", costs, max(target, fixed), fixed)


def divergences(
    net: ElasticNet, config: SubnetConfig, calibration: U8, held: U8, choices: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Kullback-Leibler divergence from the most bits everywhere, by gene and its bits alone."""
    space = net.net.space
    images, x = normalize(calibration, space), normalize(held, space)

    def outputs(bits: Mapping[int, int]) -> torch.Tensor:
        plan = with_genes(space, config, bits, max(choices))
        static = fold_batch_norm(net.prepare(config, plan, images).net)
        with torch.inference_mode():
            parts = [static(x[part]).log_softmax(1) for part in batches(len(x), _BATCH)]
        return torch.cat(parts)

    whole = outputs({})
    head = range(space.block_count, space.block_count + len(plans.HEAD_LAYERS))

    def moved(gene: int, bits: int) -> float:
        if bits == max(choices):
            return 0.0
        now = outputs({gene: bits})
        return float(F.kl_div(now, whole, reduction="batchmean", log_target=True))

    return {
        str(gene): {bits: moved(gene, bits) for bits in choices}
        for gene in (*space.active(config), *head)
    }

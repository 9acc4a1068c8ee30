"""Mixed plans for one subnet: the least divergence that so many bits a weight allow.

What is measured of a choice is how far it moves the outputs from those at eight bits, not the loss
on labels: images that the network was trained on have next to none, and the rest is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
        choices: widths to choose from, eight among them.
    """
    space = net.net.space
    sensitivity = Divergence(net, config, calibration, held).of_genes(choices)
    found = []
    for target in targets:
        limit = average_limit(space, config, sensitivity, target)
        bits = allocate(sensitivity, [limit]).bits
        found.append(with_genes(space, config, {int(n): b for n, b in bits.items()}))
    return found


def with_genes(space: SearchSpace, config: SubnetConfig, bits: Mapping[int, int]) -> BlockPlan:
    """The canonical plan with these bits by gene and eight elsewhere; blocks come first."""
    genes = list(plans.uniform(space, 8).genes)
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

    def average(bits: Mapping[int, int]) -> float:
        return plans.average_bits(space, config, with_genes(space, config, bits))

    costs, fixed = shares(sensitivity, average)
    return Limit("average bits", costs, max(target, fixed), fixed)


def shares(
    sensitivity: Table, cost: Callable[[Mapping[int, int]], float]
) -> tuple[dict[str, dict[int, float]], float]:
    """What each gene adds to a cost by its bits, from its cheapest on, and what is left.

    Args:
        sensitivity: genes and their choices.
        cost: of the plan with these bits by gene, eight elsewhere.
    """
    whole = fixed = cost({})
    costs: dict[str, dict[int, float]] = {}
    for name, row in sensitivity.items():
        at = {bits: cost({int(name): bits}) - whole for bits in row}
        costs[name] = {bits: value - min(at.values()) for bits, value in at.items()}
        fixed += min(at.values())
    return costs, fixed


class Divergence:
    """How far plans of a subnet move its outputs: Kullback-Leibler, from eight bits everywhere.

    Args:
        net: the elastic supernet.
        config: the subnet.
        calibration: uint8 [N,H,W,C] images for batch-norm statistics.
        held: uint8 [N,H,W,C] images that outputs are compared on.
    """

    def __init__(self, net: ElasticNet, config: SubnetConfig, calibration: U8, held: U8) -> None:
        self.net, self.config = net, config
        self.space = net.net.space
        self._calibration = normalize(calibration, self.space)
        self._held = normalize(held, self.space)
        self._whole = self._outputs(with_genes(self.space, config, {}), self._calibration)

    def _outputs(self, plan: BlockPlan, calibration: torch.Tensor) -> torch.Tensor:
        static = fold_batch_norm(self.net.prepare(self.config, plan, calibration).net)
        with torch.inference_mode():
            parts = [static(self._held[part]).log_softmax(1)
                     for part in batches(len(self._held), _BATCH)]  # fmt: skip
        return torch.cat(parts)

    def of(self, plan: BlockPlan) -> float:
        """Of a whole plan, in nats an image."""
        return _divergence(self._outputs(plan, self._calibration), self._whole)

    def of_genes(
        self, choices: Sequence[int], images: int | None = None
    ) -> dict[str, dict[int, float]]:
        """Of single genes by their bits, the others at eight.

        Args:
            choices: bits.
            images: that statistics are measured on, for either side; all of them unless given.
        """
        head = range(self.space.block_count, self.space.block_count + len(plans.HEAD_LAYERS))
        few = self._calibration[:images]
        whole = self._outputs(with_genes(self.space, self.config, {}), few)

        def alone(gene: int, bits: int) -> float:
            if bits == 8:
                return 0.0
            plan = with_genes(self.space, self.config, {gene: bits})
            return _divergence(self._outputs(plan, few), whole)

        genes = (*self.space.active(self.config), *head)
        return {str(gene): {bits: alone(gene, bits) for bits in choices} for gene in genes}


def _divergence(now: torch.Tensor, whole: torch.Tensor) -> float:
    return float(F.kl_div(now, whole, reduction="batchmean", log_target=True))

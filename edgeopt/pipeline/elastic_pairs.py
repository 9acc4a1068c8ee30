"""Which subnets and plans a predictor learns from: all of them alike, and those a search will pick.

A search takes what the predictor is too hopeful about, so errors matter most where it looks. What
is predicted to be best for its bytes and work is therefore measured as well, in rounds, each with
the predictor of what was measured before (sequential design, as in surrogate optimisation).
"""

from __future__ import annotations

import random

import numpy as np

from edgeopt.core.estimates import Budget, Estimate, Source
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.describe import describe
from edgeopt.ofa.evaluations import Pair
from edgeopt.ofa.explore import explore, pareto
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plan_predictor import PlanPredictor
from edgeopt.ofa.plans import BlockPlan
from edgeopt.ofa.pool import Costs
from edgeopt.pipeline.zoo_build import of_all_sizes
from edgeopt.quant.allocate import stored_bytes


def drawn(space: SearchSpace, count: int, seed: int) -> list[Pair]:
    """Subnets of all sizes under plans of all averages, the ends among them."""
    rng, draws = random.Random(f"{seed}/pairs"), of_all_sizes(space, seed)
    found: dict[Pair, None] = {}
    for config in (space.max_config(), space.min_config()):
        for bits in (8, 4, 2):
            plan = plans.canonical(space, config, plans.uniform(space, bits))
            found[config, plan] = None
    while len(found) < count:
        for config in (next(draws), space.sample(rng)):
            found[config, plans.sample(space, config, rng)] = None
    return list(found)


def promising(
    space: SearchSpace,
    predictor: PlanPredictor,
    count: int,
    seed: int,
    *,
    evaluations: int = 1500,
) -> list[Pair]:
    """Pairs on the predicted front of accuracy, multiply-accumulates and bytes of weights.

    They are spread evenly over the front by accuracy; the same arguments give the same pairs.

    Args:
        space: the space.
        predictor: of what was measured so far.
        count: how many; fewer where the front has fewer.
        seed: of the search.
        evaluations: candidates whose costs are computed.
    """
    domain = PlanDomain(space)

    def cost(candidate: Planned) -> Costs:
        work = float(describe(space, candidate.subnet).macs)
        return Costs(
            latency=Estimate(work, work, work, Source.COMPUTED),
            ram_bytes=0,
            flash_bytes=weight_bytes(space, candidate.subnet, candidate.plan),
        )

    found = explore(
        domain, predictor.predict, cost, Budget(), seed=seed, evaluations=evaluations,
        start=domain.start,
    )  # fmt: skip
    front = sorted(pareto(found), key=lambda c: (c.accuracy, str(c.config)))
    at = np.unique(np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(int))
    return [(front[i].config.subnet, front[i].config.plan) for i in at]


def weight_bytes(space: SearchSpace, config: SubnetConfig, plan: BlockPlan) -> int:
    """Bytes of a subnet's weights, packed; three bits take the room of four."""
    bits = plans.layer_bits(space, config, plan)
    counts = plans.weight_counts(space, config)
    return sum(stored_bytes(count, bits.get(name, 8)) for name, count in counts.items())

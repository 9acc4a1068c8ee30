"""The plan of the subnet that a search chose, once more: from what is measured, not predicted.

Between subnets the predictor decides. Between plans of one subnet its outputs can be compared
directly, without labels, on the images that ship with the supernet. An integer program over single
choices is ahead on average, by little (section `joint_search` of
benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.core.errors import InfeasibleError
from edgeopt.core.estimates import Budget
from edgeopt.ofa.plan_genes import Planned
from edgeopt.ofa.pool import Candidate, slack_of
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.elastic_plans import Divergence, shares, with_genes
from edgeopt.pipeline.planned import Floats, PlanCosts
from edgeopt.quant.allocate import Limit, allocate

if TYPE_CHECKING:
    from edgeopt.ofa.plans import BlockPlan
    from edgeopt.zoo.elastic import ElasticEntry

#: Images that outputs are compared on: on one subnet 128 of those that ship gave the plan that 600
#: training images gave.
_IMAGES = 128
#: Programs solved: each has the room that the one before took too much taken away.
_TRIES = 4
#: What a plan spends: its name as a limit, the field of `Budget`, the column of the screen.
_SPENT = (("latency", "latency_ns", 0), ("flash", "flash_bytes", 2))


def replanned(
    entry: ElasticEntry,
    best: Candidate[Planned],
    costs: PlanCosts,
    predict: Callable[[Sequence[Planned]], Floats],
    budget: Budget,
) -> Candidate[Planned]:
    """The same subnet under the plan of least divergence within the budget.

    What a search found is kept where the budget limits nothing that a plan spends, where no such
    plan meets all of it, or where the whole plan moves the outputs no less.

    Args:
        entry: the elastic supernet.
        best: what the search found.
        costs: of candidates.
        predict: accuracies of candidates (0..1).
        budget: the constraints.
    """
    spent = [(name, field, at) for name, field, at in _SPENT if getattr(budget, field) is not None]
    if not spent or not best.feasible:
        return best
    space, config = entry.space, best.config.subnet
    net = load_elastic(space, entry.weights, entry.quantizers)
    measured = Divergence(net, config, entry.calibration, entry.calibration[:_IMAGES])
    sensitivity = measured.of_genes(costs.domain.bits)
    room = {name: float(getattr(budget, field)) for name, field, _ in spent}

    def by_gene(at: int) -> Callable[[Mapping[int, int]], float]:
        def cost(bits: Mapping[int, int]) -> float:
            candidate = Planned(config, with_genes(space, config, bits))
            return float(costs.screen([costs.domain.encode(candidate)])[0][0, at])

        return cost

    tables = {name: shares(sensitivity, by_gene(at)) for name, _, at in spent}
    for _ in range(_TRIES):
        limits = [Limit(name, table, room[name], fixed) for name, (table, fixed) in tables.items()]
        try:
            chosen = allocate(sensitivity, limits).bits
        except InfeasibleError:
            return best
        plan = with_genes(space, config, {int(name): bits for name, bits in chosen.items()})
        found = _costed(Planned(config, plan), costs, predict, budget)
        if found.feasible:
            return found if _moves_less(measured, plan, best.config.plan) else best
        for slack in found.slack:
            for name, field, _ in spent:
                if slack.name == field and not slack.met:
                    room[name] -= slack.value - slack.limit
    return best


def _moves_less(measured: Divergence, plan: BlockPlan, other: BlockPlan) -> bool:
    return plan != other and measured.of(plan) < measured.of(other)


def _costed(
    candidate: Planned,
    costs: PlanCosts,
    predict: Callable[[Sequence[Planned]], Floats],
    budget: Budget,
) -> Candidate[Planned]:
    price, accuracy = costs(candidate), float(np.asarray(predict([candidate]))[0])
    return Candidate(candidate, accuracy, price, slack_of(accuracy, price, budget))

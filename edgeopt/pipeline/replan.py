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
from edgeopt.ofa.pool import Candidate, Costs, slack_of
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
#: Programs solved: each has the room that the one before left, or took too much, more or less.
_TRIES = 5
#: What a plan spends: its name as a limit, the field of `Budget`, the column of the screen.
_SPENT = (("latency", "latency_ns", 0), ("flash", "flash_bytes", 2))


def replanned(
    entry: ElasticEntry,
    best: Candidate[Planned],
    costs: PlanCosts,
    predict: Callable[[Sequence[Planned]], Floats],
    budget: Budget,
    price: Callable[[Planned], Costs] | None = None,
) -> Candidate[Planned]:
    """The same subnet under the plan of least divergence within the budget.

    What a search found is kept where the budget limits nothing that a plan spends, where no such
    plan meets all of it, or where the whole plan moves the outputs no less.

    Args:
        entry: the elastic supernet.
        best: what the search found.
        costs: of candidates, as the search reckons.
        predict: accuracies of candidates (0..1).
        budget: the constraints.
        price: what a candidate costs in the end, if that is known better than by ``costs``.
    """
    price = costs if price is None else price
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
    kept = _costed(best.config, price, predict, budget)
    seen: set[BlockPlan] = set()
    for _ in range(_TRIES):
        limits = [Limit(name, table, room[name], fixed) for name, (table, fixed) in tables.items()]
        try:
            chosen = allocate(sensitivity, limits).bits
        except InfeasibleError:
            break
        plan = with_genes(space, config, {int(name): bits for name, bits in chosen.items()})
        if plan in seen:
            break
        seen.add(plan)
        found = _costed(Planned(config, plan), price, predict, budget)
        if found.feasible and not (
            kept.feasible and measured.of(kept.config.plan) <= measured.of(plan)
        ):
            kept = found
        for slack in found.slack:
            for name, field, _ in spent:
                if slack.name == field:
                    room[name] += slack.limit - slack.value
    return best if kept.config == best.config else kept


def _costed(
    candidate: Planned,
    price: Callable[[Planned], Costs],
    predict: Callable[[Sequence[Planned]], Floats],
    budget: Budget,
) -> Candidate[Planned]:
    found, accuracy = price(candidate), float(np.asarray(predict([candidate]))[0])
    return Candidate(candidate, accuracy, found, slack_of(accuracy, found, budget))

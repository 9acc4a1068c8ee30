"""The plans of the subnets that a search ranks first, once more: from what is measured.

A search finds where the predictor is too kind: of the best of thousands more is expected than they
have. What it says of a subnet at eight bits holds, and what narrow widths lose can be measured
without labels, as how far they move the outputs on the images that ship with the supernet. So each
of a few subnets also gets the plan that moves them least. How far outputs move is not all of what
accuracy loses, and the predictor's word on the plan counts for a third: the first is the plan of
which most is expected by both (section `plan_choice` of benchmarks/RESULTS.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeopt.core.errors import InfeasibleError
from edgeopt.core.estimates import Budget
from edgeopt.ofa.plan_genes import Planned
from edgeopt.ofa.plans import uniform
from edgeopt.ofa.pool import Candidate, Costs, slack_of
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.elastic_plans import Divergence, shares, with_genes
from edgeopt.pipeline.planned import Floats, PlanCosts
from edgeopt.quant.allocate import Limit, allocate

if TYPE_CHECKING:
    from edgeopt.core.space import SearchSpace
    from edgeopt.ofa.plans import BlockPlan
    from edgeopt.ofa.search import SearchResult
    from edgeopt.pipeline.elastic import ElasticNet
    from edgeopt.zoo.elastic import ElasticEntry

#: Images that outputs are compared on, and that single widths' statistics are measured on: on one
#: subnet 128 of those that ship gave the plan that 600 training images gave, and of twelve subnets
#: on three budgets eleven got the plan that statistics of all 512 give, the other one a better one.
_IMAGES = 128
#: Programs solved: each has the room that the one before left, or took too much, more or less.
_TRIES = 5
#: Subnets that are looked at: the choice of four was 0.17 points behind the best plan of eight,
#: that of eight 0.11. The accuracy that a nat of divergence takes is the slope of
#: benchmarks/plan_choice.py.
SUBNETS, LOSS_A_NAT = 8, 0.15
#: Share of the predictor's word on a plan in what is expected of it: with a quarter to six tenths
#: the choices there were the same, and better than with less or more.
PREDICTED = 1 / 3
#: What a plan spends: its name as a limit, the field of `Budget`, the column of the screen.
_SPENT = (("latency", "latency_ns", 0), ("flash", "flash_bytes", 2))


@dataclass(frozen=True, slots=True)
class Settled:
    """A subnet with a plan, and how far that moves its outputs.

    Attributes:
        candidate: both.
        divergence: of the outputs from those at eight bits, mean in nats.
        fits: whether it meets the budget by what it costs in the end.
    """

    candidate: Candidate[Planned]
    divergence: float
    fits: bool


def settled(
    entry: ElasticEntry,
    result: SearchResult[Planned],
    costs: PlanCosts,
    predict: Callable[[Sequence[Planned]], Floats],
    budget: Budget,
    price: Callable[[Planned], Costs] | None = None,
    count: int = SUBNETS,
) -> Candidate[Planned]:
    """Of the subnets that a search ranks first, each with two plans, what is expected to keep most.

    What a search found is kept where the budget limits nothing that a plan spends.

    Args:
        entry: the elastic supernet.
        result: of the search.
        costs: of candidates, as the search reckons.
        predict: accuracies of candidates (0..1).
        budget: the constraints.
        price: what a candidate costs in the end, if that is known better than by ``costs``.
        count: subnets at most.
    """
    if not result.best.feasible or not _spent(budget):
        return result.best
    net = load_elastic(entry.space, entry.weights, entry.quantizers)

    def both(first: Candidate[Planned]) -> tuple[Settled, Settled]:
        return replanned(entry, net, first, costs, predict, budget, price)

    costs.screen([costs.domain.encode(result.best.config)])  # its tables are made once, here
    with _one_thread_each(), ThreadPoolExecutor(_processors()) as pool:
        found = [one for pair in pool.map(both, firsts(result, count)) for one in pair]
    return max(found, key=lambda one: (one.fits, expected(one, entry.space, predict))).candidate


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Torch's kernels on one thread.

    Those of small networks gain little by more, which wait for each other where processors are
    busy: a search of a minute took six.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def firsts(result: SearchResult[Planned], count: int) -> list[Candidate[Planned]]:
    """The best candidates of different subnets that a search found to meet its budget."""
    ranked = sorted((c for c in result.evaluated if c.feasible), key=lambda c: -c.accuracy)
    best: dict[object, Candidate[Planned]] = {}
    for candidate in (result.best, *ranked):
        best.setdefault(candidate.config.subnet, candidate)
    return list(best.values())[:count]


def expected(
    found: Settled, space: SearchSpace, predict: Callable[[Sequence[Planned]], Floats]
) -> float:
    """Accuracy (0..1): as predicted for the plan, and for eight bits less what the plan moves."""
    candidate = found.candidate.config
    whole = Planned(candidate.subnet, uniform(space, 8))
    plan, eight = np.asarray(predict([candidate, whole]), np.float64)
    return float(PREDICTED * plan + (1 - PREDICTED) * (eight - LOSS_A_NAT * found.divergence))


def _spent(budget: Budget) -> list[tuple[str, str, int]]:
    return [row for row in _SPENT if getattr(budget, row[1]) is not None]


def replanned(
    entry: ElasticEntry,
    net: ElasticNet,
    best: Candidate[Planned],
    costs: PlanCosts,
    predict: Callable[[Sequence[Planned]], Floats],
    budget: Budget,
    price: Callable[[Planned], Costs] | None = None,
) -> tuple[Settled, Settled]:
    """The same as it is, and under the plan of least divergence within the budget.

    They are one where no such plan meets all of the budget, or where its own moves the outputs no
    more.

    Args:
        entry: the elastic supernet.
        net: the same, loaded.
        best: a subnet and its plan.
        costs: of candidates, as the search reckons.
        predict: accuracies of candidates (0..1).
        budget: the constraints; one of them limits what a plan spends.
        price: what a candidate costs in the end, if that is known better than by ``costs``.
    """
    price = costs if price is None else price
    spent = _spent(budget)
    space, config = entry.space, best.config.subnet
    measured = Divergence(net, config, entry.calibration, entry.calibration[:_IMAGES])
    sensitivity = measured.of_genes(costs.domain.bits, _IMAGES)
    room = {name: float(getattr(budget, field)) for name, field, _ in spent}

    def by_gene(at: int) -> Callable[[Mapping[int, int]], float]:
        def cost(bits: Mapping[int, int]) -> float:
            candidate = Planned(config, with_genes(space, config, bits))
            return float(costs.screen([costs.domain.encode(candidate)])[0][0, at])

        return cost

    tables = {name: shares(sensitivity, by_gene(at)) for name, _, at in spent}
    kept = own = _costed(best.config, price, predict, budget)
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
    first = Settled(best, measured.of(best.config.plan), own.feasible)
    if kept.config == best.config:
        return first, first
    return first, Settled(kept, measured.of(kept.config.plan), kept.feasible)


def _costed(
    candidate: Planned,
    price: Callable[[Planned], Costs],
    predict: Callable[[Sequence[Planned]], Floats],
    budget: Budget,
) -> Candidate[Planned]:
    found, accuracy = price(candidate), float(np.asarray(predict([candidate]))[0])
    return Candidate(candidate, accuracy, found, slack_of(accuracy, found, budget))

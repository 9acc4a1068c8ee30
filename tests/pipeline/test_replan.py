"""Plans found again from what outputs do: within the budget, and nearer to eight bits."""

from __future__ import annotations

import pytest

from edgeopt import devices
from edgeopt.core.estimates import Budget
from edgeopt.latency import load_model
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plans import BlockPlan, canonical, uniform
from edgeopt.ofa.pool import Candidate, slack_of
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.elastic_plans import Divergence
from edgeopt.pipeline.mixed import find_entry, predictor_of
from edgeopt.pipeline.planned import PlanCosts, deployable_bits
from edgeopt.pipeline.replan import replanned

ENTRY = find_entry("cifar_mbv3")
PREDICTOR = predictor_of(ENTRY, StageCache(default_cache_dir()).get_or_make)
SUBNET = ENTRY.space.min_config()


def costs_of(board: str) -> PlanCosts:
    profile = devices.load(board)
    domain = PlanDomain(ENTRY.space, deployable_bits(profile.target))
    return PlanCosts(domain, profile, load_model(profile), place=False)


def candidate(plan: BlockPlan, costs: PlanCosts, budget: Budget) -> Candidate[Planned]:
    planned = Planned(SUBNET, canonical(ENTRY.space, SUBNET, plan))
    price, accuracy = costs(planned), float(PREDICTOR.predict([planned])[0])
    return Candidate(planned, accuracy, price, slack_of(accuracy, price, budget))


# The head's last layer is the most sensitive, and takes the least room of the head.
WASTEFUL = BlockPlan((8,) * ENTRY.space.block_count, (8, 2, 2))


@pytest.mark.parametrize("board", ["nucleo-l4r5zi", "rpi4"])
def test_a_wasteful_plan_is_replaced_within_its_own_costs(board: str) -> None:
    costs = costs_of(board)
    first = candidate(WASTEFUL, costs, Budget())
    budget = Budget(
        flash_bytes=first.costs.flash_bytes, latency_ns=int(first.costs.latency.value * 1.05)
    )
    first = candidate(WASTEFUL, costs, budget)
    found = replanned(ENTRY, first, costs, PREDICTOR.predict, budget)
    assert found.feasible and found.config.subnet == SUBNET
    assert found.costs.flash_bytes <= first.costs.flash_bytes
    assert found.config.plan != first.config.plan
    net = load_elastic(ENTRY.space, ENTRY.weights, ENTRY.quantizers)
    images = ENTRY.calibration
    measured = Divergence(net, SUBNET, images, images[128:256])  # others than it was chosen on
    assert measured.of(found.config.plan) < measured.of(first.config.plan)


def test_what_was_found_stays_where_nothing_can_be_better() -> None:
    costs = costs_of("nucleo-l4r5zi")
    free = candidate(WASTEFUL, costs, Budget(ram_bytes=1 << 20))
    kept = replanned(ENTRY, free, costs, PREDICTOR.predict, Budget(ram_bytes=1 << 20))
    assert kept is free  # a plan spends no RAM
    least = candidate(uniform(ENTRY.space, 2), costs, Budget())
    tight = Budget(flash_bytes=least.costs.flash_bytes)
    narrow = candidate(uniform(ENTRY.space, 2), costs, tight)
    assert replanned(ENTRY, narrow, costs, PREDICTOR.predict, tight) is narrow
    none = Budget(flash_bytes=1000)
    missed = candidate(WASTEFUL, costs, none)
    assert replanned(ENTRY, missed, costs, PREDICTOR.predict, none) is missed

"""Plans found again from what outputs do: within the budget, and nearer to eight bits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeopt import devices
from edgeopt.core.estimates import Budget
from edgeopt.core.space import SubnetConfig
from edgeopt.latency import load_model
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plans import BlockPlan, canonical, uniform
from edgeopt.ofa.pool import Candidate, slack_of
from edgeopt.ofa.search import SearchResult
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.elastic_plans import Divergence
from edgeopt.pipeline.mixed import find_entry, predictor_of
from edgeopt.pipeline.planned import PlanCosts, deployable_bits
from edgeopt.pipeline.replan import PREDICTED, Settled, expected, firsts, replanned, settled

ENTRY = find_entry("cifar_mbv3")
PREDICTOR = predictor_of(ENTRY, StageCache(default_cache_dir()).get_or_make)
NET = load_elastic(ENTRY.space, ENTRY.weights, ENTRY.quantizers)
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
    own, one = replanned(ENTRY, NET, first, costs, PREDICTOR.predict, budget)
    found = one.candidate
    assert own.candidate is first and own.fits and one.divergence < own.divergence
    assert one.fits and found.feasible and found.config.subnet == SUBNET
    assert found.costs.flash_bytes <= first.costs.flash_bytes
    assert found.config.plan != first.config.plan
    images = ENTRY.calibration
    measured = Divergence(NET, SUBNET, images, images[128:256])  # others than it was chosen on
    assert measured.of(found.config.plan) < measured.of(first.config.plan)


def result_of(best: Candidate[Planned], *others: Candidate[Planned]) -> SearchResult[Planned]:
    return SearchResult(best, (*others, best), (best,), 0, False)


def test_what_was_found_stays_where_nothing_can_be_better() -> None:
    costs = costs_of("nucleo-l4r5zi")
    free = candidate(WASTEFUL, costs, Budget(ram_bytes=1 << 20))
    args = costs, PREDICTOR.predict
    assert settled(ENTRY, result_of(free), *args, Budget(ram_bytes=1 << 20)) is free  # spends none
    least = candidate(uniform(ENTRY.space, 2), costs, Budget())
    tight = Budget(flash_bytes=least.costs.flash_bytes)
    narrow = candidate(uniform(ENTRY.space, 2), costs, tight)
    assert settled(ENTRY, result_of(narrow), *args, tight) is narrow
    none = Budget(flash_bytes=1000)
    missed = candidate(WASTEFUL, costs, none)
    assert settled(ENTRY, result_of(missed), *args, none) is missed
    own, one = replanned(ENTRY, NET, missed, *args, none)
    assert own is one and not one.fits


def test_of_several_subnets_the_one_that_keeps_most_is_taken() -> None:
    """What a search says of its finds does not decide, but outputs and the predictor."""
    costs = costs_of("nucleo-l4r5zi")
    space = ENTRY.space
    larger = replace(SUBNET, depths=(2, *SUBNET.depths[1:]))
    budget = Budget(flash_bytes=70_000)

    def of(subnet: SubnetConfig, bits: int, accuracy: float) -> Candidate[Planned]:
        planned = Planned(subnet, canonical(space, subnet, uniform(space, bits)))
        price = costs(planned)
        return Candidate(planned, accuracy, price, slack_of(accuracy, price, budget))

    praised, plain = of(SUBNET, 2, 0.99), of(larger, 2, 0.5)
    result = result_of(praised, plain, of(SUBNET, 4, 0.6))
    assert firsts(result, 2) == [praised, plain] and firsts(result, 1) == [praised]
    each = [
        one
        for first in (praised, plain)
        for one in replanned(ENTRY, NET, first, costs, PREDICTOR.predict, budget)
    ]
    values = [expected(one, space, PREDICTOR.predict) for one in each]
    found = settled(ENTRY, result, costs, PREDICTOR.predict, budget, count=2)
    assert found.config == each[values.index(max(values))].candidate.config
    assert found.costs.flash_bytes <= 70_000
    still = Settled(praised, 0.0, True)
    moved = Settled(praised, 0.1, True)
    lost = expected(still, space, PREDICTOR.predict) - expected(moved, space, PREDICTOR.predict)
    assert lost == pytest.approx(0.015 * (1 - PREDICTED))
    two, four = (
        Settled(of(SUBNET, bits, 0.0), 0.0, True) for bits in (2, 4)
    )  # the predictor's word on plans that move nothing
    assert expected(two, space, PREDICTOR.predict) < expected(four, space, PREDICTOR.predict)

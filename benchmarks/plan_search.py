"""What a mixed search finds on tables of costs, and what a plain one finds without them.

    python benchmarks/plan_search.py [--device local] [--flash 168178,283856]

Predicted accuracy (per cent) of the best subnet and plan within a limit of flash, and how many
candidates were costed exactly. No data is needed.
"""

from __future__ import annotations

import argparse

from edgeopt import devices
from edgeopt.core.estimates import Budget
from edgeopt.ofa.plan_genes import PlanDomain
from edgeopt.ofa.plan_search import search_plans
from edgeopt.ofa.search import search
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.local_table import model_for
from edgeopt.pipeline.mixed import check_board, find_entry, predictor_of
from edgeopt.pipeline.planned import PlanCosts

ON_TABLES, WITHOUT = (600, 1200), 2500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="nucleo-l4r5zi")
    parser.add_argument("--flash", default="100000,150000", help="limits in bytes")
    given = parser.parse_args()
    entry = find_entry("cifar_mbv3")
    predict = predictor_of(entry, StageCache(default_cache_dir()).get_or_make).predict
    profile = devices.load(given.device)
    domain = PlanDomain(entry.space, check_board(profile))
    model = model_for(profile, space=entry.space, packed=True)
    price = PlanCosts(domain, profile, model, place=False)
    for flash_bytes in map(int, given.flash.split(",")):
        budget = Budget(flash_bytes=flash_bytes)
        for count in ON_TABLES:
            found = search_plans(domain, predict, price, budget, price.screen, evaluations=count)
            print(given.device, flash_bytes, "tables", count, f"{100 * found.best.accuracy:.3f}")
        plain = search(domain, predict, price, budget, evaluations=WITHOUT, start=domain.start)
        accuracy = 100 * plain.best.accuracy
        print(given.device, flash_bytes, "without tables", WITHOUT, f"{accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()

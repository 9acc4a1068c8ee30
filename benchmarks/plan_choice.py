"""Which of the subnets that a search ranks first to take: what is expected of them, and what holds.

    EDGEOPT_DATA=... python benchmarks/plan_choice.py [--flash local:104000,nucleo-l4r5zi:75000]

For each budget of flash the subnets that a search for mixed precision ranks first, with the plan
that the predictor was kindest to and with the plan that moves the outputs least (one line where
they are the same). Exact are integers on all test images. The slope is what a nat of divergence
takes from what the predictor says of the subnet at eight bits (`replan.LOSS_A_NAT`). At the end,
how far each way of choosing stays behind the best of a budget's plans, on average; among them
other shares of the predictor's word on the plan (`replan.PREDICTED`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from mixed_precision import Exact

from edgeopt import devices
from edgeopt.core.estimates import Budget
from edgeopt.ofa.data import load_images
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plan_search import search_plans
from edgeopt.ofa.plans import uniform
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.local_table import model_for
from edgeopt.pipeline.mixed import EVALUATIONS, check_board, find_entry, in_integers, predictor_of
from edgeopt.pipeline.planned import PlanCosts
from edgeopt.pipeline.replan import LOSS_A_NAT, SUBNETS, expected, firsts, replanned

#: Subnets of each search that are compared with all that edgeopt looks at.
FEWER = SUBNETS // 2
FLASH = "nucleo-l4r5zi:76000,local:77000,local:104000,local:191000"
#: Shares of the predictor's word on a plan that are compared.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOPT_DATA"))
    parser.add_argument("--supernet", default="cifar_mbv3")
    parser.add_argument("--flash", default=FLASH, help="device:bytes, several with commas")
    parser.add_argument("--kept", type=Path, help="file of exact counts, to go on with")
    options = parser.parse_args()
    if options.data is None:
        parser.error("set EDGEOPT_DATA, or give --data")
    torch.set_num_threads(1)
    entry = find_entry(options.supernet)
    store = StageCache(default_cache_dir())
    predict, how = in_integers(entry, predictor_of(entry, store.get_or_make))
    space = entry.space
    net = load_elastic(space, entry.weights, entry.quantizers)
    archive = Path(options.data) / "cifar10" / "cifar10_jpeg.npz"
    test = load_images(archive, "test", max(entry.space.resolutions))
    folder = tempfile.TemporaryDirectory()
    exact = Exact(entry, net, test, options.kept or Path(folder.name) / "kept.json")
    print(f"accuracy: {how}")
    losses, moved = [], []
    behind: dict[str, list[float]] = {
        "predicted best": [], "moved least": [], f"expected best of {FEWER}": [],
        f"expected best of {SUBNETS}": [],
        **{f"share of {share:.2f}, best of {FEWER}": [] for share in SHARES},
    }  # fmt: skip
    for name, _, most in (item.partition(":") for item in options.flash.split(",")):
        profile = devices.load(name).compacted()
        domain = PlanDomain(entry.space, check_board(profile))
        model = model_for(profile, space=entry.space, packed=True)
        price = PlanCosts(domain, profile, model, place=False)
        budget = Budget(flash_bytes=int(most))
        result = search_plans(domain, predict, price, budget, price.screen, evaluations=EVALUATIONS)
        print(f"{name}, {int(most):,} bytes")
        print(f"  {'predicted':>9} {'at w8':>6} {'nats':>7} {'expected':>8} {'exact':>6}")
        rows: list[tuple[float, float]] = []  # what is expected, and what holds
        words: list[tuple[float, float]] = []  # of the predictor on a plan, and of divergence
        few = 0
        searched, own = [], []
        for number, first in enumerate(firsts(result, SUBNETS)):
            both = replanned(
                entry, net, first, price, predict, budget, lambda c, p=price: p.linked(c, store)
            )
            for one in both[:1] if both[0] is both[1] else both:
                config = one.candidate.config
                known = exact(config)
                plan, eight = 100 * predict([config, Planned(config.subnet, uniform(space, 8))])
                hoped = 100 * expected(one, space, predict)
                rows.append((hoped, known))
                words.append((plan, eight - 100 * LOSS_A_NAT * one.divergence))
                moved.append(one.divergence)
                losses.append(eight - known)
                print(f"  {plan:9.2f} {eight:6.2f} {one.divergence:7.4f} {hoped:8.2f} {known:6.2f}"
                      f"  {config}", flush=True)  # fmt: skip
            searched.append(exact(both[0].candidate.config))
            own.append(exact(both[1].candidate.config))
            few = len(rows) if number < FEWER else few
        best = max(known for _, known in rows)
        by_share = [
            max((share * word + (1 - share) * kept, known)
                for (word, kept), (_, known) in zip(words[:few], rows, strict=False))[1]
            for share in SHARES
        ]  # fmt: skip
        ways = searched[0], own[0], max(rows[:few])[1], max(rows)[1], *by_share
        for way, value in zip(behind, ways, strict=True):
            behind[way].append(best - value)
    slope = float(np.dot(moved, losses) / np.dot(moved, moved))
    print(f"a nat of divergence takes {slope:.1f} points (edgeopt takes {100 * LOSS_A_NAT:.0f})")
    for way, gaps in behind.items():
        print(f"{way:<26} {statistics.fmean(gaps):.2f} points behind the best of its budget")


if __name__ == "__main__":
    main()

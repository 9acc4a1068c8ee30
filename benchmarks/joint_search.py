"""Architecture and precision chosen together, against one after the other; and plans by ILP.

First: evolution on accuracy (predicted), latency and flash over subnets and plans at once, against
the same evolution that spends half of its evaluations on subnets in int8 and the other half on
plans of the best of these. What counts is the hypervolume of what was found, over five seeds.

Both have the same screen of costs (`edgeopt.ofa.evolve`).

Second: the plan of a fixed subnet under a limit of flash. An integer program over measured
divergences from eight bits (each block's width alone; proven optimal for their sum), an evolution
that measures as many plans, and the search by the predictor, which measures none (it was fitted to
what other subnets scored on the test images). Every plan found is then measured on test images.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from edgeopt import devices
from edgeopt.core.errors import InfeasibleError
from edgeopt.core.estimates import Budget
from edgeopt.core.space import SubnetConfig
from edgeopt.ofa.data import ImageSet, load_images, normalize
from edgeopt.ofa.evaluate import count_right, fold_batch_norm
from edgeopt.ofa.explore import explore, pareto
from edgeopt.ofa.nsga import hypervolume
from edgeopt.ofa.plan_genes import OneWidth, PlanDomain, Planned, PlansOf
from edgeopt.ofa.plan_predictor import PlanPredictor
from edgeopt.ofa.plan_search import screen_of
from edgeopt.ofa.plans import HEAD_LAYERS, BlockPlan, canonical, uniform
from edgeopt.ofa.pool import Candidate, Costs
from edgeopt.ofa.search import search
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.elastic_plans import shares, with_genes
from edgeopt.pipeline.local_table import model_for
from edgeopt.pipeline.mixed import check_board, find_entry, predictor_of
from edgeopt.pipeline.planned import PlanCosts
from edgeopt.zoo.elastic import ElasticEntry

Found = Sequence[Candidate[Planned]]
#: Subnets whose plans the second half of the two steps searches.
HEADS = 12


@dataclass
class Board:
    """A device, and what candidates take there."""

    name: str
    domain: PlanDomain
    price: PlanCosts
    known: dict[Planned, Costs] = field(default_factory=dict)

    def cost(self, candidate: Planned) -> Costs:
        found = self.known.get(candidate)
        if found is None:
            found = self.known[candidate] = self.price(candidate)
        return found


def board_of(name: str, entry: ElasticEntry) -> Board:
    profile = devices.load(name)
    domain = PlanDomain(entry.space, check_board(profile))
    return Board(
        name, domain,
        PlanCosts(domain, profile, model_for(profile, space=entry.space, packed=True), place=False),
    )  # fmt: skip


def together(board: Board, predictor: PlanPredictor, count: int, seed: int) -> Found:
    return explore(
        board.domain, predictor.predict, board.cost, Budget(), seed=seed, evaluations=count,
        start=board.domain.start, screen=board.price.screen,
    )  # fmt: skip


def one_after_the_other(board: Board, predictor: PlanPredictor, count: int, seed: int) -> Found:
    ints = OneWidth(board.domain, 8)
    first = explore(
        ints, predictor.predict, board.cost, Budget(), seed=seed, evaluations=count // 2,
        screen=screen_of(board.domain, ints, board.price.screen),
    )  # fmt: skip
    best = pareto(first)
    at = np.unique(np.linspace(0, len(best) - 1, min(HEADS, len(best))).round().astype(int))
    plans = PlansOf(board.domain, [best[i].config.subnet for i in at])
    second = explore(
        plans, predictor.predict, board.cost, Budget(), seed=seed, evaluations=count - count // 2,
        start=plans.start, screen=screen_of(board.domain, plans, board.price.screen),
    )  # fmt: skip
    return [*first, *second]


def table_of(found: Found) -> np.ndarray:
    return np.array([(-c.accuracy, c.costs.latency.value, c.costs.flash_bytes) for c in found])


def fronts(board: Board, predictor: PlanPredictor, count: int, seeds: int) -> None:
    methods: dict[str, Callable[[Board, PlanPredictor, int, int], Found]] = {
        "together": together, "subnet first, then plan": one_after_the_other,
    }  # fmt: skip
    kept = {
        name: [table_of(pareto(run(board, predictor, count, seed))) for seed in range(seeds)]
        for name, run in methods.items()
    }
    every = np.concatenate([front for runs in kept.values() for front in runs])
    best, worst = every.min(0), every.max(0)
    widths = ", ".join(str(b) for b in board.domain.bits)
    print(f"{board.name}: {count} evaluations each, weights of {widths} bits; hypervolume with the "
          "box of all fronts as unit, reference 1.1")  # fmt: skip
    volumes = {
        name: [hypervolume((f - best) / (worst - best), np.full(3, 1.1)) for f in runs]
        for name, runs in kept.items()
    }
    for name, values in volumes.items():
        sizes = statistics.fmean(len(f) for f in kept[name])
        print(f"  {name:<24} {statistics.fmean(values):.4f} (" +
              ", ".join(f"{v:.4f}" for v in values) + f"), {sizes:.0f} points")  # fmt: skip
    a, b = volumes.values()
    wins = sum(x > y for x, y in zip(a, b, strict=True))
    ratio = statistics.fmean(a) / statistics.fmean(b)
    print(f"  together / one after the other: {ratio:.3f}, higher in {wins} of {seeds} seeds "
          "(goal: higher)")  # fmt: skip
    print()


# -- plans of one subnet -------------------------------------------------------------------------


@dataclass
class Measured:
    """Divergence from eight bits on held images, each plan once; counts what it measured."""

    net: ElasticNet
    config: SubnetConfig
    calibration: torch.Tensor
    x: torch.Tensor
    known: dict[BlockPlan, float] = field(default_factory=dict)

    def outputs(self, plan: BlockPlan) -> torch.Tensor:
        static = fold_batch_norm(self.net.prepare(self.config, plan, self.calibration).net)
        with torch.inference_mode():
            return static(self.x).log_softmax(1)

    @cached_property
    def whole(self) -> torch.Tensor:
        return self.outputs(with_genes(self.net.net.space, self.config, {}))

    def loss(self, plan: BlockPlan) -> float:
        plan = canonical(self.net.net.space, self.config, plan)
        if plan not in self.known:
            now = self.outputs(plan)
            moved = F.kl_div(now, self.whole, reduction="batchmean", log_target=True)
            self.known[plan] = float(moved)
        return self.known[plan]


def by_program(measured: Measured, board: Board, most: int) -> BlockPlan:
    """HAWQ's way: losses of single choices added up, the least sum under the limit."""
    from edgeopt.quant.allocate import Limit, allocate

    space, config = board.domain.space, measured.config
    genes = (*space.active(config), *range(space.block_count, space.block_count + len(HEAD_LAYERS)))
    loss = {
        str(gene): {
            b: measured.loss(with_genes(space, config, {gene: b})) for b in board.domain.bits
        }
        for gene in genes
    }

    def flash(bits: Mapping[int, int]) -> float:
        return float(board.cost(Planned(config, with_genes(space, config, bits))).flash_bytes)

    costs, fixed = shares(loss, flash)
    limit = Limit("flash", costs, float(most), fixed)
    found = allocate(loss, [limit]).bits
    return with_genes(space, config, {int(name): bits for name, bits in found.items()})


def by_evolution(
    measured: Measured, board: Board, most: int, count: int, seed: int
) -> BlockPlan:  # fmt: skip
    """As many plans measured: the best under the limit."""
    domain = PlansOf(board.domain, [measured.config])
    rng = random.Random(seed)
    start = domain.start(400, np.random.default_rng(seed))
    plans = list(dict.fromkeys(domain.decode(g).plan for g in start))
    fits = [p for p in plans if board.cost(Planned(measured.config, p)).flash_bytes <= most]
    # Those that use the room are worth measuring.
    fits.sort(key=lambda p: -board.cost(Planned(measured.config, p)).flash_bytes)
    budget = len(measured.known) + count
    pool = {p: measured.loss(p) for p in fits[: max(2, count // 3)]}
    tries = 0
    while len(measured.known) < budget and tries < 3000:
        tries += 1
        parents = sorted(pool, key=lambda p: pool[p])[:4]
        a, b = rng.choice(parents), rng.choice(parents)
        genes = [x if rng.random() < 0.5 else y for x, y in zip(a.genes, b.genes, strict=True)]
        for at in range(len(genes)):
            if rng.random() < 1.5 / len(genes):
                genes[at] = rng.choice(board.domain.bits)
        blocks = len(a.blocks)
        child = canonical(
            board.domain.space, measured.config,
            BlockPlan(tuple(genes[:blocks]), tuple(genes[blocks:])),
        )  # fmt: skip
        cost = board.cost(Planned(measured.config, child)).flash_bytes
        if child not in pool and cost <= most:
            pool[child] = measured.loss(child)
    return min(pool, key=lambda p: pool[p])


def by_predictor(
    predictor: PlanPredictor, board: Board, config: SubnetConfig, most: int
) -> BlockPlan:  # fmt: skip
    domain = PlansOf(board.domain, [config])
    result = search(
        domain, predictor.predict, board.cost, Budget(flash_bytes=most), evaluations=500,
        start=domain.start, screen=screen_of(board.domain, domain, board.price.screen),
    )  # fmt: skip
    return result.best.config.plan


def plans(
    board: Board,
    entry: ElasticEntry,
    predictor: PlanPredictor,
    subnets: Sequence[SubnetConfig],
    shares: Sequence[float],
    held: ImageSet,
    test: ImageSet,
) -> None:
    net = load_elastic(entry.space, entry.weights, entry.quantizers)
    calibration = normalize(entry.calibration, entry.space)
    x = normalize(held.images, entry.space)
    images = normalize(test.images, entry.space)
    print(f"plans of fixed subnets on {board.name}: accuracy on {len(test)} test images; "
          f"divergences from int8 measured on {len(held)} training images")  # fmt: skip
    wins: dict[str, float] = {"integer program": 0, "evolution": 0, "predictor": 0}
    gains: dict[str, list[float]] = {name: [] for name in wins}
    for config in subnets:
        whole = board.cost(Planned(config, uniform(entry.space, 8))).flash_bytes
        for share in shares:
            most = int(whole * share)
            program = Measured(net, config, calibration, x)
            try:
                found = {"integer program": by_program(program, board, most)}
            except InfeasibleError:
                print(f"  {config}, flash {most:,} = {share:.2f} of int8: no plan is that small")
                continue
            count = len(program.known)
            own = Measured(net, config, calibration, x)
            found["evolution"] = by_evolution(own, board, most, count, 0)
            found["predictor"] = by_predictor(predictor, board, config, most)
            print(f"  {config}, flash {most:,} = {share:.2f} of int8, {count} plans measured")
            right = {}
            for name, plan in found.items():
                static = fold_batch_norm(net.prepare(config, plan, calibration).net)
                right[name] = count_right(static, images, test.labels) / len(test)
                flash = board.cost(Planned(config, plan)).flash_bytes
                print(f"    {name:<16} {100 * right[name]:.2f} %  {plan}  {flash:,} bytes")
            best = max(right.values())
            for name, value in right.items():
                gains[name].append(100 * (value - right["integer program"]))
                wins[name] += value == best
    for name in wins if gains["predictor"] else ():
        mean = statistics.fmean(gains[name])
        print(f"  {name:<16} best in {wins[name]:.0f} of {len(gains[name])}, "
              f"mean difference to the integer program {mean:+.2f} points")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOPT_DATA"))
    parser.add_argument("--supernet", default="cifar_mbv3")
    parser.add_argument("--devices", default="nucleo-l4r5zi,local")
    parser.add_argument("--evaluations", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--subnets", type=int, default=2, help="whose plans are searched")
    parser.add_argument("--held", type=int, default=500)
    parser.add_argument("--test", type=int, default=5000)
    options = parser.parse_args()
    if options.data is None:
        parser.error("set EDGEOPT_DATA, or give --data")
    torch.set_num_threads(1)
    entry = find_entry(options.supernet)
    predictor = predictor_of(entry, StageCache(default_cache_dir()).get_or_make)
    low, high = (100 * end for end in predictor.interval)
    print(f"accuracy: {predictor.how}, 90 % interval {low:+.2f} to {high:+.2f} points")
    print()
    boards = [board_of(name, entry) for name in options.devices.split(",")]
    for board in boards:
        fronts(board, predictor, options.evaluations, options.seeds)
    if options.subnets:
        data, size = (
            Path(options.data) / "cifar10" / "cifar10_jpeg.npz",
            max(entry.space.resolutions),
        )
        rng = random.Random(4)
        subnets = [entry.space.sample(rng) for _ in range(options.subnets)]
        plans(
            boards[0], entry, predictor, subnets, (0.45, 0.6),
            load_images(data, "train", size).head(options.held),
            load_images(data, "test", size).head(options.test),
        )  # fmt: skip


if __name__ == "__main__":
    main()

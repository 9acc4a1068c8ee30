"""Mixed precision against int8 at equal accuracy, and against uniform 4 bits at equal flash.

    python benchmarks/mixed_precision.py [--devices nucleo-l4r5zi,local] [--references 0.15,0.4,0.7]

All three are searched: the best subnets in int8, in 4 bits, and subnets and plans together, as
`edgeopt compile --precision mixed` does. What is searched by prediction is then measured:
accuracies are those of integer networks on all test images, computed exactly as on the board;
flash is packed constants and code as linked for the board, and a search whose network came out
larger than asked is repeated with less. For a microcontroller code is the one constant that
searches reckon with, since its kernels are the same functions in all networks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgeopt import devices
from edgeopt.codegen import cost
from edgeopt.core.errors import InfeasibleError
from edgeopt.core.estimates import Budget
from edgeopt.core.files import write_atomic
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.data import ImageSet, load_images
from edgeopt.ofa.nsga import Floats
from edgeopt.ofa.plan_genes import OneWidth, PlanDomain, Planned
from edgeopt.ofa.plan_predictor import PlanPredictor
from edgeopt.ofa.plan_search import screen_of, search_plans
from edgeopt.ofa.plans import average_bits, uniform
from edgeopt.ofa.pool import Candidate
from edgeopt.ofa.search import search
from edgeopt.pipeline import overruns
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_evaluate import count_exactly
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.local_table import model_for
from edgeopt.pipeline.mixed import check_board, find_entry, in_integers, predictor_of
from edgeopt.pipeline.planned import PlanCosts, describe_planned
from edgeopt.pipeline.replan import settled
from edgeopt.pipeline.tiles import choices_of
from edgeopt.zoo.elastic import ElasticEntry

#: Flash of mixed networks, as shares of the int8 network's.
SHARES = (0.45, 0.5, 0.55, 0.6)
#: Points of accuracy within which two networks count as equal.
EQUAL = 0.3


@dataclass
class Exact:
    """Accuracies by exact integer simulation, kept in a file."""

    entry: ElasticEntry
    net: ElasticNet
    test: ImageSet
    kept: Path

    def __call__(self, candidate: Planned) -> float:
        known = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        name = f"{self.entry.digest[:12]} {len(self.test)} {candidate}"
        if name not in known:
            known[name] = count_exactly(
                self.net, candidate.subnet, candidate.plan, self.entry.calibration, self.test
            )
            write_atomic(self.kept, json.dumps(known, indent=0).encode())
        return 100 * known[name] / len(self.test)


class Flash:
    """Packed constants and code of candidates, as linked for a device."""

    def __init__(self, price: PlanCosts) -> None:
        self.price = price
        self.store = StageCache(default_cache_dir())

    def __call__(self, candidate: Planned) -> tuple[int, int]:
        """Bytes of flash, and how many of them are code."""
        flash_bytes = self.price.linked(candidate, self.store).flash_bytes
        network = describe_planned(self.price.domain.space, candidate)
        known = cost.evaluate(
            network, "i8", self.price.profile.target, choices_of(self.price.profile), place=False
        )
        return flash_bytes, flash_bytes - known.weight_bytes


Found = Candidate[Planned]


def within(most: int, search: Callable[[int], Found], flash: Flash) -> Found:
    """What a search finds that is linked to at most so many bytes."""
    wanted = most
    while True:
        found = search(wanted)
        took, _ = flash(found.config)
        if took <= most:
            return found
        excess = overruns.Excess("flash_bytes", most, took)
        asked = Budget(flash_bytes=most)
        known = {"flash_bytes": found.costs.flash_bytes}
        less = overruns.tightened(
            Budget(flash_bytes=wanted), [excess], asked, estimated=known
        ).flash_bytes
        assert less is not None
        wanted = less


def shown(space: SearchSpace, found: Found, flash: Flash, accuracy: float) -> str:
    bits = average_bits(space, found.config.subnet, found.config.plan)
    flash_bytes, code_bytes = flash(found.config)
    return (
        f"{accuracy:.2f} % (predicted {100 * found.accuracy:.2f}), flash "
        f"{flash_bytes:,} bytes ({code_bytes:,} of code), {found.costs.latency.value / 1e6:.3g} "
        f"ms, {bits:.2f} bits a weight: {found.config}"
    )


def compare(
    name: str,
    entry: ElasticEntry,
    predictor: PlanPredictor,
    exact: Exact,
    references: Sequence[float],
    evaluations: int,
) -> None:
    space, profile = entry.space, devices.load(name).compacted()  # as with --flash
    domain = PlanDomain(space, check_board(profile))
    predict, _ = in_integers(entry, predictor)
    price = PlanCosts(domain, profile, model_for(profile, space=space, packed=True), place=False)
    flash = Flash(price)

    def best(most: int) -> Found:
        budget = Budget(flash_bytes=most)
        result = search_plans(domain, predict, price, budget, price.screen, evaluations=evaluations)
        return settled(
            entry, result, price, predict, budget, lambda c: price.linked(c, flash.store)
        )

    def best_uniform(bits: int, most: int) -> Found:
        part = OneWidth(domain, bits)
        return search(
            part, predict, price, Budget(flash_bytes=most), evaluations=evaluations,
            screen=screen_of(domain, part, price.screen),
        ).best  # fmt: skip

    def best_if_free(most: int) -> float:
        """Predicted accuracy if two bits kept what eight have: no plan can do better."""

        def unharmed(candidates: Sequence[Planned]) -> Floats:
            top = uniform(space, 8)
            return predict([Planned(c.subnet, top) for c in candidates])

        return search(
            OneWidth(domain, min(domain.bits)), unharmed, price, Budget(flash_bytes=most),
            evaluations=evaluations,
        ).best.accuracy  # fmt: skip

    ends = [price(Planned(c, uniform(space, 8))).flash_bytes
            for c in (space.min_config(), space.max_config())]  # fmt: skip
    print(f"{name}: mixed against int8 at equal accuracy")
    ratios, gains = [], []
    for place in references:
        reference = best_uniform(8, int(ends[0] + place * (ends[1] - ends[0])))
        truth = exact(reference.config)
        print(f"  int8   {shown(space, reference, flash, truth)}", flush=True)
        int8_bytes, _ = flash(reference.config)
        equal = []
        for share in SHARES:
            try:
                found = within(int(share * int8_bytes), best, flash)
            except InfeasibleError:
                print(f"  {share:.2f}x  nothing is that small", flush=True)
                continue
            accuracy = exact(found.config)
            ratio = flash(found.config)[0] / int8_bytes
            slower = found.costs.latency.value / reference.costs.latency.value
            print(f"  {ratio:.2f}x  {accuracy - truth:+.2f} points, {slower:.2f}x the latency: "
                  f"{shown(space, found, flash, accuracy)}", flush=True)  # fmt: skip
            if accuracy >= truth - EQUAL:
                equal.append(ratio)
        ratios.append(min(equal, default=float("nan")))
    print(f"  flash at equal accuracy (within {EQUAL} points, or better): "
          + ", ".join(f"{r:.2f}x" if np.isfinite(r) else f"more than {SHARES[-1]}x" for r in ratios)
          + " (goal 0.6x)")  # fmt: skip
    print(f"{name}: mixed against uniform 4 bits at equal flash")
    if 4 not in domain.bits:
        print("  the board has no kernels for 4 bits")
        return
    ends = [price(Planned(c, uniform(space, 4))).flash_bytes
            for c in (space.min_config(), space.max_config())]  # fmt: skip
    for place in references:
        reference = best_uniform(4, int(ends[0] + place * (ends[1] - ends[0])))
        truth = exact(reference.config)
        found = within(flash(reference.config)[0], best, flash)
        accuracy = exact(found.config)
        gains.append(accuracy - truth)
        print(f"  w4     {shown(space, reference, flash, truth)}")
        print(f"  mixed  {accuracy - truth:+.2f} points: {shown(space, found, flash, accuracy)}")
        free = 100 * (best_if_free(reference.costs.flash_bytes) - reference.accuracy)
        print(f"  limit  {free:+.2f} points predicted, if 2 bits everywhere lost nothing against 8")
    print(f"  gain at equal flash: mean {statistics.fmean(gains):+.2f} points, "
          + ", ".join(f"{g:+.2f}" for g in gains) + " (goal +1)")  # fmt: skip
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOPT_DATA"))
    parser.add_argument("--supernet", default="cifar_mbv3")
    parser.add_argument("--devices", default="nucleo-l4r5zi,local")
    parser.add_argument(
        "--references", default="0.15,0.4,0.7",
        help="flash of the references: 0 is the smallest subnet's, 1 the largest's",
    )  # fmt: skip
    parser.add_argument(
        "--evaluations", type=int, default=600, help="costed exactly, for each search"
    )
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--kept", type=Path, default=Path(".cache/mixed_precision.json"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("set EDGEOPT_DATA, or give --data")
    torch.set_num_threads(1)
    entry = find_entry(options.supernet)
    predictor = predictor_of(entry, StageCache(default_cache_dir()).get_or_make)
    archive = Path(options.data) / "cifar10" / "cifar10_jpeg.npz"
    test = load_images(archive, "test", max(entry.space.resolutions)).head(options.test)
    options.kept.parent.mkdir(parents=True, exist_ok=True)
    net = load_elastic(entry.space, entry.weights, entry.quantizers)
    exact = Exact(entry, net, test, options.kept)
    low, high = (100 * end for end in predictor.interval)
    print(f"accuracies: exact integer networks on {len(test)} test images")
    _, how = in_integers(entry, predictor)
    print(f"search: {how}; 90 % interval {low:+.2f} to {high:+.2f} points")
    print()
    places = [float(text) for text in options.references.split(",")]
    for name in options.devices.split(","):
        compare(name, entry, predictor, exact, places, options.evaluations)


if __name__ == "__main__":
    main()

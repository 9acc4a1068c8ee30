"""Code of compiled kernels by class, and of whole networks beside what a search estimates.

    python benchmarks/code_sizes.py [--space cifar] [--devices x86-64-v3,rpi4] [--subnets 16]

``mean`` is a class's mean in bytes, each kernel compiled alone; it is what `cost.CODE_BYTES` states
times ``share``: in one object kernels share read-only data, so a network has less than their sum.
Subnets are random, and so are the bits of their layers in the third precision. The last table is
what is then estimated for the networks, against what they were linked to.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections import defaultdict

from edgeopt import devices
from edgeopt.codegen import ckernels, cost
from edgeopt.codegen.objects import object_size
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plans import sample, uniform
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.kernel_store import Job, compiled, joined
from edgeopt.pipeline.planned import deployable_bits, describe_planned

PRECISIONS = ("f32", "i8", "mixed")
HEADER = f"{'class':20} {'kernels':>7} {'mean':>7} {'stated':>7}"


def networks(
    space_name: str, target: TargetSpec, count: int
) -> list[tuple[str, tuple[OpKey, ...], int]]:
    """Precision, kernels and estimated code of random networks."""
    space, rng = load_space(space_name), random.Random(5)
    widths = PlanDomain(space, deployable_bits(target)).bits
    found = []
    for number in range(count):
        subnet = (space.min_config(), space.max_config(), *[space.sample(rng)])[min(number, 2)]
        for precision in PRECISIONS:
            plan = sample(space, subnet, rng, widths) if precision == "mixed" else uniform(space, 8)
            network = describe_planned(space, Planned(subnet, plan))
            kind = "f32" if precision == "f32" else "i8"
            known = cost.evaluate(network, kind, target, place=False)
            found.append((precision, known.keys, known.code_bytes_estimate))
    return found


def report(name: str, space: str, count: int, store: StageCache) -> None:
    """One device's tables."""
    target = devices.load(name).target
    if ckernels.applies(target):
        raise SystemExit(f"{name} compiles C: kernels of one class are one function there")
    some = networks(space, target, count)
    objects, _ = compiled(
        [Job(key) for key in dict.fromkeys(key for _, keys, _ in some for key in keys)],
        target, store,
    )  # fmt: skip
    sizes = {job.key: object_size(data).code_bytes for job, data in objects.items()}
    classes: dict[str, list[OpKey]] = defaultdict(list)
    for key in sizes:
        classes[f"{key.precision} {cost.code_class(key)}"].append(key)
    shares = defaultdict(list)
    errors = defaultdict(list)
    for precision, keys, estimate in some:
        distinct = [Job(key) for key in dict.fromkeys(keys)]
        linked = object_size(joined(distinct, objects)).code_bytes
        shares[precision].append(linked / sum(sizes[job.key] for job in distinct))
        errors[precision].append(estimate / linked)
    print(f"{name}: {len(sizes)} kernels of {count} subnets\n{HEADER}")
    for label, keys in sorted(classes.items()):
        mean = statistics.fmean(sizes[key] for key in keys)
        stated = cost.code_bytes(keys[0], target)
        print(f"{label:20} {len(keys):7} {mean:7.0f} {stated:7}")
    print(f"{'precision':20} {'share':>7} {'estimated / linked':>22}")
    for precision in PRECISIONS:
        ratios = errors[precision]
        share, mean = statistics.fmean(shares[precision]), statistics.fmean(ratios)
        print(f"{precision:20} {share:7.2f} {mean:8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(flush=True)


def main() -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="cifar")
    parser.add_argument("--devices", default="x86-64-v3,rpi4")
    parser.add_argument("--subnets", type=int, default=16, help="the first two are the ends")
    args = parser.parse_args()
    store = StageCache(default_cache_dir())
    for name in args.devices.split(","):
        report(name, args.space, args.subnets, store)


if __name__ == "__main__":
    main()

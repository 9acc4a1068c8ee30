"""Code of compiled kernels by class, and of whole networks beside what a search estimates.

    python benchmarks/code_sizes.py [--space cifar] [--devices local,local+compact] [--subnets 16]

``mean`` is a class's mean in bytes of text, which `cost.CODE_BYTES` states; functions that kernels
share are classes of their own. ``beside`` is what a network has besides: constants, each once.
Subnets are random, and so are the bits of their layers in the third precision. After it comes what
is estimated for the networks, against what they were linked to, and the layers of `kernel_shapes`,
which state the classes that subnets have none of. x86-64-v3 is this machine without AVX-512;
``local+compact`` has the kernels that `compile --flash` takes. Microcontrollers have C: sections
of a library, which `ckernels.sizes` states, and kernels that call them.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import kernel_shapes
from machine import without_avx512

from edgeopt import devices
from edgeopt.codegen import ckernels, cost, firmware, schedules
from edgeopt.codegen.ckernels import SECTIONS, section
from edgeopt.codegen.ckernels import sizes as sizes_of_c
from edgeopt.codegen.objects import function_sizes, object_size
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plans import sample, uniform
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.kernel_store import Job, compiled, joined
from edgeopt.pipeline.planned import deployable_bits, describe_planned

#: Of a kernel in C that has a window.
WINDOW_BYTES = 60
PRECISIONS = ("f32", "i8", "mixed")
HEADER = f"{'class':20} {'functions':>9} {'mean':>7} {'stated':>7}"


def networks(
    space_name: str, target: TargetSpec, count: int, precisions: Sequence[str] = PRECISIONS
) -> list[tuple[str, tuple[OpKey, ...], int]]:
    """Precision, kernels and estimated code of random networks."""
    space, rng = load_space(space_name), random.Random(5)
    widths = PlanDomain(space, deployable_bits(target)).bits
    found = []
    for number in range(count):
        subnet = (space.min_config(), space.max_config(), *[space.sample(rng)])[min(number, 2)]
        for precision in precisions:
            plan = sample(space, subnet, rng, widths) if precision == "mixed" else uniform(space, 8)
            network = describe_planned(space, Planned(subnet, plan))
            kind = "f32" if precision == "f32" else "i8"
            known = cost.evaluate(network, kind, target, place=False)
            found.append((precision, known.keys, known.code_bytes_estimate))
    return found


def target_of(name: str) -> TargetSpec:
    """The processor of a device, or of this machine without AVX-512; compact after a plus."""
    device, _, compact = name.partition("+")
    profile = devices.load("local" if device == "x86-64-v3" else device).compacted(bool(compact))
    return without_avx512(profile.target) if device == "x86-64-v3" else profile.target


def report(name: str, space: str, count: int, store: StageCache) -> None:
    """One device's tables."""
    target = target_of(name)
    if ckernels.applies(target):
        report_c(name, space, count)
        return
    some = networks(space, target, count)
    jobs = [Job(key) for key in dict.fromkeys(key for _, keys, _ in some for key in keys)]
    objects, _ = compiled(jobs, target, store)
    print(f"{name}: {len(jobs)} kernels of {count} subnets")
    by_class(jobs, objects, target)
    beside, errors = defaultdict(list), defaultdict(list)
    for precision, keys, estimate in some:
        distinct = [Job(key) for key in dict.fromkeys(keys)]
        data = joined(distinct, objects)
        linked = object_size(data).code_bytes
        beside[precision].append(linked - sum(function_sizes(data).values()))
        errors[precision].append(estimate / linked)
    print(f"{'precision':20} {'beside':>9} {'estimated / linked':>22}")
    for precision in PRECISIONS:
        ratios = errors[precision]
        extra, mean = statistics.fmean(beside[precision]), statistics.fmean(ratios)
        print(f"{precision:20} {extra:9.0f} {mean:8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    layers = (key for p in ("f32", "i8") for _, _, key in kernel_shapes.layers(p))
    jobs = [Job(key) for key in dict.fromkeys(layers) if schedules.select(key, target)]
    objects, _ = compiled(jobs, target, store)
    print(f"{name}: {len(jobs)} kernels of kernel_shapes")
    by_class(jobs, objects, target)
    print(flush=True)


def report_c(name: str, space: str, count: int) -> None:
    """A microcontroller's tables: sections of the library of C, and kernels beside them."""
    device, _, compact = name.partition("+")
    profile = devices.load(device).compacted(bool(compact))
    target, compiler = profile.target, firmware.compiler_for(profile)
    sections: dict[str, list[int]] = defaultdict(list)
    kernels: dict[str, dict[str, int]] = defaultdict(dict)
    errors = defaultdict(list)
    for precision, keys, estimate in networks(space, target, count, ("i8", "mixed")):
        data = firmware.compiled(ckernels.source(keys, target), compiler)
        errors[precision].append(estimate / object_size(data).code_bytes)
        sizes, used = function_sizes(data), {}
        for key in set(keys):
            template = ckernels.select(key, target)
            symbol = template.function(key, target).symbol
            window = WINDOW_BYTES * (" g = {" in template.definition(key, target))
            kernels[sizes_of_c.kernel_class(key)][symbol] = sizes.pop(symbol) + window
            used |= dict.fromkeys(template.sections(key, target), 0)
        for function, size in sizes.items():
            named = re.compile(rf"\b{function.partition('.')[0]}\b")
            # a section needs only what stands before it: the first that names it defines it
            used[next(s for s in SECTIONS if s in used and named.search(section(s)))] += size
        for one, size in used.items():
            sections[one].append(size)
    print(f"{name}: kernels in C of {count} subnets")
    of_sections = {one: sections[one] for one in SECTIONS if any(sections.get(one, ()))}
    of_kernels = {one: list(of.values()) for one, of in sorted(kernels.items())}
    for title, rows, stated in (
        ("section", of_sections, sizes_of_c.section_bytes),
        ("kernel", of_kernels, sizes_of_c.own_bytes),
    ):
        print(f"{title:20} {'times':>9} {'mean':>7} {'stated':>7}")
        for one, found in rows.items():
            mean = statistics.fmean(found)
            print(f"{one:20} {len(found):9} {mean:7.0f} {stated(one, target):7}")
    print(f"{'precision':20} {'estimated / compiled':>22}")
    for precision, ratios in errors.items():
        mean = statistics.fmean(ratios)
        print(f"{precision:20} {mean:8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(flush=True)


def by_class(jobs: Sequence[Job], objects: Mapping[Job, bytes], target: TargetSpec) -> None:
    """The table of some kernels and what they share."""
    sizes = function_sizes(joined(jobs, objects))
    classes: dict[str, set[str]] = defaultdict(set)
    stated: dict[str, int] = {}
    for job in jobs:
        template = schedules.select(job.key, target)
        shared = template.shared(job.key, target) if template is not None else ()
        known = cost.code_bytes(job.key, target)
        own = f"{job.key.precision} {cost.code_class(job.key, shared, target.compact)}"
        for label, symbol in ((own, job.symbol), *((f"i8 {s.kind}", s.symbol) for s in shared)):
            classes[label].add(symbol)
            stated[label] = known[symbol]
    print(HEADER)
    for label, symbols in sorted(classes.items()):
        mean = statistics.fmean(sizes[symbol] for symbol in symbols)
        print(f"{label:20} {len(symbols):9} {mean:7.0f} {stated[label]:7}")


def main() -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="cifar")
    parser.add_argument("--devices", default="local,local+compact,rpi4")
    parser.add_argument("--subnets", type=int, default=16, help="the first two are the ends")
    args = parser.parse_args()
    store = StageCache(default_cache_dir())
    for name in args.devices.split(","):
        report(name, args.space, args.subnets, store)


if __name__ == "__main__":
    main()

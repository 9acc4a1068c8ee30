"""How long the kernels of a large network take to build, and how much code they are.

    python benchmarks/build_kernels.py [--devices rpi4,local] [--workers 2]

The largest MobileNetV3 of the once-for-all space at 224 pixels, in both precisions, for each
device: built with an empty cache (cold), once more (warm), and then another subnet of the space,
which shares kernels. Processor seconds are user and system time of all processes.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edgeopt import devices
from edgeopt.codegen import schedules
from edgeopt.codegen.objects import object_size
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.enumerate import lowered, subnets
from edgeopt.pipeline.kernel_store import Job, compiled, joined

GOAL_S, GOAL_BYTES = 30.0, 400_000


def processor_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def timed(build: Callable[[], tuple[dict[Job, bytes], int]]) -> tuple[str, dict[Job, bytes], float]:
    wall, processor = time.monotonic(), processor_s()
    objects, made = build()
    wall, processor = time.monotonic() - wall, processor_s() - processor
    return f"{made:>4} made {wall:>6.1f} s {processor:>6.1f} cpu s", objects, processor


def size_table(objects: dict[Job, bytes], target: TargetSpec) -> None:
    """Code bytes by template class, the largest kernel of each named."""
    classes: dict[str, list[tuple[int, OpKey]]] = {}
    for job, data in objects.items():
        template = schedules.select(job.key, target, job.choice)
        assert template is not None
        alone = object_size(joined([job], {job: data})).code_bytes
        name = f"{template.name} {job.key.op} {job.key.precision}"
        classes.setdefault(name, []).append((alone, job.key))
    for name, sizes in sorted(classes.items(), key=lambda item: -sum(s for s, _ in item[1])):
        total, (worst, key) = sum(s for s, _ in sizes), max(sizes)
        print(f"    {name:<28} {len(sizes):>3} kernels {total:>8,} bytes, largest {worst:,}: {key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="rpi4,local")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    space = load_space("ofa_mbv3")
    largest, other = space.max_config(), subnets(space, 3, 1)[2]
    begin = processor_s()
    import tvm  # noqa: F401

    print(f"importing TVM: {processor_s() - begin:.1f} cpu s, once")
    total = 0.0
    for name in options.devices.split(","):
        target = devices.load(name).target
        for precision in ("f32", "i8"):
            jobs = [Job(key) for key in lowered(space, largest, precision).keys]
            more = [Job(key) for key in lowered(space, other, precision).keys]
            with tempfile.TemporaryDirectory() as folder:
                store = StageCache(Path(folder))

                def build(
                    jobs: list[Job] = jobs, store: StageCache = store, target: TargetSpec = target
                ) -> tuple[dict[Job, bytes], int]:
                    return compiled(jobs, target, store, workers=options.workers)

                cold, objects, seconds = timed(build)
                total += seconds
                warm, _, _ = timed(build)
                shared, _, _ = timed(lambda: build(more))  # noqa: B023
            code = object_size(joined(jobs, objects, prefix="net_")).code_bytes
            print(f"{name} {precision}: {len(jobs)} kernel calls, {len(objects)} different")
            print(f"    cold {cold}\n    warm {warm}\n    another subnet {shared}")
            print(f"    code {code:,} bytes, goal {GOAL_BYTES:,}")
            size_table(objects, target)
    print(
        f"all: {total:.1f} cpu s, {total / options.workers:.1f} s on {options.workers} cores, "
        f"goal {GOAL_S:g} s a network"
    )


if __name__ == "__main__":
    main()

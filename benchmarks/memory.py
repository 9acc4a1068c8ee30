"""Peak arena bytes of subnets beside the lower bound (the largest set of buffers live at once).

    python benchmarks/memory.py [--space cifar] [--device rpi4] [--count 10] [--seed 0]

The first two subnets are the largest and the smallest of the space, the others random. Scratch of
the kernels is counted; network inputs and outputs are the caller's. ``unshared`` is what the same
buffers would take side by side.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from edgeopt.codegen import cost
from edgeopt.codegen.lower import lower_shapes
from edgeopt.codegen.plan import check_plan
from edgeopt.devices.profile import load
from edgeopt.ofa.describe import describe
from edgeopt.ofa.spaces import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="cifar")
    parser.add_argument("--device", default="rpi4")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    space, target = load_space(options.space), load(options.device).target
    sample = random.Random(options.seed)
    configs = [space.max_config(), space.min_config()]
    configs += [space.sample(sample) for _ in range(options.count - 2)]
    print(f"{options.space} on {options.device}, 64-byte alignment; bytes")
    print(f"{'subnet':>6} {'type':>4} {'kernels':>7} {'arena':>9} {'bound':>9} {'ratio':>6} "
          f"{'unshared':>9} {'scratch':>8} {'cost ms':>8}")  # fmt: skip
    ratios = []
    for index, config in enumerate(configs):
        network = describe(space, config)
        for precision in ("f32", "i8"):
            graph = lower_shapes(network, precision)
            scratch = cost.scratch_bytes(graph, target)
            planned = cost.memory(graph, target)
            check_plan(graph, planned, scratch)
            start = time.process_time()
            found = cost.evaluate(network, precision, target)
            spent_ms = 1e3 * (time.process_time() - start)
            assert found.arena_bytes == planned.arena_bytes
            ratios.append(planned.arena_bytes / planned.lower_bound_bytes)
            unshared = sum(buffer.size_bytes for buffer in planned.buffers)
            print(f"{index:>6} {precision:>4} {len(graph.kernels):>7} {planned.arena_bytes:>9,} "
                  f"{planned.lower_bound_bytes:>9,} {ratios[-1]:>6.3f} {unshared:>9,} "
                  f"{max(scratch.values()):>8,} {spent_ms:>8.2f}")  # fmt: skip
    print(f"arena / lower bound: mean {statistics.mean(ratios):.4f}, worst {max(ratios):.4f}")


if __name__ == "__main__":
    main()

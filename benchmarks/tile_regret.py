"""How much time the tiling that the model chooses costs against the best of the candidates.

    python benchmarks/tile_regret.py [--kernels 60] [--passes 4] [--runs 2] [--precision auto]
                                     [--op depthwise] [--build-only] [--json FILE]

A sample of kernels of the zoo's supernet, the largest once-for-all MobileNetV3 at 224 pixels and
ResNet18 is built with every candidate tiling; all tilings of a kernel are visited in turn, and the
fastest of many samples counts. The program runs several times, since where its buffers lie in
memory changes the time of large kernels by several percent. Regret is the model's time over the
best time, less one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeopt import devices
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline import tiles
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.enumerate import kernels_of_space, lowered, spread, subnets
from edgeopt.pipeline.kernel_programs import KernelPrograms

#: ResNet18 at 224 pixels: (map, channels in, channels out, kernel, stride) of its convolutions.
RESNET18 = (
    (224, 3, 64, 7, 2), (56, 64, 64, 3, 1), (56, 64, 128, 3, 2), (56, 64, 128, 1, 2),
    (28, 128, 128, 3, 1), (28, 128, 256, 3, 2), (28, 128, 256, 1, 2), (14, 256, 256, 3, 1),
    (14, 256, 512, 3, 2), (14, 256, 512, 1, 2), (7, 512, 512, 3, 1),
)  # fmt: skip

Times = dict[tuple[OpKey, Choice], float]


def resnet18(precision: str) -> list[OpKey]:
    keys = [OpKey("linear", (512,), (1000,))]
    for size, inputs, outputs, kernel, stride in RESNET18:
        out, pad = -(-size // stride), kernel // 2
        keys.append(
            OpKey(
                "conv2d", (size, size, inputs), (out, out, outputs), kernel=(kernel, kernel),
                strides=(stride, stride), pads=(pad,) * 4, activation="relu",
            )
        )  # fmt: skip
    return [replace(key, dtype=precision, out_dtype=precision) for key in keys]


def sample(
    count: int, precisions: Sequence[str], programs: KernelPrograms, op: str = ""
) -> list[OpKey]:
    """About ``count`` kernels with a choice, a third from each source."""
    zoo, ofa = load_space("cifar"), load_space("ofa_mbv3")
    sources = [
        kernels_of_space(zoo, precisions),
        kernels_of_ofa(ofa, precisions),
        [k for p in precisions for k in resnet18(p)],
    ]
    found: dict[OpKey, None] = {}
    for keys in sources:
        wanted = [key for key in dict.fromkeys(keys) if op in ("", key.op)]
        open_keys = list(tiles.candidates_of(wanted, programs.profile.target))
        found.update(dict.fromkeys(spread(open_keys, count // 3)))
    return list(found)


def kernels_of_ofa(space: SearchSpace, precisions: Sequence[str]) -> list[OpKey]:
    """Of the largest subnet, and of some others."""
    configs = [c for c in subnets(space, 12, 1) if c.resolution == space.max_config().resolution]
    configs = [space.max_config(), *configs[:4]]
    return [k for c in configs for p in precisions for k in lowered(space, c, p).keys]


def row(name: str, keys: Sequence[OpKey], regrets: dict[OpKey, float]) -> str:
    values = [regrets[key] for key in keys]
    good = sum(value <= 0.05 for value in values) / len(values)
    return (
        f"{name:<16} {len(values):>7} {statistics.mean(values):>7.1%} "
        f"{statistics.median(values):>7.1%} {max(values):>7.1%} {good:>10.0%}"
    )


def report(times: Times, candidates: dict[OpKey, tuple[Choice, ...]]) -> None:
    best = {k: min(found, key=lambda c: times[k, c]) for k, found in candidates.items()}
    regrets = {k: times[k, MODEL] / times[k, c] - 1 for k, c in best.items()}
    groups: dict[str, list[OpKey]] = {}
    for key in candidates:
        groups.setdefault(f"{key.op} {key.precision}", []).append(key)
    print(
        f"{'kernels':<16} {'number':>7} {'mean':>7} {'median':>7} {'worst':>7} {'within 5 %':>10}"
    )
    for name, keys in sorted(groups.items()):
        print(row(name, keys, regrets))
    print(row("all", list(candidates), regrets))
    model = sum(times[key, MODEL] for key in candidates)
    ideal = sum(times[key, choice] for key, choice in best.items())
    print(f"time of all kernels: {model / ideal - 1:.1%} above the best tilings")
    print("\nworst:")
    for key in sorted(candidates, key=lambda k: -regrets[k])[:12]:
        print(f"  {regrets[key]:>6.1%}  {best[key]!s:<10} {times[key, MODEL]:>10.0f} ns  {key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", type=int, default=60)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--op", default="", help="only kernels of this operator")
    parser.add_argument("--precision", choices=("auto", "f32", "i8"), default="auto")
    parser.add_argument("--build-only", action="store_true", help="compile, measure nothing")
    parser.add_argument("--json", type=Path, help="write every time here as well")
    options = parser.parse_args()
    precisions = ("f32", "i8") if options.precision == "auto" else (options.precision,)
    with tempfile.TemporaryDirectory() as folder:
        store = StageCache(default_cache_dir())
        programs = KernelPrograms(devices.load("local"), (), Path(folder), store)
        keys = sample(options.kernels, precisions, programs, options.op)
        candidates = tiles.candidates_of(keys, programs.profile.target)
        program = programs.program([(k, c) for k, found in candidates.items() for c in found])
        print(
            f"{len(candidates)} kernels, {sum(map(len, candidates.values()))} tilings", flush=True
        )
        if options.build_only:
            return
        runs = [
            tiles.time_all(program, candidates, passes=options.passes) for _ in range(options.runs)
        ]
        times = {which: min(run[which] for run in runs) for which in runs[0]}
    report(times, candidates)
    if options.json:
        rows = [
            {"key": str(k), "times": {str(c): times[k, c] for c in found}}
            for k, found in candidates.items()
        ]
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""The same kernels as two checkouts compile them, in turns: time, code and packed constants.

    python benchmarks/kernel_versions.py --before ../edgeopt-before [--precision i8]
                                         [--only pointwise] [--turns 5] [--avx2] [--compact]
                                         [--subnet r32-d1... --bits 4]

``before`` is another checkout (`git worktree add --detach ../edgeopt-before COMMIT`).
Each builds every kernel of `kernel_shapes` from the same inputs and constants in a process of its
own; both are then called in turns in this one, each with buffers in several places: a kernel may
take half as long again for the pages it happens to get. ``x`` is the fastest time now by the
fastest before; outputs that are not equal end the run. With ``--subnet`` the kernels are those of
a subnet of the CIFAR space in int8, its weights of so many bits. With ``--compact`` those of today
are what `compile --flash` takes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import kernel_shapes
import numpy as np
import one_layer
from machine import Machine, without_avx512

from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array

_HERE = Path(__file__).resolve()
_SHORTEST_SAMPLE_NS = 20_000
#: Kernels may read past the end of their inputs; and no buffer begins a page like the next.
_SPARE_BYTES, _PAGE_BYTES = 320, 4096
_PLACEMENTS = 5


def build(folder: Path, keys: list[OpKey], avx2: bool, compact: bool) -> None:
    """In a process of its own: shared objects and buffers of the edgeopt that is imported there."""
    import edgeopt
    from edgeopt.codegen import build, schedules
    from edgeopt.codegen.objects import object_size
    from edgeopt.devices import local

    if not Path(edgeopt.__file__).resolve().is_relative_to(Path.cwd()):
        raise SystemExit(f"{edgeopt.__file__} was imported instead of the checkout {Path.cwd()}")
    target = local.probe().target
    if avx2:
        target = without_avx512(target)
    if compact:
        target = replace(target, compact=True)
    found: list[tuple[str, int, int] | None] = []
    for index, key in enumerate(keys):
        template = schedules.select(key, target)
        if template is None:
            found.append(None)
            continue
        function = template.function(key, target)
        rng = np.random.default_rng(1)
        packed = template.pack(key, target, one_layer.constants(key, rng))
        given = one_layer.arguments(function, packed, rng)
        buffers = {f"{place:02d} {kind}": array for place, (kind, array) in enumerate(given)}
        data = build.compile_kernels([key], target)
        (folder / "kernel.o").write_bytes(data)
        subprocess.run(
            ["gcc", "-shared", "-o", folder / f"{index}.so", folder / "kernel.o", "-lm"], check=True
        )
        np.savez(folder / f"{index}.npz", **buffers)
        constants = sum(a.nbytes for name, a in buffers.items() if name.endswith("const"))
        found.append((function.symbol, object_size(data).code_bytes, constants))
    whole = build.compile_kernels([k for k in keys if schedules.select(k, target)], target)
    together = object_size(whole).code_bytes
    (folder / "kernels.json").write_text(json.dumps([together, *found]))


class Kernel:
    """A built kernel with its buffers."""

    def __init__(self, machine: Machine, folder: Path, index: int, symbol: str) -> None:
        self._machine = machine
        with np.load(folder / f"{index}.npz") as kept:
            self._buffers = _placed({name: kept[name] for name in sorted(kept.files)})
        self._function = getattr(ctypes.CDLL(str(folder / f"{index}.so")), symbol)
        self._pointers = [array.ctypes.data for array in self._buffers.values()]
        self._inner = 1
        self._inner = max(int(_SHORTEST_SAMPLE_NS / self.best_ns()), 1)

    def best_ns(self) -> float:
        """The fastest of some calls."""
        return min(self._machine.time(self._function, self._pointers, 8, self._inner))

    @property
    def output(self) -> Array:
        """What the last call computed."""
        return next(a for name, a in self._buffers.items() if name.endswith("output"))


def _placed(arrays: dict[str, Array]) -> dict[str, Array]:
    """Copies in one block that starts a page, activations first: alike for both versions."""
    order = sorted(arrays, key=lambda name: name.endswith("const"))
    sizes = [-(-(arrays[name].nbytes + _SPARE_BYTES) // 64) * 64 for name in order]
    raw = np.zeros(sum(sizes) + _PAGE_BYTES, np.uint8)
    at = -raw.ctypes.data % _PAGE_BYTES
    placed = {}
    for name, size in zip(order, sizes, strict=True):
        array = arrays[name]
        placed[name] = raw[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        placed[name][...] = array
        at += size
    return {name: placed[name] for name in arrays}


def of_subnet(text: str, bits: int) -> list[OpKey]:
    """The kernels of a subnet of the CIFAR space."""
    from edgeopt.codegen import cost
    from edgeopt.core.space import SubnetConfig
    from edgeopt.devices import local
    from edgeopt.ofa.plan_genes import Planned
    from edgeopt.ofa.plans import uniform
    from edgeopt.ofa.spaces import load_space
    from edgeopt.pipeline.planned import describe_planned

    space = load_space("cifar")
    network = describe_planned(space, Planned(SubnetConfig.parse(text), uniform(space, bits)))
    keys = cost.evaluate(network, "i8", local.probe().target, place=False).keys
    return [key for key in keys if key.op not in ("quantize", "dequantize")]


def compare(
    before: Path, keys: list[OpKey], turns: int, *, avx2: bool = False, compact: bool = False
) -> None:
    """Build, time and print."""
    now = _HERE.parents[1]
    by_class: dict[str, list[tuple[float, int, int, int, int]]] = defaultdict(list)
    counts = Counter(keys)
    keys, spent = list(counts), []
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(work) / name for name in ("before", "now")]
        known = []
        for folder, checkout in zip(folders, (before.resolve(), now), strict=True):
            folder.mkdir()
            (folder / "keys").write_text("\n".join(map(str, keys)))
            environment = {**os.environ, "PYTHONPATH": str(checkout)}
            subprocess.run(
                [
                    sys.executable,
                    _HERE,
                    "--build",
                    folder,
                    *(["--avx2"] if avx2 else []),
                    *(["--compact"] if compact and checkout == now else []),
                ],
                check=True,
                env=environment,
                cwd=checkout,
            )
            known.append(json.loads((folder / "kernels.json").read_text()))
        machine = Machine(Path(work))
        print(f"{'before us':>9} {'now us':>8} {'x':>6} {'code':>15} {'constants':>19}")
        together = [sizes.pop(0) for sizes in known]
        for index, (key, *both) in enumerate(zip(keys, *known, strict=True)):
            if None in both:
                continue
            placements = [
                [
                    Kernel(machine, folder, index, symbol)
                    for folder, (symbol, _, _) in zip(folders, both, strict=True)
                ]
                for _ in range(_PLACEMENTS)
            ]
            times = [
                [kernel.best_ns() for kernel in pair] for _ in range(turns) for pair in placements
            ]
            pair = placements[0]
            if not np.array_equal(pair[0].output, pair[1].output):
                raise SystemExit(f"outputs differ: {key}")
            first, second = (min(column) / 1e3 for column in zip(*times, strict=True))
            ratio = second / first
            spent.append((first * counts[key], second * counts[key]))
            (_, code_a, const_a), (_, code_b, const_b) = both
            by_class[f"{key.op} {key.precision}"].append((ratio, code_a, code_b, const_a, const_b))
            print(f"{first:9.2f} {second:8.2f} {ratio:6.3f} {code_a:7,} {code_b:7,} "
                  f"{const_a:9,} {const_b:9,} {key}", flush=True)  # fmt: skip
    print(f"\n{'class':20} {'kernels':>7} {'time':>5} {'from':>6} {'to':>5} {'code':>5} constants")
    for name, rows in sorted(by_class.items()):
        ratios = [row[0] for row in rows]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        code_a, code_b, const_a, const_b = (sum(row[n] for row in rows) for n in range(1, 5))
        constants = f"{const_b / const_a:9.2f}" if const_a else f"{'none':>9}"
        print(f"{name:20} {len(rows):7} {mean:5.2f} {min(ratios):6.2f} {max(ratios):5.2f} "
              f"{code_b / code_a:5.2f} {constants}")  # fmt: skip
    total = [sum(row) for row in zip(*(pair for pair in spent), strict=True)]
    print(f"all kernels in one object: {together[0]:,} to {together[1]:,} bytes of code "
          f"({together[1] / together[0]:.2f}); their times add up to {total[0]:.1f} and "
          f"{total[1]:.1f} us ({total[1] / total[0]:.2f})")  # fmt: skip


def main() -> None:
    """Compare two checkouts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--precision", nargs="+", choices=("f32", "i8"), default=["f32", "i8"])
    parser.add_argument("--only", default="", help="only kernels whose key contains this")
    parser.add_argument("--turns", type=int, default=5, help="in each placement")
    parser.add_argument("--avx2", action="store_true", help="for x86-64-v3 on a wider processor")
    parser.add_argument("--compact", action="store_true", help="today's as with --flash")
    parser.add_argument("--subnet", default="", help="kernels of this subnet instead")
    parser.add_argument("--bits", type=int, default=4, help="of its weights")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build is not None:
        lines = (args.build / "keys").read_text().splitlines()
        build(args.build, [OpKey.parse(line) for line in lines], args.avx2, args.compact)
        return
    if args.before is None or not (args.before / "edgeopt").is_dir():
        parser.error("--before is a checkout: git worktree add --detach ../edgeopt-before COMMIT")
    if args.subnet:
        layers = of_subnet(args.subnet, args.bits)
    else:
        layers = [key for p in args.precision for _, _, key in kernel_shapes.layers(p)]
    keys = [key for key in layers if args.only in str(key)]
    if not args.subnet:
        keys = list(dict.fromkeys(keys))
    compare(args.before, keys, args.turns, avx2=args.avx2, compact=args.compact)


if __name__ == "__main__":
    main()

"""What packed weights of 4 and 2 bits cost and save, kernel by kernel, and what surrounds the sums.

    python benchmarks/lowbit_kernels.py [--passes 27]

Layers of the shipped space, of MobileNetV2 and ResNet18 at 224 pixels, with weights of 8, 4 and 2
bits; all kernels of one program are visited in turn, medians count. ``x w4`` is the time of packed
weights by that of int8 ones: below 1, packed weights are faster. Packed weights have no Winograd
form, so 3x3 convolutions are compared with both of int8's. `lowbit_aarch64.py` counts instructions.

What surrounds the sums is measured by leaving it out. ``requantization`` is the share of the time
that goes when sums are stored as they are, saturated to int8, instead of scaled and rounded (on
processors with AVX2); ``table`` the share of an activation by table within the kernel, against
none, and ``apart`` what the same table costs as a kernel of its own, as a share of the kernel
without it. ``unpacking`` is the share of the time of packed weights beyond that of int8 ones in the
same form; where weights come from memory it is negative.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kernel_shapes import square

from edgeopt import devices
from edgeopt.codegen import build, schedules
from edgeopt.codegen.bench import identity
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.kernel_programs import KernelPrograms

#: (map side, channels in, channels out).
POINTWISE = (
    (16, 16, 64), (8, 32, 128), (8, 128, 32), (4, 80, 320), (4, 320, 80), (1, 480, 1280),
    (14, 96, 576), (14, 576, 96), (7, 160, 960), (7, 960, 160), (7, 320, 1280),
)  # fmt: skip
DENSE = ((56, 64, 64, 3, 1), (14, 256, 256, 3, 1), (14, 256, 512, 3, 2))
LINEAR = ((1280, 10), (1280, 1000), (4096, 4096))
#: Those of which what surrounds the sums is measured.
AROUND = (0, 2, 4, 8, 9)
BITS = (8, 4, 2)
#: The sums themselves, not Winograd's, so that weights are all that differs.
DIRECT = Choice(form="d")
#: Programs are started so often: where their buffers lie changes times by some percent.
ROUNDS = 9
Tiled = tuple[OpKey, Choice]


def layers() -> list[OpKey]:
    found = [square("pointwise", side, i, o, 1, 1, "relu") for side, i, o in POINTWISE]
    found += [square("conv2d", side, i, o, k, s, "relu") for side, i, o, k, s in DENSE]
    found += [OpKey("linear", (i,), (o,)) for i, o in LINEAR]
    return [replace(key, dtype="i8", out_dtype="i8") for key in found]


def of_bits(key: OpKey, bits: int) -> OpKey:
    return key if bits == 8 else replace(key, weight_bits=bits)


def text(key: OpKey) -> str:
    shape = "x".join(map(str, key.in_shape))
    stride = f" /{key.strides[0]}" if key.strides[0] > 1 else ""
    return f"{key.op} {shape} -> {key.out_shape[-1]}{stride}"


def bytes_of(key: OpKey, target: TargetSpec, choice: Choice = MODEL) -> int:
    template = schedules.select(key, target, choice)
    assert template is not None
    return template.packed_bytes(key, target)


@dataclass
class WithoutRequantization(KernelPrograms):
    """Programs of kernels that store their sums saturated to int8, on processors with AVX2."""

    def _compile(self, kernels: Sequence[tuple[OpKey, Choice]]) -> bytes:
        with saturated_sums():
            return build.compile_kernels((), self.profile.target, choices=list(kernels))


@contextmanager
def saturated_sums() -> Iterator[None]:
    from edgeopt.codegen.schedules.emit import intrinsic, reinterpret, shuffle
    from edgeopt.codegen.schedules.mathfn import Requantizer

    def pack(self: Any, group: Sequence[Any], paired: bool) -> Any:
        words = [step.a.value for step in group]  # a step is a sum, converted, times its scale
        halves = [
            intrinsic("llvm.x86.avx2.packssdw", "int16x16", *words[at : at + 2]) for at in (0, 2)
        ]
        packed = intrinsic("llvm.x86.avx2.packsswb", "int8x32", *halves)
        order = shuffle([reinterpret(packed, "int32", 8)], [0, 4, 1, 5, 2, 6, 3, 7])
        return self._b.bind(reinterpret(self._b.bind(order), "int8", 32))

    build.compile_shared.cache_clear()  # which the functions that kernels share would come from
    with patch.object(Requantizer, "_pack", pack):
        yield
    build.compile_shared.cache_clear()


def names_of(kernels: Sequence[Tiled]) -> dict[str, Tiled]:
    """What a program of kernels calls each of them."""
    once = list(dict.fromkeys(kernels))
    times = Counter(key for key, _ in once)
    return {identity(*k) if times[k[0]] > 1 else k[0].digest: k for k in once}


def medians(
    programs: Sequence[Any], names: Sequence[dict[str, Tiled]], passes: int
) -> list[dict[Tiled, float]]:
    """Median nanoseconds of each kernel of each program, the programs in turns."""
    samples: list[dict[Tiled, list[float]]] = [{} for _ in programs]
    for _ in range(ROUNDS):
        for program, wanted, found in zip(programs, names, samples, strict=True):
            options = ["--passes", str(-(-passes // ROUNDS)), "--samples", "3", "--min-us", "200"]
            for line in program.run([*options, *wanted]):
                message = json.loads(line)
                if "key" in message:
                    found.setdefault(wanted[message["key"]], []).extend(map(float, message["ns"]))
    return [{k: statistics.median(v) for k, v in found.items()} for found in samples]


def times(passes: int, build_only: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        device = devices.load("local")
        fixed = (device, (), Path(folder), StageCache(default_cache_dir()))
        keys = layers()
        kernels = [(of_bits(k, bits), MODEL) for k in keys for bits in BITS]
        dense = [k for k in keys if k.op == "conv2d" and k.strides == (1, 1)]
        kernels += [(k, DIRECT) for k in dense]
        around = [keys[i] for i in AROUND]
        tables = [replace(k, activation="lut") for k in around]
        alone = [OpKey("activation", k.out_shape, k.out_shape, dtype="i8", out_dtype="i8",
                       activation="lut") for k in around]  # fmt: skip
        none = [replace(k, activation="none") for k in around]
        kernels += [(k, MODEL) for k in (*tables, *alone, *none)]
        bare = [(of_bits(k, bits), MODEL) for k in around for bits in BITS]
        program = KernelPrograms(*fixed).program(list(dict.fromkeys(kernels)))
        other = WithoutRequantization(device, (), Path(folder) / "bare", fixed[3])
        programs = [program, other.program(bare)]
        names = [names_of(kernels), names_of(bare)]
        if build_only:
            return
        usual, without = medians(programs, names, passes)

    def us(key: OpKey, choice: Choice = MODEL) -> float:
        return usual[key, choice] / 1000

    target = device.target
    print(f"{'kernel, int8 weights':<38} {'us':>8} {'x w4':>6} {'x w2':>6} "
          f"{'bytes':>9} {'w4':>9} {'w2':>9}")  # fmt: skip
    ratios: dict[tuple[str, int], list[float]] = {}
    for key in keys:
        few = [of_bits(key, bits) for bits in (4, 2)]
        forms = {MODEL: "as it is built"}
        if key in dense:
            forms = {MODEL: "as it is built", DIRECT: "direct"}
        for choice, form in forms.items():
            note = {MODEL: " (Winograd)", DIRECT: " (direct)"}[choice] if key in dense else ""
            sizes = [bytes_of(key, target, choice), *(bytes_of(k, target) for k in few)]
            values = [us(k) / us(key, choice) for k in few]
            cells = [f"{value:>6.2f}" for value in values] + [f"{size:>9,}" for size in sizes]
            print(f"{text(key) + note:<38} {us(key, choice):>8.2f} {' '.join(cells)}")
            for bits, value in zip((4, 2), values, strict=True):
                if form == "direct" or key not in dense:
                    ratios.setdefault(("in the same form", bits), []).append(value)
                if choice == MODEL:
                    ratios.setdefault(("as it is built", bits), []).append(value)
    for (form, bits), values in sorted(ratios.items()):
        mean = math.exp(statistics.mean(map(math.log, values)))
        print(f"w{bits} by int8 {form}: geometric mean {mean:.2f}, "
              f"from {min(values):.2f} to {max(values):.2f}")  # fmt: skip
    print()
    print(f"{'shares of the time':<30} {'requantization':>14} {'w4':>6} {'w2':>6} "
          f"{'unpacking w4':>12} {'w2':>6} {'table':>6} {'apart':>6}")  # fmt: skip
    for key, plain, table, single in zip(around, none, tables, alone, strict=True):
        few = [of_bits(key, bits) for bits in BITS]
        shares = [1 - without[k, MODEL] / 1000 / us(k) for k in few]
        unpack = [1 - us(key) / us(of_bits(key, b)) for b in (4, 2)]
        print(f"{text(key):<30} {shares[0]:>14.0%} {shares[1]:>6.0%} {shares[2]:>6.0%} "
              f"{unpack[0]:>12.0%} {unpack[1]:>6.0%} {1 - us(plain) / us(table):>6.0%} "
              f"{us(single) / us(plain):>6.0%}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=27)
    parser.add_argument("--build-only", action="store_true", help="compile, measure nothing")
    options = parser.parse_args()
    times(options.passes, options.build_only)


if __name__ == "__main__":
    main()

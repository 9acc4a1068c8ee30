"""Instructions of kernels with packed weights on 64-bit Arm, by those of int8 ones, under QEMU.

    python benchmarks/lowbit_aarch64.py [--cpus cortex-a72 cortex-a76 i8mm]

The layers of `lowbit_kernels.py`, one call each, counted exactly by a plugin of the emulator.
``x w4`` above 1: packed weights of 4 bits take so many more instructions. What a board gains from
reading fewer bytes is not in it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from arm64_programs import CPUS, need
from lowbit_kernels import BITS, layers, of_bits, text

from edgeopt import devices
from edgeopt.codegen import build, schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.machines.emulate import counting_plugin
from edgeopt.core.kernels import OpKey
from edgeopt.pipeline.kernel_constants import constants_of

#: Larger layers only take longer to count.
MOST_MACS = 2e7

_MAIN = """#include <stdint.h>
#include <stdlib.h>
#include <string.h>
{declarations}
static char *some(size_t bytes) {{
    char *p = (char *)aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(p, 1, (bytes + 127) / 64 * 64);
    return p;
}}
int main(void) {{
    int32_t status = 0;
{calls}
    return (int)status;
}}
"""


def instructions(keys: Sequence[OpKey], name: str) -> dict[OpKey, int]:
    """Instructions of one call of each kernel on an emulated processor."""
    cpu = CPUS[name]
    device = devices.load(cpu.device)
    target = replace(device.target, features=device.target.features | cpu.features)
    declarations, calls = [], []
    for key in keys:
        template = schedules.select(key, target)
        assert template is not None
        function = template.function(key, target)
        packed = template.pack(key, target, constants_of(key))
        sizes = []
        for arg in function.args:
            if arg.kind == "const":
                sizes.append(packed[arg.name].nbytes)
            elif arg.kind == "scratch":
                sizes.append(function.scratch_bytes)
            else:
                sizes.append(math.prod(key.in_shape if arg.kind == "input" else key.out_shape))
        types = ", ".join(["void *"] * len(sizes))
        declarations.append(f"int32_t {function.symbol}({types});")
        passed = ", ".join(f"some({size})" for size in sizes)
        calls.append(f"    status |= {function.symbol}({passed});")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = _MAIN.format(declarations="\n".join(declarations), calls="\n".join(calls))
        (place / "main.c").write_text(source)
        (place / "kernels.o").write_bytes(build.compile_kernels(keys, target))
        gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
        files = [str(place / part) for part in ("main.c", "kernels.o")]
        program = place / "main"
        subprocess.run([gcc, "-O1", "-static", "-o", str(program), *files, "-lm"], check=True)
        out = place / "count"
        plugin = f"{counting_plugin()},out={out},blocks=on"
        qemu = need("qemu-aarch64", "qemu-user")
        subprocess.run([qemu, "-cpu", cpu.name, "-plugin", plugin, str(program)], check=True)
        nm = subprocess.run(["nm", "-n", str(program)], check=True, capture_output=True, text=True)
        symbols = [line.split() for line in nm.stdout.splitlines() if len(line.split()) == 3]
        found = by_symbol(out.read_text().splitlines(), symbols)
    return {key: found[symbol_of(key)] for key in keys}


def by_symbol(lines: Sequence[str], symbols: Sequence[Sequence[str]]) -> dict[str, int]:
    code = [(int(at, 16), name) for at, kind, name in symbols if kind in "Tt"]
    starts = [at for at, _ in code]
    found: dict[str, int] = {}
    for line in lines:
        address, count = line.split()
        if address not in ("mark", "total"):
            name = code[bisect_right(starts, int(address, 16)) - 1][1]
            found[name] = found.get(name, 0) + int(count)
    return found


def counts(cpus: Sequence[str]) -> None:
    keys = [key for key in layers() if key.macs < MOST_MACS]
    print(f"{'kernel':<30}" + "".join(f" {name:>12} {'x w4':>5} {'x w2':>5}" for name in cpus))
    found = {name: instructions([of_bits(k, b) for k in keys for b in BITS], name) for name in cpus}
    for key in keys:
        cells = ""
        for name in cpus:
            mine = [found[name][of_bits(key, bits)] for bits in BITS]
            cells += f" {mine[0]:>12,} {mine[1] / mine[0]:>5.2f} {mine[2] / mine[0]:>5.2f}"
        print(f"{text(key):<30}{cells}", flush=True)
    for name in cpus:
        means = []
        for bits in (4, 2):
            ratios = [found[name][of_bits(k, bits)] / found[name][k] for k in keys]
            means.append(math.exp(statistics.mean(map(math.log, ratios))))
        print(f"{name}: geometric means {means[0]:.2f} and {means[1]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpus", nargs="+", default=["cortex-a72", "cortex-a76", "i8mm"],
                        choices=list(CPUS))  # fmt: skip
    counts(parser.parse_args().cpus)


if __name__ == "__main__":
    main()

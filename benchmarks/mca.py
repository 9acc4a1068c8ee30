"""Inner loops of the aarch64 kernels under llvm-mca: how much of the peak multiply rate they issue.

    python benchmarks/mca.py [--targets neon dotprod i8mm] [--cases pointwise ...]

Every kernel is compiled to assembly; of each, the loop (or the straight code that it was unrolled
to, with the end of the tile) that multiplies most is given to llvm-mca, repeated. ``peak`` is what
the same model reaches on a loop of independent instructions of the loop's own kind, so a share of
100 % means that nothing but the multiplier limits the loop. ``mac/insn`` is multiply-accumulates
per instruction of the loop.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from edgeopt.codegen import build
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

INSTALL = "apt-get install llvm (better llvm-19, which models the Cortex-A76's core)"
#: The Cortex-A76 has no model of its own in LLVM; the Neoverse N1 is the same core.
MODELS = {"neon": ("cortex-a72",), "dotprod": ("neoverse-n1", "cortex-a76"),
          "i8mm": ("neoverse-n2", "cortex-a76")}  # fmt: skip
FEATURES = {"neon": {"neon"}, "dotprod": {"neon", "dotprod"},
            "i8mm": {"neon", "dotprod", "i8mm"}}  # fmt: skip
CPUS = {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "cortex-a78c"}
CASES = {
    "pointwise 96-96": "pointwise in_shape=14x14x96 out_shape=14x14x96",
    "pointwise 24-144": "pointwise in_shape=56x56x24 out_shape=56x56x144",
    "pointwise 960-160": "pointwise in_shape=7x7x960 out_shape=7x7x160",
    "conv 3x3": "conv2d in_shape=28x28x64 out_shape=28x28x64 kernel=3x3 pads=1x1x1x1",
    "stem 3x3/2": "conv2d in_shape=112x112x3 out_shape=56x56x32 kernel=3x3 strides=2x2 "
    "pads=1x1x1x1",
    "linear": "linear in_shape=1280 out_shape=1000",
    "depthwise 3x3": "depthwise in_shape=28x28x96 out_shape=28x28x96 kernel=3x3 pads=1x1x1x1 "
    "groups=96",
    "depthwise 3x3/2": "depthwise in_shape=28x28x96 out_shape=14x14x96 kernel=3x3 strides=2x2 "
    "pads=1x1x1x1 groups=96",
    "depthwise 5x5": "depthwise in_shape=14x14x96 out_shape=14x14x96 kernel=5x5 pads=2x2x2x2 "
    "groups=96",
    "depthwise 7x7": "depthwise in_shape=14x14x96 out_shape=14x14x96 kernel=7x7 pads=3x3x3x3 "
    "groups=96",
}
#: Instruction -> multiply-accumulates of one (128-bit registers).
MACS = {"fmla": 4, "sdot": 16, "smmla": 32, "smull": 8, "smull2": 8, "smlal": 8,
        "smlal2": 8, "mla": 4}  # fmt: skip
_BRANCH = re.compile(r"^\s+(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)\s*$")


@dataclass(frozen=True, slots=True)
class Loop:
    """Instructions that run one after another, and the multiplications among them."""

    lines: tuple[str, ...]

    @property
    def multiplies(self) -> list[str]:
        """Mnemonics and operands of what multiplies."""
        return [line for line in self.lines if line.split()[0] in MACS]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one iteration."""
        return sum(macs_of(line) for line in self.multiplies)

    @property
    def weight(self) -> float:
        """How likely a kernel spends its time here: much multiplied, and little else done."""
        return self.macs**2 / len(self.lines)


def macs_of(line: str) -> int:
    """Multiply-accumulates of one instruction, by its name and the lanes of its result."""
    name, _, operands = line.strip().partition("\t")
    wide = re.match(r"\s*v\d+\.(\d+)", operands)
    if name in ("smull", "smlal", "smull2", "smlal2", "fmla", "mla") and wide:
        return int(wide.group(1))
    return MACS[name] if wide else 1


def loops(assembly: str) -> Iterator[Loop]:
    """Straight runs of instructions: innermost loops, and what unrolled loops became."""
    lines = list[str]()
    for line in assembly.splitlines():
        code = line.split("//")[0].rstrip()
        if code.startswith(".Ltmp") or re.match(r"\s+\.", code) or not code.strip():
            continue
        label = not code.startswith(("\t", " "))
        if not label:
            lines.append(code)
        if label or _BRANCH.match(code):
            if lines:
                yield Loop(tuple(lines))
            lines = []


def analyse(lines: tuple[str, ...], mca: str, cpu: str, features: set[str]) -> float | None:
    """Cycles of one iteration, in the middle of many."""
    text = "\n".join(re.sub(r"\.L\w+", "0", line) for line in lines) + "\n"
    cycles = []
    for iterations in (100, 300):
        done = subprocess.run(
            [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={cpu}", f"-iterations={iterations}",
             "-mattr=" + ",".join(f"+{f}" for f in sorted(features)),
             "-instruction-info=0", "-resource-pressure=0", "-"],
            input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
        if done.returncode or not found:
            print(done.stderr.strip()[:400], file=sys.stderr)
            return None
        cycles.append(int(found.group(1)))
    return (cycles[1] - cycles[0]) / 200


def peak(kind: str, mca: str, cpu: str, features: set[str]) -> float:
    """Instructions of a kind a cycle where nothing depends on anything else."""
    form = {"fmla": "v{0}.4s, v30.4s, v31.s[0]",
            "sdot": "v{0}.4s, v30.16b, v31.4b[0]", "smmla": "v{0}.4s, v30.16b, v31.16b",
            "smull": "v{0}.8h, v30.8b, v31.8b", "smlal": "v{0}.4s, v30.4h, v31.h[0]",
            "mla": "v{0}.4s, v30.4s, v31.4s"}  # fmt: skip
    name = kind.rstrip("2")
    operands = form[name].replace("v31.h[0]", "v15.h[0]")
    lines = tuple(f"\t{name}\t{operands.format(i)}" for i in range(14))
    cycles = analyse(lines, mca, cpu, features)
    assert cycles
    return len(lines) / cycles


def find_mca() -> str:
    """The newest llvm-mca installed."""
    names = [f"llvm-mca-{v}" for v in range(30, 12, -1)] + ["llvm-mca"]
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        sys.exit(f"llvm-mca is missing: {INSTALL}")
    return found


def model_of(mca: str, target: str) -> str:
    """The first processor model of a target that this llvm-mca has."""
    for cpu in MODELS[target]:
        shown = subprocess.run(
            [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={cpu}", "-"], input="\tnop\n",
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if shown.returncode == 0 and "not a recognized" not in shown.stderr:
            return cpu
    return MODELS[target][-1]


def spec(target: str) -> TargetSpec:
    """The processor that kernels are compiled for."""
    return TargetSpec(
        arch="aarch64", triple="aarch64-linux-gnu", mcpu=CPUS[target],
        features=frozenset(FEATURES[target]), vector_bits=128, vector_registers=32,
        l1d_bytes=32768 if target == "neon" else 65536,
        l2_bytes=1048576 if target == "neon" else 524288, cores=1,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--cases", nargs="+", default=[], help="parts of case names")
    parser.add_argument("--precision", nargs="+", default=["f32", "i8"])
    parser.add_argument("--show", action="store_true", help="print the loops as well")
    options = parser.parse_args()
    mca = find_mca()
    print(subprocess.run([mca, "--version"], capture_output=True, text=True).stdout.split("\n")[0])
    print(f"{'target':>8} {'model':>12} {'type':>4} {'kernel':<18} {'multiply':>8} "
          f"{'a loop':>6} {'insns':>6} {'cycles':>7} {'mac/insn':>8} {'mac/cycle':>9} "
          f"{'of peak':>8}")  # fmt: skip
    worst = math.inf
    for target in options.targets:
        cpu = model_of(mca, target)
        for precision in options.precision:
            if target == "i8mm" and precision == "f32":
                continue
            for name, text in CASES.items():
                if options.cases and not any(part in name for part in options.cases):
                    continue
                key = OpKey.parse(text)
                if precision == "i8":
                    key = OpKey.parse(_as_int8(text))
                ((assembly, _),) = build.assembly([key], spec(target))
                loop = max(loops(assembly), key=lambda found: found.weight)
                cycles = analyse(loop.lines, mca, cpu, FEATURES[target])
                kinds = [line.split()[0] for line in loop.multiplies]
                if not cycles or not kinds:
                    print(f"{target:>8} {cpu:>12} {precision:>4} {name:<18} -")
                    continue
                kind = max(set(kinds), key=kinds.count)
                share = len(kinds) / cycles / peak(kind, mca, cpu, FEATURES[target])
                worst = min(worst, share)
                print(f"{target:>8} {cpu:>12} {precision:>4} {name:<18} {kind:>8} "
                      f"{len(kinds):>6} {len(loop.lines):>6} {cycles:>7.1f} "
                      f"{loop.macs / len(loop.lines):>8.2f} {loop.macs / cycles:>9.2f} "
                      f"{100 * share:>6.0f} %", flush=True)  # fmt: skip
                if options.show:
                    print("\n".join(loop.lines))
    print(f"least: {100 * worst:.0f} % (the limit is 70 %)")


def _as_int8(text: str) -> str:
    op, in_shape, out_shape, *rest = text.split(" ")
    return " ".join([op, in_shape, out_shape, "dtype=i8", "out_dtype=i8", *rest])


if __name__ == "__main__":
    main()

"""Instructions of one inference on 64-bit Arm: the artifact, onnxruntime and LiteRT, under QEMU.

    python benchmarks/aarch64.py [--cpus cortex-a72 cortex-a76 i8mm] [--precision fp32 int8]
                                 [--models ...] [--kernels]

There is no board here, so instructions are counted, exactly, by a plugin of the emulator: those
of whole inferences after others that are not counted, of the artifact (a static program) and of
the peers' own aarch64 wheels (called from Python, outputs bound once), one thread each, on an
emulated processor of the same name. Instructions are not time, but
engines that execute fewer of the same vector instructions seldom take longer. LiteRT runs its own
conversion of the model with XNNPACK, quantized by its own tool; the others run the same ONNX file.
``x ort`` and ``x litert`` are the peer's instructions by ours: above 1, the artifact needs fewer.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from arm64_programs import CPUS, QEMU, Cpu, Program, build, count, prefix, userland
from models import MODELS, prepare
from peers import PEERS, PeerError, Worker, environment, interpreter

from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.machines.emulate import counting_plugin
from edgeopt.core.files import digest, write_atomic

CACHE = Path(__file__).resolve().parent.parent / ".cache"
SCRIPTS = Path(__file__).resolve().parent / "peers"
MODELS_HERE = ("zoo-max", "zoo-min", "zoo-a", "kws", "vww", "ofa-a-224", "mobilenetv2-224")
#: Inferences that are counted, after others that are not.
RUNS = 2


def file_of(peer: str, folder: Path, precision: str) -> Path:
    """The model file of a peer, converted on this machine's processor if need be."""
    if peer == "onnxruntime":
        return folder / f"{precision}.onnx"
    spec = PEERS[peer]
    for file in (folder / f"{precision}.tflite", folder / peer / f"{precision}.tflite"):
        if file.exists():
            return file
    script, *arguments = spec.worker
    worker = Worker(
        [interpreter(spec, CACHE / "peers"), SCRIPTS / script, *arguments], environment(1)
    )
    try:
        return worker.convert(folder, precision, folder / peer)[0]
    finally:
        worker.close()


def peer_instructions(
    peer: str, jobs: list[tuple[Path, str]], cpu: Cpu, library: Path, root: Path
) -> list[float | None]:
    """Instructions of one inference of a peer for each (folder of a model, precision); kept."""
    kept_at = CACHE / "arm64" / "counts.json"
    kept: dict[str, float | None] = json.loads(kept_at.read_text()) if kept_at.exists() else {}
    found: list[float | None] = []
    missing: list[tuple[int, str, tuple[str, str, str]]] = []
    for folder, precision in jobs:
        found.append(None)
        image = folder / "image.npy"
        if not image.exists():
            np.save(image, np.load(folder / "images.npy")[:1])
        try:
            file = file_of(peer, folder, precision)
        except PeerError as error:
            print(f"{peer} cannot convert {folder.name}: {error}", file=sys.stderr)
            continue
        text = [peer, str(cpu), digest(file.read_bytes()), digest(image.read_bytes())]
        text += [digest(path.read_bytes()) for path in sorted(root.glob("site/*.dist-info/RECORD"))]
        key = digest(json.dumps(text).encode())
        if key in kept:
            found[-1] = kept[key]
        else:
            missing.append((len(found) - 1, key, (str(file), str(image), precision)))
    if not missing:
        return found
    command = [root / "usr/bin/python3.11", "-I", "-S", "-B", QEMU / "peer_runs.py",
               root / "site", SCRIPTS, peer, RUNS,
               json.dumps([job for _, _, job in missing])]  # fmt: skip
    counts = count(command, cpu, library, prefix(root, cpu, CACHE / "arm64"))
    print(counts.said, file=sys.stderr)
    for (index, key, _), span in zip(missing, counts.spans, strict=True):
        # two marks in a row: it failed
        found[index] = kept[key] = span / RUNS if span > 20_000 else None
    write_atomic(kept_at, json.dumps(kept))
    return found


def print_kernels(program: Program, cpu: Cpu, library: Path) -> None:
    """Our kernels by the instructions they take, with what each multiplies an instruction."""
    found = program.kernels(count([program.path, 0], cpu, library, blocks=True).blocks)
    graph = program.artifact.graph
    calls: dict[str, list[int]] = {}
    for key in graph.keys:
        symbol = next((s for s in found if s.endswith(symbol_of(key))), symbol_of(key))
        calls.setdefault(symbol, []).append(key.macs)
    keys = {symbol_of(key): str(key) for key in graph.keys}
    total = sum(found.get(symbol, 0) for symbol in calls)
    for symbol in sorted(calls, key=lambda s: -found.get(s, 0)):
        executed, macs = found.get(symbol, 0), sum(calls[symbol])
        name = next((text for part, text in keys.items() if symbol.endswith(part)), symbol)
        rate = macs / max(executed, 1)
        print(f"    {100 * executed / total:>5.1f} % {executed:>12,} {rate:>6.2f} mac/insn  "
              f"{len(calls[symbol])} x {name}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpus", nargs="+", default=["cortex-a72", "cortex-a76"],
                        choices=list(CPUS))  # fmt: skip
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--models", nargs="+", default=list(MODELS_HERE), choices=list(MODELS))
    parser.add_argument("--peers", nargs="*", default=["onnxruntime", "litert"])
    parser.add_argument("--kernels", action="store_true", help="list our kernels as well")
    options = parser.parse_args()
    library = counting_plugin()
    root = userland(CACHE / "arm64") if options.peers else Path()
    print(f"{'processor':>10} {'model':<16} {'type':>4} {'MMAC':>7} {'edgeopt':>12} "
          f"{'mac/insn':>8} {'onnxruntime':>12} {'litert':>12} {'x ort':>6} "
          f"{'x litert':>8}")  # fmt: skip
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for name in options.cpus:
        cpu = CPUS[name]
        names = [(m, precision) for precision in options.precision for m in options.models]
        jobs = [(prepare(MODELS[m], CACHE / "networks"), precision) for m, precision in names]
        theirs = {p: peer_instructions(p, jobs, cpu, library, root) for p in options.peers}
        for index, (model, precision) in enumerate(names):
            with tempfile.TemporaryDirectory() as work:
                program = build(jobs[index][0] / f"{precision}.onnx", cpu, Path(work))
                ours = count([program.path, RUNS], cpu, library).spans[0] / RUNS
                cells, factors = [], []
                for peer in ("onnxruntime", "litert"):
                    value = theirs[peer][index] if peer in theirs else None
                    cells.append("-" if value is None else f"{value:,.0f}")
                    factors.append("-" if value is None else f"{value / ours:.2f}")
                    if value is not None:
                        ratios.setdefault((name, precision, peer), []).append(value / ours)
                macs = program.macs
                print(f"{name:>10} {model:<16} {precision:>4} {macs / 1e6:>7.2f} {ours:>12,.0f} "
                      f"{macs / ours:>8.2f} {cells[0]:>12} {cells[1]:>12} {factors[0]:>6} "
                      f"{factors[1]:>8}", flush=True)  # fmt: skip
                if options.kernels:
                    print_kernels(program, cpu, library)
    for (name, precision, peer), values in ratios.items():
        mean = math.exp(statistics.mean(map(math.log, values)))
        fewer = sum(value > 1 for value in values)
        print(f"{name} {precision} against {peer}: geometric mean {mean:.2f}, least "
              f"{min(values):.2f}, fewer on {fewer} of {len(values)}")  # fmt: skip


if __name__ == "__main__":
    main()

"""Whole networks against every peer runtime: the same models, the same threads, in turns.

    python benchmarks/networks.py [--precision fp32 int8] [--threads 1] [--models ...]
                                  [--peers ...] [--runs 200] [--json FILE [--show]] [--prepare]
    python benchmarks/networks.py --profile MODEL ...   our own kernels, by share of time

Times are medians of whole inferences, in microseconds; an engine above 50 ms has 20 of them, as
a note says. ``x best`` is the best peer's time by
ours, ``x ort`` onnxruntime's by ours: above 1, edgeopt is faster. Each engine takes a turn of a
few runs, then the next one; each is a process of its own, on the same processors.
``GFLOP/s`` is what the artifact reaches, ``of peak`` its share of what independent fused
multiply-adds reach. An 8-bit model is quantized by edgeopt for onnxruntime, OpenVINO, IREE, TVM
and edgeopt itself, by the runtime's own tools for LiteRT and ExecuTorch; onnxruntime's figure is
the better of its fast and its exact 8-bit sums.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from artifact_vs_ort import peak_gflops
from models import MODELS, Model, prepare
from ours import Ours
from peers import PEERS, PeerError, Spec, Worker, environment, interpreter

CACHE = Path(__file__).resolve().parent.parent / ".cache"
SCRIPTS = Path(__file__).resolve().parent / "peers"
TURNS = 10
#: An engine slower than this per inference is given fewer runs.
SLOW_NS = 50e6
SLOW_RUNS = 20


@dataclass
class Row:
    """One model in one precision on so many threads."""

    model: str
    precision: str
    threads: int
    macs: int
    ours_ns: float = 0.0
    check: str = ""
    peers_ns: dict[str, float] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        """What a row replaces an earlier one of."""
        return self.model, self.precision, self.threads

    def best(self) -> tuple[str, float] | None:
        """The fastest peer."""
        return min(self.peers_ns.items(), key=lambda pair: pair[1], default=None)


def open_peer(
    spec: Spec, folder: Path, image: Path, precision: str, threads: int
) -> tuple[Worker, list[float]]:
    """A worker with the model loaded and warm, and how long its first inferences took.

    Raises:
        PeerError: it cannot be installed, converted or loaded; the text says which.
    """
    python = interpreter(spec, CACHE / "peers")
    script, *arguments = spec.worker
    worker = Worker([python, SCRIPTS / script, *arguments], environment(threads))
    try:
        file, _ = worker.convert(folder, precision, folder / (spec.part_of or spec.name))
        worker.pin(processors(threads))
        worker.load(file, threads, image, precision)
        return worker, worker.run(2)
    except PeerError:
        worker.close()
        raise


def compare(
    model: Model, precision: str, threads: int, runs: int, specs: list[Spec], tiles: str
) -> Row:
    """All engines on one model, in turns."""
    folder = prepare(model, CACHE / "networks")
    image = folder / "image.npy"
    if not image.exists():
        np.save(image, np.load(folder / "images.npy")[:1])
    ours = Ours(folder, precision, threads, tiles)
    row = Row(model.name, precision, threads, ours.macs, check=ours.check)
    workers: dict[str, Worker] = {}
    samples: dict[str, list[float]] = {"edgeopt": []}
    warm: dict[str, list[float]] = {}
    try:
        for spec in specs:
            try:
                workers[spec.name], warm[spec.name] = open_peer(
                    spec, folder, image, precision, threads
                )
                samples[spec.name] = []
            except PeerError as error:
                row.notes[spec.name] = str(error)
        if precision == "fp32":
            row.notes |= disagreements({name: w.output() for name, w in workers.items()})
        with pinned(processors(threads)):
            for _ in range(TURNS):
                samples["edgeopt"] += ours.run(max(2, runs // TURNS))
                for name, worker in workers.items():
                    samples[name] += worker.run(turn(samples[name] or warm[name], runs))
    finally:
        for worker in workers.values():
            worker.close()
    row.ours_ns = statistics.median(samples.pop("edgeopt"))
    for name, values in samples.items():
        group = PEERS[name].part_of or name
        median = statistics.median(values)
        if median < row.peers_ns.get(group, math.inf):
            row.peers_ns[group], row.runs[group] = median, len(values)
    return row


def turn(so_far: list[float], runs: int) -> int:
    """How many runs a peer's next turn has; a slow peer's are fewer."""
    if so_far and statistics.median(so_far) > SLOW_NS:
        return max(1, min(runs, SLOW_RUNS) // TURNS)
    return max(2, runs // TURNS)


def disagreements(outputs: dict[str, list[float]]) -> dict[str, str]:
    """Peers whose result is not that of onnxruntime: they did not run the same model."""
    reference = outputs.get("onnxruntime")
    found = {}
    for name, values in outputs.items():
        if reference is None or len(values) != len(reference):
            continue
        bound = max(1e-9, max(abs(v) for v in reference))
        error = max(abs(a - b) for a, b in zip(values, reference, strict=True)) / bound
        if not error < 1e-3:
            found[name] = f"differs from onnxruntime by {error:.1e} of the largest output"
    return found


def table(rows: list[Row], names: list[str], peak: float | None) -> str:
    """Rows of one precision and thread count as text, with their means."""
    shown = [name for name in names if not PEERS[name].part_of]
    head = f"{'model':<16} {'MMAC':>7} {'edgeopt':>9} "
    head += " ".join(f"{name:>11}" for name in shown)
    lines = [f"{head} {'best peer':>12} {'x best':>6} {'x ort':>6} {'GFLOP/s':>8} {'of peak':>7}"]
    for row in rows:
        cells = " ".join(
            f"{row.peers_ns[n] / 1e3:>11.1f}" if n in row.peers_ns else f"{'-':>11}" for n in shown
        )
        best, rate = row.best(), 2 * row.macs / row.ours_ns
        share = f"{100 * rate / peak:.0f} %" if peak and row.precision == "fp32" else "-"
        ratio = f"{best[1] / row.ours_ns:>6.2f}" if best else f"{'-':>6}"
        ort = row.peers_ns.get("onnxruntime")
        against = f"{ort / row.ours_ns:>6.2f}" if ort else f"{'-':>6}"
        lines.append(
            f"{row.model:<16} {row.macs / 1e6:>7.2f} {row.ours_ns / 1e3:>9.1f} {cells} "
            f"{best[0] if best else '-':>12} {ratio} {against} {rate:>8.1f} {share:>7}"
        )
    return "\n".join([*lines, *means(rows, shown), *remarks(rows)])


def means(rows: list[Row], names: list[str]) -> list[str]:
    """Geometric means of peers' times by ours."""
    lines = []
    for name in names:
        ratios = [r.peers_ns[name] / r.ours_ns for r in rows if name in r.peers_ns]
        if ratios:
            lines.append(f"against {name}: geometric mean {geomean(ratios):.2f}, least "
                         f"{min(ratios):.2f}, on {len(ratios)} of {len(rows)} models")  # fmt: skip
    best = [(found[1] / row.ours_ns, row.model) for row in rows if (found := row.best())]
    if best:
        slower = [f"{model} ({ratio:.2f})" for ratio, model in sorted(best) if ratio < 1]
        lines.append(
            f"against the best peer of each: geometric mean {geomean([r for r, _ in best]):.2f}, "
            f"slower on {len(slower)} of {len(best)}" + (f": {', '.join(slower)}" if slower else "")
        )
    return lines


def geomean(values: list[float]) -> float:
    """Geometric mean."""
    return math.exp(statistics.mean(math.log(value) for value in values))


def remarks(rows: list[Row]) -> list[str]:
    """What did not work, and who ran less often."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, text in row.notes.items():
            found.setdefault(f"{name}: {text}", []).append(row.model)
        for name, count in row.runs.items():
            if count < 200:
                found.setdefault(f"{name}: {count} runs only", []).append(row.model)
        if row.check:
            found.setdefault(f"edgeopt: {row.check}", []).append(row.model)
    return [f"note: {text} [{', '.join(models)}]" for text, models in found.items()]


def profile(name: str, precision: str, runs: int, peak: float | None, tiles: str) -> str:
    """Our kernels of one model, the longest first."""
    ours = Ours(prepare(MODELS[name], CACHE / "networks"), precision, 1, tiles)
    with pinned(processors(1)):
        kernels = ours.kernels(runs)
    total = sum(kernel.latency_ns for kernel in kernels)
    lines = [f"{name} {precision}: {len(kernels)} kernels, {total / 1e3:.1f} us"]
    if ours.check:
        lines.append(f"note: {ours.check}")
    lines.append(f"{'us':>8} {'share':>6} {'GMAC/s':>7} {'of peak':>7}  kernel")
    for kernel in sorted(kernels, key=lambda k: -k.latency_ns):
        rate = kernel.key.macs / kernel.latency_ns
        share = f"{200 * rate / peak:.0f} %" if peak and precision == "fp32" else "-"
        lines.append(
            f"{kernel.latency_ns / 1e3:>8.1f} {100 * kernel.latency_ns / total:>5.1f}% "
            f"{rate:>7.1f} {share:>7}  {kernel.key}"
        )
    return "\n".join(lines)


def processors(threads: int) -> set[int]:
    """The first ``threads`` of the processors this process may use."""
    return set(sorted(os.sched_getaffinity(0))[:threads])


@contextmanager
def pinned(cpus: set[int]) -> Iterator[None]:
    """Let this process, and what it starts meanwhile, use these processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def load_rows(path: Path | None) -> list[Row]:
    """The rows of an earlier run, if there are any."""
    if path is None or not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text())]


def show(rows: list[Row], peak: float | None) -> None:
    """Print a table for each thread count and precision."""
    order = list(MODELS)
    for threads, precision in sorted({(r.threads, r.precision) for r in rows}):
        shown = [r for r in rows if (r.precision, r.threads) == (precision, threads)]
        shown.sort(key=lambda row: order.index(row.model))
        names = [n for n in PEERS if any(n in r.peers_ns or n in r.notes for r in shown)]
        title = f"{precision}, {threads} thread{'s' if threads > 1 else ''}"
        share = threads * peak if peak else None
        print(title + (f", fp32 peak {share:.0f} GFLOP/s" if share else ""))
        print(table(shown, names, share), "\n", flush=True)
    print("\n".join(scaling(rows)))


def scaling(rows: list[Row]) -> list[str]:
    """How much faster several threads are than one, where both were measured."""
    alone = {(r.model, r.precision): r.ours_ns for r in rows if r.threads == 1}
    lines = []
    for row in rows:
        one = alone.get((row.model, row.precision))
        if row.threads > 1 and one:
            lines.append(f"{row.model} {row.precision}: {row.threads} threads "
                         f"{one / row.ours_ns:.2f}x one")  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--tiles", choices=["measured", "model"], default="measured")
    parser.add_argument("--json", type=Path, help="keep the rows here, with those there already")
    parser.add_argument("--show", action="store_true", help="print the tables of --json only")
    parser.add_argument("--prepare", action="store_true", help="install, convert, build; 20 runs")
    parser.add_argument("--profile", action="store_true", help="our kernels of --models only")
    options = parser.parse_args()
    peak = peak_gflops()
    rows = load_rows(options.json)
    if options.profile:
        for name in options.models:
            for precision in options.precision:
                print(profile(name, precision, options.runs, peak, options.tiles), "\n", flush=True)
        return
    for threads in [] if options.show else options.threads:
        for precision in options.precision:
            specs = [PEERS[n] for n in options.peers if precision in PEERS[n].precisions]
            for name in options.models:
                runs = 2 if options.prepare else options.runs
                print(f"{name} {precision} {threads}", file=sys.stderr, flush=True)
                row = compare(MODELS[name], precision, threads, runs, specs, options.tiles)
                rows = [r for r in rows if r.key != row.key] + [row]
                if options.json:
                    options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    show(rows, peak)


if __name__ == "__main__":
    main()

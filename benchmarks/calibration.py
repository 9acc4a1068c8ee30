"""How few measured networks it takes: estimates of this machine under onnxruntime, one thread.

    python benchmarks/calibration.py [--networks 70] [--passes 9] [--seconds 25]

Networks of NAS-Bench-201's kind (random cells of 3x3 and 1x1 convolutions, pooling and skips, at
32x32) are timed in turns. Some of them, drawn several times, calibrate what the processor's facts
say; 40 others are predicted. ``in 90 %`` is the share of those inside the interval.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from cells import nas_bench_201, random_cell

from edgeopt import devices
from edgeopt.graph.importer import import_network
from edgeopt.graph.load import load_model
from edgeopt.latency.coremodel import core_model, learn_core
from edgeopt.latency.fit import compare
from edgeopt.latency.work import Unit
from edgeopt.pipeline.predict import graph_for

HELD, DRAWS = 40, 8
SIZES = (0, 1, 2, 5, 10, 20)
RUNTIME = "onnxruntime"


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def timed(paths: list[Path], passes: int, limit_s: float) -> list[float]:
    """Nanoseconds of each network: the median over passes of the best of a few runs."""
    sessions = [session(path) for path in paths]
    x = {"x": np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)}
    found: list[list[float]] = [[] for _ in paths]
    order, stop = np.random.default_rng(1), time.monotonic() + limit_s
    for turn in range(passes):
        for index in order.permutation(len(paths)):
            best = []
            for _ in range(4):  # the first warms the caches up
                start = time.perf_counter_ns()
                sessions[index].run(None, x)
                best.append(time.perf_counter_ns() - start)
            found[index].append(float(min(best[1:])))
        if time.monotonic() > stop and turn >= 2:
            break
    return [statistics.median(values) for values in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=70)
    parser.add_argument("--passes", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=25.0)
    arguments = parser.parse_args()
    profile, source = devices.load("local"), np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as name:
        paths = [
            nas_bench_201(
                Path(name) / f"{i}.onnx", random_cell(source), (8, 16, 24, 32)[i % 4], side=32
            )
            for i in range(arguments.networks)
        ]
        units = []
        for path in paths:
            network = import_network(load_model(path, isolated=False))
            units.append(Unit(path.stem, graph_for(network, profile, RUNTIME).keys))
        times = np.array(timed(paths, arguments.passes, arguments.seconds))
    print(f"{len(units)} networks of {times.min() / 1e3:.0f} to {times.max() / 1e3:.0f} us, "
          f"{HELD} of them held out, {DRAWS} draws")  # fmt: skip
    heads = (("measured", 9), ("MAPE", 7), ("worst draw", 11), ("±10 %", 6), ("Spearman", 9),
             ("in 90 %", 8), ("said MAPE", 10))  # fmt: skip
    print(" ".join(f"{text:>{width}}" for text, width in heads))
    for size in SIZES:
        rows = []
        for draw in range(DRAWS if size else 1):
            order = np.random.default_rng(100 + draw).permutation(len(units))
            held, some = order[:HELD], order[HELD : HELD + size]
            model, said = core_model(profile, runtime=RUNTIME), float("nan")
            if size:
                fit, _ = learn_core(
                    profile, [units[i] for i in some], times[some].tolist(), runtime=RUNTIME,
                    origin="this benchmark",
                )  # fmt: skip
                model, said = core_model(profile, runtime=RUNTIME, fit=fit), fit.trust.mape
            guesses = [model.predict(units[i].keys) for i in held]
            inside = [g.low <= t <= g.high for g, t in zip(guesses, times[held], strict=True)]
            report = compare(np.array([g.value for g in guesses]), times[held])
            rows.append((report.mape, report.within_10, report.spearman, np.mean(inside), said))
        mape, within, spearman, covered, said = np.mean(rows, axis=0)
        print(f"{size:9} {mape:7.1%} {max(r[0] for r in rows):11.1%} {within:6.0%} {spearman:9.4f} "
              f"{covered:8.0%} {f'{said:.1%}' if size >= 5 else '-':>10}")  # fmt: skip


if __name__ == "__main__":
    main()

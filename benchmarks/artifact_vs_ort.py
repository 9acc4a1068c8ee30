"""Compiled subnets against onnxruntime on this machine, one thread, in turns.

    python benchmarks/artifact_vs_ort.py [--subnets 10] [--runs 400] [--precision fp32 int8]

Both engines get the same ONNX model; a turn of one follows a turn of the other. The ratio is
onnxruntime's median over the artifact's: above 1, the artifact is faster. ``GFLOP/s`` is what
the artifact reaches; ``of peak`` is its share of the rate that a loop of independent fused
multiply-adds reaches in the same run.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from edgeopt import devices, zoo
from edgeopt.codegen import programs, toolchain, verify
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.graph.build import build_onnx
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import parse_model
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.checkpoint import load_weights
from edgeopt.ofa.data import normalize
from edgeopt.ofa.export import to_network
from edgeopt.ofa.extract import extract
from edgeopt.pipeline import bundle
from edgeopt.pipeline.artifact import build_kernels, make_artifact
from edgeopt.pipeline.bench import OrtTimer, run_bench
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model
from edgeopt.quant.simulate import Simulator

TURNS = 8
# Twelve independent chains hide the latency of a multiply-add (4 or 5 cycles, two a cycle).
PEAK = r"""
#include <immintrin.h>
#include <stdio.h>
#include <time.h>
#define STEP(i) a##i = _mm256_fmadd_ps(a##i, x, y);
#define ALL(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define START(i) __m256 a##i = _mm256_set1_ps((float)i);
#define SUM(i) sink += _mm256_cvtss_f32(a##i);
int main(void) {
    double best = 0;
    for (int round = 0; round < 60; ++round) {
        struct timespec begin, end;
        __m256 x = _mm256_set1_ps(0.999999f), y = _mm256_set1_ps(1e-6f);
        ALL(START)
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (int n = 0; n < 200000; ++n) { ALL(STEP) }
        clock_gettime(CLOCK_MONOTONIC, &end);
        volatile float sink = 0;
        ALL(SUM)
        double ns = 1e9 * (double)(end.tv_sec - begin.tv_sec)
                  + (double)(end.tv_nsec - begin.tv_nsec);
        double rate = 200000.0 * 12 * 16 / ns;
        if (rate > best) best = rate;
    }
    printf("%f\n", best);
    return 0;
}
"""


def peak_gflops() -> float | None:
    """The fp32 multiply-add rate of one core, or None where AVX2 code cannot be built."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "peak.c", Path(folder) / "peak"
        source.write_text(PEAK)
        command = ["gcc", "-O2", "-mavx2", "-mfma", str(source), "-o", str(program)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        return float(subprocess.run([str(program)], capture_output=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subnets", type=int, default=10)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    entry, device = zoo.load("cifar_mbv3"), devices.load("local")
    space, cache = entry.space, StageCache(default_cache_dir())
    compiler, engine = toolchain.find(device), verify.engine_for(device)
    assert isinstance(engine, verify.Engine)
    rng = random.Random(options.seed)
    configs = [space.max_config(), space.min_config()]
    configs += [space.sample(rng) for _ in range(options.subnets - 2)]
    supernet = load_weights(space, entry.weights)
    images = normalize(entry.calibration, space)
    peak = peak_gflops()
    if peak is not None:
        print(f"fp32 multiply-add peak of one core: {peak:.0f} GFLOP/s")
    print(f"{'subnet':>6} {'precision':>9} {'MMAC':>6} {'edgeopt µs':>10} {'ort µs':>8} "
          f"{'ratio':>6} {'GFLOP/s':>8} {'of peak':>8}")  # fmt: skip
    ratios: dict[str, list[float]] = {}
    for index, config in enumerate(configs):
        static = extract(supernet, config)
        recalibrate_bn(static, images)
        static.eval()
        model = parse_model(build_onnx(to_network(static)))
        for precision in options.precision:
            final = model
            if precision == "int8":
                final = quantize_model(model, calibrate(model, images[:256].numpy()))
            network = import_model(final, isolated=False).network
            artifact = make_artifact(network, device.target)
            kernels, _ = build_kernels(artifact, "net", cache)
            inputs = {network.inputs[0]: images[:1].permute(0, 2, 3, 1).contiguous().numpy()}
            outputs = Simulator(network).run(inputs)
            vectors = TestVectors(
                {k: v[:, None] for k, v in inputs.items()},
                {k: np.asarray(v)[:, None] for k, v in outputs.items()},
            )
            code = bundle.render_code("net", "benchmark", {}, artifact, kernels, vectors)
            with tempfile.TemporaryDirectory() as folder:
                built = programs.build(code.files, "net", compiler, Path(folder), wanted=("bench",))
                ort = OrtTimer(final.SerializeToString())
                ours, theirs = [], []
                for _ in range(TURNS):
                    ours += run_bench(engine, built.paths["bench"], options.runs // TURNS)
                    theirs += ort.run(options.runs // TURNS)
            mine, peer = statistics.median(ours), statistics.median(theirs)
            rate = 2 * network.macs / mine
            share = f"{100 * rate / peak:.0f} %" if peak and precision == "fp32" else "-"
            ratios.setdefault(precision, []).append(peer / mine)
            print(f"{index:>6} {precision:>9} {network.macs / 1e6:>6.2f} {mine / 1e3:>10.1f} "
                  f"{peer / 1e3:>8.1f} {peer / mine:>6.2f} {rate:>8.1f} {share:>8}",
                  flush=True)  # fmt: skip
    for precision, values in ratios.items():
        mean = math.exp(statistics.mean(math.log(v) for v in values))
        print(f"{precision}: geometric mean {mean:.2f}, least {min(values):.2f}, "
              f"faster on {sum(v > 1 for v in values)} of {len(values)}")  # fmt: skip


if __name__ == "__main__":
    main()

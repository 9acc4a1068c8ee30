"""What several threads bring: the same networks compiled for one and for several, in turns.

    python benchmarks/threads.py [--threads 2] [--precision fp32 int8] [--models ...] [--runs 200]

Times are medians of whole inferences in microseconds. ``one`` is compiled for one thread, ``alone``
for several but run on one, ``N`` is run on N; ``scaling`` is one by N. The programs take turns of
a few runs, so that a drift of the machine hits all alike. ``cores`` is how much the machine itself
gave while it was measured: the same loop on N threads against one, N where nothing else runs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

from models import MODELS, prepare
from ours import Ours

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "networks"
TURNS = 10

SPIN = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static void *spin(void *unused) {
    double a = 1, b = 1.1, c = 1.2, d = 1.3;
    for (long i = 0; i < 5000000; ++i) {
        a = a * 1.0000001 + 0.1, b = b * 1.0000001 + 0.1;
        c = c * 1.0000001 + 0.1, d = d * 1.0000001 + 0.1;
    }
    volatile double sink = a + b + c + d;
    (void)sink;
    return unused;
}
int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 2;
    pthread_t others[16];
    double one, all, begin = now();
    spin(NULL);
    one = now() - begin;
    begin = now();
    for (int i = 1; i < count; ++i) pthread_create(&others[i], NULL, spin, NULL);
    spin(NULL);
    for (int i = 1; i < count; ++i) pthread_join(others[i], NULL);
    all = now() - begin;
    printf("%f\n", count * one / all);
}
"""


def spinner(folder: Path) -> Path:
    """A program that tells how many cores' worth of time the machine gives."""
    source, program = folder / "spin.c", folder / "spin"
    source.write_text(SPIN)
    subprocess.run(
        ["gcc", "-O2", "-pthread", "-o", str(program), str(source)], check=True, capture_output=True
    )
    return program


def cores(program: Path, threads: int) -> float:
    done = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def compare(name: str, precision: str, threads: int, runs: int, spin: Path) -> str:
    """One row of the table."""
    folder = prepare(MODELS[name], CACHE)
    one = Ours(folder, precision, 1, "model")
    many = Ours(folder, precision, threads, "model")
    divided = many.threads > 1
    times: dict[str, list[float]] = {"one": [], "alone": [], "many": []}
    given = []
    for _ in range(TURNS):
        count = max(runs // TURNS, 5)
        given.append(cores(spin, threads))
        times["one"] += one.run(count)
        times["alone"] += many.run(count, *(("--threads", "1") if divided else ()))
        times["many"] += many.run(count)
    median = {key: statistics.median(values) for key, values in times.items()}
    fastest = {key: min(values) for key, values in times.items()}
    shown = (f"{median[key] / 1e3:9.1f}" for key in ("one", "alone", "many"))
    return (
        f"{name:<16} {precision:<5} {many.threads:>3} {' '.join(shown)} "
        f"{median['one'] / median['many']:>8.2f} {fastest['one'] / fastest['many']:>8.2f} "
        f"{statistics.median(given):>6.2f} {one.check or many.check or 'agrees'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spin = spinner(Path(folder))
        print(f"{'model':<16} {'':<5} {'for':>3} {'one':>9} {'alone':>9} {options.threads:>9} "
              f"{'scaling':>8} {'fastest':>8} {'cores':>6}")  # fmt: skip
        for precision in options.precision:
            for name in options.models:
                row = compare(name, precision, options.threads, options.runs, spin)
                print(row, flush=True)


if __name__ == "__main__":
    main()

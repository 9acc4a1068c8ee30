"""How long `edgeopt compile --device rpi4` takes: cold, and again with only the packaging changed.

    python benchmarks/compile_time.py [--repeat 3]

A cold compile starts with an empty stage cache; the repeated one changes the command line and the
output folder, so that files are rendered and written anew while every other stage is cached.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def compile_once(cache: Path, out: Path, *extra: str) -> float:
    begin = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "edgeopt.cli.main", "compile", "--device", "rpi4", "-o", str(out),
         "--quiet", *extra],
        check=True,
        env=os.environ | {"EDGEOPT_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    cases = {
        "fp32 and int8 searched": (),
        "within 4 ms, int8": ("--latency", "4ms", "--precision", "int8"),
    }
    print(f"{'compile':<24} {'cold s':>7} {'goal':>5} {'repeated s':>10} {'goal':>5}")
    for title, extra in cases.items():
        cold, warm = [], []
        for turn in range(options.repeat):
            with tempfile.TemporaryDirectory() as folder:
                cache, base = Path(folder) / "cache", Path(folder)
                cold.append(compile_once(cache, base / "a", *extra))
                warm.append(compile_once(cache, base / f"b{turn}", *extra))
        print(f"{title:<24} {statistics.median(cold):>7.1f} {90:>5} "
              f"{statistics.median(warm):>10.1f} {10:>5}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

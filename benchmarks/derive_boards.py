"""Learn the cores of rpi4, pixel3 and note10 from the block latencies published for them.

    EDGEOPT_DATA=... python benchmarks/derive_boards.py [--write]

prints the factors that the measurements moved, and writes what `edgeopt predict --device rpi4
--runtime hw-nas-bench` and so on read: `device_profiles/*/*.core.json`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from board_data import SOURCES, Source, read

from edgeopt import devices
from edgeopt.latency.corefile import save_fit
from edgeopt.latency.coremodel import CoreFit, learn_core
from edgeopt.latency.prior import NAMES, UNKNOWN_THREADS, deviations
from edgeopt.latency.select import fit_path

PROFILES = Path(__file__).resolve().parent.parent / "device_profiles"


def derive(source: Source, folder: Path) -> CoreFit:
    """What the published figures of a board teach of its core."""
    rows = read(source, folder)
    fit, _ = learn_core(
        devices.load(source.device),
        [row.unit for row in rows],
        [row.latency_ns for row in rows],
        runtime=source.runtime,
        threads=UNKNOWN_THREADS,
        origin=source.origin,
        alike=[row.group for row in rows],
    )
    return fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the boards' files")
    arguments = parser.parse_args()
    folder = Path(os.environ["EDGEOPT_DATA"]) / "latency"
    for source in SOURCES:
        fit = derive(source, folder)
        print(f"{source.device}, {fit.runtime}: {fit.trust}")
        before = np.hypot(*deviations(fit.runtime, fit.threads))
        after = np.sqrt(np.diag(fit.belief.covariance))
        for name, mean, old, new in zip(NAMES, fit.belief.mean, before, after, strict=True):
            if new < 0.9 * old:
                print(f"  {name:24} x {np.exp(mean):6.2f}, within {old:.2f} before, {new:.2f} now")
        if arguments.write:
            profile = devices.load(source.device)
            save_fit(fit, fit_path(PROFILES / source.device, profile, fit.runtime, fit.threads))


if __name__ == "__main__":
    main()

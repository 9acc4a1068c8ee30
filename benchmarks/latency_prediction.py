"""Predicted against measured latency of whole subnets that the table was not built from.

Measures (or completes) this machine's table, calibrated on other subnets, then times fresh ones
and compares. `--json` prints one document instead; `--table` keeps the table.

    python benchmarks/latency_prediction.py [--networks 30] [--table FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt import devices
from edgeopt.latency.fit import compare
from edgeopt.latency.model import TableModel, calibrate
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.kernel_programs import KernelPrograms
from edgeopt.pipeline.profile import ProfileRequest, profile
from edgeopt.pipeline.profile_networks import network_times


def show(event: str, fields: Mapping[str, object]) -> None:
    if event == "end":
        print(f"{fields['stage']}: {fields.get('text', '')}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=30, help="fresh subnets a precision")
    parser.add_argument("--calibrate", type=int, default=16, help="subnets a precision to fit on")
    parser.add_argument("--space", default="cifar")
    parser.add_argument("--table", type=Path, help="the table to make or complete")
    parser.add_argument("--force", action="store_true", help="measure the table anew")
    parser.add_argument("--work", type=Path, help="keep built programs here, and use them again")
    parser.add_argument("--json", action="store_true", help="print one document")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        request = ProfileRequest(
            space=arguments.space, out=arguments.table or Path(folder) / "table.latency.jsonl",
            networks=0, force=arguments.force, resume=True,
        )  # fmt: skip
        report = profile(request, show)
        device, space = devices.load("local"), load_space(arguments.space)
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        programs = KernelPrograms(device, (), work, StageCache(default_cache_dir()))
        count = arguments.calibrate + arguments.networks
        times = network_times(
            space, request.precisions, device, programs, count, progress=show
        )  # fmt: skip
    # All are timed in turn, in one run; the table sees the first of them, the rest are fresh.
    order = list(dict.fromkeys(name.partition(" ")[2] for name in times))
    fitted = set(order[: arguments.calibrate])
    seen = {name: value for name, value in times.items() if name.partition(" ")[2] in fitted}
    table = replace(report.table, calibration=calibrate(report.table, seen))
    model = TableModel(table, strict=True)
    rows = [
        {
            "subnet": name.partition(" ")[2],
            "precision": name.partition(" ")[0],
            "kernels": len(keys),
            "measured_us": round(measured / 1e3, 2),
            "predicted_us": round(model.predict(keys).value / 1e3, 2),
        }
        for name, (keys, measured) in times.items()
        if name not in seen
    ]
    summary = {}
    for precision in ("f32", "i8", "all"):
        chosen = [row for row in rows if precision in ("all", row["precision"])]
        predicted, measured = (
            np.array([float(str(row[name])) for row in chosen])
            for name in ("predicted_us", "measured_us")
        )
        summary[precision] = asdict(compare(predicted, measured))
    document = {
        "schema": 1,
        "device": device.title,
        "table_kernels": len(report.table.entries),
        "calibration": asdict(table.calibration) if table.calibration else None,
        "conditions": dict(report.table.conditions),
        "summary": summary,
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
    }
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        print_tables(document)


def print_tables(document: Mapping[str, Any]) -> None:
    """A row a subnet, then the errors of each precision."""
    print(f"{'subnet':<56} {'type':>4} {'measured us':>11} {'predicted us':>12} {'error':>7}")
    for row in document["rows"]:
        measured, predicted = row["measured_us"], row["predicted_us"]
        print(f"{row['subnet']:<56} {row['precision']:>4} {measured:>11.1f} {predicted:>12.1f} "
              f"{100 * (predicted / measured - 1):>+6.1f}%")  # fmt: skip
    for name, found in document["summary"].items():
        print(f"{name}: {found['count']} networks, MAPE {found['mape']:.1%} (goal 10 %), median "
              f"{found['median_error']:.1%}, worst {found['worst_error']:.1%}, within 10 % "
              f"{found['within_10']:.0%}, Spearman {found['spearman']:.3f} "
              "(goal 0.97)")  # fmt: skip
    conditions = document["conditions"]
    print(f"table of {document['table_kernels']} kernels; load average while it was measured: "
          f"{conditions.get('load_average', 'unknown')}")  # fmt: skip


if __name__ == "__main__":
    main()

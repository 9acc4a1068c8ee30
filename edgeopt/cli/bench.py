"""``edgeopt bench``: how long a bundle's network takes on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import stdout, table


def run(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    runs: Annotated[int, typer.Option(min=10, max=1_000_000, help="Counted runs.")] = 300,
    against_ort: Annotated[
        bool, typer.Option("--against-ort", help="Alternate with onnxruntime, as many threads.")
    ] = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="Time every kernel as well.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default: what the bundle was compiled for.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Build a bundle's bench program from its own files and run it here."""
    from edgeopt.core.units import show_duration
    from edgeopt.pipeline.bench import bench_bundle

    result = bench_bundle(
        bundle, runs=runs, against_ort=against_ort, kernels=kernels, threads=threads
    )
    if as_json:
        print(json.dumps(result.as_dict(), indent=2))
        return
    console = stdout()
    console.print(
        table(
            ["engine", "median", "fastest", "90th percentile", "runs"],
            [
                (e.name, show_duration(e.median_ns), show_duration(e.min_ns),
                 show_duration(e.p90_ns), str(e.runs))
                for e in result.engines
            ],
        )
    )  # fmt: skip
    if result.ratio is not None:
        console.print(f"onnxruntime / edgeopt: {result.ratio:.2f}")
    if result.kernels:
        console.print()
        console.print(
            table(
                ["kernel", "median", "share"],
                [
                    (k.name, show_duration(k.median_ns), f"{100 * k.share:.1f} %")
                    for k in result.kernels
                ],
            )
        )

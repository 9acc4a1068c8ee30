"""``edgeopt bench``: how long a bundle's network takes on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import stdout, table
from edgeopt.core.errors import InputError


def run(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    runs: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Counted runs: 300, or 3 of a microcontroller."),
    ] = None,
    against_ort: Annotated[
        bool, typer.Option("--against-ort", help="Alternate with onnxruntime, as many threads.")
    ] = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="Time every kernel as well.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default: what the bundle was compiled for.")
    ] = None,
    port: Annotated[
        str | None,
        typer.Option(help="Serial port of a board that runs the bundle's bench firmware."),
    ] = None,
    transport: Annotated[
        str | None, typer.Option(help="How to reach a microcontroller: qemu_system or serial.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Build a bundle's bench program from its own files and run it here, or as firmware."""
    from edgeopt.core.units import show_duration
    from edgeopt.pipeline.bench import bench_bundle, is_firmware

    if is_firmware(bundle):
        _firmware(bundle, runs, kernels, port, transport, as_json)
        return
    if port is not None or transport is not None:
        raise InputError(
            "the bundle is not for a microcontroller", where="--port" if port else "--transport",
            hint="leave it out",
        )  # fmt: skip
    result = bench_bundle(
        bundle, runs=max(10, runs or 300), against_ort=against_ort, kernels=kernels, threads=threads
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


def _firmware(
    bundle: Path, runs: int | None, kernels: bool, port: str | None, transport: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Bench firmware's answer."""
    from edgeopt.core.units import show_duration
    from edgeopt.pipeline.bench_firmware import bench_firmware

    found = bench_firmware(
        bundle, runs=runs or 3, kernels=kernels, port=port, transport=transport
    )  # fmt: skip
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    console = stdout()
    time = show_duration(found.time_ns)
    if found.low_ns < found.high_ns:
        time += f" ({show_duration(found.low_ns)} to {show_duration(found.high_ns)})"
    verdict = {True: "passed", False: "FAILED", None: "none embedded"}[found.self_test]
    console.print(
        table(
            ["where", found.unit, "time", "how", "runs", "self-test"],
            [(found.where, f"{found.count:,.0f}", time, f"{found.source}, {found.counter}",
              str(found.runs), verdict)],
        )
    )  # fmt: skip
    if found.kernels:
        console.print()
        console.print(
            table(
                ["kernel", found.unit, "time", "share"],
                [
                    (k.name, f"{k.count:,.0f}", show_duration(k.time_ns), f"{100 * k.share:.1f} %")
                    for k in found.kernels
                ],
            )
        )

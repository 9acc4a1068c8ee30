"""``edgeopt profile``: measure a device's latency table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import Stages, stdout, table
from edgeopt.core.kernels import OpKey


def run(
    models: Annotated[
        list[Path] | None, typer.Argument(help="ONNX networks whose kernels are measured too.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", "-d", help="Board name, or a profile.toml.")
    ] = "local",
    space: Annotated[
        str, typer.Option(help="Search space whose kernels are measured; '' for none.")
    ] = "cifar",
    runtime: Annotated[
        str, typer.Option(help="What runs the kernels: edgeopt or onnxruntime.")
    ] = "edgeopt",
    precision: Annotated[str, typer.Option(help="fp32, int8 or auto (both).")] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The table's file; default: your own tables.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Stop measuring kernels after this time.")
    ] = None,
    networks: Annotated[
        int, typer.Option(min=0, max=1000, help="Whole networks to time in each precision.")
    ] = 16,
    tiles: Annotated[
        bool, typer.Option("--tiles/--no-tiles", help="Measure tilings; time the best of each.")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a measurement that was cut off.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Measure again what the table already has.")
    ] = False,
    replay: Annotated[
        Path | None, typer.Option(help="Replay a recorded table instead of measuring.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="More folders of device profiles.")
    ] = None,
) -> None:
    """Measure how long kernels take on a device, and how well that predicts whole networks."""
    from edgeopt.core.units import show_duration
    from edgeopt.pipeline.profile import STAGES, ProfileRequest, parse_precisions, profile

    request = ProfileRequest(
        device=device,
        space=space,
        models=tuple(models or ()),
        runtime=runtime,
        replay=replay,
        precisions=parse_precisions(precision),
        out=out,
        resume=resume,
        force=force,
        budget_s=None if minutes is None else 60 * minutes,
        networks=networks,
        tiles=tiles,
        profile_dirs=tuple(profile_dir or ()),
    )
    report = profile(request, Stages(len(STAGES), quiet=quiet or as_json))
    calibration = report.table.calibration
    if as_json:
        document = {
            "schema": 1,
            "table": str(report.path),
            "device": report.table.device,
            "runtime": report.table.runtime,
            "kernels": len(report.table.entries),
            "measured": report.measured,
            "tilings": {str(key): str(choice) for key, choice in report.table.choices.items()},
            "skipped": {str(key): why for key, why in report.skipped.items()},
            "unfinished": [str(key) for key in report.unfinished],
            "calibration": None if calibration is None else asdict(calibration),
            "conditions": dict(report.table.conditions),
            "seconds": round(report.seconds, 1),
        }
        print(json.dumps(document, indent=2))
        return
    medians = sorted(entry.median_ns for entry in report.table.entries.values())
    rows = [
        ("table", str(report.path)),
        ("device", f"{report.table.device}, {report.table.runtime}, 1 thread"),
        ("kernels", f"{len(medians)}, {report.measured} measured now"),
    ]
    if medians:
        rows.append(("range", f"{show_duration(medians[0])} to {show_duration(medians[-1])}"))
    if report.table.choices:
        faster = len(report.table.choices)
        rows.append(("tilings", f"{faster} kernels run faster with another than the model's"))
    if report.skipped:
        rows.append(("cannot be timed", f"{len(report.skipped)} kernels: {_first(report.skipped)}"))
    if report.unfinished:
        rows.append(("not finished", f"{len(report.unfinished)} kernels: go on with --resume"))
    if calibration is None:
        rows.append(("whole networks", "not timed: the table's error is unknown"))
    else:
        rows.append(
            (
                "whole networks",
                f"{calibration.networks} left out in turn: error {calibration.mape:.1%} on "
                f"average, {calibration.worst_error:.1%} at worst, "
                f"{calibration.within_10:.0%} within 10 %, Spearman {calibration.spearman:.3f}",
            )
        )
    stdout().print(table(["profile", ""], rows))


def _first(reasons: Mapping[OpKey, str]) -> str:
    return next(iter(reasons.values()))

"""``edgeopt profile``: measure a device's latency table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import Stages, stdout, table


def run(
    device: Annotated[
        str, typer.Option("--device", "-d", help="Board name, or a profile.toml.")
    ] = "local",
    space: Annotated[str, typer.Option(help="Search space whose kernels are measured.")] = "cifar",
    model: Annotated[
        list[Path] | None, typer.Option(help="ONNX network whose kernels are measured too.")
    ] = None,
    meter: Annotated[
        str, typer.Option(help="edgeopt (the deployment's own kernels) or onnxruntime.")
    ] = "edgeopt",
    precision: Annotated[str, typer.Option(help="fp32, int8, or both: fp32,int8.")] = "fp32,int8",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table file; default: the user's cache.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop measuring kernels after this long.")
    ] = None,
    networks: Annotated[
        int, typer.Option(min=0, help="Whole networks to calibrate and check with.")
    ] = 16,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a cut-off run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure again what is there.")] = False,
    replay: Annotated[
        Path | None, typer.Option(help="A recorded table that stands for the device.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the measuring order.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="More folders of device profiles.")
    ] = None,
) -> None:
    """Measure the kernels of a search space on a device, and check the sum on whole networks."""
    from edgeopt.pipeline.profile import STAGES, ProfileRequest, parse_precisions, profile

    report = profile(
        ProfileRequest(
            device=device,
            space=space,
            models=tuple(model or ()),
            runtime=meter,
            replay=replay,
            precisions=parse_precisions(precision),
            out=out,
            resume=resume,
            force=force,
            budget_s=None if minutes is None else 60 * minutes,
            networks=networks,
            seed=seed,
            profile_dirs=tuple(profile_dir or ()),
        ),
        Stages(len(STAGES), quiet=quiet),
    )
    calibration = report.table.calibration
    rows = [
        ("kernels in the table", str(len(report.table.entries))),
        ("measured now", str(report.measured)),
        ("skipped", str(len(report.skipped))),
        ("left for lack of time", str(len(report.unfinished))),
        ("repeated after a disturbance", str(report.disturbed)),
    ]
    if calibration is not None:
        rows += [
            ("whole networks left out", str(calibration.networks)),
            ("their mean error", f"{100 * calibration.mape:.1f} %"),
            ("within 10 %", f"{100 * calibration.within_10:.0f} %"),
            ("rank correlation", f"{calibration.spearman:.3f}"),
        ]
    if as_json:
        document = {"schema": 1, "table": str(report.path), **dict(rows)}
        print(json.dumps(document, indent=2))
        return
    console = stdout()
    console.print(table(["", report.table.device], rows))
    for key, reason in list(report.skipped.items())[:10]:
        console.print(f"skipped {key}: {reason}", markup=False)
    console.print(f"table  {report.path}", markup=False)

"""``edgeopt profile``: measure a device's latency table."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeopt.cli.console import print_error, stdout, table
from edgeopt.cli.live import LiveStages
from edgeopt.core.errors import InputError, ToolError

if TYPE_CHECKING:
    from edgeopt.pipeline.boards import Reach
    from edgeopt.pipeline.profile import ProfileReport


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
    meter: Annotated[
        str | None,
        typer.Option(help="What is timed: tvm (edgeopt's kernels), ort (onnxruntime), tvm,ort."),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="The same as --meter: edgeopt or onnxruntime.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Where the board is: user@board[:port] (ssh)...")
    ] = None,
    port: Annotated[str | None, typer.Option(help="Serial port of the board.")] = None,
    transport: Annotated[
        str | None, typer.Option(help="How to reach it, if not as the profile says.")
    ] = None,
    cpu: Annotated[
        str, typer.Option(help="Processor to measure on: a number, auto or none.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, int8, auto (both) or mixed (int8, w4, w2).")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The table's file; default: your own tables.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Build and measure for so long: what tells most first."),
    ] = None,
    networks: Annotated[
        int, typer.Option(min=0, max=1000, help="Whole networks to time in each precision.")
    ] = 16,
    held_out: Annotated[
        int, typer.Option(min=0, max=1000, help="More of them, never fitted to: the truth.")
    ] = 20,
    decompose: Annotated[
        bool, typer.Option("--decompose", help="Measure whole networks alone, and split them.")
    ] = False,
    tiles: Annotated[
        bool, typer.Option("--tiles/--no-tiles", help="Measure tilings; time the best of each.")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a measurement that was cut off.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Measure again what the table already has.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report here; default: beside the table.")
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Probe a board and write a first profile.toml for it.")
    ] = False,
    name: Annotated[str, typer.Option(help="With --new: what to call the board.")] = "",
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
    from edgeopt.pipeline.boards import Reach

    if new:
        _write_new(Reach(host, port, transport), name, out, force=force, as_json=as_json)
        return
    from edgeopt.pipeline.profile import STAGES, ProfileRequest, parse_precisions, profile

    request = ProfileRequest(
        device=device,
        space=space,
        models=tuple(models or ()),
        replay=replay,
        reach=Reach(host, port, transport, cpu),
        precisions=parse_precisions(precision),
        out=out,
        resume=resume,
        force=force,
        budget_s=None if minutes is None else 60 * minutes,
        networks=networks,
        held_out=held_out,
        decompose=decompose,
        tiles=tiles,
        profile_dirs=tuple(profile_dir or ()),
    )
    reports = []
    missing: ToolError | None = None
    runtimes = _runtimes(meter, runtime, out)
    for name in runtimes:
        try:
            reports.append(
                profile(
                    replace(request, runtime=name), LiveStages(len(STAGES), quiet=quiet or as_json)
                )
            )
        except ToolError as error:  # the other meter may still do
            if len(runtimes) == 1:
                raise
            missing = error
            print_error(error)
    pages: list[Path | None] = [None] * len(reports)
    if not no_report:
        only = report if len(runtimes) == 1 else None
        pages = [_write_report(found, only) for found in reports]
    if as_json and reports:
        documents = [_document(report) for report in reports]
        print(json.dumps(documents[0] if len(runtimes) == 1 else documents, indent=2))
    elif not as_json:
        for found, page in zip(reports, pages, strict=True):
            _show(found, page)
    if missing is not None:
        raise typer.Exit(missing.exit_code)


def _write_new(reach: Reach, name: str, out: Path | None, *, force: bool, as_json: bool) -> None:
    """Probe a board and show what was found."""
    from edgeopt.pipeline.new_profile import write_new_profile

    found = write_new_profile(reach, name=name, out=out, force=force)
    profile = found.profile
    if as_json:
        document = {
            "schema": 1,
            "profile": str(found.path),
            "name": profile.name,
            "board": found.board,
            "guessed": list(found.guessed),
            "unknown": list(found.unknown),
        }
        print(json.dumps(document, indent=2))
        return
    rows = [
        ("profile", str(found.path), ""),
        ("board", profile.title, found.board),
        ("core", f"{profile.mcpu} ({profile.arch})", ", ".join(sorted(profile.features))),
    ]
    for item, known in profile.provenance.items():
        value = getattr(profile, item)
        shown = f"{value / 1e6:,.0f} MHz" if item == "clock_hz" else f"{value:,}"
        rows.append((item, shown, f"{known.source.value}: {known.reference}"))
    rows += [(item, "unknown", "left out: add it if you know it") for item in found.unknown]
    stdout().print(table(["profile", "", ""], rows))


def _runtimes(meter: str | None, runtime: str | None, out: Path | None) -> tuple[str, ...]:
    """What is to be timed.

    Raises:
        InputError: options that exclude each other.
    """
    from edgeopt.pipeline.profile import parse_meters

    if meter is not None and runtime is not None:
        raise InputError(
            "--meter and --runtime say the same", where="--runtime", hint="give --meter alone"
        )
    found = (runtime or "edgeopt",) if meter is None else parse_meters(meter)
    if out is not None and len(found) > 1:
        raise InputError(
            "two meters write two tables", where="--out", hint="leave it out, or give one meter"
        )
    return found


def _write_report(report: ProfileReport, path: Path | None) -> Path:
    from edgeopt.core.files import write_atomic
    from edgeopt.pipeline.profile_report import render_profile_report

    path = path or report.path.with_suffix(".html")
    write_atomic(path, render_profile_report(report))
    return path


def _document(report: ProfileReport) -> dict[str, object]:
    """The report as one versioned document."""
    calibration = report.table.calibration
    return {
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
        "truth": None if report.table.truth is None else asdict(report.table.truth),
        "conditions": dict(report.table.conditions),
        "drift": round(report.drift, 4),
        "disturbed": report.disturbed,
        "throttled": report.throttled,
        "faults": list(report.events),
        "dropped_lines": report.dropped,
        "hints": list(report.hints),
        "seconds": round(report.seconds, 1),
    }


def _show(report: ProfileReport, page: Path | None) -> None:
    """The summary of a measurement."""
    from edgeopt.core.units import show_duration

    found = report.table
    calibration = found.calibration
    medians = sorted(entry.median_ns for entry in found.entries.values())
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    rows = [
        ("table", str(report.path)),
        ("device", f"{found.device}, {found.runtime}, {threads}"),
        ("kernels", f"{len(medians)}, {report.measured} measured now"),
    ]
    if medians:
        rows.append(("range", f"{show_duration(medians[0])} to {show_duration(medians[-1])}"))
    if found.choices:
        faster = len(found.choices)
        rows.append(("tilings", f"{faster} kernels run faster with another than the model's"))
    for why, count in Counter(report.skipped.values()).most_common(MAX_REASONS):
        rows.append(("cannot be timed", f"{count} kernel{'s' if count > 1 else ''}: {why}"))
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
    truth = found.truth
    if truth is not None:
        rows.append(
            (
                "held out",
                f"{truth.networks} networks nothing was fitted to: error {truth.mape:.1%} on "
                f"average, {truth.worst_error:.1%} at worst, {truth.within_10:.0%} within 10 %, "
                f"Spearman {truth.spearman:.3f}",
            )
        )
    rows += _circumstances(report)
    if page is not None:
        rows.append(("report", str(page)))
    stdout().print(table(["profile", ""], rows))


def _circumstances(report: ProfileReport) -> list[tuple[str, str]]:
    """Under what conditions it was measured, and what went wrong."""
    rows = []
    if report.anchors:
        text = f"anchor at most {max(report.drift, 0.0):.1%} above its best"
        if report.disturbed:
            text += f"; {report.disturbed} visits repeated"
        if report.throttled:
            text += f", {report.throttled} of them because the board was throttled"
        rows.append(("drift", text))
        told = report.table.conditions
        names = ("governor", "clock_khz", "temperature_highest_c", "pinned_cpu")
        shown = [f"{n.replace('_', ' ')} {told[n]}" for n in names if n in told]
        rows.append(("conditions", ", ".join(shown)))
    if report.dropped:
        rows.append(("journal", f"{report.dropped} lines could not be read and were dropped"))
    for what, count in Counter(report.events).most_common(MAX_REASONS):
        rows.append(("got over", what if count == 1 else f"{what} ({count} times)"))
    rows += [("hint", hint) for hint in report.hints]
    return rows


MAX_REASONS = 5

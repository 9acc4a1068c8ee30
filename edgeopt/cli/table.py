"""``edgeopt table``: latency tables, and what measurements say of a board."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeopt.cli import table_files
from edgeopt.cli.console import stdout, table

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Latency tables of boards.",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
table_files.add_to(app)


@app.command("calibrate")
def calibrate(
    measurements: Annotated[
        Path, typer.Argument(help="A CSV file: model (ONNX file) or kernel, and ms.")
    ],
    device: Annotated[
        str, typer.Option("--device", "-d", help="Board name, or a profile.toml.")
    ] = ...,  # type: ignore[assignment]
    runtime: Annotated[
        str, typer.Option(help="What ran them; default: as the rows say, else edgeopt.")
    ] = "",
    threads: Annotated[
        int, typer.Option(min=0, max=1024, help="On how many threads; 0: as the rows say, else 1.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write there instead of where predictions look.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Go on from what earlier measurements taught.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="More folders of device profiles.")
    ] = None,
) -> None:
    """Sharpen a board's estimates with measured networks and kernels."""
    from edgeopt.core.units import show_duration
    from edgeopt.pipeline.calibrate import Request, calibrate

    done = calibrate(
        Request(device, measurements, runtime, threads, out, update, tuple(profile_dir or ()))
    )
    if as_json:
        document = msgspec.json.encode(done, order="deterministic")
        sys.stdout.write(msgspec.json.format(document).decode() + "\n")
        return

    def off(value: float, measured: float) -> str:
        return f"{value / measured - 1:+.1%}"

    enough = done.mape_left_out is not None
    console = stdout()
    console.print(
        table(
            ["measured", "kernels", "time", "before", "left out" if enough else "", "after"],
            [
                (r.name, str(r.kernels), show_duration(r.measured_ns),
                 off(r.before_ns, r.measured_ns),
                 off(r.left_out_ns, r.measured_ns) if enough else "",
                 off(r.after_ns, r.measured_ns))
                for r in done.rows
            ],
        )
    )  # fmt: skip
    console.print()
    console.print(f"error before: {done.mape_before:.1%} on average", markup=False)
    if enough:
        console.print(
            f"error of each measurement predicted from the others: {done.mape_left_out:.1%} on "
            f"average, {done.within_10_left_out:.0%} within 10 %, Spearman "
            f"{done.spearman_left_out:.3f}",
            markup=False,
        )
    else:
        console.print("too few measurements to state an error", markup=False)
    console.print(
        f"90 % interval of a prediction: {done.low - 1:+.0%} to {done.high - 1:+.0%}", markup=False
    )
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"wrote {done.path}", markup=False)

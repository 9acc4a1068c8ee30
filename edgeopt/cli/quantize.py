"""``edgeopt quantize``: a trained ONNX network to integers, with bits where they are needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import Stages, stderr, stdout, table


def run(
    model: Annotated[Path, typer.Argument(help="An ONNX network in float.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Images as the model takes them: npz (images, and labels if known), npy, or a "
            "folder of npy."
        ),
    ] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", "-o", help="The quantized model.")] = Path(
        "quantized.onnx"
    ),
    precision: Annotated[
        str, typer.Option(help="int8, w4 (weights of 4 bits) or mixed (2, 4 or 8 a layer).")
    ] = "int8",
    device: Annotated[
        str, typer.Option("--device", "-d", help="Only what this board has kernels for.")
    ] = "",
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="mixed: the smallest plan that loses at most so many points (default 1)."
        ),
    ] = None,
    average_bits: Annotated[
        float | None, typer.Option(help="mixed: the best plan of so many bits a weight.")
    ] = None,
    flash: Annotated[
        str | None, typer.Option(help="mixed: the best plan whose weights take so much: 200KB.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A plan written before, instead of a search.")
    ] = None,
    sensitivity: Annotated[
        str, typer.Option(help="mixed: loss (measured) or hessian (its trace).")
    ] = "loss",
    input_shape: Annotated[
        list[str] | None,
        typer.Option(help="Fix a dynamic input: name=1x3x224x224. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of estimates and solver.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    any_table: Annotated[
        bool,
        typer.Option("--any-table", help="Use a table of other code, governor or threads too."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="More folders of device profiles.")
    ] = None,
) -> None:
    """Quantize a trained network after training, and say what it costs.

    Writes the QDQ model, the plan (OUT.plan.json) and a report (OUT.html). The drop is measured on
    the images, computed exactly as a board does.
    """
    from edgeopt.core.units import parse_size_bytes
    from edgeopt.pipeline.quantize import STAGES, quantize_file
    from edgeopt.pipeline.quantize_report import layer_rows, summary
    from edgeopt.pipeline.quantize_request import QuantizeRequest
    from edgeopt.pipeline.report import show_figure

    request = QuantizeRequest(
        model=model,
        data=data,
        out=out,
        precision=precision,
        device=device,
        max_drop=max_drop,
        average_bits=average_bits,
        flash_bytes=None if flash is None else parse_size_bytes(flash),
        plan=plan,
        sensitivity=sensitivity,
        input_shapes=tuple(input_shape or ()),
        profile_dirs=tuple(profile_dir or ()),
        any_table=any_table,
        seed=seed,
        force=force,
    )
    result = quantize_file(request, Stages(len(STAGES), quiet=quiet))
    if as_json:
        sys.stdout.write(result.encode().decode())
        return
    console = stdout()
    if result.status == "quantized":
        heads = ["layer", "operator", "weights", "bits", "bytes"]
        every = {int(bits) for row in result.layers for bits in row.sensitivity}
        heads += [f"at {bits} bits" for bits in sorted(every, reverse=True)]
        console.print(table(heads, layer_rows(result)))
        console.print()
        if result.before:
            after = {figure.name: show_figure(figure) for figure in result.after}
            rows = [
                (*show_figure(f)[:2], *after[f.name][1:]) for f in result.before if f.name in after
            ]
            console.print(table(["figure", "before", "after", "how it is known"], rows))
            console.print()
        console.print(table(["figure", "value"], summary(result)))
        console.print()
    for note in result.notes:
        stderr().print(f"note: {note}", markup=False)
    console.print(f"model   {out}", markup=False)
    if result.status == "quantized":
        console.print(f"plan    {request.plan_out}", markup=False)
        console.print(f"report  {request.report}", markup=False)

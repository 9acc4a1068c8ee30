"""``edgeopt predict``: what an ONNX network would cost on a board, without building it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeopt.cli.console import stdout, table

BASIS = {
    "measured": "these kernels, measured",
    "fitted": "measurements of its class",
    "facts": "facts of the processor",
}
COUNTED = {
    "measured": "these kernels, counted under emulation",
    "fitted": "counts of its class",
    "facts": "facts of the processor",
}


def run(
    model: Annotated[Path, typer.Argument(help="An ONNX network.")],
    device: Annotated[
        str, typer.Option("--device", "-d", help="Board name, or a profile.toml.")
    ] = ...,  # type: ignore[assignment]
    precision: Annotated[str, typer.Option(help="fp32 or int8; default: as the model is.")] = "",
    input_shape: Annotated[
        list[str] | None,
        typer.Option(help="Fix a dynamic input: name=1x3x224x224. Repeatable."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse kernels the latency table does not hold.")
    ] = False,
    any_table: Annotated[
        bool,
        typer.Option("--any-table", help="Use a table of other code, governor or threads too."),
    ] = False,
    runtime: Annotated[
        str,
        typer.Option(
            help="What runs it: edgeopt, onnxruntime, or a name measurements are kept by."
        ),
    ] = "edgeopt",
    threads: Annotated[int, typer.Option(help="How many threads run it.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="More folders of device profiles.")
    ] = None,
) -> None:
    """Predict latency, RAM and flash of an ONNX network from the board's table, by kernel."""
    from edgeopt.core.units import show_duration, show_size
    from edgeopt.pipeline.predict import predict_model
    from edgeopt.pipeline.report import show_figure

    prediction = predict_model(
        model,
        device=device,
        precision=precision,
        input_shapes=tuple(input_shape or ()),
        strict=strict,
        profile_dirs=tuple(profile_dir or ()),
        runtime=runtime,
        any_table=any_table,
        threads=threads,
    )
    if as_json:
        document = msgspec.json.encode(prediction, order="deterministic")
        sys.stdout.write(msgspec.json.format(document).decode() + "\n")
        return
    basis = COUNTED if prediction.counted else BASIS
    console = stdout()
    console.print(
        table(
            ["kernel", "key", "latency", "known by", "weights"],
            [
                (k.name, k.key, show_duration(k.latency_ns), k.latency_source,
                 show_size(k.weight_bytes))
                for k in prediction.kernels
            ],
        )
    )  # fmt: skip
    console.print()
    console.print(
        table(
            ["class", "kernels", "latency", "share", "rests on"],
            [
                (f"{c.kind} {c.precision}", str(c.kernels), show_duration(c.latency_ns),
                 f"{c.share:.1%}", basis[c.basis])
                for c in prediction.classes
            ],
        )
    )  # fmt: skip
    covered = prediction.coverage
    how, what = ("counted under emulation", "counts") if prediction.counted else (
        "measured on the board", "measurements there")  # fmt: skip
    console.print(
        f"of the time, {covered.measured:.0%} is of kernels {how}, "
        f"{covered.fitted:.0%} of classes fitted to {what}, {covered.facts:.0%} from "
        f"what is known of the processor"
    )
    console.print()
    console.print(
        table(["figure", "value", "how it is known"], [show_figure(f) for f in prediction.figures])
    )
    for note in prediction.notes:
        console.print(f"note: {note}", markup=False)

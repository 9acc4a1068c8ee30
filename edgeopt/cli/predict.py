"""``edgeopt predict``: what an ONNX network would cost on a board, without building it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeopt.cli.console import stdout, table


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
    )
    if as_json:
        document = msgspec.json.encode(prediction, order="deterministic")
        sys.stdout.write(msgspec.json.format(document).decode() + "\n")
        return
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
        table(["figure", "value", "how it is known"], [show_figure(f) for f in prediction.figures])
    )
    for note in prediction.notes:
        console.print(f"note: {note}", markup=False)

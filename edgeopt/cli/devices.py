"""``edgeopt devices``: the boards edgeopt knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import stdout, table


def run(
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="More folders of device profiles.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the boards: processor, memory, precisions, and how their latency is known."""
    from edgeopt.pipeline.devices import describe_devices

    rows = describe_devices(tuple(profile_dir or ()))
    if as_json:
        print(json.dumps({"schema": 1, "devices": [row.as_dict() for row in rows]}, indent=2))
        return
    stdout().print(
        table(
            ["device", "processor", "clock", "RAM", "flash", "precisions", "latency"],
            [row.cells() for row in rows],
        )
    )

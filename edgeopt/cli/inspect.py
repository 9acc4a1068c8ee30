"""``edgeopt inspect``: what is in a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import stdout, table
from edgeopt.cli.tables import checks_table, figures_table


def run(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    kernels: Annotated[bool, typer.Option("--kernels", help="List every kernel.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest instead.")] = False,
) -> None:
    """Show a bundle's figures, checks and files, after checking every file's digest."""
    from edgeopt.core.units import show_duration, show_size
    from edgeopt.pipeline.manifest import load_bundle

    manifest = load_bundle(bundle)
    if as_json:
        sys.stdout.write(manifest.encode().decode())
        return
    console = stdout()
    console.print(f"{manifest.name}: {manifest.source} for {manifest.device}", markup=False)
    console.print(f"made by {manifest.command} (edgeopt {manifest.edgeopt})", markup=False)
    if manifest.subnet:
        console.print(f"subnet {manifest.subnet}", markup=False)
    if manifest.plan:
        console.print(f"weights {manifest.plan}", markup=False)
    console.print()
    console.print(figures_table(manifest.figures))
    console.print()
    console.print(checks_table(manifest.checks))
    console.print()
    rows = [
        (direction, t.name, "x".join(map(str, t.shape)), t.layout, t.dtype, show_size(t.size_bytes))
        for direction, tensors in (("input", manifest.inputs), ("output", manifest.outputs))
        for t in tensors
    ]
    console.print(table(["", "tensor", "shape", "layout", "type", "size"], rows))
    if kernels:
        console.print()
        console.print(
            table(
                ["kernel", "key", "weights", "template", "latency", "known by"],
                [
                    (
                        k.name,
                        k.key,
                        k.weights,
                        k.template,
                        show_duration(k.latency_ns),
                        k.latency_source,
                    )
                    for k in manifest.kernels
                ],
            )
        )
    for note in manifest.notes:
        console.print(f"note: {note}", markup=False)

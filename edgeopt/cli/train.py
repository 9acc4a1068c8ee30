"""``edgeopt train``: train a supernet, resumable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import stderr, stdout


def run(
    data: Annotated[Path, typer.Option(help="Images: an npz, or a folder of class folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; resumed if there.")],
    space: Annotated[str, typer.Option(help="Search space: a name or a .toml file.")] = "cifar",
    epochs: Annotated[float, typer.Option(help="Passes over the images.")] = 60.0,
    minutes: Annotated[
        float | None, typer.Option(help="Anneal to the end within this time.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images a step, over all workers.")] = 128,
    workers: Annotated[int, typer.Option(help="Processes of one thread each.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.12,
    seed: Annotated[int, typer.Option(help="Seed of weights, order, crops and subnets.")] = 0,
) -> None:
    """Train a supernet with the sandwich rule and in-place distillation.

    A run that was cut off goes on where its last checkpoint was when started again with the
    same options.
    """
    from edgeopt.ofa.schedule import TrainOptions
    from edgeopt.ofa.spaces import load_space
    from edgeopt.ofa.train import train

    options = TrainOptions(
        epochs=epochs, minutes=minutes, batch=batch, workers=workers,
        learning_rate=learning_rate, seed=seed,
    )  # fmt: skip
    console = stderr()

    def show(event: Mapping[str, object]) -> None:
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in event.items()
            if name not in ("event", "time")
        )
        clock = time.strftime("%H:%M:%S")
        console.print(f"{clock} {event.get('event')}: {values}", markup=False)

    result = train(load_space(space), data, out, options, show)
    final = stdout()
    final.print(f"weights   {result.weights}", markup=False)
    final.print(f"steps     {result.steps}", markup=False)
    final.print(f"largest   {100 * result.accuracy_largest:.2f} % on all test images")
    final.print(f"smallest  {100 * result.accuracy_smallest:.2f} % on all test images")

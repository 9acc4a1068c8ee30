"""``edgeopt train``: train a supernet, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeopt.cli.console import stderr, stdout
from edgeopt.core.errors import InputError


def run(
    data: Annotated[Path, typer.Option(help="Images: an npz, or a folder of class folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; resumed if there.")],
    space: Annotated[
        str | None, typer.Option(help="Search space: a name or a .toml file.  [default: cifar]")
    ] = None,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Fine-tune trained weights for every bit-width.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Weights to quantize: zoo:NAME, or an npz of --space.  "
                     "[default: zoo:cifar_mbv3]"),
    ] = None,
    granularity: Annotated[
        str, typer.Option(help="Quantizing: scales by tensor, channel or group:SIZE.")
    ] = "channel",
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Quantizing: zero points, for simulation.")
    ] = False,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the images.  [default: 60, quantizing 10]")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Anneal to the end within this time.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images a step, over all workers.")] = 128,
    workers: Annotated[int, typer.Option(help="Processes of one thread each.")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.  [default: 0.12, quantizing 0.02]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order, crops and subnets.")] = 0,
) -> None:  # fmt: skip
    """Train a supernet with the sandwich rule and in-place distillation.

    With --quantize, a trained one is fine-tuned so that its weights serve with 8, 4, 3 and 2 bits.
    A run that was cut off goes on where its last checkpoint was when started again with the
    same options.
    """
    given = {"epochs": epochs, "learning_rate": learning_rate}
    common: dict[str, Any] = {
        "minutes": minutes, "batch": batch, "workers": workers, "seed": seed,
        **{name: value for name, value in given.items() if value is not None},
    }  # fmt: skip
    if quantize:
        kind, _, size = granularity.partition(":")
        common |= {
            "granularity": kind, "group": int(size) if size.isdigit() else 0,
            "symmetric": not asymmetric,
        }  # fmt: skip
        _quantize(data, out, space, source or "zoo:cifar_mbv3", common)
    elif granularity != "channel" or asymmetric:
        raise InputError(
            "granularity and zero points are of quantizers", where="--granularity",
            hint="add --quantize",
        )  # fmt: skip
    elif source is not None:
        raise InputError("--from names weights to quantize", where="--from", hint="add --quantize")
    else:
        _train(data, out, space or "cifar", common)


def _train(data: Path, out: Path, space: str, common: Mapping[str, Any]) -> None:
    from edgeopt.ofa.schedule import TrainOptions
    from edgeopt.ofa.spaces import load_space
    from edgeopt.ofa.train import train

    result = train(load_space(space), data, out, TrainOptions(**common), _teller())
    final = stdout()
    final.print(f"weights   {result.weights}", markup=False)
    final.print(f"steps     {result.steps}", markup=False)
    final.print(f"largest   {100 * result.accuracy_largest:.2f} % on all test images")
    final.print(f"smallest  {100 * result.accuracy_smallest:.2f} % on all test images")


def _quantize(
    data: Path, out: Path, space: str | None, source: str, common: Mapping[str, Any]
) -> None:
    from edgeopt.ofa.spaces import load_space
    from edgeopt.pipeline.elastic_train import (
        QuantizeOptions,
        Start,
        quantize_supernet,
        zoo_start,
    )

    kind, colon, name = source.partition(":")
    if colon and kind == "zoo":
        if space is not None:
            raise InputError(
                f"{source} has its own space", where="--space", hint="leave --space out"
            )
        chosen, start = zoo_start(name)
    else:
        chosen, start = load_space(space or "cifar"), Start(Path(source))
    result = quantize_supernet(chosen, start, data, out, QuantizeOptions(**common), _teller())
    final = stdout()
    final.print(f"weights     {result.weights}", markup=False)
    final.print(f"quantizers  {result.quantizers}", markup=False)
    final.print(f"steps       {result.steps}", markup=False)
    for title, found in (("largest", result.largest), ("smallest", result.smallest)):
        shares = ", ".join(f"w{bits} {100 * share:.2f} %" for bits, share in found.items())
        final.print(f"{title:<11} {shares} on all test images", markup=False)


def _teller() -> Callable[[Mapping[str, object]], None]:
    console = stderr()

    def show(event: Mapping[str, object]) -> None:
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in event.items()
            if name not in ("event", "time")
        )
        clock = time.strftime("%H:%M:%S")
        console.print(f"{clock} {event.get('event')}: {values}", markup=False)

    return show

"""``edgeopt compile``: a network that meets a budget on a board, as code proven to run there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import Stages, stderr, stdout
from edgeopt.cli.tables import checks_table, figures_table


def run(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="An ONNX network. Without one, a subnet of a zoo supernet is searched."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", "-d", help="Board name, or a profile.toml.")
    ] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle.")] = Path("out"),
    latency: Annotated[str | None, typer.Option(help="Budget, such as 10ms.")] = None,
    ram: Annotated[str | None, typer.Option(help="Arena budget, such as 64KB.")] = None,
    flash: Annotated[
        str | None, typer.Option(help="Weights and code, such as 512KB; smaller kernels on x86-64.")
    ] = None,
    accuracy: Annotated[str | None, typer.Option(help="Least accuracy, such as 80%.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, int8 or mixed.")] = "auto",
    plan: Annotated[
        Path | None,
        typer.Option(help="How many bits the weights of each layer have, as edgeopt writes it."),
    ] = None,
    supernet: Annotated[str, typer.Option(help="Zoo entry to search.")] = "cifar_mbv3",
    data: Annotated[
        Path | None,
        typer.Option(help="Calibration images (npz or image folder); default: the zoo's own."),
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(help="Fix a dynamic input: name=1x3x224x224. Repeatable."),
    ] = None,
    io: Annotated[
        str, typer.Option(help="Inputs and outputs: int8, float, or as the model has them.")
    ] = "model",
    name: Annotated[str, typer.Option(help="Prefix of the generated C.")] = "net",
    threads: Annotated[
        int, typer.Option(min=1, max=16, help="Threads an inference may use at most.")
    ] = 1,
    patches: Annotated[
        str,
        typer.Option(
            help="Strips of rows the first kernels run in, for less RAM: off, auto, or N."
        ),
    ] = "off",
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    any_table: Annotated[
        bool,
        typer.Option("--any-table", help="Use a table of other code, governor or threads too."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse kernels the latency table does not hold.")
    ] = False,
    tune: Annotated[
        int | None,
        typer.Option(
            help="Measure 40 tilings of each of the N slowest kernels; this machine only."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest instead.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    dump_dir: Annotated[
        Path | None, typer.Option(help="Write every stage's output here, numbered.")
    ] = None,
    package: Annotated[
        str,
        typer.Option(
            help="Packages to make as well, in OUT-packages, such as zephyr,arduino (see "
            "edgeopt package)."
        ),
    ] = "",
    depfile: Annotated[
        Path | None, typer.Option(help="Write what the bundle depends on here, for make and CMake.")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Reuse stages whose inputs did not change.")
    ] = True,
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="More folders of device profiles.")
    ] = None,
) -> None:
    """Compile a zoo subnet that meets a budget, or a given ONNX network, for a board.

    Writes a bundle: ONNX models, kernels, a C runner with CMake project, test vectors, a manifest
    and a report. Everything in it was checked; the table at the end says what was checked where.
    """
    from edgeopt.core.estimates import Budget
    from edgeopt.core.units import parse_duration_ns, parse_share, parse_size_bytes
    from edgeopt.pipeline.compile import STAGES, CompileRequest, compile_network

    request = CompileRequest(
        device=device,
        out=out,
        model=model,
        supernet=supernet,
        budget=Budget(
            latency_ns=None if latency is None else parse_duration_ns(latency),
            ram_bytes=None if ram is None else parse_size_bytes(ram),
            flash_bytes=None if flash is None else parse_size_bytes(flash),
            min_accuracy=None if accuracy is None else parse_share(accuracy),
        ),
        precision=precision,
        plan=plan,
        data=data,
        input_shapes=tuple(input_shape or ()),
        io=io,
        name=name,
        threads=threads,
        patches=patches,
        seed=seed,
        force=force,
        strict=strict,
        any_table=any_table,
        tune=tune,
        dump_dir=dump_dir,
        cache=cache,
        profile_dirs=tuple(profile_dir or ()),
        command=command_line(),
    )
    formats = tuple(name for name in package.split(",") if name)
    if package:
        from edgeopt.pipeline.packages import check_formats

        check_formats(formats)
    manifest = compile_network(request, Stages(len(STAGES), quiet=quiet))
    if formats:
        from edgeopt.pipeline.packages import PackageRequest, make_packages

        packages = out.with_name(f"{out.name}-packages")
        make_packages(
            PackageRequest(out, formats, packages, force=force, profile_dirs=request.profile_dirs)
        )
    if depfile is not None:
        from edgeopt.pipeline.depfile import write

        write(depfile, request)
    if as_json:
        sys.stdout.write(manifest.encode().decode())
        return
    console = stdout()
    title = f"{manifest.name}: {manifest.source} for {manifest.device}, {manifest.precision}"
    console.print(title, markup=False)
    if manifest.subnet:
        console.print(f"subnet {manifest.subnet}", markup=False)
    if manifest.plan:
        console.print(f"weights {manifest.plan}", markup=False)
    console.print()
    console.print(figures_table(manifest.figures))
    console.print()
    console.print(checks_table(manifest.checks))
    console.print()
    for note in manifest.notes:
        stderr().print(f"note: {note}", markup=False)
    console.print(f"bundle  {out}", markup=False)
    console.print(f"report  {out / 'report.html'}", markup=False)


def command_line() -> str:
    """The command as typed, but for the program's folder: goes into the manifest."""
    import shlex

    return shlex.join(["edgeopt", *sys.argv[1:]])

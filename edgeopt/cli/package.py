"""``edgeopt package``: a bundle's network for Zephyr, ESP-IDF, Arduino, PlatformIO, CMSIS-Pack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import stdout


def run(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle for a microcontroller.")],
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            help="arduino, cmsis-pack, esp-idf, platformio, zephyr; several times, "
            "or with commas between.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--output", help="Folder that gets a folder a format.")
    ] = Path("packages"),
    version: Annotated[
        str, typer.Option("--package-version", help="Version of the package.")
    ] = "1.0.0",
    vendor: Annotated[str, typer.Option(help="Who gives it out (CMSIS-Pack).")] = "edgeopt",
    maintainer: Annotated[str, typer.Option(help="Name, or Name <mail>.")] = "edgeopt",
    url: Annotated[str, typer.Option(help="Where it can be found.")] = "https://example.org/",
    licence: Annotated[
        str,
        typer.Option(
            "--license",
            help="SPDX expression. Default: Apache-2.0 for the zoo's "
            "networks, LicenseRef-model for others.",
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace packages.")] = False,
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="Folder of more device profiles.")
    ] = None,
) -> None:
    """Make packages for firmware builds from a bundle's C."""
    from edgeopt.pipeline.packages import PackageRequest, make_packages

    names = tuple(name for text in formats for name in text.split(",") if name)
    made = make_packages(
        PackageRequest(
            bundle=bundle, formats=names, out=out, version=version, vendor=vendor,
            maintainer=maintainer, url=url, licence=licence, force=force,
            profile_dirs=tuple(profile_dir or ()),
        )
    )  # fmt: skip
    for place in made:
        stdout().print(str(place), highlight=False, soft_wrap=True)

"""``edgeopt verify``: check a bundle again, on this machine and under emulation."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeopt.cli.console import Stages, stdout
from edgeopt.cli.tables import checks_table
from edgeopt.core.errors import ToolError


def run(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Rebuild a bundle's programs from its own files and compare them with its test vectors.

    Exits 4 if a check fails: the compiler, the emulator or the bundle is not what it was.
    """
    from edgeopt.pipeline.verify import VERIFY_STAGES, verify_bundle

    checks = verify_bundle(bundle, Stages(len(VERIFY_STAGES), quiet=quiet))
    if as_json:
        print(json.dumps({"schema": 1, "checks": [_plain(check) for check in checks]}, indent=2))
    else:
        stdout().print(checks_table(checks))
    failed = [c for c in checks if c.result == "failed"]
    if failed:
        raise ToolError(
            f"{len(failed)} of {len(checks)} checks failed, the first: {failed[0].what} "
            f"({failed[0].where}): {failed[0].detail}",
            where=str(bundle),
            hint="compile again; if it fails again, report it with the bundle's manifest.json",
        )


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else (
        msgspec.to_builtins(value)
    )  # fmt: skip

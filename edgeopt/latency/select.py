"""Choosing what to predict a device with: a measured table if there is one, else estimates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import LatencyModel
from edgeopt.latency.analytic import FILE_NAME, load_analytic
from edgeopt.latency.table import SUFFIX, LatencyTable, load_table

RUNTIME = "edgeopt"


def user_table_dir() -> Path:
    """Where `edgeopt profile` keeps tables: ``tables`` in the cache folder.

    That is ``$EDGEOPT_CACHE_DIR``, else ``edgeopt`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    named = os.environ.get("EDGEOPT_CACHE_DIR")
    if named:
        return Path(named) / "tables"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "edgeopt" / "tables"


def table_path(
    folder: Path, profile: DeviceProfile, runtime: str = RUNTIME, threads: int = 1
) -> Path:
    """The name of a device's table; machines that time differently get different names."""
    mark = f"-{profile.fingerprint}" if profile.folder is None else ""
    return folder / f"{profile.name}{mark}.{runtime}.{threads}t{SUFFIX}"


def find_table(
    profile: DeviceProfile,
    table_dirs: Sequence[Path] = (),
    *,
    runtime: str = RUNTIME,
    runtime_version: str | None = None,
    threads: int = 1,
) -> LatencyTable | None:
    """The device's measured table: in ``table_dirs``, the user's cache, or beside the profile.

    A table of another ``runtime_version`` than asked for timed other code, and is passed over.

    Raises:
        InputError: a table is there but broken, or was measured on another device.
    """
    folders = [*table_dirs, user_table_dir()]
    if profile.folder is not None:
        folders.append(profile.folder)
    for folder in folders:
        path = table_path(folder, profile, runtime, threads)
        if not path.is_file():
            continue
        table = load_table(path)
        found = (table.device, table.runtime, table.threads)
        if found != (profile.name, runtime, threads):
            raise InputError(
                f"the table is of {found[0]}, {found[1]}, {found[2]} threads", where=str(path),
                hint="remove it, or give it the name of its device",
            )  # fmt: skip
        if table.fingerprint != profile.fingerprint:
            raise InputError(
                f"the table was measured for another version of device {profile.name}",
                where=str(path), hint="measure it again with `edgeopt profile`, or remove it",
            )  # fmt: skip
        if runtime_version in (None, table.runtime_version):
            return table
    return None


def load_model(
    profile: DeviceProfile,
    table_dirs: Sequence[Path] = (),
    *,
    strict: bool = False,
    runtime: str = RUNTIME,
    runtime_version: str | None = None,
    threads: int = 1,
) -> LatencyModel:
    """The best model there is: from a measured table, else from the profile's cost figures.

    Raises:
        InputError: neither exists; or ``strict`` and there is no measured table.
    """
    table = find_table(
        profile, table_dirs, runtime=runtime, runtime_version=runtime_version, threads=threads
    )
    if table is not None:
        from edgeopt.latency.model import TableModel

        return TableModel(table, strict=strict)
    if strict:
        raise InputError(
            "no measured latency table exists", where=f"device {profile.name}",
            hint="measure one with `edgeopt profile`, or leave out --strict to use estimates",
        )  # fmt: skip
    if profile.folder is None:
        from edgeopt.latency.generic import generic_model

        return generic_model(profile)
    return load_analytic(profile)


def latency_source(profile: DeviceProfile, table_dirs: Sequence[Path] = ()) -> str:
    """In a few words, how the device's latency is known."""
    table = find_table(profile, table_dirs)
    if table is not None:
        text = f"measured ({len(table.entries)} kernels"
        if table.calibration is not None:
            text += f", {table.calibration.mape:.1%} error on whole networks"
        return text + ")"
    if profile.folder is None:
        return "estimated (from clock and vector width; `edgeopt profile` measures)"
    if not (profile.folder / FILE_NAME).is_file():
        return "unknown"
    model = load_analytic(profile)
    if "mape" in model.held_out:
        return f"estimated ({model.held_out['mape']:.0%} error on left-out blocks)"
    return "estimated"


def model_digest(model: LatencyModel) -> str:
    """A text that changes whenever the model's predictions could: for cache keys."""
    value = getattr(model, "digest", None)
    return value if isinstance(value, str) else f"unknown-{id(model)}"

"""Choosing what to predict a device with: a measured table if there is one, else estimates.

Estimates are of the best of: what was learnt of the core under this runtime, the cost figures
beside the profile, what was learnt under another runtime, the profile's facts alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError, suggest
from edgeopt.core.estimates import Estimate, LatencyModel
from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import FILE_NAME, load_analytic
from edgeopt.latency.conditions import UNKNOWN, Monitor, local_reader
from edgeopt.latency.corefile import SUFFIX as FIT_SUFFIX
from edgeopt.latency.corefile import file_name, load_fit
from edgeopt.latency.coremodel import MIN_FOR_ERROR, CoreFit, CoreModel, core_model, core_of_kernels
from edgeopt.latency.table import SUFFIX, LatencyTable, load_table

RUNTIME = "edgeopt"
#: The condition that says why a table would have been refused, had it not been asked for.
ACCEPTED = "accepted_although"
#: Runtimes that edgeopt measures itself: they can be estimated on any device.
RUNTIMES = (RUNTIME, "onnxruntime")


def user_table_dir() -> Path:
    """Where `edgeopt profile` keeps tables: ``tables`` in the cache folder.

    That is ``$EDGEOPT_CACHE_DIR``, else ``edgeopt`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    named = os.environ.get("EDGEOPT_CACHE_DIR")
    if named:
        return Path(named) / "tables"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "edgeopt" / "tables"


def made_table_dir() -> Path:
    """`user_table_dir`, made if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    folder = user_table_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder of tables: {error.strerror}", where=str(folder),
            hint="set EDGEOPT_CACHE_DIR to a writable folder, or name a file with --out",
        ) from error  # fmt: skip
    return folder


def table_path(
    folder: Path, profile: DeviceProfile, runtime: str = RUNTIME, threads: int = 1
) -> Path:
    """The name of a device's table; machines that time differently get different names."""
    return folder / f"{_stem(profile)}.{runtime}.{threads}t{SUFFIX}"


def _stem(profile: DeviceProfile) -> str:
    return profile.name + (f"-{profile.fingerprint}" if profile.folder is None else "")


def find_table(
    profile: DeviceProfile,
    table_dirs: Sequence[Path] = (),
    *,
    runtime: str = RUNTIME,
    runtime_version: str | None = None,
    threads: int = 1,
    any_table: bool = False,
) -> LatencyTable | None:
    """The device's measured table: in ``table_dirs``, the user's cache, or beside the profile.

    A table of another ``runtime_version`` than asked for timed other code, one of another governor
    another clock: they are passed over (`refused_tables` names them).

    Args:
        profile: the device.
        table_dirs: folders that are looked into first.
        runtime: what runs the kernels.
        runtime_version: of it; None takes any.
        threads: that networks use.
        any_table: take such a table too, or one of another number of threads, where there is no
            better one; its conditions then say why it would have been refused.

    Raises:
        InputError: a table is there but broken, or was measured on another device.
    """
    unsuited: list[tuple[LatencyTable, str]] = []
    for _, table in _tables(profile, table_dirs, runtime, threads):
        why = unsuited_because(table, profile, runtime_version)
        if not why:
            return table
        unsuited.append((table, why))
    if not any_table:
        return None
    for others in range(1, 65):
        if others != threads:
            for _, table in _tables(profile, table_dirs, runtime, others):
                unsuited.append((table, f"it is of {others} threads, not {threads}"))
    if not unsuited:
        return None
    table, why = unsuited[0]
    return replace(table, conditions={**table.conditions, ACCEPTED: why})


def refused_tables(
    profile: DeviceProfile,
    table_dirs: Sequence[Path] = (),
    *,
    runtime: str = RUNTIME,
    runtime_version: str | None = None,
    threads: int = 1,
) -> list[tuple[Path, str]]:
    """Tables of the device that `find_table` passes over, each with the reason."""
    found = []
    for path, table in _tables(profile, table_dirs, runtime, threads):
        why = unsuited_because(table, profile, runtime_version)
        if why:
            found.append((path, why))
    return found


def unsuited_because(
    table: LatencyTable, profile: DeviceProfile, runtime_version: str | None
) -> str:
    """Why a table does not say how fast the device is now; empty if nothing speaks against it."""
    if runtime_version not in (None, table.runtime_version):
        return f"it timed {table.runtime} {table.runtime_version}, now it is {runtime_version}"
    if profile.folder is None:
        now = local_governor()
        then = table.conditions.get("governor", UNKNOWN)
        if UNKNOWN not in (now, then) and now != then:
            return f"it was measured under the governor {then}, now it is {now}"
    return ""


def local_governor() -> str:
    """The frequency governor of this machine."""
    return Monitor(local_reader()).facts()["governor"]


def _tables(
    profile: DeviceProfile, table_dirs: Sequence[Path], runtime: str, threads: int
) -> Iterator[tuple[Path, LatencyTable]]:
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
        yield path, table


def load_model(
    profile: DeviceProfile,
    table_dirs: Sequence[Path] = (),
    *,
    strict: bool = False,
    runtime: str = RUNTIME,
    runtime_version: str | None = None,
    threads: int = 1,
    any_table: bool = False,
) -> LatencyModel:
    """The best model there is: from a measured table, else from the profile's cost figures.

    Raises:
        InputError: neither exists; or ``strict`` and there is no measured table, or only one that
            says nothing of the device as it is now and was not asked for with ``any_table``.
    """
    table = find_table(
        profile, table_dirs, runtime=runtime, runtime_version=runtime_version, threads=threads,
        any_table=any_table,
    )  # fmt: skip
    if table is not None:
        from edgeopt.latency.model import TableModel

        return TableModel(table, strict=strict, beyond=_others(profile, table))
    if strict:
        refused = refused_tables(
            profile, table_dirs, runtime=runtime, runtime_version=runtime_version, threads=threads
        )
        for path, why in refused:
            raise InputError(
                f"the measured latency table does not hold any more: {why}", where=str(path),
                hint="measure again with `edgeopt profile`, or take it as it is with --any-table",
            )  # fmt: skip
        raise InputError(
            "no measured latency table exists", where=f"device {profile.name}",
            hint="measure one with `edgeopt profile`, or leave out --strict to use estimates",
        )  # fmt: skip
    return estimates(profile, table_dirs, runtime=runtime, threads=threads)


def _others(
    profile: DeviceProfile, table: LatencyTable
) -> Callable[[Sequence[OpKey]], list[Estimate]]:
    """Estimates kernels of classes that a table hardly holds; the core is learnt when asked."""
    learnt: list[CoreModel] = []

    def estimate(keys: Sequence[OpKey]) -> list[Estimate]:
        if not learnt:
            kernels = {key: entry.median_ns for key, entry in table.entries.items()}
            kernels = kernels or dict(table.in_network)
            learnt.append(
                core_of_kernels(profile, kernels, runtime=table.runtime, threads=table.threads)
            )
        return learnt[0].predict_each(keys)

    return estimate


def estimates(
    profile: DeviceProfile,
    table_dirs: Sequence[Path] = (),
    *,
    runtime: str = RUNTIME,
    threads: int = 1,
) -> LatencyModel:
    """The best model there is without a measured table.

    Raises:
        InputError: nothing is known of the runtime on this device (near misses are named), or a
            file of the device is broken.
    """
    fits = find_fits(profile, table_dirs)
    if (runtime, threads) in fits:
        return core_model(profile, runtime=runtime, threads=threads, fit=fits[runtime, threads])
    if runtime == RUNTIME and profile.folder is not None:
        if (profile.folder / FILE_NAME).is_file():
            return load_analytic(profile)
    elif runtime not in RUNTIMES:
        # Others are known by what was measured under them, nobody saying on how many threads.
        if (runtime, 0) in fits:
            return core_model(profile, runtime=runtime, threads=0, fit=fits[runtime, 0])
        counts = sorted(count for name, count in fits if name == runtime)
        if counts:
            raise InputError(
                f"nothing is known of {runtime} with {threads} thread{'s' if threads > 1 else ''} "
                f"on device {profile.name}", where="--threads",
                hint=f"measurements are of {' and '.join(map(str, counts))}",
            )  # fmt: skip
        known = {name for name, _ in fits} | set(RUNTIMES)
        raise InputError(
            f"nothing is known of runtime {runtime[:60]!r} on device {profile.name}",
            hint=suggest(runtime[:60], known, noun="runtime"),
        )
    best = max(fits.values(), key=lambda fit: fit.trust.rows, default=None)
    return core_model(profile, runtime=runtime, threads=threads, fit=best)


def find_fits(
    profile: DeviceProfile, table_dirs: Sequence[Path] = ()
) -> dict[tuple[str, int], CoreFit]:
    """What was learnt of the device's core, by runtime and threads; the user's own wins.

    Raises:
        InputError: a file is broken, or of another device.
    """
    found: dict[tuple[str, int], CoreFit] = {}
    folders = [*table_dirs, user_table_dir()]
    if profile.folder is not None:
        folders.append(profile.folder)
    for folder in folders:
        for path in sorted(folder.glob(f"{_stem(profile)}.*{FIT_SUFFIX}")):
            fit = load_fit(path)
            if fit.device != profile.name or fit.fingerprint != profile.fingerprint:
                raise InputError(
                    f"measurements of {fit.device}, or of another version of its profile",
                    where=str(path),
                    hint="calibrate again with `edgeopt table calibrate`, or remove it",
                )
            found.setdefault((fit.runtime, fit.threads), fit)
    return found


def fit_path(folder: Path, profile: DeviceProfile, runtime: str, threads: int) -> Path:
    """The name of what was learnt of a device's core; machines that differ get different names."""
    return folder / file_name(_stem(profile), runtime, threads)


def latency_source(profile: DeviceProfile, table_dirs: Sequence[Path] = ()) -> str:
    """In a few words, how the device's latency is known."""
    table = find_table(profile, table_dirs)
    if table is not None:
        text = f"{table.source.value} ({len(table.entries)} kernels"
        if table.calibration is not None:
            text += f", {table.calibration.mape:.1%} error on whole networks"
        return text + ")"
    model = estimates(profile, table_dirs)
    if not isinstance(model, CoreModel):
        return "estimated (cost figures with sources)"
    if model.trust is not None:
        count, error = model.trust.rows, f", {model.trust.mape:.0%} error"
        return f"estimated ({count} measurements{error if count >= MIN_FOR_ERROR else ''})"
    if model.other is not None:
        return f"estimated (from measurements under {model.other})"
    measures = "; `edgeopt profile` measures" if profile.folder is None else ""
    return f"estimated (from the processor's facts{measures})"


def model_digest(model: LatencyModel) -> str:
    """A text that changes whenever the model's predictions could: for cache keys."""
    value = getattr(model, "digest", None)
    return value if isinstance(value, str) else f"unknown-{id(model)}"

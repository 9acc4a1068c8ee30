"""A bundle's network as packages for firmware builds: Zephyr, ESP-IDF, Arduino, and others."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt import devices
from edgeopt.codegen.packagings import FORMATS, Library, library_files, tree
from edgeopt.core.errors import InputError, suggest
from edgeopt.pipeline.bundle import read_files
from edgeopt.pipeline.manifest import Manifest
from edgeopt.pipeline.report import show_figure

#: SPDX licence of a network whose model edgeopt knows nothing of.
UNKNOWN_LICENCE = "LicenseRef-model"


@dataclass(frozen=True, slots=True)
class PackageRequest:
    """What to make of a bundle.

    Attributes:
        bundle: its folder.
        formats: names from `codegen.packagings.FORMATS`.
        out: folder that gets one folder a format.
        version: of the package.
        vendor: who gives it out.
        maintainer: a name, or ``Name <mail>``.
        url: where it can be found.
        licence: SPDX expression; Apache-2.0 for networks of the zoo unless given.
        force: replace packages that are there already.
        profile_dirs: more device profiles.
    """

    bundle: Path
    formats: tuple[str, ...]
    out: Path
    version: str = "1.0.0"
    vendor: str = "edgeopt"
    maintainer: str = "edgeopt"
    url: str = "https://example.org/"
    licence: str = ""
    force: bool = False
    profile_dirs: tuple[Path, ...] = ()


def make_packages(request: PackageRequest) -> tuple[Path, ...]:
    """Write the packages; returns their folders, in the order of the formats.

    Raises:
        InputError: no bundle, an unknown format or one that does not suit the bundle, a field of
            the wrong form, a package that is there already, or a folder that cannot be written.
    """
    check_formats(request.formats)
    manifest, files = read_files(request.bundle)
    library = library_of(manifest, files, request)
    made = {name: tree(name, library) for name in dict.fromkeys(request.formats)}
    places = {name: request.out / name / _folder(name, library) for name in made}
    for place in places.values():
        if place.exists() and not request.force:
            raise InputError(
                "already exists", where=str(place),
                hint="choose another -o, or replace it: --force",
            )  # fmt: skip
    for name, content in made.items():
        _write(content, places[name])
    return tuple(places.values())


def check_formats(formats: Sequence[str]) -> None:
    """Refuse what `make_packages` would not know.

    Raises:
        InputError: no format, or an unknown one.
    """
    if not formats:
        raise InputError(
            "no package format given", where="--format", hint=f"one of: {', '.join(FORMATS)}"
        )
    for name in formats:
        if name not in FORMATS:
            hint = suggest(name, FORMATS, noun="format")
            if name == "cmake":
                hint = "the bundle itself is a CMake package: add_subdirectory or install it"
            raise InputError(f"unknown package format {name!r}", where="--format", hint=hint)


def library_of(manifest: Manifest, files: dict[str, bytes], request: PackageRequest) -> Library:
    """The bundle's network as a library.

    Raises:
        InputError: its kernels are objects, or a field has the wrong form.
    """
    sources = library_files(files, str(request.bundle))
    profile = devices.load(manifest.device, request.profile_dirs)
    known = "Apache-2.0" if manifest.source.startswith("zoo:") else UNKNOWN_LICENCE
    shown = [(*show_figure(figure)[:2], figure.source) for figure in manifest.figures]
    return Library(
        name=manifest.name,
        device=profile.title,
        arch=profile.target.arch,
        features=profile.target.features,
        files=sources,
        facts=tuple((title, f"{value}, {source}") for title, value, source in shown),
        version=request.version,
        vendor=request.vendor,
        maintainer=request.maintainer,
        url=request.url,
        licence=request.licence or known,
    )


def _folder(name: str, library: Library) -> str:
    return f"{library.vendor}.{library.package}" if name == "cmsis-pack" else library.package


def _write(files: dict[str, bytes], place: Path) -> None:
    """Write a folder beside its place and rename it there."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
        try:
            for path, content in files.items():
                target = fresh / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            fresh.chmod(0o755)
            stray = _strangers(place, files)
            if stray:
                raise InputError(
                    f"holds {stray[0]}, which edgeopt did not write, so --force does not replace "
                    "it", where=str(place), hint="move it away, or choose another -o",
                )  # fmt: skip
            if place.exists():
                shutil.rmtree(place)
            fresh.rename(place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write the package: {error.strerror or error}", where=str(place),
            hint="choose a writable folder with free space",
        ) from error  # fmt: skip


def _strangers(place: Path, files: dict[str, bytes]) -> Sequence[str]:
    """Files of an existing folder that the new package would not hold."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        return [place.name]
    present = [path for path in sorted(place.rglob("*")) if not path.is_dir()]
    found = [str(path.relative_to(place)) for path in present]
    # An older version of the archive is ours as well.
    return [path for path in found if path not in files and not path.endswith(".pack")]

"""What a compile read, as a depfile: how build systems learn when to compile again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgeopt import devices
from edgeopt.core.errors import InputError
from edgeopt.core.files import write_atomic
from edgeopt.pipeline.compile import CompileRequest

#: Files of a data folder that are listed one by one.
_MOST_FILES = 10_000


def sources(request: CompileRequest) -> tuple[Path, ...]:
    """The user's files that a compile depends on: model, its external data, profile, images.

    Files of the installed package are not among them; a build system asks for its version.
    """
    found: list[Path] = []
    if request.model is not None:
        found += [request.model, *_external(request.model)]
    profile = devices.load(request.device, request.profile_dirs)
    if profile.folder is not None:
        found += sorted(path for path in Path(profile.folder).iterdir() if path.is_file())
    if request.plan is not None:
        found.append(request.plan)
    if request.data is not None:
        found.append(request.data)
        if request.data.is_dir():
            images = sorted(path for path in request.data.rglob("*") if path.is_file())
            found += images[:_MOST_FILES]
    return tuple(dict.fromkeys(path.absolute() for path in found))


def _external(model: Path) -> list[Path]:
    """Files that hold tensors of a model that was compiled, and so checked, before."""
    from edgeopt.core.files import read_bytes
    from edgeopt.graph.external import tensors_of
    from edgeopt.graph.load import MAX_BYTES, parse_model

    loaded = parse_model(read_bytes(model, max_bytes=MAX_BYTES, noun="ONNX model"))
    names = [
        entry.value
        for tensor, _ in tensors_of(loaded)
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    return [model.parent / name for name in dict.fromkeys(names)]


def text(target: Path, needed: Iterable[Path]) -> str:
    """A rule in the syntax of make, which ninja and CMake read as well."""
    parts = [_escaped(path) for path in needed]
    return _escaped(target) + ":" + "".join(f" \\\n  {part}" for part in parts) + "\n"


def _escaped(path: Path) -> str:
    plain = str(path)
    if "\n" in plain:
        raise InputError("a depfile cannot hold this name", where=repr(plain), hint="rename it")
    return plain.replace("$", "$$").replace("#", "\\#").replace(" ", "\\ ")


def write(path: Path, request: CompileRequest) -> None:
    """Write the depfile of a compile.

    Raises:
        InputError: a name that no depfile can hold, or a folder that cannot be written.
    """
    content = text(request.out / "manifest.json", sources(request))
    try:
        write_atomic(path, content.encode())
    except OSError as error:
        raise InputError(
            f"cannot write: {error.strerror or error}", where=str(path),
            hint="choose a writable folder with free space",
        ) from error  # fmt: skip

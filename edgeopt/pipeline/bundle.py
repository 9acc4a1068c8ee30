"""The bundle: which files, and writing them so that a folder is never half a bundle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeopt.codegen import ckernels, emit, packagings, runner
from edgeopt.codegen.emit import Code, Origin
from edgeopt.codegen.packagings import Package
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.files import digest
from edgeopt.core.network import Tensor
from edgeopt.pipeline.artifact import Artifact, versions
from edgeopt.pipeline.manifest import (
    FILE_NAME,
    BufferInfo,
    Manifest,
    PointInfo,
    TensorInfo,
    load_bundle,
    safe_path,
)

if TYPE_CHECKING:
    from edgeopt.pipeline.source import Chosen, Final

#: Test vectors the self-test embeds in the program.
EMBEDDED_VECTORS = 2


def check_output(out: Path, *, force: bool) -> None:
    """Refuse early what `write` would refuse at the end.

    Raises:
        InputError: the folder exists and ``force`` is off, or is not a bundle; or its parent
            cannot be written.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError("exists and is not a folder", where=str(out), hint="choose another -o")
    if out.is_dir() and any(out.iterdir()):
        if not force:
            raise InputError(
                "already exists", where=str(out), hint="choose another -o, or replace it: --force"
            )
        if not (out / FILE_NAME).is_file():
            raise InputError(
                "is not empty and not a bundle, so --force does not replace it",
                where=str(out),
                hint="choose another -o, or empty it yourself",
            )
        stray = _strangers(out)
        if stray:
            raise InputError(
                f"holds {len(stray)} files that edgeopt did not write, such as {stray[0]}, "
                "so --force does not replace it",
                where=str(out),
                hint="move them away, or choose another -o",
            )
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".edgeopt-"):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write: {error.strerror or error}",
            where=str(parent),
            hint="choose a writable folder with free space",
        ) from error


def _strangers(folder: Path) -> list[str]:
    """Files of a bundle's folder that its manifest does not list; CMake build trees aside."""
    try:
        listed = set(msgspec.json.decode((folder / FILE_NAME).read_bytes(), type=_Listed).files)
    except (OSError, msgspec.DecodeError):
        listed = set()
    listed.add(FILE_NAME)
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if (folder / relative.parts[0] / "CMakeCache.txt").is_file():
            continue
        if not path.is_dir() and str(relative) not in listed:
            found.append(str(relative))
    return found


class _Listed(msgspec.Struct):
    files: dict[str, str]


def render_code(
    name: str,
    command: str,
    inputs: Mapping[str, str],
    artifact: Artifact,
    kernels: bytes,
    vectors: TestVectors,
) -> Code:
    """The generated C of an artifact."""
    return emit.render(
        artifact.graph,
        artifact.plan,
        artifact.functions,
        artifact.constants,
        {artifact.kernel_file: kernels},
        name=name,
        origin=Origin(command, versions(), dict(inputs)),
        vectors=vectors,
        embed_vectors=min(EMBEDDED_VECTORS, vectors.count),
        constant_alignment_bytes=runner.constant_alignment(artifact.target),
        programs=not ckernels.applies(artifact.target),
    )


def code_files(
    code: Code,
    profile: DeviceProfile,
    final: Final,
    model: bytes,
    facts: tuple[tuple[str, str], ...],
) -> dict[str, bytes]:
    """All files of a bundle but the manifest and the report."""
    files = packagings.package("cmake", code, Package.of(profile, facts))
    files["model.onnx"] = model
    files[final.file_name] = final.model
    return files


def describe(chosen: Chosen, final: Final) -> tuple[tuple[str, str], ...]:
    """Facts for the firmware engineer's README."""
    facts = [("network", chosen.source), ("precision", final.precision)]
    if chosen.subnet is not None:
        facts.append(("subnet", str(chosen.subnet)))
    if chosen.space is not None:
        space = chosen.space
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (space.mean, space.std))
        facts.append(("input", f"RGB scaled to 0..1, minus mean ({mean}), divided by std ({std})"))
        if space.labels:
            facts.append(("classes", ", ".join(space.labels)))
    return tuple(facts)


def interface(artifact: Artifact, *, inputs: bool) -> tuple[TensorInfo, ...]:
    """The inputs or outputs of the generated C."""
    graph = artifact.graph
    names = graph.inputs if inputs else graph.outputs
    return tuple(_tensor(graph.tensors[name]) for name in names)


def _tensor(tensor: Tensor) -> TensorInfo:
    layout = "NHWC" if len(tensor.shape) == 4 else "row-major"
    return TensorInfo(tensor.name, tensor.shape, layout, tensor.dtype, tensor.size_bytes)


def buffers(artifact: Artifact) -> tuple[BufferInfo, ...]:
    """The memory plan's buffers."""
    return tuple(
        BufferInfo(b.name, b.offset_bytes, b.size_bytes, b.first, b.last)
        for b in artifact.plan.buffers
    )


def write(
    manifest: Manifest,
    files: Mapping[str, bytes],
    points: Sequence[PointInfo],
    out: Path,
    *,
    force: bool,
) -> Manifest:
    """Write the bundle beside its place and rename it there; returns the manifest with digests.

    Raises:
        InputError: see `check_output`; the disk is full.
    """
    from edgeopt.pipeline.report import render_report

    everything = dict(files)
    if points:
        listed = msgspec.json.format(msgspec.json.encode({"schema": 1, "points": points}))
        everything["search.json"] = listed + b"\n"
    everything["report.html"] = render_report(manifest, points).encode()
    bad = [path for path in everything if not safe_path(path)]
    if bad:
        raise ValueError(f"bundle path {bad[0]!r} is not safe")
    digests = {path: digest(data) for path, data in sorted(everything.items())}
    manifest = msgspec.structs.replace(manifest, files=digests)
    everything[FILE_NAME] = manifest.encode()
    check_output(out, force=force)
    place = out.absolute()
    try:
        fresh = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
        try:
            for path, data in everything.items():
                target = fresh / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            fresh.chmod(0o755)
            _swap(fresh, place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write the bundle: {error.strerror or error}",
            where=str(out),
            hint="choose a writable folder with free space",
        ) from error
    return manifest


def _swap(fresh: Path, place: Path) -> None:
    """Put ``fresh`` at ``place``; what was there is moved aside first and removed last."""
    if not place.exists():
        fresh.rename(place)
        return
    aside = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-old-"))
    place.rename(aside / "bundle")
    try:
        fresh.rename(place)
    except OSError:
        (aside / "bundle").rename(place)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_files(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle's manifest and the content of its files, digests checked.

    Raises:
        InputError: no bundle, or one that was changed.
    """
    manifest = load_bundle(folder)
    return manifest, {path: (folder / path).read_bytes() for path in manifest.files}

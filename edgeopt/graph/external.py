"""Weights beside the model: read only from files inside its own folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx

from edgeopt.core.errors import InputError
from edgeopt.graph.sizes import expected_bytes

_KEYS = frozenset({"location", "offset", "length", "checksum"})


def tensors_of(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    """Every constant of the main graph with how errors name it."""
    for tensor in model.graph.initializer:
        yield tensor, f"initializer {tensor.name[:80]!r}"
    for node in model.graph.node:
        for attribute in node.attribute:
            where = f"node {node.name[:80]!r}, attribute {attribute.name[:80]!r}"
            if attribute.HasField("t"):
                yield attribute.t, where
            for tensor in attribute.tensors:
                yield tensor, where


def inline_external_data(model: onnx.ModelProto, folder: Path, max_bytes: int) -> None:
    """Read weights kept in other files into the model.

    Only regular files inside ``folder`` are read: no absolute paths, no ``..``, no links.

    Raises:
        InputError: a path that leaves the folder, or data that is not there.
    """
    total = 0
    for tensor, where in tensors_of(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key not in _KEYS or entry.key in entries:
                raise InputError(
                    f"external data key {entry.key[:80]!r} is not allowed",
                    where=where,
                    hint="the file is damaged or was made to do harm",
                )
            entries[entry.key] = entry.value
        size = expected_bytes(tensor, where)
        total += size
        if total > max_bytes:
            raise InputError(
                f"external data takes more than the {max_bytes} bytes allowed",
                where=where,
                hint="is this the right file?",
            )
        data = _read(entries, size, folder, where)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.raw_data = data


def _read(entries: dict[str, str], size: int, folder: Path, where: str) -> bytes:
    location = entries.get("location", "")
    pure = PurePosixPath(location)
    parts = pure.parts
    bad = not location or pure.is_absolute() or ".." in parts or "\0" in location
    if bad or "\\" in location or (parts and ":" in parts[0]):
        raise InputError(
            f"external data path {location[:200]!r} leaves the folder of the model",
            where=where,
            hint="save the model again with its weights inside, or beside it under a plain name",
        )
    offset, length = (_number(entries, key, where) for key in ("offset", "length"))
    offset = offset or 0
    if length is not None and length != size:
        raise InputError(
            f"external data has {length} bytes, the shape needs {size}",
            where=where,
            hint="model and weights do not belong together",
        )
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise InputError(
                f"external data path {location[:200]!r} is a link",
                where=where,
                hint="put a copy of the file in its place",
            )
    return _read_part(path, offset, size, where)


def _number(entries: dict[str, str], key: str, where: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InputError(
            f"external data {key} {text[:40]!r} is not a whole number", where=where,
            hint="the file is damaged",
        )  # fmt: skip
    return int(text)


def _read_part(path: Path, offset: int, size: int, where: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(
            f"cannot read external data {path.name!r}: {error.strerror or error}",
            where=where,
            hint="keep the weights beside the model",
        ) from error
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            kind = "hard link" if stat.S_ISREG(status.st_mode) else "special file"
            raise InputError(
                f"external data {path.name!r} is a {kind}",
                where=where,
                hint="put a copy of the file in its place",
            )
        if offset + size > status.st_size:
            raise InputError(
                f"external data {path.name!r} has {status.st_size} bytes, "
                f"{offset + size} are needed",
                where=where,
                hint="the file of weights is truncated, or of another model",
            )
        stream.seek(offset)
        return stream.read(size)

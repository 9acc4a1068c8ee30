"""What a bundle says of itself: every decision and figure, how it is known, and digests.

`Manifest` is the one versioned document behind ``manifest.json``, ``edgeopt compile --json`` and
``edgeopt inspect``. It holds no time and no path of the building machine, so that the same inputs
give the same bytes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.core.files import digest, read_bytes

SCHEMA = 1
FILE_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 32 * 2**20


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """Base of all parts: immutable, strict when read."""


class Figure(Record, frozen=True):
    """A number with its unit in the name, a 90 % interval where it is not exact, and its source."""

    name: str  # "latency_ns", "arena_bytes", "flash_bytes", "accuracy"...
    value: float
    source: Source
    how: str
    low: float | None = None
    high: float | None = None


class Check(Record, frozen=True):
    """One comparison of two engines: what was run where, and what came out."""

    what: str  # "torch = onnxruntime", "reference = artifact"
    where: str  # "host", "qemu-aarch64 (cortex-a72)"
    result: Literal["passed", "failed", "skipped"]
    detail: str
    vectors: int = 0
    max_error: float | None = None  # relative for fp32, steps for int8


class TensorInfo(Record, frozen=True):
    """An input or output of the generated C."""

    name: str
    shape: tuple[int, ...]
    layout: str
    dtype: str
    size_bytes: int


class KernelInfo(Record, frozen=True):
    """One kernel call, in execution order."""

    name: str
    key: str
    template: str  # "fallback" where TVM's own legalization made it
    ops: tuple[str, ...]
    output: str  # ONNX tensor name, for overlays in model viewers
    latency_ns: float
    latency_source: str
    weight_bytes: int
    scratch_bytes: int
    tile: str = "model"  # measured tiling (see `core.choice`), or the template's model
    weights: str = ""  # how they are stored: "f32", "i8", "w4", "w2"; empty where there are none


class BufferInfo(Record, frozen=True):
    """One buffer of the memory plan."""

    name: str
    offset_bytes: int
    size_bytes: int
    first: int
    last: int


class PointInfo(Record, frozen=True):
    """A candidate the search evaluated."""

    subnet: str
    precision: str
    accuracy: float
    latency_ns: float
    ram_bytes: int
    flash_bytes: int
    feasible: bool
    pareto: bool


class Manifest(Record, frozen=True):
    """Everything about one bundle."""

    schema: int
    edgeopt: str
    command: str
    versions: dict[str, str]
    device: str
    device_sha256: str
    source: str  # "zoo:cifar_mbv3" or "onnx:<file name>"
    source_sha256: str
    name: str  # prefix of the generated C
    precision: str
    subnet: str | None
    seed: int
    budget: dict[str, float]
    search: dict[str, float]
    figures: tuple[Figure, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    kernels: tuple[KernelInfo, ...]
    buffers: tuple[BufferInfo, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    files: dict[str, str]  # path -> sha256
    threads: int = 1  # that the generated C can use
    io: str = "model"  # inputs and outputs: as the model has them, "int8" or "float"
    plan: str = ""  # bits of the weights by block (`ofa.plans`), where they were searched

    def figure(self, name: str) -> Figure | None:
        """The figure of that name, or None."""
        return next((f for f in self.figures if f.name == name), None)

    def encode(self) -> bytes:
        """JSON with a stable order, ending in a newline."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic")) + b"\n"


_SAFE_PATH = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")


def safe_path(path: str) -> bool:
    """Whether a manifest's path stays inside the bundle."""
    return bool(_SAFE_PATH.fullmatch(path)) and not any(
        part in (".", "..") for part in path.split("/")
    )


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest strictly.

    Raises:
        InputError: not JSON, another schema, unknown or missing keys, or a path that leaves
            the bundle.
    """
    hint = "is this a bundle made by this version of edgeopt?"
    try:
        head = msgspec.json.decode(data, type=dict[str, object])
        if head.get("schema") != SCHEMA:
            raise InputError(
                f"manifest schema {head.get('schema')!r} is not {SCHEMA}", where=where, hint=hint
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"not a manifest: {error}", where=where, hint=hint) from error
    bad = [path for path in manifest.files if not safe_path(path)]
    if bad:
        raise InputError(f"file path {bad[0]!r} leaves the bundle", where=where, hint=hint)
    return manifest


def load_bundle(folder: Path) -> Manifest:
    """Read a bundle's manifest and check every file's digest against it.

    Raises:
        InputError: no bundle there, a malformed manifest, a file missing or changed.
    """
    if not folder.is_dir():
        raise InputError("no such bundle folder", where=str(folder), hint="name what -o named")
    path = folder / FILE_NAME
    manifest = decode_manifest(
        read_bytes(path, max_bytes=MAX_MANIFEST_BYTES, noun="manifest"), str(path)
    )
    for name, expected in manifest.files.items():
        data = read_bytes(folder / name, max_bytes=2**31, noun="bundle file")
        if digest(data) != expected:
            raise InputError(
                "changed since it was generated",
                where=str(folder / name),
                hint="compile again, or restore the file",
            )
    return manifest

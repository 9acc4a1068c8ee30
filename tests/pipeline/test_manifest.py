from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.core.files import digest
from edgeopt.pipeline.manifest import SCHEMA, Figure, Manifest, decode_manifest, load_bundle


def make(files: dict[str, str]) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        edgeopt="0",
        command="edgeopt compile",
        versions={"numpy": "2"},
        device="rpi4",
        device_sha256="0",
        source="zoo:cifar_mbv3",
        source_sha256="1",
        name="net",
        precision="fp32",
        subnet=None,
        seed=0,
        budget={},
        search={},
        figures=(Figure("latency_ns", 5.0, Source.ESTIMATED, "x", 4.0, 6.0),),
        inputs=(),
        outputs=(),
        kernels=(),
        buffers=(),
        checks=(),
        notes=(),
        files=files,
    )


def test_it_reads_back_what_it_wrote() -> None:
    manifest = make({"src/net.c": "ab"})
    assert decode_manifest(manifest.encode(), "m") == manifest
    assert manifest.encode() == make({"src/net.c": "ab"}).encode()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "a//b", "a\\b", "a/./b", ""])
def test_paths_that_leave_the_bundle_are_refused(path: str) -> None:
    with pytest.raises(InputError, match="leaves the bundle"):
        decode_manifest(make({path: "ab"}).encode(), "m")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not a manifest"),
        (b"[]", "not a manifest"),
        (b'{"schema": 99}', "schema 99 is not"),
        (b'{"schema": 1}', "missing required field"),
        (b"[" * 100_000, "not a manifest"),
        (b"\xff", "not a manifest"),
    ],
)
def test_other_documents_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_manifest(data, "m")


def test_unknown_keys_are_refused() -> None:
    document = msgspec.json.decode(make({}).encode())
    document["colour"] = "red"
    with pytest.raises(InputError, match="colour"):
        decode_manifest(msgspec.json.encode(document), "m")


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_bytes(b"int a;")
    (tmp_path / "manifest.json").write_bytes(make({"a.c": digest(b"int a;")}).encode())
    assert load_bundle(tmp_path).name == "net"
    (tmp_path / "a.c").write_bytes(b"int b;")
    with pytest.raises(InputError, match=r"a\.c: changed since"):
        load_bundle(tmp_path)
    (tmp_path / "a.c").unlink()
    with pytest.raises(InputError, match=r"a\.c: no such bundle file"):
        load_bundle(tmp_path)
    with pytest.raises(InputError, match="no such bundle folder"):
        load_bundle(tmp_path / "b")

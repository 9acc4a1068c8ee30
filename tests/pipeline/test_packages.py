"""`edgeopt package`: from a bundle to packages in folders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from edgeopt.cli.main import app
from edgeopt.core.errors import InputError
from edgeopt.core.files import digest
from edgeopt.pipeline.packages import PackageRequest, make_packages
from tests.pipeline.test_manifest import make

FILES = {
    "include/net.h": b"/* header */\n",
    "src/net.c": b'#include "net.h"\n',
    "src/net_weights.c": b"\n",
    "kernels/kernels.c": b"\n",
    "CMakeLists.txt": b"# the bundle's own\n",
    "model.onnx": b"onnx",
}


def bundle(folder: Path, files: dict[str, bytes] = FILES, device: str = "rpi-pico") -> Path:
    folder.mkdir()
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    manifest = msgspec.structs.replace(
        make({path: digest(content) for path, content in files.items()}),
        device=device, name="net", source="onnx:model.onnx",
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest.encode())
    return folder


def test_each_format_gets_a_folder(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle")
    made = CliRunner().invoke(
        app, ["package", str(source), "--format", "zephyr,arduino", "--format", "cmsis-pack",
              "-o", str(tmp_path / "out"), "--package-version", "1.2.3", "--vendor", "acme"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert made.output.split() == [
        str(tmp_path / "out" / "zephyr" / "edgeopt_net"),
        str(tmp_path / "out" / "arduino" / "edgeopt_net"),
        str(tmp_path / "out" / "cmsis-pack" / "acme.edgeopt_net"),
    ]
    assert (tmp_path / "out/zephyr/edgeopt_net/zephyr/module.yml").is_file()
    assert not (tmp_path / "out/zephyr/edgeopt_net/model.onnx").exists()
    assert (tmp_path / "out/cmsis-pack/acme.edgeopt_net/acme.edgeopt_net.1.2.3.pack").is_file()
    licence = (tmp_path / "out/zephyr/edgeopt_net/LICENSE").read_text()
    assert licence.startswith("SPDX-License-Identifier: LicenseRef-model\n")


def test_a_package_is_replaced_only_when_told(tmp_path: Path) -> None:
    request = PackageRequest(bundle(tmp_path / "bundle"), ("zephyr",), tmp_path / "out")
    (place,) = make_packages(request)
    with pytest.raises(InputError, match=r"already exists[\s\S]*--force"):
        make_packages(request)
    forced = PackageRequest(request.bundle, ("zephyr",), request.out, force=True)
    assert make_packages(forced) == (place,)
    (place / "mine.c").write_text("int x;")
    with pytest.raises(InputError, match=r"holds mine\.c, which edgeopt did not write"):
        make_packages(forced)
    assert (place / "mine.c").is_file()
    assert [path.name for path in (tmp_path / "out" / "zephyr").iterdir()] == ["edgeopt_net"]


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle")

    def refuse(message: str, *formats: str, folder: Path = source, **more: str) -> None:
        with pytest.raises(InputError, match=message):
            make_packages(PackageRequest(folder, formats, tmp_path / "out", **more))

    refuse("no package format given")
    refuse(r"unknown package format 'zypher'[\s\S]*did you mean zephyr", "zypher")
    refuse(r"unknown package format 'cmake'[\s\S]*the bundle itself", "cmake")
    refuse("three numbers", "zephyr", version="1")
    refuse("no such bundle folder", "zephyr", folder=tmp_path / "none")
    objects = {**FILES, "kernels/kernels.o": b"\x7fELF"}
    compiled = bundle(tmp_path / "compiled", objects, "rpi4")
    refuse("its kernels are compiled already", "zephyr", folder=compiled)
    (source / "src" / "net.c").write_text("changed")
    refuse("changed since it was generated", "zephyr")
    assert not (tmp_path / "out").exists()


def test_compile_names_an_unknown_format_before_it_starts(tmp_path: Path) -> None:
    command = ["compile", "--device", "rpi-pico", "-o", str(tmp_path / "out"), "--package", "zefyr"]
    with pytest.raises(InputError, match=r"unknown package format 'zefyr'[\s\S]*zephyr"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert not (tmp_path / "out").exists()

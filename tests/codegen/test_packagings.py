"""Every format of packages for firmware: what holds for all of them."""

from __future__ import annotations

import io
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from firmware_library import files_of, library, main_program

from edgeopt.codegen.packagings import FORMATS, Library, library_files, tree
from edgeopt.core.errors import InputError

BOARDS = {"esp-idf": "esp32c3"}


def whole(name: str, made: dict[str, bytes]) -> dict[str, bytes]:
    """The files that a user gets: those of the archive, where there is one."""
    packs = files_of(made, ".pack")
    if not packs:
        return made
    archive = zipfile.ZipFile(io.BytesIO(made[packs[0]]))
    return {info.filename: archive.read(info) for info in archive.infolist()}


def board_of(name: str) -> str:
    return BOARDS.get(name, "rpi-pico")


@pytest.mark.parametrize("name", FORMATS)
def test_packages_are_deterministic_and_hold_no_paths_of_this_machine(name: str) -> None:
    made = tree(name, library(board_of(name)))
    assert made == tree(name, library(board_of(name)))
    home = str(Path.home()).encode()
    here = str(Path(__file__).resolve().parents[2]).encode()
    for path, content in whole(name, made).items():
        assert re.fullmatch(r"[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*", path)
        assert here not in content, path
        assert home == b"/" or home not in content, path
        assert not re.search(rb"[\s\"'(](/home|/usr|/tmp|/root|/work)/", content), path


@pytest.mark.parametrize("name", FORMATS)
def test_packages_state_licence_and_version(name: str) -> None:
    files = whole(name, tree(name, library(board_of(name), version="2.3.4", licence="MIT")))
    assert files["LICENSE"].startswith(b"SPDX-License-Identifier: MIT\n")
    assert b"Apache License" in files["LICENSE"]
    described = b"".join(
        content for path, content in files.items()
        if path.endswith((".json", ".yml", ".properties", ".pdsc", "CMakeLists.txt"))
    )  # fmt: skip
    assert b"2.3.4" in described


@pytest.mark.parametrize("name", FORMATS)
def test_packages_hold_everything_that_is_compiled(
    name: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """The package's C, with no other header in reach, computes what the reference computes."""
    gcc = needs_tool("gcc")
    files = whole(name, tree(name, library(board_of(name))))
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    sources = files_of(files, ".c")
    assert sum(path.endswith("kernels.c") for path in sources) == 1
    (tmp_path / "main.c").write_text(main_program())
    command = [gcc, "-std=c99", "-O1", "-Iinclude", "-Isrc", "main.c", *sources, "-lm", "-o", "app"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "app"], check=False).returncode == 0


@pytest.mark.parametrize("name", FORMATS)
def test_networks_without_vectors_have_no_self_test(name: str) -> None:
    files = whole(name, tree(name, library(board_of(name), embed=0)))
    assert not [path for path in files if "self_test" in path]
    text = b"".join(
        content for path, content in files.items() if not path.endswith((".c", ".h"))
    )  # fmt: skip
    assert b"self_test" not in text.lower()


def test_formats_that_cannot_run_the_kernels_are_refused() -> None:
    with pytest.raises(InputError, match=r"ESP-IDF builds for RISC-V and Xtensa[\s\S]*armv7em"):
        tree("esp-idf", library("nucleo-l4r5zi"))
    with pytest.raises(InputError, match=r"CMSIS packs are for Arm[\s\S]*riscv32"):
        tree("cmsis-pack", library("esp32c3"))


def test_unknown_formats_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown package format 'zephir'[\s\S]*zephyr"):
        tree("zephir", library())
    with pytest.raises(InputError, match="the bundle itself is a CMake package"):
        tree("cmake", library())


def test_objects_are_refused() -> None:
    with pytest.raises(InputError, match=r"compiled already: kernels/kernels\.o"):
        library_files({"include/net.h": b"", "kernels/kernels.o": b""}, "bundle")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", "1.0", "--package-version"),
        ("version", "1.0.0\nx=y", "--package-version"),
        ("vendor", "a.b", "--vendor"),
        ("vendor", "", "--vendor"),
        ("licence", "MIT; rm", "--license"),
        ("url", "file:///etc", "--url"),
        ("url", 'https://x"><evil', "--url"),
        ("maintainer", "a\nname=b", "--maintainer"),
        ("maintainer", 'x" : "y', "--maintainer"),
        ("maintainer", " ", "--maintainer"),
    ],
)
def test_fields_of_the_wrong_form_are_refused(field: str, value: str, message: str) -> None:
    with pytest.raises(
        InputError, match=f"{message}[\\s\\S]*has the wrong form|has the wrong form"
    ):
        Library("net", "board", "armv6m", frozenset(), {}, **{field: value})


def test_the_shipped_licence_is_the_projects() -> None:
    from edgeopt.codegen.emit import runtime_file

    root = Path(__file__).resolve().parents[2]
    assert runtime_file("LICENSE.txt") == (root / "LICENSE").read_bytes()

"""Bundles for microcontrollers in CMake builds, and their C in the hands of their compilers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from firmware_library import files_of, generated, library, main_program
from test_packaging_cmake import run

from edgeopt import devices
from edgeopt.codegen import toolchain
from edgeopt.codegen.packagings import FORMATS, Package, package, tree

APP = """cmake_minimum_required(VERSION 3.16)
project(app C)
find_package(net 1.0 REQUIRED)
add_executable(app main.c)
target_link_libraries(app PRIVATE edgeopt::net)
target_link_options(app PRIVATE --specs=nosys.specs)
"""
FLAGS = {
    "nucleo-l4r5zi": ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
    "mps3-an547": ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"),
    "rpi-pico": ("-mcpu=cortex-m0plus", "-mthumb"),
}


def test_an_installed_bundle_is_found(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    """The package can be moved after it was installed."""
    needs_tool("cmake")
    needs_tool("arm-none-eabi-gcc")
    profile = devices.load("nucleo-l4r5zi")
    source = tmp_path / "net"
    made = package("cmake", generated(profile.name), Package.of(profile))
    for path, content in made.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    run("cmake", "-S", source, "-B", tmp_path / "b1", "-DNET_FIRMWARE=OFF")
    run("cmake", "--build", tmp_path / "b1")
    run("cmake", "--install", tmp_path / "b1", "--prefix", tmp_path / "usr")
    shutil.move(tmp_path / "usr", tmp_path / "moved")
    app = tmp_path / "app"
    app.mkdir()
    (app / "CMakeLists.txt").write_text(APP)
    (app / "main.c").write_text(main_program())
    run(
        "cmake", "-S", app, "-B", tmp_path / "b2", f"-Dnet_ROOT={tmp_path / 'moved'}",
        "-DCMAKE_FIND_ROOT_PATH_MODE_PACKAGE=NEVER",
        f"-DCMAKE_TOOLCHAIN_FILE={source / 'cmake' / 'nucleo-l4r5zi.cmake'}",
    )  # fmt: skip
    run("cmake", "--build", tmp_path / "b2")
    assert (tmp_path / "b2" / "app").is_file()


@pytest.mark.parametrize("board", FLAGS)
def test_packages_compile_without_a_warning_for_their_core(
    board: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """With extensions of the language, as build systems for firmware have them, and as C99."""
    compiler = needs_tool("arm-none-eabi-gcc")
    for name in sorted(FORMATS.keys() - {"esp-idf", "cmsis-pack"}):
        files = tree(name, library(board))
        folder = tmp_path / name
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        standard = "-std=c99" if name == "zephyr" else "-std=gnu11"
        done = subprocess.run(
            [compiler, *FLAGS[board], "-O2", *toolchain.STRICT_FLAGS, standard, "-Werror",
             "-Iinclude", "-Isrc", "-c", *files_of(files, ".c")],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

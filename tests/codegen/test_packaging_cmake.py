"""Bundles in CMake builds: alone, as a subfolder, installed, cross-compiled."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import handmade
import pytest

from edgeopt import devices
from edgeopt.codegen import emit, runner, toolchain
from edgeopt.codegen.packagings import Package, package
from edgeopt.core.errors import InputError


def bundle(
    folder: Path, name: str = "net", device: str = "local", compiler: str = "gcc",
    text_weight_bytes: int = runner.TEXT_WEIGHT_BYTES,
) -> Path:  # fmt: skip
    """A bundle for a device, written to a folder."""
    work = folder / f"objects-{name}"
    work.mkdir(parents=True)
    kernels = handmade.kernel_object(runner.kernel_prefix(name), work, compiler)
    code = emit.render(
        handmade.graph(), handmade.plan(), handmade.FUNCTIONS, handmade.WEIGHTS,
        {"kernels.o": kernels}, name=name, origin=emit.Origin("test"), vectors=handmade.vectors(),
        text_weight_bytes=text_weight_bytes,
    )  # fmt: skip
    place = folder / name
    for path, content in package("cmake", code, Package.of(devices.load(device))).items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    return place


def run(*command: object, fails: bool = False) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def build(source: Path, folder: Path, *options: str) -> None:
    run("cmake", "-S", source, "-B", folder, *options)
    run("cmake", "--build", folder)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_bundle_builds_and_passes_by_itself(
    compiler: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("cmake")
    needs_tool(compiler)
    build(bundle(tmp_path), tmp_path / "build", f"-DCMAKE_C_COMPILER={compiler}")
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path / "build")


@pytest.mark.parametrize("name", ["test", "m"])
def test_names_that_cmake_or_linkers_know_are_free(
    name: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("cmake")
    needs_tool("gcc")
    build(bundle(tmp_path, name), tmp_path / "build")
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path / "build")


def test_building_again_does_nothing(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    needs_tool("cmake")
    needs_tool("gcc")
    build(bundle(tmp_path), tmp_path / "build", "-G", "Unix Makefiles")
    assert "Building C object" not in run("cmake", "--build", tmp_path / "build")


def test_constants_of_a_file_are_found_and_followed(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """The assembler includes them; the build runs again when they change."""
    needs_tool("cmake")
    needs_tool("gcc")
    source = bundle(tmp_path, text_weight_bytes=0)
    build(source, tmp_path / "build")
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path / "build")
    weights = source / "src" / "net_weights.bin"
    weights.write_bytes(b"\0" * len(weights.read_bytes()))
    run("cmake", "--build", tmp_path / "build")
    run("ctest", "--test-dir", tmp_path / "build", fails=True)


APP = """cmake_minimum_required(VERSION 3.16)
project(app C)
{get}
add_executable(app main.c)
target_compile_options(app PRIVATE -Wall -Wextra -Werror)
target_link_libraries(app PRIVATE {link})
"""
MAIN = """#include "net.h"
static NET_ALIGNED unsigned char arena[NET_SELF_TEST_ARENA_BYTES];
int main(void) {
    net_ctx ctx = {0};
    if (net_init(&ctx, arena, sizeof arena) != NET_OK) return 1;
    return net_self_test(&ctx) == NET_OK ? 0 : 2;
}
"""


def app(folder: Path, get: str, link: str) -> Path:
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(APP.format(get=get, link=link))
    (folder / "main.c").write_text(MAIN)
    return folder


def test_two_bundles_serve_as_subfolders(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    needs_tool("cmake")
    needs_tool("gcc")
    for name in ("net", "other"):
        bundle(tmp_path, name)
    source = app(
        tmp_path / "app",
        f"add_subdirectory({tmp_path}/net net)\nadd_subdirectory({tmp_path}/other other)",
        "edgeopt::net edgeopt::other",
    )
    build(source, tmp_path / "build")
    run(tmp_path / "build" / "app")
    assert not (tmp_path / "build" / "net" / "bench").exists()  # programs only by itself


@pytest.mark.parametrize("shared", ["OFF", "ON"])
def test_an_installed_bundle_is_found(
    shared: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("cmake")
    needs_tool("gcc")
    build(bundle(tmp_path), tmp_path / "b1", f"-DBUILD_SHARED_LIBS={shared}", "-DNET_PROGRAMS=OFF")
    run("cmake", "--install", tmp_path / "b1", "--prefix", tmp_path / "usr")
    shutil.move(tmp_path / "usr", tmp_path / "moved")  # the package is relocatable
    source = app(tmp_path / "app", "find_package(net 1.0 REQUIRED)", "edgeopt::net")
    build(source, tmp_path / "b2", f"-DCMAKE_PREFIX_PATH={tmp_path / 'moved'}")
    run(tmp_path / "b2" / "app")


def test_a_bundle_for_another_processor_cross_compiles(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("cmake")
    needs_tool("aarch64-linux-gnu-gcc")
    needs_tool("qemu-aarch64")
    if toolchain.host_arch() == "aarch64":
        pytest.skip("this machine is of that processor")
    source = bundle(tmp_path, device="rpi4", compiler="aarch64-linux-gnu-gcc")
    build(source, tmp_path / "build")
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path / "build")


def test_the_wrong_compiler_is_refused_with_advice(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("cmake")
    needs_tool("aarch64-linux-gnu-gcc")
    if toolchain.host_arch() == "aarch64":
        pytest.skip("this machine is of that processor")
    source = bundle(tmp_path, device="rpi4", compiler="aarch64-linux-gnu-gcc")
    shown = run("cmake", "-S", source, "-B", tmp_path / "b", "-DCMAKE_C_COMPILER=gcc", fails=True)
    assert "use a toolchain for aarch64" in " ".join(shown.split())


def test_a_missing_cross_compiler_is_named(
    needs_tool: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmake = needs_tool("cmake")
    if toolchain.host_arch() == "aarch64":
        pytest.skip("this machine is of that processor")
    needs_tool("aarch64-linux-gnu-gcc")
    source = bundle(tmp_path, device="rpi4", compiler="aarch64-linux-gnu-gcc")
    text = (source / "cmake" / "aarch64-linux.cmake").read_text()
    (source / "cmake" / "aarch64-linux.cmake").write_text(
        text.replace("find_program(NET_CC aarch64-linux-gnu-gcc)", "find_program(NET_CC nosuchcc)")
    )
    shown = run(cmake, "-S", source, "-B", tmp_path / "b", fails=True)
    assert "apt-get install gcc-aarch64-linux-gnu" in " ".join(shown.split())


def test_the_readmes_program_compiles(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    needs_tool("gcc")
    source = bundle(tmp_path)
    readme = (source / "README.md").read_text()
    example = readme.split("```c\n")[1].split("```")[0]
    (tmp_path / "example.c").write_text(example + "int main(void) { return infer(); }\n")
    run(
        "gcc", *toolchain.STRICT_FLAGS, f"-I{source}/include", tmp_path / "example.c",
        *sorted((source / "src").glob("*.c")), source / "kernels" / "kernels.o",
        "-lm", "-o", tmp_path / "example",
    )  # fmt: skip
    run(tmp_path / "example")
    assert "| working memory (RAM), `NET_ARENA_BYTES` | 384 |" in readme
    assert "| input `x`, f32 [1, 4, 4, 3], NHWC | 192 |" in readme


def test_packagings_are_chosen_by_name() -> None:
    code = emit.render(
        handmade.graph(), handmade.plan(), handmade.FUNCTIONS, handmade.WEIGHTS, {},
        name="net", origin=emit.Origin("test"),
    )  # fmt: skip
    board = Package("board", "x86_64")
    assert package("none", code, board) == dict(code.files)
    with pytest.raises(InputError, match=r"unknown packaging 'cmak'[\s\S]*did you mean cmake\?"):
        package("cmak", code, board)

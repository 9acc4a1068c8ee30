"""`edgeopt_add_model()`: a network compiled while CMake configures."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_packaging_cmake import MAIN, bundle, run

MODULES = Path(__file__).resolve().parents[2] / "cmake"
PROJECT = f"""cmake_minimum_required(VERSION 3.16)
project(app C)
list(APPEND CMAKE_MODULE_PATH {MODULES})
include(EdgeoptAddModel)
edgeopt_add_model(net DEVICE local MODEL model.onnx OPTIONS --precision fp32)
add_executable(app main.c)
target_link_libraries(app PRIVATE edgeopt::net)
"""


@pytest.fixture
def project(needs_tool: Callable[[str], str], tmp_path: Path) -> Path:
    """A project whose ``edgeopt`` logs how it is called and copies a bundle made before."""
    needs_tool("cmake")
    needs_tool("gcc")
    made = bundle(tmp_path / "made")
    (tmp_path / "edgeopt").write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo 1.2.3; exit 0; fi
echo "$@" >> {tmp_path}/calls
grep -q broken "$2" && exit 2
while [ "$1" != -o ]; do shift; done
rm -rf "$2"
cp -r {made} "$2"
"""
    )
    (tmp_path / "edgeopt").chmod(0o755)
    source = tmp_path / "app"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROJECT)
    (source / "main.c").write_text(MAIN)
    (source / "model.onnx").write_text("first")
    return source


def configure(project: Path, *, fails: bool = False) -> str:
    edgeopt = project.parent / "edgeopt"
    return run(
        "cmake", "-S", project, "-B", project.parent / "build", f"-DEDGEOPT_EXECUTABLE={edgeopt}",
        fails=fails,
    )  # fmt: skip


def test_a_model_is_compiled_once_and_again_when_it_changes(project: Path) -> None:
    calls, build = project.parent / "calls", project.parent / "build"
    configure(project)
    run("cmake", "--build", build)
    assert subprocess.run([build / "app"], check=False).returncode == 0
    assert calls.read_text() == (
        f"compile {project}/model.onnx --device local --name net --precision fp32 "
        f"-o {build}/net --force\n"
    )
    configure(project)
    assert len(calls.read_text().splitlines()) == 1
    (project / "model.onnx").write_text("second")
    configure(project)
    assert len(calls.read_text().splitlines()) == 2


def test_a_failed_compilation_stops_the_configuration(project: Path) -> None:
    (project / "model.onnx").write_text("broken")
    assert "edgeopt could not compile net (exit status 2)" in configure(project, fails=True)
    (project / "model.onnx").unlink()
    assert "no such model" in configure(project, fails=True)

"""`edgeopt_add_model()`: a network compiled while CMake configures."""

from __future__ import annotations

import os
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
edgeopt_add_model(net DEVICE local ONNX "my model.onnx" PRECISION fp32
  BUDGET ram 64KB latency 20ms OPTIONS --threads 2)
add_executable(app main.c)
target_link_libraries(app PRIVATE edgeopt::net)
"""


@pytest.fixture
def project(needs_tool: Callable[[str], str], tmp_path: Path) -> Path:
    """A project whose ``edgeopt`` logs how it is called and copies a bundle made before.

    What it writes to the depfile is what the real one writes; see tests/pipeline/test_depfile.py.
    """
    needs_tool("cmake")
    needs_tool("gcc")
    made = bundle(tmp_path / "made")
    (tmp_path / "edgeopt").write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo 1.2.3; exit 0; fi
echo "$@" >> {tmp_path}/calls
grep -q broken "$2" && exit 2
model=$(printf %s "$2" | sed 's/ /\\\\ /g')
while [ "$1" != -o ]; do shift; done
rm -rf "$2"
cp -r {made} "$2"
printf '%s/manifest.json: \\\\\n  %s \\\\\n  {tmp_path}/app/$$data.bin\n' "$2" "$model" > "$5"
"""
    )
    (tmp_path / "edgeopt").chmod(0o755)
    source = tmp_path / "app"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROJECT)
    (source / "main.c").write_text(MAIN)
    (source / "my model.onnx").write_text("first")
    (source / "$data.bin").write_text("first")
    return source


def configure(project: Path, *, fails: bool = False) -> str:
    edgeopt = project.parent / "edgeopt"
    return run(
        "cmake", "-S", project, "-B", project.parent / "build", f"-DEDGEOPT_EXECUTABLE={edgeopt}",
        fails=fails,
    )  # fmt: skip


def calls(project: Path) -> list[str]:
    return (project.parent / "calls").read_text().splitlines()


def test_a_model_is_compiled_once_and_again_when_something_changes(project: Path) -> None:
    build = project.parent / "build"
    configure(project)
    run("cmake", "--build", build)
    assert subprocess.run([build / "app"], check=False).returncode == 0
    assert calls(project) == [
        f"compile {project}/my model.onnx --device local --name net --precision fp32 --ram 64KB "
        f"--latency 20ms --threads 2 -o {build}/net --force --depfile {build}/net.d"
    ]
    configure(project)
    run("cmake", "--build", build)
    assert len(calls(project)) == 1
    # A build alone notices: what the depfile names makes CMake configure again.
    for number, file in enumerate(("my model.onnx", "$data.bin"), 2):
        (project / file).write_text("second")
        newer = (project / file).stat().st_mtime + 5
        os.utime(project / file, (newer, newer))
        run("cmake", "--build", build)
        assert len(calls(project)) == number
    (project / "CMakeLists.txt").write_text(PROJECT.replace("64KB", "48KB"))
    configure(project)
    assert len(calls(project)) == 4
    assert "--ram 48KB" in calls(project)[-1]


def test_a_failed_compilation_stops_the_configuration(project: Path) -> None:
    (project / "my model.onnx").write_text("broken")
    assert "edgeopt could not compile net (exit status 2)" in configure(project, fails=True)
    (project / "my model.onnx").unlink()
    assert "no such model" in configure(project, fails=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("DEVICE local BUDGET speed 3", "BUDGET takes pairs of latency, ram, flash or accuracy"),
        ("DEVICE local BUDGET ram", "BUDGET takes pairs"),
        ("DEVICE local ONNX a.onnx SUPERNET b", "has both ONNX and SUPERNET"),
        ("ONNX a.onnx", "edgeopt_add_model(<name> DEVICE <device>"),
        ("DEVICE local QUICK", "edgeopt_add_model(<name> DEVICE <device>"),
    ],
)
def test_wrong_calls_are_explained(project: Path, arguments: str, message: str) -> None:
    head = PROJECT.split("edgeopt_add_model")[0]
    (project / "CMakeLists.txt").write_text(f"{head}edgeopt_add_model(net {arguments})\n")
    assert message in " ".join(configure(project, fails=True).split())

"""The wheel holds everything: installed alone, outside the checkout, it compiles a subnet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(command: list[str], cwd: Path, **env: str) -> str:
    # A path to the checkout would hide what the wheel lacks.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_wheel_in_a_clean_environment_compiles(tmp_path: Path, stage_cache: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".cache", "build", "dist", "*.egg-info", "__pycache__"
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), "."], source)
    (wheel,) = tmp_path.glob("edgeopt-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]

    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run([str(python), "-m", "pip", "install", "-q", "--no-deps", str(wheel)], tmp_path)
    # Dependencies come from this environment instead of being installed again; edgeopt itself
    # cannot, because the wheel's folder comes first and editable installs are not followed.
    library = next((environment / "lib").glob("python*/site-packages"))
    (library / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = run([str(python), "-c", "import edgeopt; print(edgeopt.__file__)"], tmp_path)
    assert where.startswith(str(environment)), where

    edgeopt = environment / "bin" / "edgeopt"
    cache = {"EDGEOPT_CACHE_DIR": str(stage_cache)}
    assert "rpi4" in run([str(edgeopt), "devices"], tmp_path, **cache)
    out = run(
        [str(edgeopt), "compile", "--device", "rpi4", "--latency", "4ms", "-o", "bundle"],
        tmp_path,
        **cache,
    )
    assert "failed" not in out
    assert (tmp_path / "bundle" / "report.html").is_file()

"""Commands in README and docs are run as written: a page that is not true fails."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: Commands that install, need a data set or a board, or take long; they are run elsewhere or
#: by hand, and pages say so beside them.
_NOT_RUN = re.compile(
    r"^(make|git|pip|apt-get|cd|sudo) |--host |\bedgeopt train\b|--against-ort"
    r"|\bedgeopt profile (?!--new|tiny_cnn.onnx)|^python benchmarks/"
)


def commands(page: Path) -> list[str]:
    """The ``$`` lines of a page's console blocks, continuation lines joined."""
    found = []
    for block in _BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append(line[2:].split("  #")[0].strip())
    return found


RUN = [page for page in PAGES if any(not _NOT_RUN.search(c) for c in commands(page))]


def test_some_page_has_commands() -> None:
    assert ROOT / "README.md" in RUN


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_run(page: Path, tmp_path: Path, stage_cache: Path) -> None:
    """In order, in one folder, with the same stage cache the other tests use."""
    for tool in ("cmake", "gcc", "clang", "qemu-aarch64", "arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: apt-get install -y {tool}")
    bin_dir = Path(sys.executable).parent
    env = os.environ | {
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "EDGEOPT_CACHE_DIR": str(stage_cache),
        "PYTHONWARNINGS": "default",
    }
    models = ROOT / "tests" / "models"
    examples = ROOT / "examples" / "models"
    for file in (*models.glob("*.onnx"), *models.glob("*.csv"), *examples.glob("*.onnx")):
        shutil.copy(file, tmp_path)
    for command in commands(page):
        if _NOT_RUN.search(command):
            continue
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{page.name}: $ {command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page}: {target}"

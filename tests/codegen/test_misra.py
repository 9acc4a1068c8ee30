"""The generated C under cppcheck with its MISRA addon, held against docs/misra.md."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import c_harness as harness
import pytest
from firmware_library import generated

from edgeopt import devices
from edgeopt.codegen import ckernels
from edgeopt.core.kernels import OpKey

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import shapes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "misra.md"
#: Rules of MISRA C:2012 that allow no deviation.
MANDATORY = {"9.1", "12.5", "13.6", "17.3", "17.4", "17.6", "19.1", "21.13", "21.17", "21.18",
             "21.19", "21.20", "22.2", "22.4", "22.5", "22.6"}  # fmt: skip
BOARDS = ("rpi-pico", "nucleo-l4r5zi", "mps3-an547")
CHECKED = {"error", "warning", "portability", "performance"}


def kinds_of_kernels(board: str) -> list[OpKey]:
    """One key for every way that a template writes a kernel for a board."""
    target = devices.load(board).target
    found = {}
    keys = dict.fromkeys(key for keys in shapes.CLASSES.values() for key in keys)
    plain = (key for key in keys if key.op != "irb" and "log" not in key.variant)
    for whole in harness.with_packed(harness.integer(key) for key in plain):
        template = ckernels.find(whole, target)
        if template is not None:
            found.setdefault((template.sections(whole, target), type(template)), whole)
    return list(found.values())


@pytest.fixture(scope="module")
def findings(
    needs_tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> set[tuple[str, str, str]]:
    """File, severity and rule of everything that cppcheck reports."""
    cppcheck = needs_tool("cppcheck")
    folder = tmp_path_factory.mktemp("misra")
    for path, content in generated("nucleo-l4r5zi").files.items():
        if path.startswith(("include/", "src/")):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
    names = []
    for board in BOARDS:
        usual, keys = devices.load(board), kinds_of_kernels(board)
        # where flash is short, what kernels of an operator do is the same code
        short = list({key.op: key for key in keys}.values())
        for name, profile, some in ((board, usual, keys), (f"{board}-s", usual.compacted(), short)):
            (folder / f"{name}.c").write_text(ckernels.source(some, profile.target))
            names.append(name)
    found = set()
    # Each board's kernels are a program of their own: they have the same names.
    for files in (["src"], *([f"{name}.c"] for name in names)):
        done = subprocess.run(
            [cppcheck, "--std=c99", "--platform=unix32", "--addon=misra", "--quiet",
             "--max-configs=3", "--enable=warning,style,performance,portability",
             "--suppress=missingIncludeSystem", "-Iinclude",
             "--template={file}|{severity}|{id}", *files],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for line in done.stderr.splitlines():
            file, severity, rule = line.rsplit("|", 2)
            found.add((file, severity, rule))
    return found


def table() -> dict[str, str]:
    rows = re.findall(r"^\| (\d+\.\d+) \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_no_errors_are_found(findings: set[tuple[str, str, str]]) -> None:
    assert not {item for item in findings if item[1] in CHECKED and "misra" not in item[2]}


def test_deviations_are_those_that_are_listed(findings: set[tuple[str, str, str]]) -> None:
    rules = {rule.removeprefix("misra-c2012-") for _, _, rule in findings if "misra" in rule}
    assert not rules & MANDATORY
    listed = table()
    assert sorted(rules - listed.keys()) == [], "not in docs/misra.md"
    assert sorted(listed.keys() - rules) == [], "in docs/misra.md, but broken nowhere"
    assert set(listed.values()) <= {"required", "advisory"}

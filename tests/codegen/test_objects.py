from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.codegen.objects import object_size

SOURCE = """
const int table[100] = {1, 2, 3};
int counter[10] = {1};
char zeros[1000];
int get(int i) { return table[i] + counter[0]; }
"""


@pytest.mark.parametrize("compiler", ["gcc", "aarch64-linux-gnu-gcc"])
def test_sections_are_told_apart(
    compiler: str, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    (tmp_path / "a.c").write_text(SOURCE)
    subprocess.run(
        [needs_tool(compiler), "-O1", "-c", "a.c", "-o", "a.o"], cwd=tmp_path, check=True
    )
    size = object_size((tmp_path / "a.o").read_bytes())
    assert 400 < size.code_bytes < 500
    assert size.data_bytes == 40
    assert size.bss_bytes == 1000


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"MZ" + bytes(100), b"\x7fELF\x02\x01" + bytes(9)]
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ELF"):
        object_size(data)


def test_a_truncated_object_is_refused(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    (tmp_path / "a.c").write_text(SOURCE)
    subprocess.run([needs_tool("gcc"), "-c", "a.c", "-o", "a.o"], cwd=tmp_path, check=True)
    data = (tmp_path / "a.o").read_bytes()
    with pytest.raises(ValueError, match="truncated"):
        object_size(data[:-100])

"""The bound of the stack: read from real notes, and refused where there is none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.codegen import stack

SOURCE = """
#include <string.h>
extern int leaf(int *values);
extern int other(int x);
extern int (*chosen)(int);
__attribute__((noinline)) static int deep(int x) {
    int values[40];
    memset(values, x, sizeof values);
    return leaf(values);
}
int top(int x) { return deep(x) + other(x); }
int again(int x) { return x < 2 ? 1 : x * again(x - 1) + again(x - 2); }
int wide(int n) { int values[n]; memset(values, 1, sizeof values); return leaf(values); }
int pointed(int x) { return chosen(x) + 1; }
"""
OTHER = """
extern int leaf(int *values);
int leaf(int *values) { volatile int more[10]; more[0] = values[3]; return more[0]; }
"""


def notes(compiler: str, folder: Path) -> list[str]:
    for name, text in (("a", SOURCE), ("b", OTHER)):
        (folder / f"{name}.c").write_text(text)
        subprocess.run(
            [compiler, "-O2", *stack.FLAGS, "-c", f"{name}.c", "-o", f"{name}.o"],
            cwd=folder, check=True,
        )  # fmt: skip
    return [(folder / f"{name}.ci").read_text() for name in "ab"]


@pytest.mark.parametrize("compiler", ["gcc", "arm-none-eabi-gcc"])
def test_the_deepest_path_bounds_the_stack(
    compiler: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    found = stack.depth(notes(needs_tool(compiler), tmp_path), "top")
    assert found.path[0] == "top" and found.path[1].endswith("deep")
    assert "other" in found.library and set(found.library) <= {"memset", "other"}
    # 160 bytes of values, a library function or leaf's own, and what each frame saves.
    assert 160 <= found.bound_bytes <= 400


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("again", "again calls itself: again -> again"),
        ("wide", "wide takes stack that no constant bounds"),
        ("pointed", "pointed calls through a pointer"),
        ("absent", "the compiler's notes do not name absent"),
    ],
)
def test_what_has_no_bound_is_refused(
    function: str, message: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    found = notes(needs_tool("gcc"), tmp_path)
    with pytest.raises(stack.StackError, match=message):
        stack.depth(found, function)

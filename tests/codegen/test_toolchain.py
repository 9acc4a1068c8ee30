"""Finding and running C compilers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.codegen import toolchain
from edgeopt.core.errors import ToolError

MAIN = '#include <stdio.h>\nint main(void) { return printf("hello\\n") != 6; }\n'


def script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def hello(folder: Path, compiler: toolchain.Compiler) -> Path:
    (folder / "main.c").write_text(MAIN)
    toolchain.compile_and_link(
        compiler, [folder / "main.c"], folder / "hello", flags=toolchain.STRICT_FLAGS, work=folder
    )
    return folder / "hello"


def test_the_profiles_compiler_comes_first(needs_tool: Callable[[str], str]) -> None:
    clang = needs_tool("clang")
    found = toolchain.find_for(toolchain.host_arch(), candidates=("nosuchcc", "clang", "gcc"))
    assert found.argv == (clang,)
    assert "clang version" in found.version
    assert found.name == "clang"


def test_a_profile_brings_its_flags(needs_tool: Callable[[str], str]) -> None:
    needs_tool("aarch64-linux-gnu-gcc")
    found = toolchain.find(devices.load("rpi4"))
    assert found.name == "aarch64-linux-gnu-gcc"
    assert found.c_flags == ("-mcpu=cortex-a72",)


def test_a_broken_compiler_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs_tool: Callable[[str], str]
) -> None:
    needs_tool("gcc")
    script(tmp_path, "brokencc", "echo 'error: no licence' >&2; exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = toolchain.find_for(toolchain.host_arch(), candidates=("brokencc", "gcc"))
    assert found.name == "gcc"


def test_without_a_compiler_the_message_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError) as caught:
        toolchain.find_for("aarch64", candidates=("mycc",))
    assert caught.value.what == (
        "no C compiler for aarch64 was found (tried mycc, aarch64-linux-gnu-gcc, ziglang)"
    )
    assert "apt-get install gcc-aarch64-linux-gnu" in caught.value.hint
    assert "pip install ziglang" in caught.value.hint
    with pytest.raises(ToolError, match="no C compiler for riscv64") as caught:
        toolchain.find_for("riscv64")
    assert "install a C compiler for riscv64" in caught.value.hint


def test_a_failed_compilation_shows_the_compilers_words(
    tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    needs_tool("gcc")
    compiler = toolchain.find_for(toolchain.host_arch(), candidates=("gcc",))
    (tmp_path / "bad.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(ToolError, match="'nothing' undeclared") as caught:
        toolchain.compile_object(compiler, tmp_path / "bad.c", tmp_path / "bad.o", work=tmp_path)
    assert "failed with status 1" in caught.value.what


def test_output_is_trimmed_to_its_errors_and_cannot_drive_a_terminal() -> None:
    output = "\n".join([f"note {i}" for i in range(500)] + ["x.c:1: error: \x1b[31mbad\x1b[0m"])
    assert toolchain.trim(output) == "x.c:1: error: ?[31mbad?[0m\n... 500 more lines"
    assert toolchain.trim("one\ntwo") == "one\ntwo"
    many = toolchain.trim("\n".join(f"line {i}" for i in range(40)))
    assert many.splitlines()[-1] == "... 10 more lines"


def test_a_hanging_tool_is_stopped() -> None:
    with pytest.raises(ToolError, match=r"did not finish within 0\.2 s"):
        toolchain.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)


def test_a_missing_tool_is_named() -> None:
    with pytest.raises(ToolError, match="/nosuch/cc: cannot start: No such file"):
        toolchain.run(["/nosuch/cc"])


def test_objects_do_not_depend_on_the_folder(
    tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    needs_tool("gcc")
    compiler = toolchain.find_for(toolchain.host_arch(), candidates=("gcc",))
    results = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x.c").write_text("const char *where(void);\n"
                                    "const char *where(void) { return __FILE__; }\n")  # fmt: skip
        toolchain.compile_object(
            compiler, folder / "x.c", folder / "x.o", flags=("-O2", "-g"), work=folder
        )
        results.append((folder / "x.o").read_bytes())
    assert results[0] == results[1]
    assert str(tmp_path).encode() not in results[0]


def test_a_cross_compiled_program_needs_no_libraries(
    tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    needs_tool("aarch64-linux-gnu-gcc")
    qemu = needs_tool("qemu-aarch64")
    program = hello(tmp_path, toolchain.find(devices.load("rpi4")))
    assert subprocess.run([qemu, program], check=True, capture_output=True).stdout == b"hello\n"


@pytest.mark.slow  # minutes when zig compiles its C library for the first time
def test_zig_serves_where_nothing_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs_tool: Callable[[str], str]
) -> None:
    pytest.importorskip("ziglang", reason="ziglang is missing: pip install ziglang")
    qemu = needs_tool("qemu-aarch64")
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler = toolchain.find(devices.load("rpi4"))
    assert compiler.zig and compiler.name == "zig cc"
    assert compiler.c_flags == ("-mcpu=cortex_a72",)
    program = hello(tmp_path, compiler)
    assert subprocess.run([qemu, program], check=True, capture_output=True).stdout == b"hello\n"

"""C compilers: finding one for a target, and running it predictably.

The order is: what the profile names, then what such systems usually have, then the compiler that
the ``ziglang`` package brings, which can build for every Linux target.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import ToolError

#: Flags of every compilation: the warnings that generated code must not cause.
STRICT_FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
TIMEOUT_S = 300
#: Zig compiles the C library for a target when it is first asked for it, and keeps it.
ZIG_TIMEOUT_S = 1200
_MAX_OUTPUT_LINES = 30

_INSTALL = {
    "x86_64": "apt-get install gcc, or pip install ziglang",
    "aarch64": "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross, "
    "or pip install ziglang",
    **dict.fromkeys(
        ("armv6m", "armv7em", "armv8m"),
        "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    ),
    "riscv32": "apt-get install gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
}

#: Compilers for processors that run without an operating system.
_BARE = {
    "armv6m": ("arm-none-eabi-gcc",),
    "armv7em": ("arm-none-eabi-gcc",),
    "armv8m": ("arm-none-eabi-gcc",),
    "riscv32": ("riscv32-unknown-elf-gcc", "riscv64-unknown-elf-gcc"),
}


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler for one architecture.

    Attributes:
        argv: how to call it, as a prefix of the argument list.
        arch: what it compiles for, as `TargetSpec.arch`.
        version: first line of what it says of itself.
        c_flags: of every compilation for the device.
        link_flags: of every link.
        zig: it is zig's compiler, which keeps a cache of its own.
    """

    argv: tuple[str, ...]
    arch: str
    version: str
    c_flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()
    zig: bool = False

    @property
    def name(self) -> str:
        """The program's name without its folder."""
        return "zig cc" if self.zig else Path(self.argv[0]).name

    @property
    def is_bare(self) -> bool:
        """It builds for processors without an operating system."""
        return self.arch in _BARE


def host_arch() -> str:
    """The architecture of this machine as `TargetSpec.arch` spells it."""
    machine = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def install_hint(arch: str) -> str:
    """How to get a compiler for an architecture."""
    return _INSTALL.get(arch, f"install a C compiler for {arch}, or pip install ziglang")


def find(profile: DeviceProfile) -> Compiler:
    """The first usable compiler for a device.

    Raises:
        ToolError: none is installed; the message names what to install.
    """
    return find_for(
        profile.arch,
        candidates=profile.toolchain.compilers,
        c_flags=profile.toolchain.c_flags,
        link_flags=profile.toolchain.link_flags,
    )


def find_for(
    arch: str,
    *,
    candidates: Sequence[str] = (),
    c_flags: Sequence[str] = (),
    link_flags: Sequence[str] = (),
) -> Compiler:
    """The first usable compiler for an architecture.

    Args:
        arch: ``x86_64``, ``aarch64``...
        candidates: programs to try before the usual ones; ``zig`` names the ``ziglang`` package.
        c_flags: for every compilation.
        link_flags: for every link.

    Raises:
        ToolError: none is installed; the message names what to install.
    """
    usual = [f"{arch}-linux-gnu-gcc"] + (["gcc", "clang", "cc"] if arch == host_arch() else [])
    if arch == "riscv32":
        c_flags = (*c_flags, "--specs=picolibc.specs")
    tried = []
    for program in dict.fromkeys((*candidates, *(_BARE.get(arch) or (*usual, "zig")))):
        tried.append("ziglang" if program == "zig" else program)
        prefix = _zig(arch) if program == "zig" else _on_path(program)
        if prefix is None:
            continue
        zig = program == "zig"
        if zig:
            c_flags = _zig_flags(c_flags)
        compiler = Compiler(prefix, arch, "", tuple(c_flags), tuple(link_flags), zig)
        version = _probe(compiler)
        if version is not None:
            return Compiler(prefix, arch, version, compiler.c_flags, compiler.link_flags, zig)
    raise ToolError(
        f"no C compiler for {arch} was found (tried {', '.join(tried)})",
        hint=install_hint(arch),
    )


def _on_path(program: str) -> tuple[str, ...] | None:
    path = shutil.which(program)
    return None if path is None else (path,)


def _zig(arch: str) -> tuple[str, ...] | None:
    if arch not in ("x86_64", "aarch64") or importlib.util.find_spec("ziglang") is None:
        return None
    return (sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-musl")


def _zig_flags(flags: Sequence[str]) -> tuple[str, ...]:
    """Zig spells processors with underscores (cortex_a72, x86_64_v3)."""
    return tuple(
        "-mcpu=" + re.sub(r"[.-]", "_", f.partition("=")[2])
        if f.startswith(("-march=", "-mcpu="))
        else f
        for f in flags
    )


def _probe(compiler: Compiler) -> str | None:
    """Version, or None when it cannot compile and link an empty program.

    Without an operating system how programs are linked is the board's affair: compiling is enough.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        source = Path(folder) / "probe.c"
        source.write_text("#include <string.h>\nint main(void) { return 0; }\n", encoding="utf-8")
        try:
            if compiler.is_bare:
                compile_object(compiler, source, Path(folder) / "probe.o", work=Path(folder))
            else:
                compile_and_link(compiler, [source], Path(folder) / "probe", work=Path(folder))
        except ToolError:
            return None
    shown = run((*compiler.argv, "--version"), compiler=compiler)
    return shown.splitlines()[0].strip()[:120] if shown.strip() else compiler.name


def _environment(compiler: Compiler | None) -> dict[str, str]:
    environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    if compiler is not None and compiler.zig:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = str(base / "edgeopt" / "zig")
        environment |= {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
    return environment


def run(
    command: Sequence[str],
    *,
    compiler: Compiler | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run a build tool and return its standard output.

    Raises:
        ToolError: it cannot be started, fails, or runs too long.
    """
    if timeout_s is None:
        timeout_s = ZIG_TIMEOUT_S if compiler is not None and compiler.zig else TIMEOUT_S
    try:
        done = subprocess.run(
            list(command), cwd=cwd, env=_environment(compiler), timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise ToolError(
            f"cannot start: {error.strerror or error}", where=command[0], hint="is it installed?"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(
            f"did not finish within {timeout_s:g} s", where=command[0],
            hint="try again on a less loaded machine",
        ) from error  # fmt: skip
    if done.returncode != 0:
        raise ToolError(
            f"failed with status {done.returncode}:\n{trim(done.stderr or done.stdout)}",
            where=" ".join(command[:4]), hint="the compiler may be too old, or miss a library",
        )  # fmt: skip
    return done.stdout


def trim(output: str) -> str:
    """The lines of a tool's output that matter: errors if any are marked, the first thirty."""
    lines = output.strip().splitlines()
    marked = [line for line in lines if "error" in line.lower()]
    chosen = lines if len(lines) <= _MAX_OUTPUT_LINES else (marked or lines)[:_MAX_OUTPUT_LINES]
    rest = len(lines) - len(chosen)
    more = [f"... {rest} more lines"] if rest > 0 else []
    return "\n".join(
        "".join(c if c.isprintable() or c == "\t" else "?" for c in line[:500])
        for line in [*chosen, *more]
    )


def compile_object(
    compiler: Compiler,
    source: Path,
    output: Path,
    *,
    includes: Sequence[Path] = (),
    defines: Mapping[str, str] | None = None,
    flags: Sequence[str] = ("-O2",),
    work: Path,
) -> None:
    """Compile one C file.

    Args:
        compiler: from `find`.
        source: the C file.
        output: the object to write.
        includes: folders of headers.
        defines: macros.
        flags: optimisation and warnings.
        work: folder whose path is kept out of the object, so that builds are reproducible.

    Raises:
        ToolError: the compiler fails; its messages are in the error.
    """
    run(
        (
            *compiler.argv, *compiler.c_flags, *flags, *(() if compiler.is_bare else ("-fPIC",)),
            *(("-fno-sanitize=undefined",) if compiler.zig else ()),
            f"-ffile-prefix-map={work}=.",
            *(f"-I{folder}" for folder in includes),
            *(f"-D{name}={value}" for name, value in (defines or {}).items()),
            "-c", str(source), "-o", str(output),
        ),
        compiler=compiler, cwd=work,
    )  # fmt: skip


def link(
    compiler: Compiler,
    objects: Sequence[Path],
    output: Path,
    *,
    work: Path,
    flags: Sequence[str] = (),
) -> None:
    """Link a program: statically when it is for another machine than this one.

    Raises:
        ToolError: the linker fails.
    """
    static = ("-static",) if compiler.arch != host_arch() or compiler.zig else ()
    run(
        (
            *compiler.argv, *compiler.c_flags, *flags, *static, *(str(o) for o in objects),
            *compiler.link_flags, "-lm", "-o", str(output),
        ),
        compiler=compiler, cwd=work,
    )  # fmt: skip


def shared_library(compiler: Compiler, source: Path, output: Path) -> None:
    """Compile one C file of few needs into a shared library.

    Raises:
        ToolError: the compiler fails.
    """
    run(
        (*compiler.argv, *compiler.c_flags, "-O2", "-shared", "-fPIC", str(source), "-o",
         str(output)),
        compiler=compiler, cwd=output.parent,
    )  # fmt: skip


def compile_and_link(
    compiler: Compiler,
    sources: Sequence[Path],
    output: Path,
    *,
    includes: Sequence[Path] = (),
    defines: Mapping[str, str] | None = None,
    flags: Sequence[str] = ("-O2",),
    objects: Sequence[Path] = (),
    work: Path,
) -> None:
    """Compile C files and link them with ready objects into a program.

    Raises:
        ToolError: compiler or linker fails.
    """
    compiled: list[Path] = []
    for source in sources:
        target = work / f"{output.name}.{len(compiled)}.{source.stem}.o"
        compile_object(
            compiler, source, target, includes=includes, defines=defines, flags=flags, work=work
        )
        compiled.append(target)
    link(compiler, [*compiled, *objects], output, work=work)

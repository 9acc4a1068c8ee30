"""The host programs of generated code: building them in a private folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeopt.codegen import names, toolchain
from edgeopt.codegen.toolchain import STRICT_FLAGS, Compiler

#: Programs a bundle can build: name -> (main file, defines the profiling hooks)
PROGRAMS = {
    "infer": ("infer.c", False),
    "self_test": ("self_test.c", False),
    "bench": ("bench.c", False),
    "bench_kernels": ("bench.c", True),
}


@dataclass(frozen=True, slots=True)
class Built:
    """Programs that were built, by name, and with what."""

    paths: Mapping[str, Path]
    compiler: Compiler


def build(
    files: Mapping[str, bytes],
    net: str,
    compiler: Compiler,
    work: Path,
    *,
    wanted: tuple[str, ...] = ("infer", "self_test", "bench"),
    flags: tuple[str, ...] = ("-O2", *STRICT_FLAGS),
) -> Built:
    """Compile and link host programs from the files of `emit.Code` or of a bundle.

    Args:
        files: path -> content.
        net: identifier of the network (`RunnerModel.id`).
        compiler: from `toolchain.find`.
        work: an empty or reusable folder; programs and intermediate files go there.
        wanted: names from `PROGRAMS`.
        flags: of every compilation.

    Raises:
        ToolError: compiler or linker fails.
    """
    work = work.resolve()
    for path, content in files.items():
        if path.startswith(("include/", "src/", "kernels/", "programs/")):
            target = work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    sources = sorted(p for p in files if p.startswith(("src/", "kernels/")) and p.endswith(".c"))
    objects = [work / p for p in sorted(files) if p.startswith("kernels/") and p.endswith(".o")]
    threaded = any(p.endswith("edgeopt_pool.c") for p in sources)
    shared = [_compile(compiler, work, p, {}, flags) for p in sources if p != f"src/{net}.c"]
    support = _compile(compiler, work, "programs/support.c", {}, flags)
    paths = {}
    for program in wanted:
        main, profiled = PROGRAMS[program]
        defines = {"EDGEOPT_PROFILE": "1", f"{names.upper(net)}_PROFILE": "1"} if profiled else {}
        own = [
            _compile(compiler, work, p, defines, flags)
            for p in (f"src/{net}.c", f"programs/{net}_program.c", f"programs/{main}")
        ]
        paths[program] = work / program
        toolchain.link(
            compiler, [*own, *shared, support, *objects], paths[program], work=work,
            flags=("-pthread",) if threaded else (),
        )  # fmt: skip
    return Built(paths, compiler)


def _compile(
    compiler: Compiler, work: Path, path: str, defines: Mapping[str, str], flags: tuple[str, ...]
) -> Path:
    suffix = ".profile.o" if defines else ".o"
    target = work / "build" / path.replace("/", "_").replace(".c", suffix)
    target.parent.mkdir(exist_ok=True)
    toolchain.compile_object(
        compiler, work / path, target, includes=(work / "include", work / "src", work / "programs"),
        defines=defines, flags=flags, work=work,
    )  # fmt: skip
    return target

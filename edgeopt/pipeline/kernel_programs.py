"""Programs made of single kernels, for measuring: benches of kernels, and whole networks.

Kernels are compiled once; the bench of a batch and every network that uses its kernels link the
same objects.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import (
    BoardError,
    BoardLost,
    BoardUnreachable,
    InputError,
)
from edgeopt.core.files import digest
from edgeopt.core.kernels import Kernel, KernelGraph, OpKey
from edgeopt.core.network import Array
from edgeopt.devices.transports import process
from edgeopt.pipeline import tiles
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.kernel_constants import constants_of, input_bytes_of
from edgeopt.pipeline.kernel_store import Job, compiled, joined
from edgeopt.pipeline.tiles import Program

if TYPE_CHECKING:
    from edgeopt.codegen.abi import KernelFunction
    from edgeopt.codegen.schedules import Template
    from edgeopt.codegen.toolchain import Compiler

IDLE_S = 120.0
_NAME = "net"


@dataclass(frozen=True, slots=True)
class LocalProgram:
    """A program on this machine; what it prints is read line by line, within bounds."""

    command: tuple[str, ...]

    def run(self, args: Sequence[str]) -> Iterator[str]:
        """Run it and yield the lines of its standard output as they come.

        Raises:
            BoardError: it cannot be started, fails, falls silent, or prints endlessly.
        """
        argv = [*self.command, *args]
        return process.lines(argv, where="bench program", idle_s=IDLE_S)


@dataclass(slots=True)
class KernelPrograms:
    """Builds programs for one device.

    Args:
        profile: the device.
        engine: what goes before a program to run it (nothing, or an emulator).
        work: a folder for programs.
        cache: keeps compiled objects.
        choices: tilings that are known already; `bench` adds those it measures.
        tune: measure the tilings of kernels that have several, and use the best.
        tuned: told all choices whenever some were measured.
        runs: what runs a program that was built; this machine by default.
        static: programs need nothing of the machine they run on.
    """

    profile: DeviceProfile
    engine: tuple[str, ...]
    work: Path
    cache: StageCache
    choices: dict[OpKey, Choice] = field(default_factory=dict)
    tune: bool = False
    tuned: Callable[[Mapping[OpKey, Choice]], None] | None = None
    fallbacks: dict[OpKey, Kernel] = field(default_factory=dict)
    runs: Callable[[Path], Program] | None = None
    static: bool = False
    _packed: dict[tuple[OpKey, Choice], Mapping[str, Array]] = field(
        default_factory=dict, repr=False
    )
    _compiler: Compiler | None = None

    def _program(self, path: Path) -> Program:
        if self.runs is not None:
            return self.runs(path)
        return LocalProgram((*self.engine, str(path)))

    def bench(self, keys: Sequence[OpKey]) -> tuple[Program | None, dict[OpKey, str]]:
        """A bench program of some kernels; the keys that cannot be built, with the reason."""
        from edgeopt.codegen import schedules

        failed = {}
        usable = []
        for key in dict.fromkeys(keys):
            template = schedules.select(key, self.profile.target)
            if template is None and key not in self.fallbacks:
                failed[key] = "no kernel template: its code depends on more than its key"
            else:
                usable.append(key)
        if not usable:
            return None, failed
        if self.tune:
            self._tune(usable)
        return self.program([(key, self.choices.get(key, MODEL)) for key in usable]), failed

    def _tune(self, keys: Sequence[OpKey]) -> None:
        """Measure the tilings of kernels whose best is not known yet."""
        unknown = [key for key in keys if key not in self.choices]
        candidates = tiles.candidates_of(unknown, self.profile.target)
        if candidates:
            self._choose(candidates)
            if self.tuned is not None:
                self.tuned(self.choices)

    def _choose(self, candidates: tiles.Candidates) -> None:
        """Take the best tilings; where one crashes its program, the model's are taken as they are.

        Raises:
            BoardError: the board is gone, which says nothing about a kernel.
        """
        program = self.program([(key, c) for key, found in candidates.items() for c in found])
        try:
            self.choices.update(tiles.choose(program, candidates))
        except (BoardLost, BoardUnreachable):
            raise
        except BoardError:
            keys = list(candidates)
            if len(keys) == 1:
                self.choices[keys[0]] = MODEL
                return
            for part in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                self._choose({key: candidates[key] for key in part})

    def program(self, kernels: Sequence[tuple[OpKey, Choice]]) -> Program:
        """A bench program of kernels, each with a tiling.

        Raises:
            ToolError: the compiler fails.
        """
        from edgeopt.codegen.bench import build_kernel_bench

        functions = [self._function(key, choice) for key, choice in kernels]
        mark = digest("\n".join(f"{key} {choice}" for key, choice in kernels).encode())[:12]
        program = build_kernel_bench(
            functions,
            [self.packed(key, choice) for key, choice in kernels],
            self._compile(kernels),
            self._find_compiler(),
            self.work / f"bench-{mark}",
            input_bytes={key.digest: self._input_bytes(key) for key, _ in kernels},
        )
        return self._program(program)

    def _template(self, key: OpKey, choice: Choice) -> Template:
        from edgeopt.codegen import schedules

        template = schedules.select(key, self.profile.target, choice)
        if template is None:
            raise InputError(
                "no kernel template implements this", where=str(key),
                hint="choose networks made of template kernels for calibration",
            )  # fmt: skip
        return template

    def _fallback(self, key: OpKey) -> Kernel | None:
        """The kernel whose payload is compiled, where no template implements its key."""
        from edgeopt.codegen import schedules

        kernel = self.fallbacks.get(key)
        known = kernel is None or schedules.select(key, self.profile.target) is not None
        return None if known else kernel

    def _input_bytes(self, key: OpKey) -> list[int]:
        kernel = self._fallback(key)
        if kernel is None:
            return input_bytes_of(key)
        from edgeopt.codegen import fallback

        return fallback.input_bytes(kernel)

    def _function(self, key: OpKey, choice: Choice) -> KernelFunction:
        kernel = self._fallback(key)
        if kernel is not None:
            from edgeopt.codegen import fallback

            return fallback.function(kernel, self.profile.target)
        return self._template(key, choice).function(key, self.profile.target)

    def packed(self, key: OpKey, choice: Choice) -> Mapping[str, Array]:
        """Made-up constants of a kernel, packed as its code reads them."""
        kernel = self._fallback(key)
        if kernel is not None:
            from edgeopt.codegen import fallback

            return fallback.pack(kernel, self.profile.target)
        if (key, choice) not in self._packed:
            template = self._template(key, choice)
            constants = constants_of(key)
            self._packed[key, choice] = template.pack(key, self.profile.target, constants)
        return self._packed[key, choice]

    def _find_compiler(self) -> Compiler:
        if self._compiler is None:
            from edgeopt.codegen import toolchain

            found = toolchain.find(self.profile)
            if self.static and "-static" not in found.link_flags:
                found = replace(found, link_flags=(*found.link_flags, "-static"))
            self._compiler = found
        return self._compiler

    def _compile(self, kernels: Sequence[tuple[OpKey, Choice]]) -> bytes:
        """The kernels' objects as one."""
        jobs = [Job(key, choice, self._fallback(key)) for key, choice in dict.fromkeys(kernels)]
        objects, _ = compiled(jobs, self.profile.target, self.cache)
        return joined(jobs, objects)

    def ready(self, keys: Sequence[OpKey]) -> None:
        """Compile kernels side by side; networks of them can then be built in several threads.

        Raises:
            InputError: a kernel has no template.
            ToolError: the compiler fails.
        """
        kernels = [(key, self.choices.get(key, MODEL)) for key in dict.fromkeys(keys)]
        self._find_compiler()
        self._compile(kernels)

    def network(self, graph: KernelGraph) -> Program:
        """A program that times a whole network, with made-up constants.

        Raises:
            InputError: a kernel has no template.
            ToolError: the compiler fails.
        """
        from edgeopt.codegen import emit, programs, runner
        from edgeopt.codegen.plan import plan

        kernels = [(key, self.choices.get(key, MODEL)) for key in graph.keys]
        functions = [self._function(key, choice) for key, choice in kernels]
        scratch = {
            kernel.name: function.scratch_bytes
            for kernel, function in zip(graph.kernels, functions, strict=True)
        }
        code = emit.render(
            graph,
            plan(graph, scratch, runner.buffer_alignment(self.profile.target)),
            functions,
            [self.packed(key, choice) for key, choice in kernels],
            {"kernels.o": self._compile(kernels)},
            name=_NAME,
            origin=emit.Origin("edgeopt profile"),
            symbol_prefix="",
        )
        mark = digest(b"".join(name.encode() + data for name, data in code.files.items()))[:12]
        path = self.work / f"network-{mark}"
        if not path.exists():
            with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
                built = programs.build(
                    code.files, code.model.id, self._find_compiler(), Path(folder),
                    wanted=("bench",),
                )  # fmt: skip
                path.write_bytes(built.paths["bench"].read_bytes())
                path.chmod(0o755)
        return self._program(path)

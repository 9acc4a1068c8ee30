"""What a compile for a microcontroller adds: does it fit, does it compute the same, what it takes.

Nothing is measured here. The board's core is emulated, so outputs are exact, and so are counts of
instructions; time is those counts times the profile's cycles per instruction, with their spread,
and its source is ``simulated``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeopt.codegen import ckernels, emit, firmware, machines, runner, verify
from edgeopt.codegen.firmware import FirmwareNet, FirmwareRun
from edgeopt.codegen.machines import Machine
from edgeopt.codegen.objects import object_size
from edgeopt.codegen.reference import run_kernels
from edgeopt.codegen.schedules.template import NUMPY
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.codegen.toolchain import Compiler
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InfeasibleError, InputError
from edgeopt.core.estimates import Budget, Source
from edgeopt.core.files import digest
from edgeopt.core.kernels import Buffer, OpKey
from edgeopt.core.network import DTYPE_BYTES
from edgeopt.pipeline.cache import Files, StageCache
from edgeopt.pipeline.manifest import Check, Figure, Manifest

if TYPE_CHECKING:
    from edgeopt.pipeline.artifact import Artifact
    from edgeopt.pipeline.source import Cached

#: Stack that is set aside before the compiler has said how much a network takes.
STACK_ALLOWANCE_BYTES = 512


@dataclass(frozen=True, slots=True)
class Board:
    """What firmware for a device is built with and tried on."""

    profile: DeviceProfile
    machine: Machine
    compiler: Compiler

    @property
    def where(self) -> str:
        """For reports: the core, and what plays it."""
        return f"{self.machine.core} under {self.machine.qemu[0]} ({self.machine.board})"


def board_of(profile: DeviceProfile) -> Board:
    """Everything a firmware build needs of its board, looked up before anything is built.

    Raises:
        InputError: the memory map is incomplete, the clock or the cycles an instruction are not
            known, or no emulated machine has this core.
        ToolError: the toolchain is missing or too old.
    """
    profile.memory()
    if profile.clock_hz is None or profile.cycles_per_instruction is None:
        missing = "clock_hz" if profile.clock_hz is None else "cycles_per_instruction"
        raise InputError(
            f"[cpu.{missing}] is missing, so counted instructions cannot become time",
            where=str(profile.folder or profile.name), hint="add it, with its source",
        )  # fmt: skip
    return Board(profile, machines.machine_for(profile), firmware.compiler_for(profile))


def cycles_to_ns(profile: DeviceProfile, instructions: float) -> tuple[float, float, float]:
    """Time (ns) of counted instructions: value, low, high."""
    cycles, clock_hz = profile.cycles_per_instruction, profile.clock_hz
    assert cycles is not None and clock_hz is not None
    scale = 1e9 * instructions / clock_hz
    return scale * cycles.mean, scale * cycles.low, scale * cycles.high


def reference(artifact: Artifact, vectors: TestVectors, cached: Cached) -> TestVectors:
    """Test vectors with the outputs of the target's own arithmetic.

    Processors with an FPU compute what every other engine does; the others requantize in fixed
    point, and their outputs come from the reference of that.
    """
    if ckernels.isa_of(artifact.target).fpu:
        return vectors
    graph = artifact.graph
    inputs = {
        "graph": repr([str(key) for key in graph.keys]),
        "constants": digest(b"".join(a.tobytes() for c in artifact.constants for a in c.values())),
        "vectors": digest(vectors.input_bytes),
    }

    def make() -> Files:
        found: dict[str, list[bytes]] = {name: [] for name in graph.outputs}
        for row in range(vectors.count):
            values = {name: array[row] for name, array in vectors.inputs.items()}
            for name, array in run_kernels(graph, values, fixed=True).items():
                found[name].append(np.ascontiguousarray(array).tobytes())
        return {f"{i}.bin": b"".join(rows) for i, rows in enumerate(found.values())}

    files, _ = cached("fixed", inputs, make)
    outputs = {
        name: np.frombuffer(files[f"{i}.bin"], array.dtype).reshape(array.shape)
        for i, (name, array) in enumerate(vectors.outputs.items())
    }
    return replace(vectors, outputs=outputs)


# What fits ------------------------------------------------------------------------------------


def outside_bytes(keys: Sequence[OpKey]) -> int:
    """About what a chain of kernels needs beside its arena: first input, last output, stack."""
    first, last = keys[0], keys[-1]
    return (
        math.prod(first.in_shape) * DTYPE_BYTES[first.dtype]
        + math.prod(last.out_shape) * DTYPE_BYTES[last.out_dtype]
        + STACK_ALLOWANCE_BYTES
    )


def io_bytes(artifact: Artifact) -> int:
    """Bytes of the inputs and outputs, which the caller provides beside the arena."""
    graph = artifact.graph
    return sum(graph.tensors[name].size_bytes for name in (*graph.inputs, *graph.outputs))


def check_fits(profile: DeviceProfile, artifact: Artifact, budget: Budget) -> None:
    """Refuse before anything is built what cannot fit.

    Raises:
        InfeasibleError: naming the buffers that are live when it is most, and what would fit.
    """
    ram, flash = profile.memory()
    outside = io_bytes(artifact) + STACK_ALLOWANCE_BYTES
    needed = artifact.plan.arena_bytes + outside
    limit, where = _limit(budget.ram_bytes, "--ram", ram.size_bytes, f"region {ram.name}")
    if needed > limit:
        step, live = _fullest(artifact)
        kernel = artifact.graph.kernels[step]
        shown = ", ".join(
            f"{_shown(b.name)} ({b.size_bytes:,} bytes, live in kernels {b.first} to {b.last})"
            for b in live[:4]
        )
        larger = "more memory" if limit == ram.size_bytes else f"--ram {_rounded_up(needed)}"
        raise InfeasibleError(
            f"the network needs {needed:,} bytes of RAM (arena {artifact.plan.arena_bytes:,}, "
            f"inputs and outputs {io_bytes(artifact):,}, stack {STACK_ALLOWANCE_BYTES}), "
            f"{limit:,} are there ({where}); it is most at kernel {step} ({kernel.key.op}, "
            f"{_shape(kernel.key.in_shape)} to {_shape(kernel.key.out_shape)}), "
            f"where {shown} are live",
            where=f"device {profile.name}",
            hint=f"what would fit: {larger}, or live buffers of at most "
            f"{max(0, limit - outside):,} bytes together (a smaller input, fewer channels there)",
        )
    weights = artifact.weight_bytes
    limit, where = _limit(budget.flash_bytes, "--flash", flash.size_bytes, f"region {flash.name}")
    if weights > limit:
        index, size = max(
            enumerate(sum(a.nbytes for a in c.values()) for c in artifact.constants),
            key=lambda pair: pair[1],
        )
        kernel = artifact.graph.kernels[index]
        raise InfeasibleError(
            f"the constants alone take {weights:,} bytes of flash, {limit:,} are there ({where}); "
            f"the largest are those of kernel {index} ({kernel.key.op}): {size:,} bytes",
            where=f"device {profile.name}",
            hint="what would fit: a network with fewer weights"
            + ("" if limit == flash.size_bytes else f", or --flash {_rounded_up(weights)}"),
        )


def _limit(asked: int | None, option: str, there: int, where: str) -> tuple[int, str]:
    return (asked, option) if asked is not None and asked < there else (there, where)


def _fullest(artifact: Artifact) -> tuple[int, list[Buffer]]:
    """The kernel at which most bytes are live, and its buffers, largest first."""
    buffers = artifact.plan.buffers
    steps = range(len(artifact.graph.kernels))
    held = {step: [b for b in buffers if b.first <= step <= b.last] for step in steps}
    step = max(steps, key=lambda s: sum(b.size_bytes for b in held[s]))
    return step, sorted(held[step], key=lambda b: -b.size_bytes)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 40 else "..." + name[-37:])


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _rounded_up(size_bytes: int) -> str:
    return f"{-(-size_bytes // 1000)}KB"


# What it does and takes -----------------------------------------------------------------------


class Weighed(msgspec.Struct, frozen=True):
    """What was found of a network as firmware, as it is kept."""

    checks: tuple[Check, ...]
    init_instructions: int
    run_instructions: int
    kernel_instructions: tuple[int, ...]
    stack_bytes: int
    stack_path: tuple[str, ...]
    stack_seen_bytes: int
    flash_bytes: int
    static_bytes: int


def weigh(
    name: str,
    board: Board,
    kernels: int,
    files: Mapping[str, bytes],
    vectors: TestVectors,
    embedded: int,
    cached: Cached,
) -> tuple[Weighed, bool]:
    """Build a bundle's library for the board's core, run it under emulation and weigh it.

    Args:
        name: of the network.
        board: from `board_of`.
        kernels: that the network runs.
        files: of the bundle.
        vectors: reference inputs and outputs.
        embedded: vectors in the self-test.
        cached: the stage cache.

    Raises:
        ToolError: a program cannot be built, faults or hangs.
    """
    inputs = {
        "files": digest(json.dumps({k: digest(v) for k, v in sorted(files.items())}).encode()),
        "vectors": digest(vectors.input_bytes + vectors.output_bytes),
        "compiler": " ".join((board.compiler.version, *board.compiler.c_flags, *firmware.FLAGS)),
        "machine": repr(board.machine),
    }

    def make() -> Files:
        net = FirmwareNet.of(name, vectors, kernels, embedded)
        done = firmware.run_firmware(files, net, board.machine, board.compiler, vectors)
        kept = Weighed(
            tuple(checks_of(done, board, vectors)), done.init_instructions, done.run_instructions,
            done.kernel_instructions, done.stack_bytes, done.stack_path, done.stack_seen_bytes,
            done.flash_bytes, done.static_bytes,
        )  # fmt: skip
        return {"firmware.json": msgspec.json.encode(kept)}

    stored, hit = cached("firmware", inputs, make)
    return msgspec.json.decode(stored["firmware.json"], type=Weighed), hit


def linked_bytes(name: str, board: Board, artifact: Artifact, kernels: bytes) -> int:
    """Constants and code of a network in an image linked for the board.

    Raises:
        ToolError: the compiler fails.
    """
    code = emit.render(
        artifact.graph, artifact.plan, artifact.functions, artifact.constants,
        {artifact.kernel_file: kernels}, name=name, origin=emit.Origin(""),
        constant_alignment_bytes=runner.constant_alignment(artifact.target), programs=False,
    )  # fmt: skip
    tensors = artifact.graph.tensors
    none = {
        side: {
            name: np.zeros((1, *tensors[name].shape), NUMPY[tensors[name].dtype]) for name in names
        }
        for side, names in (("in", artifact.graph.inputs), ("out", artifact.graph.outputs))
    }
    net = FirmwareNet.of(name, TestVectors(none["in"], none["out"]), len(artifact.graph.kernels), 0)
    return firmware.linked_bytes(code.files, net, board.machine, board.compiler)


def kernel_bytes(profile: DeviceProfile, keys: Sequence[OpKey], store: StageCache) -> int:
    """Code of a network's kernels as the board's toolchain compiles it.

    Raises:
        InputError: no template implements a key.
        ToolError: the toolchain is missing, too old, or fails.
    """
    source, compiler = ckernels.source(keys, profile.target), firmware.compiler_for(profile)
    inputs = {
        "source": digest(source.encode()),
        "compiler": " ".join((compiler.version, *compiler.c_flags, *firmware.FLAGS)),
    }

    def make() -> Files:
        return {"kernels.o": firmware.compiled(source, compiler)}

    # what is compiled says all that edgeopt has to do with it
    files, _ = store.get_or_make("firmware_code", inputs, make, code="")
    return object_size(files["kernels.o"]).code_bytes


def checked_again(
    manifest: Manifest, board: Board, files: Mapping[str, bytes], vectors: TestVectors
) -> list[Check]:
    """The checks of a bundle, built and run again from its files."""
    net = firmware.of_bundle(manifest.name, files, vectors, len(manifest.kernels))
    done = firmware.run_firmware(files, net, board.machine, board.compiler, vectors)
    return checks_of(done, board, vectors)


def checks_of(done: FirmwareRun, board: Board, vectors: TestVectors) -> list[Check]:
    """The reference against firmware, and the self-test's verdict."""
    from edgeopt.pipeline.proof import as_check

    exact = ckernels.isa_of(board.profile.target).fpu
    what = "torch = firmware" if exact else "fixed-point reference = firmware"
    compared = verify.compare(
        vectors.outputs, done.outputs, what=what, where=board.where, tolerance=vectors.tolerance
    )
    return [as_check(compared), as_check(done.self_test, where=board.where)]


def figures_of(board: Board, artifact: Artifact, found: Weighed) -> tuple[Figure, ...]:
    """Time, memory and work of a network as firmware; each says how it is known."""
    profile, plan = board.profile, artifact.plan
    cycles, clock_hz = profile.cycles_per_instruction, profile.clock_hz
    assert cycles is not None and clock_hz is not None
    value, low, high = cycles_to_ns(profile, found.run_instructions)
    exact, counted = Source.COMPUTED, f"counted under {board.machine.qemu[0]} {board.machine.board}"
    outside = io_bytes(artifact)
    ram_bytes = plan.arena_bytes + outside + found.stack_bytes + found.static_bytes
    return (
        Figure(
            "latency_ns", value, Source.SIMULATED,
            f"simulated: {found.run_instructions:,} instructions {counted}, times "
            f"{cycles.mean:g} cycles an instruction ({cycles.low:g} to {cycles.high:g}; "
            f"{profile.provenance['cycles_per_instruction'].source}), at {clock_hz / 1e6:g} MHz; "
            "nothing was measured on the board",
            low, high,
        ),
        Figure("instructions", found.run_instructions, Source.SIMULATED,
               f"one inference, {counted}"),
        Figure("init_instructions", found.init_instructions, Source.SIMULATED,
               f"one call of init, {counted}"),
        Figure("ram_bytes", ram_bytes, exact,
               "arena, inputs and outputs, stack and variables together"),
        Figure("arena_bytes", plan.arena_bytes, exact,
               "the memory plan, proven free of overlap"),
        Figure("arena_lower_bound_bytes", plan.lower_bound_bytes, exact,
               "the largest set of buffers live at once"),
        Figure("io_bytes", outside, exact, "inputs and outputs, which the caller provides"),
        Figure("stack_bytes", found.stack_bytes, exact,
               f"deepest path of the call graph by gcc's notes ({' > '.join(found.stack_path)}); "
               f"{found.stack_seen_bytes} seen under emulation"),
        Figure("static_bytes", found.static_bytes, exact,
               "variables: the context alone, the library has none"),
        Figure("weight_bytes", artifact.weight_bytes, exact,
               "packed constants, as the kernels read them"),
        Figure("code_bytes", found.flash_bytes - artifact.weight_bytes, exact,
               "code and read-only data of the linked image but the weights"),
        Figure("flash_bytes", found.flash_bytes, exact,
               "what the network adds to a linked image that is start-up code alone"),
        Figure("macs", sum(k.macs for k in artifact.graph.keys), exact,
               "convolutions and linear"),
    )  # fmt: skip


def kernel_ns(board: Board, found: Weighed) -> tuple[float, ...]:
    """Time of each kernel, in order of execution."""
    return tuple(cycles_to_ns(board.profile, n)[0] for n in found.kernel_instructions)

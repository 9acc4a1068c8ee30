"""Bench firmware of many single kernels: what tables of microcontrollers are made with.

The kernels, compiler and flags are those of a deployment, and small constants lie in flash. The
memory for everything else is one array, as large as the neediest kernel asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.codegen import ckernels, machines
from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.bench import kernel_views, render_kernel_bench
from edgeopt.codegen.emit import runtime_file
from edgeopt.codegen.firmware import FLAGS
from edgeopt.codegen.machines import Image, Machine
from edgeopt.codegen.toolchain import Compiler
from edgeopt.core.errors import ToolError
from edgeopt.core.files import digest
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array

_ALIGNMENT = 64
#: Of the emulated machine's RAM, what start-up code, stack and text may take.
RESERVED_BYTES = 64 << 10
_LINE = ("edgeopt_line.c", "edgeopt_line.h", "edgeopt_counter.c", "edgeopt_counter.h")


@dataclass(frozen=True, slots=True)
class KernelJob:
    """A kernel to count: its function, made-up constants, and sizes of its inputs."""

    function: KernelFunction
    constants: Mapping[str, Array]
    input_bytes: Sequence[int]

    @property
    def key(self) -> OpKey:
        """What it computes."""
        return self.function.key


def pool_bytes(job: KernelJob) -> int:
    """Memory that a kernel's arguments take, but for the constants that lie in flash."""
    sizes = {job.key.digest: job.input_bytes}
    (view,), _ = kernel_views([job.function], [job.constants], "", sizes)
    return sum(
        -(-max(arg.bytes, 1) // _ALIGNMENT) * _ALIGNMENT for arg in view.args if arg.data == "NULL"
    )


def build_kernels(
    jobs: Sequence[KernelJob],
    machine: Machine,
    compiler: Compiler,
    work: Path,
    *,
    line: bool = False,
    stack_bytes: int = machines.image.STACK_BYTES,
) -> tuple[Image | None, dict[OpKey, str]]:
    """An image of some kernels; those whose arguments do not fit the machine, with the reason.

    Args:
        jobs: kernels of different keys.
        machine: what it is built for.
        compiler: of the board.
        work: an empty folder.
        line: answer requests; else run every kernel once between marks and end.
        stack_bytes: room for the stack.

    Raises:
        ToolError: the compiler fails.
    """
    room = machine.ram.size_bytes - RESERVED_BYTES
    needed = {job.key: pool_bytes(job) for job in jobs}
    large = {key: size for key, size in needed.items() if size > room}
    refused = {
        key: f"its arguments take {size:,} bytes, {machine.board} has {room:,}"
        for key, size in large.items()
    }
    kept = [job for job in jobs if job.key not in large]
    if not kept:
        return None, refused
    files = _render(kept)
    pool = max(needed[job.key] for job in kept)
    work = work.resolve()
    for name in (*files, *(_LINE if line else ())):
        (work / name).write_bytes(files[name] if name in files else runtime_file(name))
    keys = [job.key for job in kept]
    (work / "kernels.c").write_text(ckernels.source(keys, machine.target))
    names = ["kernel_bench_firmware.c", "kernel_table.c", "kernels.c"]
    names += [name for name in _LINE if line and name.endswith(".c")]
    defines = {"BENCH_POOL_BYTES": f"{max(pool, _ALIGNMENT)}u"}
    if line:
        defines |= {"BENCH_LINE": "1", "BENCH_SET": f'"{mark_of(keys)}"'}
    image = machines.build(
        machine, [work / name for name in names], work, name="kernels", includes=(work,),
        defines=defines, flags=FLAGS, compiler=compiler, stack_bytes=stack_bytes,
    )  # fmt: skip
    return image, refused


def mark_of(keys: Sequence[OpKey]) -> str:
    """Names a set of kernels, in any order."""
    return digest("\n".join(sorted(key.digest for key in keys)).encode())[:12]


def _render(jobs: Sequence[KernelJob]) -> dict[str, bytes]:
    files = render_kernel_bench(
        [job.function for job in jobs], [job.constants for job in jobs],
        input_bytes={job.key.digest: job.input_bytes for job in jobs},
    )  # fmt: skip
    kept = {name: files[name] for name in ("kernel_table.c", "kernel_bench.h")}
    return {**kept, "kernel_bench_firmware.c": runtime_file("kernel_bench_firmware.c")}


def count(image: Image, keys: Sequence[OpKey]) -> tuple[dict[OpKey, int], dict[OpKey, str]]:
    """Instructions of each kernel of an image, and why some have none.

    Raises:
        ToolError: the firmware faults, hangs, or says something odd.
    """
    done = machines.run(image, count=True)
    by_digest = {key.digest: key for key in keys}
    found: dict[OpKey, int] = {}
    failed: dict[OpKey, str] = {}
    regions = iter(done.regions)
    for line in done.lines:
        what, _, name = line.rpartition(" ")
        key = by_digest.pop(name, None)
        if key is None:
            continue
        if what == "counted":
            found[key] = next(regions, 0)
        else:
            if what == "failed":
                next(regions, None)
            failed[key] = f"the firmware says: {what}"
    if by_digest or done.lines[-1:] != ("done",):
        raise ToolError(
            f"the bench firmware left out {len(by_digest)} of {len(keys)} kernels",
            where=image.machine.core, hint="this is a bug of edgeopt: please report it",
        )  # fmt: skip
    return found, failed

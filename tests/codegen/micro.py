"""Kernels in C on microcontrollers under QEMU, many in one image, beside the numpy reference.

What builds and runs them is the product's own (`codegen.machines`); the driver is
``micro_driver.c``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import c_harness
import numpy as np
import pytest

from edgeopt.codegen import ckernels, machines, toolchain
from edgeopt.codegen.machines import Machine
from edgeopt.codegen.machines.image import compiler_for
from edgeopt.codegen.storage import overlap_distance
from edgeopt.codegen.toolchain import STRICT_FLAGS, Compiler
from edgeopt.core.kernels import OpKey

HERE = Path(__file__).parent
_KINDS = {"input": 0, "const": 1, "output": 2, "scratch": 3}
ARENA_BYTES = 400_000


def need_machine(machine: Machine, needs_tool: Callable[[str], str]) -> Machine:
    """The machine, if what builds and runs its programs is installed; else the test skips."""
    needs_tool("riscv64-unknown-elf-gcc" if machine.is_riscv else "arm-none-eabi-gcc")
    needs_tool(machine.qemu[0])
    needs_tool("gcc")
    return machine


def newlib_headers(machine: Machine) -> Path:
    """The headers of the Arm toolchain's C library, for clang; the test skips without them."""
    found = toolchain.run((*compiler_for(machine).argv, "-print-file-name=libc.a"))
    headers = Path(found.strip()).resolve().parent.parent / "include"
    if not (headers / "string.h").exists():
        pytest.skip("newlib's headers are missing: apt-get install -y libnewlib-arm-none-eabi")
    return headers


def check(
    keys: Sequence[OpKey],
    machine: Machine,
    folder: Path,
    *,
    flags: Sequence[str] = ("-O2",),
    cases: Mapping[OpKey, c_harness.Case] | None = None,
    compiler: Compiler | None = None,
) -> dict[OpKey, int]:
    """Run every kernel, compiled by another compiler than gcc if given; instructions of each call.

    Raises:
        AssertionError: naming each kernel that differs from the reference, and how.
    """
    target = machine.target
    known = {
        key: c_harness.case(key, seed, words=target.narrow) for seed, key in enumerate(keys)
    } | dict(cases or {})
    folder.mkdir(exist_ok=True)
    (folder / "work.bin").write_bytes(_work(keys, machine, known))
    (folder / "kernels.c").write_text(ckernels.source(keys, target))
    (folder / "calls.c").write_text(_calls(keys, machine))
    kernels = folder / "kernels.o"
    toolchain.compile_object(
        compiler or compiler_for(machine), folder / "kernels.c", kernels, work=folder,
        flags=(*flags, *STRICT_FLAGS),
    )  # fmt: skip
    image = machines.build(
        machine, [folder / "calls.c", HERE / "micro_driver.c"], folder, objects=[kernels],
        flags=("-O2", *STRICT_FLAGS, f"-Wa,-I{folder}"),
        defines={"ARENA_BYTES": str(ARENA_BYTES)},
    )  # fmt: skip
    said = machines.run(image, count=True)
    wrong = []
    for line in said.lines[:-1]:
        index, _, rest = line.partition(" ")
        if rest != "differs in bytes: 0":
            wrong.append(f"{keys[int(index)]}: {rest}")
    assert not wrong, "\n".join(wrong)
    assert said.lines[-1] == "done"
    assert len(said.lines) == 2 * len(keys) + 1
    return dict(zip(keys, said.regions[::2], strict=True))


def _work(keys: Sequence[OpKey], machine: Machine, cases: Mapping[OpKey, c_harness.Case]) -> bytes:
    """What the driver reads."""
    work = bytearray(struct.pack("<i", len(keys)))
    for key in keys:
        template = ckernels.select(key, machine.target)
        function = template.function(key, machine.target)
        inputs, constants = cases[key]
        packed = template.pack(key, machine.target, constants)
        wanted = c_harness.expected(key, cases[key], machine.target)
        given = iter(inputs)
        distance = overlap_distance(key, function.ordered_pixels)
        distance = -1 if distance is None else -(-distance // 16) * 16
        work += struct.pack("<ii", len(function.args), distance)
        for arg in function.args:
            data, size = b"", function.scratch_bytes
            if arg.kind == "input":
                data = np.ascontiguousarray(next(given)).tobytes()
            elif arg.kind == "const":
                data = packed[arg.name].tobytes()
            elif arg.kind == "output":
                data = np.ascontiguousarray(wanted).tobytes()
                assert len(data) == math.prod(key.out_shape) * wanted.itemsize
            work += struct.pack("<ii", _KINDS[arg.kind], len(data) or size)
            work += bytes(-len(work) % 64) + data
    return bytes(work)


def _calls(keys: Sequence[OpKey], machine: Machine) -> str:
    """``call_kernel`` in C."""
    declared, cases = [], []
    for index, key in enumerate(keys):
        function = ckernels.select(key, machine.target).function(key, machine.target)
        types = ", ".join(["void *"] * len(function.args))
        declared.append(f"int32_t {function.symbol}({types});")
        passed = ", ".join(f"p[{i}]" for i in range(len(function.args)))
        cases.append(f"    case {index}: return {function.symbol}({passed});")
    lines = ["#include <stdint.h>", *declared, "int32_t call_kernel(int32_t kernel, void **p);",
             "int32_t call_kernel(int32_t kernel, void **p) {", "    switch (kernel) {", *cases,
             "    default: return -1;", "    }", "}", ""]  # fmt: skip
    return "\n".join(lines)

"""Machines that run kernels: this one, Arm under qemu, x86-64 processors under bochs.

Debian's bochs knows processors with AVX-512 and VNNI, which no user-mode emulator does. It boots
our own first instructions (``rom.S``) and a program without an operating system; both that and
the Linux program call every kernel three times with each argument between inaccessible pages
(``driver.c``), so a kernel that reads or writes past a tensor is caught where it does.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeopt.codegen import build, elf, schedules
from edgeopt.codegen.abi import KernelFunction, symbol_of
from edgeopt.codegen.reference import run_kernel
from edgeopt.codegen.schedules import Template
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import Kernel, OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.pipeline.kernel_constants import constants_of
from tests.codegen import kernel_harness as harness

HERE = Path(__file__).parent
_KINDS = {"input": 0, "residual": 0, "const": 1, "output": 2, "scratch": 3}
_VERDICTS = (
    "is right", "faults", "returns a status", "writes outside of", "depends on what lies around",
)  # fmt: skip
_PLACES = ("at the start of its pages", "at the end of its pages", "little aligned")
_WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")


def _x86(mcpu: str, bits: int, *features: str) -> TargetSpec:
    return TargetSpec(
        arch="x86_64", triple="x86_64-linux-gnu", mcpu=mcpu, features=frozenset(features),
        vector_bits=bits, vector_registers=32 if bits == 512 else 16,
        l1d_bytes=32768, l2_bytes=1048576, cores=1,
    )  # fmt: skip


_AVX2 = ("sse4.1", "sse4.2", "avx", "avx2", "fma", "f16c", "bmi2")
_V4 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True, slots=True)
class Machine:
    """A target and what runs its kernels: ``host``, ``qemu CPU`` or ``bochs CPU``."""

    name: str
    target: TargetSpec
    runs_on: str
    #: instructions that must appear in the code of int8 matrix products
    shows: str = ""

    def __str__(self) -> str:
        return self.name


MACHINES = (
    Machine("avx2", _x86("x86-64-v3", 256, *_AVX2), "host", "vpmaddwd"),
    Machine("sse2", _x86("x86-64", 128), "host", "pmaddwd"),
    Machine("neon", harness.NEON, "qemu cortex-a72", "smull"),
    Machine("dotprod", harness.DOTPROD, "qemu cortex-a76", "sdot"),
    Machine("i8mm", harness.I8MM, "qemu max", "smmla"),
    Machine("avx512", _x86("x86-64-v4", 512, *_V4), "bochs corei7_skylake_x", "zmm"),
    Machine(
        "avx512vnni", _x86("x86-64-v4", 512, *_V4, "avx512vnni"), "bochs corei7_icelake_u",
        "vpdpbusd",
    ),
    # Eight lanes, as on a processor whose profile asks for 256 bits.
    Machine(
        "avx512vl", _x86("x86-64-v4", 256, *_V4, "avx512vnni"), "bochs corei7_icelake_u",
        "vpdpbusd",
    ),
    Machine("avxvnni", _x86("x86-64-v3", 256, *_AVX2, "avxvnni"), "bochs tigerlake", "vpdpbusd"),
    Machine("avx1", _x86("sandybridge", 256, "avx"), "bochs corei7_sandy_bridge_2600k"),
    # The oldest processor that runs x86-64: anything newer than SSE2 is an illegal instruction.
    Machine("sse2_only", _x86("x86-64", 128), "bochs athlon64_clawhammer", "pmaddwd"),
    Machine(
        "avx512vbmi", _x86("x86-64-v4", 512, *_V4, "avx512vnni", "avx512vbmi"),
        "bochs corei7_icelake_u", "vpdpbusd",
    ),
)  # fmt: skip
BY_NAME = {machine.name: machine for machine in MACHINES}


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel to run: tiled by choice, divided between threads (the parts are called in turn)."""

    key: OpKey
    choice: Choice = MODEL
    threads: int = 1

    @property
    def symbol(self) -> str:
        return f"t{self.threads}_{symbol_of(self.key, self.choice)}"

    def bind(self, target: TargetSpec) -> tuple[Template, KernelFunction, TargetSpec]:
        """Its template, function, and the target with its threads."""
        target = replace(target, threads=self.threads)
        template = schedules.select(self.key, target, self.choice)
        assert template is not None, f"no template for {self.key}"
        return template, template.function(self.key, target), target

    def __str__(self) -> str:
        more = f" tiled {self.choice}" if self.choice != MODEL else ""
        return f"{self.key}{more}" + (f" in {self.threads} threads" if self.threads > 1 else "")


def variants(keys: Iterable[OpKey], machine: Machine) -> list[Job]:
    """Other tilings of kernels than the model's, and the kernels divided between three threads."""
    jobs = []
    for key in keys:
        template = Job(key).bind(machine.target)[0]
        jobs += [Job(key, choice) for choice in template.candidates(key, machine.target)[1:4]]
        jobs.append(Job(key, threads=3))
    return jobs


def run(
    machine: Machine,
    todo: Iterable[OpKey | Job],
    folder: Path,
    needs_tool: Callable[[str], str],
    seed: int = 0,
) -> None:
    """Run every kernel and compare with the reference: int8 bit by bit, f32 within its bound.

    Raises:
        AssertionError: naming each kernel that is wrong, and how.
    """
    jobs = list(dict.fromkeys(Job(job) if isinstance(job, OpKey) else job for job in todo))
    runs_on, _, cpu = machine.runs_on.partition(" ")
    arm = machine.target.arch == "aarch64"
    gcc = needs_tool("aarch64-linux-gnu-gcc" if arm else "gcc")
    emulator = "" if runs_on == "host" else needs_tool("qemu-aarch64" if arm else "bochs")
    work, wanted = _work(jobs, machine.target, seed)
    objects = [
        _kernels([job for job in jobs if job.threads == threads], machine, folder, gcc)
        for threads in sorted({job.threads for job in jobs})
    ]
    cases = "".join(_case(i, job, machine.target) for i, job in enumerate(jobs))
    (folder / "cases.c").write_text(_CASES.format(cases=cases))
    if runs_on == "bochs":
        results = _bochs(emulator, cpu, _bare(gcc, objects, folder), work, folder)
    else:
        program = _linux(gcc, objects, folder)
        (folder / "work.bin").write_bytes(work)
        command = [str(program), str(folder / "work.bin"), str(folder / "results.bin")]
        if runs_on == "qemu":
            command = [emulator, "-cpu", cpu, *command]
        subprocess.run(command, check=True)
        results = (folder / "results.bin").read_bytes()
    _compare(jobs, wanted, results, machine)


_CASES = """#include "driver.h"
int32_t call_kernel(int32_t kernel, void **p) {{
    switch (kernel) {{
{cases}    }}
    return -1;
}}
"""


def _case(index: int, job: Job, target: TargetSpec) -> str:
    _, function, _ = job.bind(target)
    count = sum(arg.kind != "part" for arg in function.args)
    types, passed = ["void *"] * count, [f"p[{i}]" for i in range(count)]
    calls = [passed]
    if function.parts > 1:  # the last first: no part may rely on another
        types.append("int32_t")
        calls = [[*passed, str(part)] for part in reversed(range(function.parts))]
    body = " | ".join(f"{job.symbol}({', '.join(call)})" for call in calls)
    return f"    case {index}: {{ int32_t {job.symbol}({', '.join(types)}); return {body}; }}\n"


_Known = tuple[list[np.ndarray], dict[str, np.ndarray], np.ndarray]


def _case_of(key: OpKey, seed: int, words: bool) -> _Known:
    """Inputs, constants and the right output: of plain numpy where it knows the operator.

    With ``words`` biases and multipliers have such.
    """
    plain = key.op in harness.PLAIN and (key.op, key.dtype) != ("softmax", "i8")
    plain &= key.dtype == "f32" or key.op != "avgpool" or not any(key.pads)
    plain &= key.variant not in ("pixel", "linear", "index", "log")
    if plain and (key.inputs == 1 or key.variant != "channel"):
        inputs, constants = harness.case(key, seed)
        if words and "b" in constants and key.dtype == "i8":
            constants = harness.with_words(constants, seed)
        return inputs, constants, harness.reference(key, inputs, constants)
    rng = np.random.default_rng(seed)
    shapes = [key.in_shape] * key.inputs
    if key.inputs == 2 and key.variant:
        shapes[1] = key.in_shape[-1:] if key.variant == "channel" else key.in_shape[:-1]
    if key.residual:
        shapes.append(key.out_shape)
    inputs = [rng.integers(-128, 128, shape).astype(np.int8) for shape in shapes]
    if key.dtype == "f32":
        inputs = [(rng.standard_normal(shape) * 2).astype(np.float32) for shape in shapes]
    constants = {name: np.asarray(value) for name, value in constants_of(key, seed).items()}
    return inputs, constants, run_kernel(Kernel("k", key, (), "y", constants), inputs)


def _work(jobs: Sequence[Job], target: TargetSpec, seed: int) -> tuple[bytes, list[np.ndarray]]:
    """What the driver reads, and the right outputs."""
    work, wanted = [struct.pack("<i", len(jobs))], []
    known: dict[OpKey, _Known] = {}
    for job in jobs:
        key = job.key
        template, function, bound = job.bind(target)
        if key not in known:
            known[key] = _case_of(key, seed + len(known), target.narrow)
        inputs, constants, want = known[key]
        wanted.append(want)
        packed = template.pack(key, bound, constants)
        assert sum(array.nbytes for array in packed.values()) == (
            template.packed_bytes(key, bound)
        ), f"{job}: packed_bytes"
        given = iter(inputs)
        args = [arg for arg in function.args if arg.kind != "part"]
        work.append(struct.pack("<i", len(args)))
        for arg in args:
            data, size = b"", function.scratch_bytes
            if arg.kind in ("input", "residual"):
                data = next(given).tobytes()
            elif arg.kind == "const":
                data = packed[arg.name].tobytes()
            elif arg.kind == "output":
                size = want.size * np.dtype(harness.DTYPES[key.out_dtype]).itemsize
            work.append(struct.pack("<iI", _KINDS[arg.kind], len(data) or size) + data)
    return b"".join(work), wanted


def _kernels(jobs: Sequence[Job], machine: Machine, folder: Path, gcc: str) -> Path:
    """The kernels of jobs of as many threads, as one object."""
    threads = jobs[0].threads
    path, target = folder / f"kernels{threads}.o", jobs[0].bind(machine.target)[2]
    bare = machine.runs_on.startswith("bochs")
    if bare:
        target = replace(target, features=target.features | _NO_GATHERS)
    prefix, choices = f"t{threads}_", [(job.key, job.choice) for job in jobs]
    if not bare:
        path.write_bytes(build.compile_kernels((), target, prefix=prefix, choices=choices))
        return path
    parts = []
    for text, symbols in build.assembly((), target, prefix=prefix, choices=choices):
        path.with_suffix(".s").write_text(_for_bochs(text))
        _run([gcc, "-c", "-o", str(path), str(path.with_suffix(".s"))])
        parts.append((path.read_bytes(), {symbol: symbol for symbol in symbols}))
    path.write_bytes(elf.join(parts))
    return path


#: Where LLVM finds loops to gather in, bochs 2.7 lacks indices in registers 16 to 31.
_NO_GATHERS = {"prefer-no-gather", "prefer-no-scatter"}


def _for_bochs(text: str) -> str:
    """The same instructions, in those of their encodings that bochs 2.7 decodes rightly."""
    # line numbers are of no use, and LLVM writes them as GNU's assembler does not
    text = re.sub(r"^\t\.(file|loc)\t.*$", "", text, flags=re.MULTILINE)
    # VNNI is known in its AVX-512 encoding alone
    text = text.replace("{vex}", "")
    # short displacements of these in AVX-512's encoding are scaled wrongly
    return re.sub(r"\t(vp(?:ins|ext)r[bwdq])\t", r"\t{disp32} \1\t", text)


def _linux(gcc: str, objects: Sequence[Path], folder: Path) -> Path:
    program = folder / "driver"
    sources = [str(HERE / "driver.c"), str(HERE / "linux.c"), str(folder / "cases.c")]
    _run(
        [gcc, *_WARNINGS, "-O1", "-static", f"-I{HERE}", "-o", str(program), *sources,
         *map(str, objects), "-lm"]
    )  # fmt: skip
    return program


def _bare(gcc: str, objects: Sequence[Path], folder: Path) -> Path:
    """The program as it lies in memory, without an operating system."""
    built = []
    for source in (HERE / "driver.c", HERE / "bare.c", HERE / "soft.c", folder / "cases.c"):
        built.append(folder / f"{source.stem}.o")
        general = [] if source.stem == "soft" else ["-mgeneral-regs-only"]
        _run(
            [gcc, *_WARNINGS, "-O1", "-ffreestanding", "-fno-pic", "-fno-stack-protector",
             "-fcf-protection=none", *general, f"-I{HERE}", "-c", "-o", str(built[-1]),
             str(source)]
        )  # fmt: skip
    whole, flat = folder / "program.elf", folder / "program.bin"
    parts = [str(path) for path in (*built, *objects)]
    _run(["ld", "-static", "-T", str(HERE / "program.ld"), "-o", str(whole), *parts])
    _run(["objcopy", "-O", "binary", "--set-section-flags", ".all=alloc,load,contents",
          str(whole), str(flat)])  # fmt: skip
    return flat


_CONFIGURATION = """
cpu: model={cpu}, ips=100000000, reset_on_triple_fault=0
memory: guest=192, host=192
romimage: file="{folder}/rom.bin"
parport1: enabled=1, file="{folder}/results.bin"
display_library: term
log: "{folder}/bochs.log"
panic: action=fatal
error: action=report
info: action=ignore
sound: driver=dummy
speaker: enabled=0
"""
#: The most read-only memory bochs has; it ends at 4 GiB.
_ROM_BYTES = 4 << 20
_BOOT_BYTES = 1 << 16


def _rom(program: Path, work: bytes, folder: Path) -> bytes:
    """Program, work and first instructions as they lie below 4 GiB."""
    _run(["gcc", "-c", "-o", str(folder / "rom.o"), str(HERE / "rom.S")])
    _run(["ld", "-T", str(HERE / "rom.ld"), "-o", str(folder / "rom.elf"), str(folder / "rom.o")])
    _run(["objcopy", "-O", "binary", str(folder / "rom.elf"), str(folder / "boot.bin")])
    boot, code = (folder / "boot.bin").read_bytes(), program.read_bytes()
    assert len(boot) == _BOOT_BYTES
    body = code + work
    body += bytes(-len(body) % _BOOT_BYTES)
    start = (1 << 32) - len(body) - len(boot)
    assert len(body) + len(boot) <= _ROM_BYTES, "give the emulator fewer kernels at once"
    return body + struct.pack("<III", start, len(code), start + len(code)) + boot[12:]


def _bochs(bochs: str, cpu: str, program: Path, work: bytes, folder: Path) -> bytes:
    (folder / "rom.bin").write_bytes(_rom(program, work, folder))
    (folder / "continue").write_text("c\n")  # its debugger's only command
    (folder / "bochsrc").write_text(_CONFIGURATION.format(cpu=cpu, folder=folder))
    _in_terminal([bochs, "-q", "-f", str(folder / "bochsrc"), "-rc", str(folder / "continue")])
    log = (folder / "bochs.log").read_text(errors="replace")
    assert "shutdown requested" in log, f"bochs ended early:\n{log[-2000:]}"
    return (folder / "results.bin").read_bytes()


def _in_terminal(command: Sequence[str]) -> None:
    """Run a program that wants a terminal, and throw away what it draws.

    The terminal controls it: if this process dies, however it does, the terminal goes and the
    program is hung up.
    """
    main, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        os.close(terminal)
        try:
            while os.read(main, 65536):
                pass
        except OSError:  # the last writer is gone
            pass
        finally:
            os.close(main)
            process.kill()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def _compare(
    jobs: Sequence[Job], wanted: Sequence[np.ndarray], results: bytes, machine: Machine
) -> None:
    wrong = []
    for job, want in zip(jobs, wanted, strict=True):
        assert len(results) >= 20, f"{machine}: the program stopped at {job}"
        verdict, place, which, detail = struct.unpack_from("<iiiq", results)
        results = results[20:]
        if verdict:
            wrong.append(f"{job}: {_explain(job, machine, verdict, place, which, detail)}")
            continue
        kind = np.dtype(harness.DTYPES[job.key.out_dtype])
        got = np.frombuffer(results, kind, want.size).reshape(job.key.out_shape)
        results = results[got.nbytes :]
        try:
            harness.check(job.key, got, want)
        except AssertionError as error:
            wrong.append(f"{job}: {error}")
    assert not results
    assert not wrong, f"{machine}: {len(wrong)} of {len(jobs)} kernels\n" + "\n".join(wrong)


def _explain(job: Job, machine: Machine, verdict: int, place: int, which: int, detail: int) -> str:
    template, function, _ = job.bind(machine.target)
    args = [f"{arg.kind} {arg.name}" for arg in function.args]
    where = f" {args[which]} byte {detail}" if which >= 0 else f" {detail}"
    return f"template {template.name} {_VERDICTS[verdict]}{where}, with all {_PLACES[place]}"

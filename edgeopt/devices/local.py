"""Linux machines, probed: the one edgeopt runs on, or a board that its files are read from.

What the kernel does not tell (a clock, a cache, on some virtual machines) stays unknown.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeopt.core.device import DeviceProfile, Provenance, Runner, Toolchain
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source

_CPUINFO = "/proc/cpuinfo"
_CPUS = "/sys/devices/system/cpu"

#: Text of a small file of a machine by its absolute path; None if absent or not permitted.
Reader = Callable[[str], str | None]

#: flag in /proc/cpuinfo -> LLVM feature
_X86_FEATURES = {
    "sse4_1": "sse4.1", "sse4_2": "sse4.2", "avx": "avx", "avx2": "avx2", "fma": "fma",
    "f16c": "f16c", "bmi2": "bmi2", "avx512f": "avx512f", "avx512bw": "avx512bw",
    "avx512cd": "avx512cd", "avx512dq": "avx512dq", "avx512vl": "avx512vl",
    "avx512_vnni": "avx512vnni", "avx512vbmi": "avx512vbmi", "avx_vnni": "avxvnni",
    "amx_int8": "amx-int8",
}  # fmt: skip
_ARM_FEATURES = {
    "asimd": "neon", "fp": "fp-armv8", "crc32": "crc", "atomics": "lse", "asimdrdm": "rdm",
    "asimdhp": "fullfp16", "asimddp": "dotprod", "i8mm": "i8mm", "sve": "sve", "sve2": "sve2",
    "aes": "aes", "sha2": "sha2",
}  # fmt: skip
#: The levels of the x86-64 psABI, highest first: LLVM and GCC name processors after them.
_X86_LEVELS = (
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86-64-v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    ("x86-64-v2", {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
)
#: (implementer, part) -> LLVM processor name, from the Main ID Register as Linux prints it.
_ARM_CORES = {
    (0x41, 0xD03): "cortex-a53", (0x41, 0xD04): "cortex-a35", (0x41, 0xD05): "cortex-a55",
    (0x41, 0xD07): "cortex-a57", (0x41, 0xD08): "cortex-a72", (0x41, 0xD09): "cortex-a73",
    (0x41, 0xD0A): "cortex-a75", (0x41, 0xD0B): "cortex-a76", (0x41, 0xD0C): "neoverse-n1",
    (0x41, 0xD0D): "cortex-a77", (0x41, 0xD40): "neoverse-v1", (0x41, 0xD41): "cortex-a78",
    (0x41, 0xD49): "neoverse-n2", (0x41, 0xD4F): "neoverse-v2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Cpu:
    arch: str
    triple: str
    mcpu: str
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    model: str


def probe(root: Path = Path("/"), machine: str = "") -> DeviceProfile:
    """The profile of this machine.

    Args:
        root: where ``proc`` and ``sys`` are mounted.
        machine: the architecture as ``uname -m`` names it; this machine's by default.

    Raises:
        InputError: not a Linux machine of a known architecture.
    """

    def read(path: str) -> str | None:
        try:
            return (root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    if read(_CPUINFO) is None:
        raise InputError(
            "cannot probe this machine: no /proc/cpuinfo", where=str(root / _CPUINFO[1:]),
            hint="device 'local' needs Linux; choose a board with --device",
        )  # fmt: skip
    machine = machine or platform.machine()
    if machine not in _ARCHES:
        raise InputError(
            f"the architecture {machine!r} of this machine is not supported as device 'local'",
            hint="choose a board with --device (`edgeopt devices` lists them)",
        )
    cores = len(os.sched_getaffinity(0))
    found = probe_files(
        read, machine, cores=(cores, "sched_getaffinity: processors this process may run on")
    )
    model = found.title
    return replace(
        found,
        name="local",
        title=f"this machine ({model})" if model else "this machine",
        toolchain=Toolchain(
            compilers=("gcc", "clang", "zig"), c_flags=found.toolchain.c_flags
        ),
        runner=Runner(transport="local"),
    )  # fmt: skip


#: What ``uname -m`` says of machines that can be probed.
_ARCHES = frozenset({"x86_64", "AMD64", "aarch64", "arm64"})


def probe_files(
    read: Reader,
    machine: str,
    *,
    cores: tuple[int, str],
    cpu: int = 0,
    name: str = "board",
) -> DeviceProfile:
    """The profile of a Linux machine, from its ``/proc`` and ``/sys``.

    Args:
        read: reads its files.
        machine: the architecture as ``uname -m`` names it.
        cores: how many processors programs may use, and how that is known.
        cpu: the processor that is described; where there are several kinds, one of the fastest.
        name: of the profile.

    Raises:
        InputError: not a Linux machine of a known architecture.
    """
    info = _cpuinfo(read(_CPUINFO) or "", cpu)
    if machine in ("x86_64", "AMD64"):
        found = _x86(info)
    elif machine in ("aarch64", "arm64"):
        found = _aarch64(info, (read("/proc/device-tree/model") or "").strip("\0\n\ufffd "))
    else:
        raise InputError(
            f"machines of the architecture {machine[:40]!r} cannot be profiled", where=name,
            hint="edgeopt profiles 64-bit Linux boards: aarch64 and x86_64",
        )  # fmt: skip
    caches = _caches(read, cpu)
    numbers: dict[str, tuple[int | None, str]] = {
        "cores": cores,
        "vector_bits": (found.vector_bits, f"{_CPUINFO}: widest SIMD extension in the flags"),
        "vector_registers": (
            found.vector_registers, f"{_CPUINFO}: registers of that SIMD extension"
        ),
        "clock_hz": _clock(read, info, cpu),
        "ram_bytes": (_memory(read), "/proc/meminfo: MemTotal"),
        **{
            field: (caches.get(field), f"{_CPUS}/cpu{cpu}/cache")
            for field in ("l1d_bytes", "l1i_bytes", "l2_bytes", "l3_bytes")
        },
    }  # fmt: skip
    cross = f"{found.arch}-linux-gnu-gcc"
    return DeviceProfile(
        name=name,
        title=found.model,
        chip=found.model or machine,
        core=found.mcpu,
        kind="linux",
        arch=found.arch,
        triple=found.triple,
        mcpu=found.mcpu,
        features=found.features,
        flash_bytes=None,
        precisions=("f32", "i8"),
        toolchain=Toolchain(compilers=(cross, "zig"), c_flags=(_march(found),)),
        runner=Runner(transport="ssh"),
        provenance={
            field: Provenance(Source.MEASURED, how)
            for field, (value, how) in numbers.items()
            if value is not None
        },
        **{field: value for field, (value, _) in numbers.items()},  # type: ignore[arg-type]
    )


def _march(cpu: _Cpu) -> str:
    return f"-march={cpu.mcpu}" if cpu.arch == "x86_64" else f"-mcpu={cpu.mcpu}"


def _text(read: Reader, path: str) -> str | None:
    found = read(path)
    return None if found is None else found.strip()


def _cpuinfo(text: str, cpu: int) -> Mapping[str, str]:
    """The fields of one processor; of the first if that one is not listed.

    Fields after the last processor (aarch64 prints the board's model there) belong to all.
    """
    blocks: list[dict[str, str]] = [{}]
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not colon:
            if blocks[-1]:
                blocks.append({})
            continue
        blocks[-1].setdefault(name.strip(), value.strip())
    shared = {k: v for block in blocks if "processor" not in block for k, v in block.items()}
    chosen = next((b for b in blocks if b.get("processor") == str(cpu)), blocks[0])
    return {**shared, **chosen}


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:120]


def _x86(info: Mapping[str, str]) -> _Cpu:
    flags = set(info.get("flags", "").split())
    mcpu = next((name for name, needs in _X86_LEVELS if needs <= flags), "x86-64")
    wide = mcpu == "x86-64-v4"
    # AVX-512 without the whole of v4 is left unused: templates rely on all of it.
    usable = flags if wide else {flag for flag in flags if not flag.startswith("avx512")}
    return _Cpu(
        arch="x86_64",
        triple="x86_64-linux-gnu",
        mcpu=mcpu,
        features=frozenset(_X86_FEATURES[flag] for flag in usable & set(_X86_FEATURES)),
        vector_bits=512 if wide else 256 if "avx2" in flags else 128,
        vector_registers=32 if wide else 16,
        model=_printable(info.get("model name", "")),
    )


def _aarch64(info: Mapping[str, str], board: str = "") -> _Cpu:
    flags = set(info.get("Features", "").split())
    try:
        part = (int(info.get("CPU implementer", ""), 0), int(info.get("CPU part", ""), 0))
    except ValueError:
        part = (0, 0)
    mcpu = _ARM_CORES.get(part, "generic")
    return _Cpu(
        arch="aarch64",
        triple="aarch64-linux-gnu",
        mcpu=mcpu,
        features=frozenset(_ARM_FEATURES[flag] for flag in flags & set(_ARM_FEATURES)),
        vector_bits=128,
        vector_registers=32,
        model=_printable(info.get("Model", "") or board or info.get("model name", "") or mcpu),
    )


def _caches(read: Reader, cpu: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for index in range(8):
        folder = f"{_CPUS}/cpu{cpu}/cache/index{index}"
        level = _text(read, f"{folder}/level")
        if level is None:
            break
        kind, size = (_text(read, f"{folder}/{name}") for name in ("type", "size"))
        match = re.fullmatch(r"(\d{1,9})([KM]?)", size or "")
        if kind is None or match is None:
            continue
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "") if level == "1" else ""
        if level == "1" and not suffix:
            suffix = "d"
        size_bytes = int(match[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20}[match[2]]
        if size_bytes > 0:
            found[f"l{level}{suffix}_bytes"] = size_bytes
    return found


def _clock(read: Reader, info: Mapping[str, str], cpu: int) -> tuple[int | None, str]:
    name = f"{_CPUS}/cpu{cpu}/cpufreq/cpuinfo_max_freq"
    khz = _text(read, name)
    if khz is not None and khz.isdecimal() and 0 < int(khz) < 1e8:
        return int(khz) * 1000, name
    match = re.fullmatch(r"(\d{2,6})(\.\d+)?", info.get("cpu MHz", ""))
    if match:
        return int(float(match[0]) * 1e6), f"{_CPUINFO}: cpu MHz at the time of probing"
    return None, ""


def _memory(read: Reader) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", _text(read, "/proc/meminfo") or "", re.M)
    return int(match[1]) * 1024 if match else None

"""The machine edgeopt runs on, probed: x86-64 and aarch64 Linux.

What the kernel does not tell (a clock, a cache, on some virtual machines) stays unknown.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeopt.core.device import DeviceProfile, Provenance, Runner, Toolchain
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source

_CPUINFO = "proc/cpuinfo"
_CPU0 = "sys/devices/system/cpu/cpu0"

#: flag in /proc/cpuinfo -> LLVM feature
_X86_FEATURES = {
    "sse4_1": "sse4.1", "sse4_2": "sse4.2", "avx": "avx", "avx2": "avx2", "fma": "fma",
    "f16c": "f16c", "bmi2": "bmi2", "avx512f": "avx512f", "avx512bw": "avx512bw",
    "avx512cd": "avx512cd", "avx512dq": "avx512dq", "avx512vl": "avx512vl",
    "avx512_vnni": "avx512vnni", "avx_vnni": "avxvnni", "amx_int8": "amx-int8",
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
    machine = machine or platform.machine()
    info = _cpuinfo(root)
    if machine in ("x86_64", "AMD64"):
        cpu = _x86(info)
    elif machine in ("aarch64", "arm64"):
        cpu = _aarch64(info)
    else:
        raise InputError(
            f"the architecture {machine!r} of this machine is not supported as device 'local'",
            hint="choose a board with --device (`edgeopt devices` lists them)",
        )
    caches = _caches(root)
    clock = _clock(root, info)
    memory = _memory(root)
    numbers: dict[str, tuple[int | None, str]] = {
        "cores": (_cores(), "sched_getaffinity: processors this process may run on"),
        "vector_bits": (cpu.vector_bits, f"/{_CPUINFO}: widest SIMD extension in the flags"),
        "vector_registers": (
            cpu.vector_registers, f"/{_CPUINFO}: registers of that SIMD extension"
        ),
        "clock_hz": clock,
        "ram_bytes": (memory, "/proc/meminfo: MemTotal"),
        **{
            name: (caches.get(name), f"/{_CPU0}/cache")
            for name in ("l1d_bytes", "l1i_bytes", "l2_bytes", "l3_bytes")
        },
    }  # fmt: skip
    return DeviceProfile(
        name="local",
        title=f"this machine ({cpu.model})" if cpu.model else "this machine",
        chip=cpu.model or machine,
        core=cpu.mcpu,
        kind="linux",
        arch=cpu.arch,
        triple=cpu.triple,
        mcpu=cpu.mcpu,
        features=cpu.features,
        flash_bytes=None,
        precisions=("f32", "i8"),
        toolchain=Toolchain(compilers=("gcc", "clang", "zig"), c_flags=(_march(cpu),)),
        runner=Runner(transport="local"),
        provenance={
            name: Provenance(Source.MEASURED, how)
            for name, (value, how) in numbers.items()
            if value is not None
        },
        **{name: value for name, (value, _) in numbers.items()},  # type: ignore[arg-type]
    )


def _march(cpu: _Cpu) -> str:
    return f"-march={cpu.mcpu}" if cpu.arch == "x86_64" else f"-mcpu={cpu.mcpu}"


def _read(root: Path, name: str) -> str | None:
    try:
        return (root / name).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _cpuinfo(root: Path) -> Mapping[str, str]:
    """The fields of the first processor."""
    text = _read(root, _CPUINFO)
    if text is None:
        raise InputError(
            "cannot probe this machine: no /proc/cpuinfo", where=str(root / _CPUINFO),
            hint="device 'local' needs Linux; choose a board with --device",
        )  # fmt: skip
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not colon and fields:
            break
        fields.setdefault(name.strip(), value.strip())
    return fields


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


def _aarch64(info: Mapping[str, str]) -> _Cpu:
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
        model=_printable(info.get("Model", "") or info.get("model name", "") or mcpu),
    )


def _caches(root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for index in range(8):
        folder = f"{_CPU0}/cache/index{index}"
        level, kind, size = (_read(root, f"{folder}/{name}") for name in ("level", "type", "size"))
        match = re.fullmatch(r"(\d{1,9})([KM]?)", size or "")
        if level is None or kind is None or match is None:
            continue
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "") if level == "1" else ""
        if level == "1" and not suffix:
            suffix = "d"
        size_bytes = int(match[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20}[match[2]]
        if size_bytes > 0:
            found[f"l{level}{suffix}_bytes"] = size_bytes
    return found


def _clock(root: Path, info: Mapping[str, str]) -> tuple[int | None, str]:
    name = f"{_CPU0}/cpufreq/cpuinfo_max_freq"
    khz = _read(root, name)
    if khz is not None and khz.isdecimal() and int(khz) > 0:
        return int(khz) * 1000, f"/{name}"
    match = re.fullmatch(r"(\d{2,6})(\.\d+)?", info.get("cpu MHz", ""))
    if match:
        return int(float(match[0]) * 1e6), f"/{_CPUINFO}: cpu MHz at the time of probing"
    return None, ""


def _memory(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", _read(root, "proc/meminfo") or "", re.M)
    return int(match[1]) * 1024 if match else None


def _cores() -> int:
    return len(os.sched_getaffinity(0))

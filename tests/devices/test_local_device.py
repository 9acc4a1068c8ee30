"""Probing: this machine, and machines described by their /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeopt.core.device import NUMBERS, DeviceProfile, Provenance
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.devices.local import probe

X86 = """processor\t: 0
model name\t: Some CPU @ 2.00GHz\x1b[31m
cpu MHz\t\t: 2000.500
flags\t\t: fpu cx16 popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma movbe {extra}

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
Features\t: fp asimd crc32 {extra}
CPU implementer\t: 0x41
CPU part\t: {part}
"""


def machine(tmp_path: Path, cpuinfo: str, caches: dict[int, tuple[str, str, str]]) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    (tmp_path / "proc/meminfo").write_text("MemTotal:        4000000 kB\nMemFree: 1 kB\n")
    for index, (level, kind, size) in caches.items():
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(value + "\n")
    return tmp_path


CACHES = {0: ("1", "Data", "32K"), 1: ("1", "Instruction", "64K"), 2: ("2", "Unified", "1M")}


def test_this_machine() -> None:
    profile = probe()
    assert profile.name == "local"
    assert profile.cores == len(os.sched_getaffinity(0))
    assert profile.ram_bytes is not None and profile.ram_bytes > 1 << 26
    for number in NUMBERS:
        if getattr(profile, number) is not None:
            assert profile.provenance[number].source is Source.MEASURED
    assert probe().fingerprint == profile.fingerprint


def test_x86(tmp_path: Path) -> None:
    profile = probe(machine(tmp_path, X86.format(extra=""), CACHES), "x86_64")
    assert (profile.mcpu, profile.vector_bits, profile.vector_registers) == ("x86-64-v3", 256, 16)
    assert (profile.l1d_bytes, profile.l1i_bytes, profile.l2_bytes) == (32768, 65536, 1 << 20)
    assert profile.l3_bytes is None and "l3_bytes" not in profile.provenance
    assert profile.clock_hz == 2_000_500_000
    assert profile.ram_bytes == 4_096_000_000
    assert "\x1b" not in profile.title
    assert profile.toolchain.c_flags == ("-march=x86-64-v3",)


def test_avx512_needs_the_whole_level(tmp_path: Path) -> None:
    profile = probe(machine(tmp_path, X86.format(extra="avx512f avx512bw"), {}), "x86_64")
    assert (profile.mcpu, profile.vector_bits) == ("x86-64-v3", 256)
    assert not any(feature.startswith("avx512") for feature in profile.features)


def test_avx512(tmp_path: Path) -> None:
    extra = "avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni"
    profile = probe(machine(tmp_path, X86.format(extra=extra), {}), "x86_64")
    assert (profile.mcpu, profile.vector_bits, profile.vector_registers) == ("x86-64-v4", 512, 32)
    assert "avx512vnni" in profile.features


def test_aarch64(tmp_path: Path) -> None:
    root = machine(tmp_path, ARM.format(extra="asimddp", part="0xd0b"), CACHES)
    clock = root / "sys/devices/system/cpu/cpu0/cpufreq"
    clock.mkdir(parents=True)
    (clock / "cpuinfo_max_freq").write_text("2400000\n")
    profile = probe(root, "aarch64")
    assert (profile.mcpu, profile.vector_bits, profile.clock_hz) == (
        "cortex-a76", 128, 2_400_000_000,
    )  # fmt: skip
    assert profile.features == {"neon", "fp-armv8", "crc", "dotprod"}


def test_unknown_stays_unknown(tmp_path: Path) -> None:
    profile = probe(machine(tmp_path, ARM.format(extra="", part="0xfff"), {}), "aarch64")
    assert profile.mcpu == "generic"
    assert profile.clock_hz is None and profile.l2_bytes is None
    assert profile.target.l1d_bytes == 0


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no /proc/cpuinfo"):
        probe(tmp_path, "x86_64")
    with pytest.raises(InputError, match="'riscv64' of this machine is not supported"):
        probe(machine(tmp_path, "x: 1\n", {}), "riscv64")


def test_profile_refuses_a_number_without_source() -> None:
    profile = probe()
    values = {name: getattr(profile, name) for name in profile.__dataclass_fields__}
    values["provenance"] = {
        name: source for name, source in profile.provenance.items() if name != "cores"
    }
    with pytest.raises(InputError, match="cores has no source"):
        DeviceProfile(**values)
    with pytest.raises(InputError, match="needs a reference"):
        Provenance(Source.MEASURED, " ")

"""Joined objects define what was asked for, compute the same, and carry nothing else."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import pytest

from edgeopt.codegen import build, elf
from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.objects import object_size
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

KEYS = (
    OpKey("pointwise", (4, 4, 7), (4, 4, 13), activation="gelu"),
    OpKey("softmax", (10,), (10,)),
    OpKey("activation", (5, 3, 21), (5, 3, 21), activation="gelu"),
    OpKey("copy", (3, 7), (21,)),
)

SOURCE = """
#include <string.h>
static const char *const names[] = {"one", "two"};
static int counter;
extern int outside(int);
__attribute__((noinline)) static int helper(int x) { return x * 3; }
int first(int x) { return helper(x) + (int)strlen(names[x & 1]) + outside(x); }
double second(double x) { ++counter; return x * 1.25 + counter; }
int unused(int x) { return helper(x) - 1; }
"""


def separate(target: TargetSpec = harness.HOST) -> list[bytes]:
    return [build.compile_kernels([key], target) for key in KEYS]


def join_all(objects: list[bytes], prefix: str) -> bytes:
    names = [symbol_of(key) for key in KEYS]
    return elf.join(
        [(data, {name: prefix + name}) for data, name in zip(objects, names, strict=True)]
    )


def defined(data: bytes, folder: Path) -> set[str]:
    path = folder / "listed.o"
    path.write_bytes(data)
    listed = subprocess.run(
        ["nm", "--defined-only", "--extern-only", str(path)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return {line.split()[-1] for line in listed.splitlines()}


@pytest.mark.usefixtures("host_is_x86_64_v3")
def test_joined_kernels_compute_the_same_under_new_names(tmp_path: Path) -> None:
    data = join_all(separate(), "net_")
    assert defined(data, tmp_path) == {"net_" + symbol_of(key) for key in KEYS}
    library = harness.link(data, tmp_path)
    for index, key in enumerate(KEYS):
        inputs, constants = harness.case(key, index)
        call = harness.arguments(key, harness.HOST, inputs, constants)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in call]
        assert library["net_" + symbol_of(key)](*pointers) == 0
        size = harness.reference(key, inputs, constants).size
        got = call[-1][:size].reshape(key.out_shape)
        harness.check(key, got, harness.reference(key, inputs, constants))


@pytest.mark.parametrize("target", [harness.HOST, harness.NEON], ids=["x86_64", "aarch64"])
def test_joining_keeps_no_helper_and_shares_constants(target: TargetSpec) -> None:
    objects = separate(target)
    together = object_size(join_all(objects, "")).code_bytes
    assert together < sum(object_size(data).code_bytes for data in objects) - 400 * len(KEYS)


def test_joining_is_reproducible_and_can_be_repeated() -> None:
    objects = separate()
    once = join_all(objects, "")
    assert once == join_all(objects, "")
    names = {symbol_of(key): symbol_of(key) for key in KEYS}
    assert object_size(elf.join([(once, names)])).code_bytes == object_size(once).code_bytes


@pytest.mark.parametrize("flags", [("-O0",), ("-O2", "-fPIC"), ("-Os", "-ffunction-sections")])
def test_objects_of_a_c_compiler_survive(flags: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(SOURCE)
    subprocess.run(["gcc", *flags, "-fPIC", "-c", "a.c", "-o", "a.o"], cwd=tmp_path, check=True)
    wanted = {"first": "new_first", "second": "new_second"}
    (tmp_path / "b.o").write_bytes(elf.join([((tmp_path / "a.o").read_bytes(), wanted)]))
    (tmp_path / "main.c").write_text(
        "int new_first(int); double new_second(double);\n"
        "int outside(int x) { return x + 100; }\n"
        "int main(void) { return new_first(2) == 6 + 3 + 102 && new_second(4.0) == 6.0 ? 0 : 1; }\n"
    )
    subprocess.run(["gcc", "main.c", "b.o", "-o", "main"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


def test_32_bit_objects_with_addends_in_place_are_joined(tmp_path: Path) -> None:
    arm = replace(
        harness.HOST, arch="armv7a", triple="armv7a-linux-gnueabihf", mcpu="cortex-a9",
        features=frozenset({"neon"}), vector_bits=128,
    )  # fmt: skip
    data = join_all(separate(arm), "net_")
    assert data[4] == 1 and object_size(data).code_bytes > 500
    (tmp_path / "a.o").write_bytes(data)
    listed = subprocess.run(
        ["readelf", "--wide", "--sections", "--relocs", "--symbols", "a.o"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert not listed.stderr and ".ARM.attributes" in listed.stdout
    assert all(f"net_{symbol_of(key)}" in listed.stdout for key in KEYS)


def test_what_cannot_be_joined_is_refused() -> None:
    host, arm = (build.compile_kernels(KEYS[3:], t) for t in (harness.HOST, harness.NEON))
    name = symbol_of(KEYS[3])
    with pytest.raises(ValueError, match="nothing to join"):
        elf.join([])
    with pytest.raises(ValueError, match="does not define other"):
        elf.join([(host, {"other": "x"})])
    with pytest.raises(ValueError, match="different machines"):
        elf.join([(host, {name: "x"}), (arm, {name: "y"})])
    with pytest.raises(ValueError, match="x is defined twice"):
        elf.join([(host, {name: "x"}), (host, {name: "x"})])
    with pytest.raises(ValueError, match="not a little-endian ELF"):
        elf.join([(b"nothing", {})])


def test_damaged_objects_raise_and_nothing_else() -> None:
    data = bytearray(build.compile_kernels(KEYS[:1], harness.HOST))
    wanted = {symbol_of(KEYS[0]): "x"}
    for cut in range(16, len(data), 211):
        with pytest.raises(ValueError, match=r"ELF|define"):
            elf.join([(bytes(data[:cut]), wanted)])
    for at in range(0x28, 0x40, 2):
        changed = data.copy()
        struct.pack_into("<H", changed, at, 0xFFF0)
        try:
            elf.join([(bytes(changed), wanted)])
        except ValueError:
            continue

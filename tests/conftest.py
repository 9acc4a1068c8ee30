"""What tests share: the data folder, and skipping where a tool is missing."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared: how long an example takes says nothing. The same examples every time.
settings.register_profile(
    "edgeopt", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("edgeopt")

INSTALL = {
    "qemu-aarch64": "apt-get install -y qemu-user",
    "gcc": "apt-get install -y gcc",
    "clang": "apt-get install -y clang",
    "cmake": "apt-get install -y cmake",
    "bochs": "apt-get install -y bochs bochs-term",
    "arduino-builder": "apt-get install -y arduino-builder arduino-core-avr",
    "simavr": "apt-get install -y simavr",
    "cppcheck": "apt-get install -y cppcheck",
    "chromium": "apt-get install -y chromium",
    "arm-none-eabi-gcc": "apt-get install -y gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "riscv64-unknown-elf-gcc": (
        "apt-get install -y gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf"
    ),
    "sshd": "apt-get install -y openssh-server",
    "ssh-keygen": "apt-get install -y openssh-client",
    "adb": "apt-get install -y adb",
    "qemu-system-arm": "apt-get install -y qemu-system-arm",
    "qemu-system-riscv32": "apt-get install -y qemu-system-misc",
    "aarch64-linux-gnu-gcc": "apt-get install -y gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
}


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Test processes side by side have boards of their own: a board's lock lies in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("t")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of reference data (CIFAR-10, latency tables, golden checkpoints)."""
    value = os.environ.get("EDGEOPT_DATA")
    if not value or not Path(value).is_dir():
        pytest.skip("EDGEOPT_DATA does not name the folder of reference data")
    return Path(value).resolve()


@pytest.fixture(scope="session")
def host_is_x86_64_v3() -> None:
    """Skip where the kernels built for AVX2 cannot run."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.exists() else ""
    if platform.machine() != "x86_64" or " avx2 " not in text or " fma " not in text:
        pytest.skip("the machine has no AVX2 and FMA: run on an x86-64-v3 processor")


@pytest.fixture(scope="session")
def needs_tool() -> Callable[[str], str]:
    """``needs_tool("clang")`` gives the program's path, or skips saying how to install it."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is missing: {INSTALL.get(name, 'install it')}")
        return path

    return find


@pytest.fixture(scope="session")
def stage_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One stage cache for the whole run, so that a subnet is compiled once."""
    return tmp_path_factory.mktemp("stage-cache")


@pytest.fixture
def always_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are divided between threads even where that does not pay."""
    from edgeopt.codegen.schedules import parts

    monkeypatch.setattr(parts, "HANDOVER_CYCLES", -1e12)

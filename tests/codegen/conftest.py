"""What the tests of generated code need of the machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def host_is_x86_64_v3() -> None:
    """Skip where the kernels built for AVX2 cannot run."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.exists() else ""
    if platform.machine() != "x86_64" or " avx2 " not in text or " fma " not in text:
        pytest.skip("the machine has no AVX2 and FMA: run on an x86-64-v3 processor")

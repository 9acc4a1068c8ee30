"""Whole networks under AddressSanitizer and UBSan: generated C, fixed C and real kernels.

The kernels themselves are machine code that no sanitizer sees: `tests/emulated` runs each between
inaccessible pages instead.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import networks
import pytest
from test_runner_end_to_end import NAME, make

from edgeopt import devices
from edgeopt.codegen import programs, toolchain
from edgeopt.codegen.toolchain import STRICT_FLAGS

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("integer", [False, True], ids=["f32", "i8"])
def test_networks_run_clean(
    compiler: str, integer: bool, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    needs_tool(compiler)
    made = make(networks.mobilenet(5, size=17, blocks=3, integer=integer), devices.load("local"))
    found = toolchain.find_for(toolchain.host_arch(), candidates=(compiler,))
    built = programs.build(
        made.code.files, NAME, dataclasses.replace(found, link_flags=SANITIZE), tmp_path,
        wanted=("infer", "self_test", "bench", "bench_kernels"),
        flags=("-O1", *SANITIZE, *STRICT_FLAGS),
    )  # fmt: skip

    def run(name: str, *arguments: str, data: bytes = b"") -> bytes:
        command = [str(built.paths[name]), *arguments]
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    assert run("self_test").endswith(b"self-test passed\n")
    found_outputs = run("infer", data=made.vectors.input_bytes)
    if integer:
        assert found_outputs == made.vectors.output_bytes
    for bench in ("bench", "bench_kernels"):
        assert run(bench, "--runs", "3", "--min-ms", "0")

"""Compiling for microcontrollers: bit-exact firmware, figures that say what they are, refusals."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt import devices
from edgeopt.codegen.machines import Machine, machine_for
from edgeopt.core.errors import EdgeoptError, InfeasibleError, InputError, ToolError
from edgeopt.core.estimates import Budget, Source
from edgeopt.pipeline import firmware
from edgeopt.pipeline.compile import CompileRequest, compile_network
from edgeopt.pipeline.verify import verify_bundle


def need_machine(machine: Machine, needs_tool: Callable[[str], str]) -> Machine:
    """The machine, if what builds and runs its programs is installed; else the test skips."""
    needs_tool("riscv64-unknown-elf-gcc" if machine.is_riscv else "arm-none-eabi-gcc")
    needs_tool(machine.qemu[0])
    needs_tool("gcc")
    return machine


def small_net() -> onnx.ModelProto:
    """Quantized: convolution, depthwise, pointwise, residual, mean and a linear layer."""
    rng = np.random.default_rng(11)
    tensors: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def pair(name: str, scale: float, zero: int, *, first: bool = False) -> str:
        tensors[f"{name}_s"], tensors[f"{name}_z"] = np.float32(scale), np.int8(zero)
        parts = [f"{name}_s", f"{name}_z"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *parts], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parts], [f"{name}_d"]))
        return f"{name}_d"

    def weights(name: str, *shape: int) -> str:
        tensors[name] = rng.integers(-127, 128, shape, dtype=np.int8)
        tensors[f"{name}_ws"] = rng.uniform(0.002, 0.006, shape[0]).astype(np.float32)
        tensors[f"{name}_wz"] = np.zeros(shape[0], np.int8)
        parts = [name, f"{name}_ws", f"{name}_wz"]
        nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}_d"], axis=0))
        return f"{name}_d"

    x = pair("x", 0.02, 3)
    w = weights("w0", 8, 3, 3, 3)
    nodes.append(helper.make_node("Conv", [x, w], ["c0"], strides=[2, 2], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["c0"], ["r0"]))
    a = pair("r0", 0.02, -128)
    w = weights("w1", 8, 1, 3, 3)
    nodes.append(helper.make_node("Conv", [a, w], ["c1"], pads=[1, 1, 1, 1], group=8))
    b = pair("c1", 0.02, 5)
    nodes.append(helper.make_node("Conv", [b, weights("w2", 8, 8, 1, 1)], ["c2"]))
    c = pair("c2", 0.02, -7)
    nodes.append(helper.make_node("Add", [c, a], ["sum"]))
    d = pair("sum", 0.0317, -20)
    nodes.append(helper.make_node("GlobalAveragePool", [d], ["mean"]))
    e = pair("mean", 0.02, -60)
    nodes.append(helper.make_node("Flatten", [e], ["flat"]))
    nodes.append(helper.make_node("Gemm", [pair("flat", 0.02, -60), weights("w3", 4, 8)],
                                  ["fc"], transB=1))  # fmt: skip
    nodes.append(helper.make_node("Identity", [pair("fc", 0.03, 4)], ["y"]))
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 12, 10))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    path.write_bytes(small_net().SerializeToString(deterministic=True))
    return path


def request(model: Path, out: Path, device: str, **changes: object) -> CompileRequest:
    return dataclasses.replace(
        CompileRequest(device=device, out=out, model=model, io="int8", cache=False), **changes
    )  # type: ignore[arg-type]


BOARDS = ["nucleo-l4r5zi", "mps3-an547", "rpi-pico", "esp32c3"]


@pytest.mark.parametrize("device", BOARDS)
def test_a_network_becomes_firmware_that_computes_the_same(
    device: str, model: Path, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    machine = need_machine(machine_for(devices.load(device)), needs_tool)
    manifest = compile_network(request(model, tmp_path / "bundle", device))
    results = {check.what: check for check in manifest.checks}
    own = "torch = firmware" if machine.exact else "fixed-point reference = firmware"
    assert results[own].result == "passed" and "bit-exact on 64 elements" in results[own].detail
    assert results["self-test"].result == "passed"
    assert all(check.result == "passed" for check in manifest.checks)

    figures = {figure.name: figure for figure in manifest.figures}
    assert figures["instructions"].source is Source.SIMULATED
    latency = figures["latency_ns"]
    assert latency.source is Source.SIMULATED and "nothing was measured" in latency.how
    cycles, clock_hz = (
        devices.load(device).cycles_per_instruction, devices.load(device).clock_hz,
    )  # fmt: skip
    assert cycles is not None and clock_hz is not None
    scale = figures["instructions"].value * 1e9 / clock_hz
    assert latency.value == pytest.approx(scale * cycles.mean)
    assert (latency.low, latency.high) == pytest.approx((scale * cycles.low, scale * cycles.high))
    assert figures["init_instructions"].value <= 2000
    parts = ("arena_bytes", "io_bytes", "stack_bytes", "static_bytes")
    assert figures["ram_bytes"].value == sum(figures[name].value for name in parts)
    assert figures["io_bytes"].value == 12 * 10 * 3 + 4
    # A bound of the stack, not a guess: what was seen under emulation stays below.
    seen = int(figures["stack_bytes"].how.split(";")[1].split()[0])
    assert 0 < seen <= figures["stack_bytes"].value <= 1024
    assert 0 < figures["static_bytes"].value <= 32  # the context
    assert figures["flash_bytes"].value > figures["weight_bytes"].value > 0
    # Kernels' counts add up to the inference's, but for the runner's own few.
    kernels = sum(kernel.latency_ns for kernel in manifest.kernels)
    assert latency.value * 0.97 < kernels < latency.value * 1.03
    assert {kernel.latency_source for kernel in manifest.kernels} == {"simulated"}
    assert {tensor.dtype for tensor in (*manifest.inputs, *manifest.outputs)} == {"i8"}
    assert "kernels/kernels.c" in manifest.files
    assert not [path for path in manifest.files if path.endswith(".o") or "programs/" in path]


@pytest.mark.parametrize("device", ["nucleo-l4r5zi", "esp32c3"])
def test_the_bundle_is_a_firmware_project(
    device: str, model: Path, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """Its own CMake project and toolchain file build every image and run the demo."""
    cmake = needs_tool("cmake")
    need_machine(machine_for(devices.load(device)), needs_tool)
    compile_network(request(model, tmp_path / "bundle", device, name="eye"))
    for command in (
        [cmake, "-S", "bundle", "-B", "build"],
        [cmake, "--build", "build"],
        ["ctest", "--test-dir", "build", "--output-on-failure"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in (done.stdout + done.stderr).lower()
    assert "100% tests passed, 0 tests failed out of 1" in done.stdout
    images = {path.name for path in (tmp_path / "build").glob("*.elf")}
    assert images == {"demo.elf", "bench.elf", "demo_emulated.elf", "bench_emulated.elf"}
    # The board's own memory map: code lies where its flash is.
    flash = devices.load(device).memory()[1]
    header = (tmp_path / "build" / "demo.elf").read_bytes()[24:28]
    entry = int.from_bytes(header, "little")
    assert flash.address <= entry < flash.address + flash.size_bytes


def test_verify_builds_and_runs_a_bundle_again(
    model: Path, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    need_machine(machine_for(devices.load("rpi-pico")), needs_tool)
    compile_network(request(model, tmp_path / "bundle", "rpi-pico", io="float"))
    checks = {check.what: check for check in verify_bundle(tmp_path / "bundle")}
    assert checks["fixed-point reference = firmware"].result == "passed"
    assert checks["self-test"].result == "passed"


@pytest.mark.parametrize(
    ("budget", "message", "hint"),
    [
        ({"ram_bytes": 1200}, r"needs [\d,]+ bytes of RAM .* 1,200 are there \(--ram\); it is most "
         r"at kernel \d .* live in kernels \d to \d\)", "what would fit: --ram "),
        ({"flash_bytes": 500}, r"constants alone take [\d,]+ bytes of flash, 500 are there "
         r"\(--flash\); the largest are those of kernel \d", "--flash 1KB"),
        ({"latency_ns": 10}, "latency .* where at most 10 ns was asked for", "simulated"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    budget: dict[str, int], message: str, hint: str, model: Path,
    needs_tool: Callable[[str], str], tmp_path: Path,
) -> None:  # fmt: skip
    need_machine(machine_for(devices.load("nucleo-l4r5zi")), needs_tool)
    wanted = request(model, tmp_path / "out", "nucleo-l4r5zi", budget=Budget(**budget))  # type: ignore[arg-type]
    with pytest.raises(InfeasibleError, match=message) as caught:
        compile_network(wanted)
    assert hint in caught.value.hint and caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def profile_with(tmp_path: Path, old: str, new: str) -> Path:
    text = (devices.shipped_dir() / "nucleo-l4r5zi" / "profile.toml").read_text()
    assert old in text
    folder = tmp_path / "nucleo-l4r5zi"
    folder.mkdir()
    (folder / "profile.toml").write_text(text.replace(old, new))
    shutil.copy(devices.shipped_dir() / "nucleo-l4r5zi" / "latency.toml", folder)
    return folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "ram"', 'kind = "flash"', "memory map of device .* is incomplete: no region of "
         "kind 'ram'"),
        ('machine = "mps2-an386"', 'machine = "mps2-an999"', "no machine of QEMU is known"),
    ],
)  # fmt: skip
def test_a_board_that_says_too_little_is_refused_before_building(
    old: str, new: str, message: str, model: Path, tmp_path: Path
) -> None:
    folder = profile_with(tmp_path, old, new)
    if "ram" in old:  # the sums must hold all the same
        text = (folder / "profile.toml").read_text()
        start, end = text.index("[memory.ram_bytes]"), text.index("[memory.flash_bytes]")
        cut = text[start:end].replace("655_360", "1_024")
        (folder / "profile.toml").write_text(
            text[:start] + cut + text[end:].replace("0x2000_0000", "0x2100_0000")
        )
    with pytest.raises(InputError, match=message) as caught:
        compile_network(request(model, tmp_path / "out", str(folder)))
    assert caught.value.exit_code == 2


def test_unknown_cycles_are_refused(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    profile = devices.load("nucleo-l4r5zi")
    known = dataclasses.replace(profile, cycles_per_instruction=None)
    with pytest.raises(InputError, match=r"\[cpu.cycles_per_instruction\] is missing"):
        firmware.board_of(known)


def fake_gcc(folder: Path, version: str) -> None:
    """A compiler that works but says it is of another version."""
    real = shutil.which("arm-none-eabi-gcc")
    script = folder / "arm-none-eabi-gcc"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = -dumpversion ] && echo {version} && exit 0\nexec {real} "$@"\n'
    )
    script.chmod(0o755)


def test_an_old_or_missing_toolchain_is_named(
    model: Path, needs_tool: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_tool("arm-none-eabi-gcc")
    tools = tmp_path / "tools"
    tools.mkdir()
    fake_gcc(tools, "9.3.1")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    wanted = request(model, tmp_path / "out", "nucleo-l4r5zi")
    with pytest.raises(ToolError, match=r"is version 9.3.1; .* needs gcc 10 or newer") as old:
        compile_network(wanted)
    assert old.value.exit_code == 4
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="no C compiler for armv7em was found") as missing:
        compile_network(wanted)
    assert "apt-get install gcc-arm-none-eabi" in missing.value.hint


def test_an_operator_without_a_kernel_is_named(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    need_machine(machine_for(devices.load("rpi-pico")), needs_tool)
    odd = small_net()
    odd.graph.node[-1].op_type = "Softplus"
    path = tmp_path / "odd.onnx"
    path.write_bytes(odd.SerializeToString())
    wanted = request(path, tmp_path / "out", "rpi-pico", io="model")
    with pytest.raises(EdgeoptError, match="has no kernel for fallback") as caught:
        compile_network(wanted)
    assert caught.value.exit_code == 2


def test_the_same_command_gives_the_same_bytes(
    model: Path, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    need_machine(machine_for(devices.load("nucleo-l4r5zi")), needs_tool)
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "edgeopt.cli.main", "compile", str(model), "--device",
             "nucleo-l4r5zi", "--io", "int8", "-o", "bundle", "--json", "--quiet", "--no-cache"],
            cwd=tmp_path / name, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        digests.append(done.stdout)
    assert digests[0] == digests[1]

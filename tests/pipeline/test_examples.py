"""The example firmware: built with its own CMake project, run under QEMU, its answers checked."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_firmware import need_machine

from edgeopt import devices
from edgeopt.codegen.machines import machine_for
from edgeopt.graph.edges import with_edges
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model
from edgeopt.pipeline.compile import CompileRequest, compile_network
from edgeopt.quant.simulate import Simulator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEVICE = "nucleo-l4r5zi"
NETS = {"camera": "eye", "audio": "ear"}


def camera_frame(number: int) -> np.ndarray:
    """What the example's sensor delivers."""
    y, x = np.mgrid[0:24, 0:72]
    values = ((number * 37 + y * 11 + x * (5 + number % 3)) & 255) - 128
    return values.astype(np.int8).reshape(1, 24, 24, 3)


def sound(number: int) -> np.ndarray:
    """One half of the audio example's buffer."""
    phase = (number * 320 + np.arange(320)) * (40 + number % 7 * 9)
    return ((phase & 4095) - 2048) * (1 + number % 5)


def loudness(samples: np.ndarray) -> int:
    """The audio example's feature."""
    value = np.sign(samples) * (np.abs(samples) // 8)  # C divides towards zero
    energy = 1 + int((value * value // 32).sum())
    bits = energy.bit_length() - 1
    return 8 * bits + ((energy << 3 >> bits) & 7) - 100


def audio_window(last: int) -> np.ndarray:
    """The 49 frames of features that end with this one."""
    frames = [
        [loudness(block) for block in sound(number).reshape(10, 32)]
        for number in range(last - 48, last + 1)
    ]
    return np.array(frames, np.int8).reshape(1, 49, 10, 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, needs_tool: Callable[[str], str]) -> Path:
    """The example, built as its CMakeLists.txt says."""
    cmake = needs_tool("cmake")
    need_machine(machine_for(devices.load(DEVICE)), needs_tool)
    folder = tmp_path_factory.mktemp("examples")
    for model, name in NETS.items():
        compile_network(
            CompileRequest(
                device=DEVICE, out=folder / name, model=EXAMPLES / "models" / f"{model}.onnx",
                io="int8", name=name, cache=False,
            )
        )  # fmt: skip
    source = EXAMPLES / "firmware"
    for command in (
        [cmake, "-S", str(source), "-B", "build", f"-DEYE={folder / 'eye'}",
         f"-DEAR={folder / 'ear'}", f"-DCMAKE_TOOLCHAIN_FILE={source / 'toolchain.cmake'}"],
        [cmake, "--build", "build"],
        ["ctest", "--test-dir", "build", "--output-on-failure"],
    ):  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in (done.stdout + done.stderr).lower()
    assert "100% tests passed, 0 tests failed out of 2" in done.stdout
    return folder / "build"


@pytest.mark.parametrize("program", NETS)
def test_the_loop_answers_what_the_network_answers(program: str, built: Path) -> None:
    done = subprocess.run(
        ["qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial",
         "stdio", "-semihosting-config", "enable=on,target=native", "-kernel",
         str(built / f"{program}.elf")],
        capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    model = load_model(EXAMPLES / "models" / f"{program}.onnx")
    network = with_edges(import_model(model), "int8").network
    said = re.findall(r"frame (\d+): class (\d+), score (\d+)", done.stdout)
    frame = camera_frame if program == "camera" else audio_window
    assert len(said) == (6 if program == "camera" else 4)
    for number, found, score in said:
        inputs = {network.inputs[0]: frame(int(number))}
        scores = Simulator(network).run(inputs)[network.outputs[0]].reshape(-1)
        assert (int(np.argmax(scores)), int(scores.max()) + 128) == (int(found), int(score))


def test_the_models_are_what_make_py_makes(tmp_path: Path) -> None:
    script = tmp_path / "make.py"
    script.write_text((EXAMPLES / "models" / "make.py").read_text())
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path)
    for name in NETS:
        shipped = onnx.load(EXAMPLES / "models" / f"{name}.onnx")
        assert onnx.load(tmp_path / f"{name}.onnx") == shipped

"""Firmware against its reference on many test vectors: every byte of every output, on every core.

    python benchmarks/firmware_vectors.py --count 200 [--rows FILE]

MLPerf Tiny's keyword spotting and visual wake words (int8), compiled for each board, run on its
core under QEMU, and for x86-64 and aarch64 Linux. The reference of cores with an FPU is the
simulation in torch that onnxruntime agrees with; that of the others is its own, in fixed point.
With ``--rows`` finished rows are kept in a file, and a run that was cut off goes on after them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt import devices
from edgeopt.codegen import ckernels, firmware, verify
from edgeopt.codegen.firmware import FirmwareNet
from edgeopt.codegen.machines import machine_for
from edgeopt.codegen.reference import run_kernels
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.codegen.verify import Engine
from edgeopt.core.network import Network
from edgeopt.graph.edges import with_edges
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model
from edgeopt.pipeline import bundle
from edgeopt.pipeline.artifact import Artifact, build_kernels, make_artifact
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.proof import artifact_checks
from edgeopt.quant.simulate import Simulator

MODELS = {"kws": "kws_ref_model.op18.onnx", "vww": "vww_96_int8.op18.onnx"}
BOARDS = ("nucleo-l4r5zi", "nucleo-h743zi", "nucleo-u575zi-q", "mps3-an547", "rpi-pico", "esp32c3")
LINUX = ("local", "rpi4")
#: Vectors an image holds: the smallest machine has 4 MB for code and vectors.
PART_BYTES = 3_000_000
FLOAT, FIXED = "float requantization", "fixed point"


def inputs_of(network: Network, count: int) -> dict[str, Any]:
    """Smooth random images or spectra, stretched over the whole of int8."""
    rng = np.random.default_rng(7)
    found = {}
    for name in network.inputs:
        shape = network.tensors[name].shape
        coarse = rng.uniform(-1, 1, (count, *shape))
        level = rng.uniform(-0.6, 0.6, (count, *([1] * len(shape))))
        found[name] = np.clip(np.rint(127 * (0.6 * coarse + level)), -128, 127).astype(np.int8)
    return found


def exact_vectors(network: Network, inputs: dict[str, Any]) -> TestVectors:
    """The torch simulation's outputs."""
    outputs = Simulator(network).run({n: a[:, 0] for n, a in inputs.items()})
    shaped = {
        n: outputs[n].reshape(len(outputs[n]), *network.tensors[n].shape) for n in network.outputs
    }
    return TestVectors(inputs, shaped, 0.0)


def fixed_vectors(artifact: Artifact, inputs: dict[str, Any]) -> TestVectors:
    """The outputs of fixed point, kernel by kernel."""
    count = len(next(iter(inputs.values())))
    rows = [
        run_kernels(artifact.graph, {n: a[i] for n, a in inputs.items()}, fixed=True)
        for i in range(count)
    ]
    tensors = artifact.graph.tensors
    outputs = {
        n: np.stack([row[n] for row in rows]).reshape(count, *tensors[n].shape)
        for n in artifact.graph.outputs
    }
    return TestVectors(inputs, outputs, 0.0)


def part(vectors: TestVectors, start: int, size: int) -> TestVectors:
    """Some of the vectors."""
    cut = slice(start, start + size)
    return TestVectors(
        {n: a[cut] for n, a in vectors.inputs.items()},
        {n: a[cut] for n, a in vectors.outputs.items()}, vectors.tolerance,
    )  # fmt: skip


def on_board(name: str, artifact: Artifact, vectors: TestVectors, device: str) -> str:
    """Elements that differ."""
    profile = devices.load(device)
    kernels, _ = build_kernels(artifact, name, StageCache(None))
    code = bundle.render_code(name, "benchmark", {}, artifact, kernels, vectors)
    size = max(1, PART_BYTES // vectors.vector_bytes)
    wrong = 0
    for start in range(0, vectors.count, size):
        some = part(vectors, start, size)
        net = FirmwareNet.of(name, some, len(artifact.graph.kernels), code.model.embedded)
        done = firmware.run_firmware(
            code.files, net, machine_for(profile), firmware.compiler_for(profile), some,
            timeout_s=3000,
        )  # fmt: skip
        for output, wanted in some.outputs.items():
            wrong += int((wanted != done.outputs[output]).sum())
    return str(wrong)


def on_linux(name: str, artifact: Artifact, vectors: TestVectors, device: str) -> str:
    """What the comparison says."""
    profile = devices.load(device)
    kernels, _ = build_kernels(artifact, name, StageCache(default_cache_dir()))
    code = bundle.render_code(name, "benchmark", {}, artifact, kernels, vectors)
    engine = verify.engine_for(profile)
    if not isinstance(engine, Engine):
        return f"not run: {engine.reason}"
    checks = artifact_checks(code.files, name, profile, engine, vectors)
    return checks[0].detail


@dataclass
class Vectors:
    """Inputs of a network, and what each arithmetic makes of them, computed when asked for."""

    network: Network
    inputs: dict[str, Any]
    _known: dict[str, TestVectors] = field(default_factory=dict)

    def of(self, artifact: Artifact, arithmetic: str) -> TestVectors:
        """For a core with this arithmetic; the fixed point is the same on every core."""
        if arithmetic not in self._known:
            self._known[arithmetic] = (
                fixed_vectors(artifact, self.inputs)
                if arithmetic == FIXED
                else exact_vectors(self.network, self.inputs)
            )
        return self._known[arithmetic]


def row(name: str, network: Network, device: str, vectors: Vectors) -> str:
    """One network on one device."""
    began = time.monotonic()
    profile = devices.load(device)
    artifact = make_artifact(network, profile.target)
    board = profile.kind == "firmware"
    arithmetic = FIXED if board and not ckernels.isa_of(profile.target).fpu else FLOAT
    wanted = vectors.of(artifact, arithmetic)
    said = (on_board if board else on_linux)(name, artifact, wanted, device)
    seconds = time.monotonic() - began
    count = len(next(iter(vectors.inputs.values())))
    return (
        f"| {name} | {device} | {profile.core} | {arithmetic} | {count} | {said} | {seconds:.0f} |"
    )


def finished(path: Path | None) -> dict[str, str]:
    """Rows of an earlier run."""
    if path is None or not path.exists():
        return {}
    return dict(json.loads(line) for line in path.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--devices", default=",".join((*BOARDS, *LINUX)))
    parser.add_argument("--rows", type=Path, help="keep finished rows here, and do not repeat them")
    args = parser.parse_args()
    done = finished(args.rows)
    data = Path(os.environ["EDGEOPT_DATA"]) / "mlperf_tiny"
    print("| network | device | core | arithmetic | vectors | elements that differ | s |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models.split(","):
        network = with_edges(import_model(load_model(data / MODELS[name])), "int8").network
        vectors = Vectors(network, inputs_of(network, args.count))
        for device in args.devices.split(","):
            key = f"{name} {device} {args.count}"
            if key not in done:
                done[key] = row(name, network, device, vectors)
                if args.rows:
                    with args.rows.open("a") as stream:
                        stream.write(json.dumps([key, done[key]]) + "\n")
            print(done[key], flush=True)


if __name__ == "__main__":
    main()

"""Zoo subnets on a Cortex-M4 beside MLPerf Tiny's image classification in TensorFlow Lite Micro.

    EDGEOPT_DATA=... python benchmarks/mcu_zoo.py [--budgets none 200ms 150ms 126ms 100ms]

Each row is one `edgeopt compile --device nucleo-l4r5zi` with that latency budget: built, run and
counted under emulation, equal to onnxruntime bit for bit on its test vectors. The accuracy is then
that of the bundle's int8 model on all CIFAR-10 test images, run by onnxruntime with exact sums.
The peer's figures: its ResNet reaches 87 % (MLPerf Tiny's reference model), counted with CMSIS-NN.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgeopt.ofa.data import ImageSet, load_images, normalize
from edgeopt.ofa.spaces import load_space

DEVICE = "nucleo-l4r5zi"
PEER = {"accuracy": 87.0, "instructions": 29.875e6, "ram_bytes": 55_500, "flash_bytes": 219_000}


def compiled(budget: str, folder: Path) -> dict[str, Any] | None:
    """Figures of the bundle that meets a latency budget, by name; None if nothing does."""
    limit = [] if budget == "none" else ["--latency", budget]
    command = [sys.executable, "-m", "edgeopt.cli.main", "compile", "--device", DEVICE,
               "-o", str(folder), "--quiet", *limit]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{budget}: {done.stderr.strip().splitlines()[0]}", flush=True)
        return None
    manifest = json.loads((folder / "manifest.json").read_text())
    if any(check["result"] != "passed" for check in manifest["checks"]):
        raise SystemExit(f"a check of {folder} did not pass")
    return {figure["name"]: figure["value"] for figure in manifest["figures"]}


def accuracy(model: Path, test: ImageSet) -> float:
    """Per cent of the images that the int8 model classifies correctly."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    space = load_space("cifar")
    right = 0
    for index in range(len(test)):
        image = normalize(test.images[index : index + 1], space).contiguous().numpy()
        (scores,) = session.run(None, {name: image})
        right += int(np.argmax(scores)) == int(test.labels[index])
    return 100.0 * right / len(test)


def row(name: str, figures: dict[str, Any]) -> str:
    """One line of the table; ratios are to the peer."""
    instructions = figures["instructions"]
    predicted = f"{100 * figures['predicted']:.2f}" if "predicted" in figures else "-"
    return (
        f"{name:<28} {figures['accuracy']:>8.2f} {predicted:>9} {instructions / 1e6:>9.2f} "
        f"{instructions / PEER['instructions']:>6.2f} {figures['ram_bytes']:>9,} "
        f"{figures['ram_bytes'] / PEER['ram_bytes']:>6.2f} {figures['flash_bytes']:>9,} "
        f"{figures['flash_bytes'] / PEER['flash_bytes']:>6.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", nargs="+", default=["none", "200ms", "150ms", "126ms"])
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOPT_DATA"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("set EDGEOPT_DATA, or give --data")
    test = load_images(Path(options.data) / "cifar10" / "cifar10_jpeg.npz", "test", 32)
    print(f"{'on ' + DEVICE:<28} {'CIFAR %':>8} {'predicted':>9} {'M instr.':>9} {'ratio':>6} "
          f"{'RAM':>9} {'ratio':>6} {'flash':>9} {'ratio':>6}")  # fmt: skip
    print(row("TFLite Micro + CMSIS-NN, IC", PEER), flush=True)
    for budget in options.budgets:
        with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
            figures = compiled(budget, Path(folder) / "net")
            if figures is None:
                continue
            figures["predicted"] = figures["accuracy"]
            figures["accuracy"] = accuracy(Path(folder) / "net" / "model_int8.onnx", test)
        name = "no budget" if budget == "none" else f"within {budget}"
        print(row(f"zoo subnet, {name}", figures), flush=True)
    print("RAM of edgeopt counts arena, inputs, outputs, stack and variables; the peer's no stack")


if __name__ == "__main__":
    main()

"""int8 networks on microcontrollers: exact instruction counts beside TensorFlow Lite Micro's.

    python benchmarks/mcu.py [--devices nucleo-l4r5zi,mps3-an547,…] [--models kws,vww] [--kernels]

The networks of MLPerf Tiny in $EDGEOPT_DATA/mlperf_tiny, compiled as `edgeopt compile` does, run on
emulated cores: instructions of one inference, with its ratio to TensorFlow Lite Micro with
CMSIS-NN; arena beside its lower bound, flash with weights, stack. ``differ`` counts outputs that
are not those of the reference for the target's arithmetic, of 10 vectors. Counts are exact and no
times: emulators know no pipeline.

With ``--kernels`` each kernel by itself on 24x24x32, beside CMSIS-NN's functions, and how many
instructions a product costs.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeopt import devices
from edgeopt.codegen import ckernels, emit, firmware, runner
from edgeopt.codegen.emit import Origin
from edgeopt.codegen.machines import machine_for
from edgeopt.codegen.plan import plan
from edgeopt.codegen.reference import run_kernels
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.core.device import DeviceProfile
from edgeopt.core.kernels import Kernel, KernelGraph, OpKey
from edgeopt.core.network import Network, Quant, Tensor
from edgeopt.graph.importer import import_network
from edgeopt.graph.load import load_model
from edgeopt.pipeline.artifact import Artifact, make_artifact
from edgeopt.pipeline.kernel_constants import constants_of

MODELS = {"kws": "kws_ref_model.op18.onnx", "vww": "vww_96_int8.op18.onnx"}
#: TensorFlow Lite Micro with CMSIS-NN, counted with the same emulator and plugin: million
#: instructions of one inference on Cortex-M4 and M55; kB of RAM and flash on M4.
PEER_M = {
    ("kws", "cortex-m4"): 7.844, ("vww", "cortex-m4"): 24.722,
    ("kws", "cortex-m55"): 1.785, ("vww", "cortex-m55"): 6.436,
}  # fmt: skip
PEER_KB = {"kws": (23.4, 174), "vww": (101, 454)}
#: Goals on Cortex-M4: bytes of arena and flash; ratio of instructions on each core.
GOALS = {"kws": (16_500, 45_000), "vww": (56_000, 260_000)}
GOAL_RATIOS = {"cortex-m4": 0.65, "cortex-m55": 0.9}
GOAL_INIT = 2_000
#: CMSIS-NN's functions on 24x24x32 in int8: instructions on Cortex-M4, M7 and M55.
CMSIS_NN = {
    "1x1": (1_589_558, 1_566_544, 365_645),
    "depthwise 3x3": (1_471_093, 1_448_476, 446_273),
    "3x3": (10_218_804, 10_228_802, 1_343_195),
}
CORES = ("cortex-m4", "cortex-m7", "cortex-m55")
MAP = (24, 24, 32)
I8 = {"dtype": "i8", "out_dtype": "i8"}
SAME = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
KERNELS = {
    "1x1": OpKey("pointwise", MAP, MAP, **I8),  # type: ignore[arg-type]
    "depthwise 3x3": OpKey("depthwise", MAP, MAP, groups=32, **SAME, **I8),  # type: ignore[arg-type]
    "3x3": OpKey("conv2d", MAP, MAP, **SAME, **I8),  # type: ignore[arg-type]
    "depthwise 5x5": OpKey("depthwise", MAP, MAP, groups=32, kernel=(5, 5), pads=(2, 2, 2, 2),
                           **I8),  # type: ignore[arg-type]
    "depthwise 3x3 / 2": OpKey("depthwise", MAP, (12, 12, 32), groups=32, kernel=(3, 3),
                               strides=(2, 2), pads=(0, 0, 1, 1), **I8),  # type: ignore[arg-type]
    "linear 256": OpKey("linear", (256,), (256,), **I8),  # type: ignore[arg-type]
    "add": OpKey("add", MAP, MAP, inputs=2, **I8),  # type: ignore[arg-type]
    "scale": OpKey("scale", MAP, MAP, inputs=2, **I8),  # type: ignore[arg-type]
    "mean": OpKey("global_avgpool", MAP, (1, 1, 32), **I8),  # type: ignore[arg-type]
    "maxpool 2x2": OpKey("maxpool", MAP, (12, 12, 32), kernel=(2, 2), strides=(2, 2), **I8),  # type: ignore[arg-type]
    "table": OpKey("activation", MAP, MAP, activation="lut", **I8),  # type: ignore[arg-type]
}  # fmt: skip
DEVICES = "nucleo-l4r5zi,nucleo-h743zi,nucleo-u575zi-q,mps3-an547,rpi-pico,esp32c3"


def vectors_of(artifact: Artifact, network: Network | KernelGraph, count: int) -> TestVectors:
    """Random inputs, and what the reference for the target's arithmetic gives for them."""
    rng = np.random.default_rng(1)
    fixed = not ckernels.isa_of(artifact.target).fpu
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in network.inputs}
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in network.outputs}
    for _ in range(count):
        given = {}
        for name in network.inputs:
            tensor = network.tensors[name]
            given[name] = rng.integers(-128, 128, tensor.shape).astype(np.int8)
            if tensor.dtype == "f32":
                given[name] = rng.uniform(-2, 2, tensor.shape).astype(np.float32)
            inputs[name].append(given[name])
        for name, value in run_kernels(artifact.graph, given, fixed=fixed).items():
            outputs[name].append(value)
    stacked = [{name: np.stack(rows) for name, rows in side.items()} for side in (inputs, outputs)]
    return TestVectors(stacked[0], stacked[1], 0.0)


def firmware_run(
    artifact: Artifact, profile: DeviceProfile, vectors: TestVectors, name: str
) -> firmware.FirmwareRun:
    """Build and run."""
    source = ckernels.source(artifact.graph.keys, artifact.target, runner.kernel_prefix(name))
    code = emit.render(
        artifact.graph, artifact.plan, artifact.functions, artifact.constants,
        {"kernels.c": source.encode()}, name=name, origin=Origin("benchmarks/mcu.py"),
        constant_alignment_bytes=runner.constant_alignment(artifact.target),
    )  # fmt: skip
    net = firmware.of_bundle(name, code.files, vectors, len(artifact.graph.kernels))
    compiler = firmware.compiler_for(profile)
    return firmware.run_firmware(code.files, net, machine_for(profile), compiler, vectors)


def core_of(profile: DeviceProfile) -> str:
    """``cortex-m4``: whether there is an FPU is not part of the peers' figures."""
    return machine_for(profile).core.lower().removesuffix("f")


def networks(models: Sequence[str], boards: Sequence[str]) -> None:
    folder = Path(os.environ["EDGEOPT_DATA"]) / "mlperf_tiny"
    print("one inference; instructions exact under emulation, sizes in bytes")
    print(
        f"{'model':>5} {'board':>16} {'core':>12} {'instructions':>12} {'ratio':>6} {'goal':>5} "
        f"{'arena':>7} {'bound':>7} {'flash':>8} {'stack':>6} {'init':>5} {'differ':>6}"
    )  # fmt: skip
    for model in models:
        network = import_network(load_model(folder / MODELS[model]))
        for board in boards:
            profile = devices.load(board)
            artifact = make_artifact(network, profile.target)
            vectors = vectors_of(artifact, network, 10)
            done = firmware_run(artifact, profile, vectors, model)
            wrong = sum(
                int((done.outputs[name] != wanted).sum())
                for name, wanted in vectors.outputs.items()
            )
            core = core_of(profile)
            peer = PEER_M.get((model, core))
            ratio = f"{done.run_instructions / peer / 1e6:.3f}" if peer else "-"
            goal = f"{GOAL_RATIOS[core]:.2f}" if core in GOAL_RATIOS else "-"
            print(f"{model:>5} {board:>16} {core:>12} {done.run_instructions:>12,} {ratio:>6} "
                  f"{goal:>5} {artifact.plan.arena_bytes:>7,} "
                  f"{artifact.plan.lower_bound_bytes:>7,} {done.flash_bytes:>8,} "
                  f"{done.stack_bytes:>6,} {done.init_instructions:>5,} {wrong:>6}")  # fmt: skip
        ram, flash = PEER_KB[model]
        arena_goal, flash_goal = GOALS[model]
        print(f"{model:>5} TensorFlow Lite Micro + CMSIS-NN: {PEER_M[model, 'cortex-m4']} M on M4, "
              f"{PEER_M[model, 'cortex-m55']} M on M55, {ram} kB RAM, {flash} kB flash; goals: "
              f"arena {arena_goal:,}, flash {flash_goal:,}, init {GOAL_INIT:,}")  # fmt: skip


def graph_of(keys: Sequence[OpKey]) -> KernelGraph:
    """Kernels beside each other, each with inputs and an output of its own."""
    tensors: dict[str, Tensor] = {}
    kernels = []
    for number, key in enumerate(keys):
        shapes = [key.in_shape] * key.inputs
        if key.op == "scale":
            shapes[1] = key.in_shape[-1:]
        names = tuple(f"x{number}_{i}" for i in range(key.inputs))
        for name, shape in zip((*names, f"y{number}"), (*shapes, key.out_shape), strict=True):
            tensors[name] = Tensor(name, (1, *shape), "i8", Quant(0.1, 0))
        values = constants_of(key, number)
        kernels.append(Kernel(f"k{number}", key, names, f"y{number}", values))
    inputs = tuple(name for kernel in kernels for name in kernel.inputs)
    outputs = tuple(kernel.output for kernel in kernels)
    return KernelGraph("kernels", tensors, tuple(kernels), inputs, outputs)


def kernels(boards: Sequence[str]) -> None:
    print("kernels by themselves on 24x24x32, instructions; ratio to CMSIS-NN's functions, and "
          "instructions a product or output")  # fmt: skip
    print(f"{'kernel':>18} {'board':>16} {'instructions':>12} {'CMSIS-NN':>12} {'ratio':>6} "
          f"{'a product':>9} {'an output':>9} {'scratch':>7}")  # fmt: skip
    graph = graph_of(tuple(KERNELS.values()))
    for board in boards:
        profile = devices.load(board)
        templates = [ckernels.select(key, profile.target) for key in graph.keys]
        functions = tuple(
            t.function(key, profile.target) for t, key in zip(templates, graph.keys, strict=True)
        )
        packed = tuple(
            t.pack(k.key, profile.target, k.constants)
            for t, k in zip(templates, graph.kernels, strict=True)
        )
        memory = plan(graph, [f.scratch_bytes for f in functions], 16)
        artifact = Artifact(profile.target, graph, functions, packed, memory)
        vectors = vectors_of(artifact, graph, 1)
        done = firmware_run(artifact, profile, vectors, "kernels")
        for name, wanted in vectors.outputs.items():
            assert (done.outputs[name] == wanted).all(), f"{name} differs on {board}"
        rows = zip(KERNELS.items(), done.kernel_instructions, functions, strict=True)
        for (name, key), count, function in rows:
            core = core_of(profile)
            theirs = CMSIS_NN[name][CORES.index(core)] if name in CMSIS_NN and core in CORES else 0
            product = f"{count / key.macs:.2f}" if key.macs else "-"
            ratio = f"{count / theirs:.2f}" if theirs else "-"
            peer = f"{theirs:,}" if theirs else "-"
            print(f"{name:>18} {board:>16} {count:>12,} {peer:>12} {ratio:>6} "
                  f"{product:>9} {count / math.prod(key.out_shape):>9.1f} "
                  f"{function.scratch_bytes:>7,}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default=DEVICES)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--kernels", action="store_true")
    options = parser.parse_args()
    boards = options.devices.split(",")
    if options.models:
        networks(options.models.split(","), boards)
    if options.kernels:
        kernels(boards)


if __name__ == "__main__":
    main()

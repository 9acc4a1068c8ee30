"""Weights of 8, 4 and 2 bits on microcontrollers: instructions and flash of the same layers.

    python benchmarks/lowbit_mcu.py [--devices nucleo-l4r5zi,mps3-an547] [--models kws,vww]

Kernels by themselves, then what an inner product, an input, an output and a table activation cost,
then the networks of MLPerf Tiny in $EDGEOPT_DATA/mlperf_tiny with the weights of every layer but
the depthwise ones rounded to so many bits: nothing was trained, so accuracy is not claimed.
Instructions are counted under emulation, exactly; bytes are those of the packed constants, and of
linked images. ``differ`` counts outputs that are not the reference's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from mcu import MODELS, core_of, firmware_run, vectors_of

from edgeopt import devices
from edgeopt.codegen import ckernels
from edgeopt.core import lowbits
from edgeopt.core.device import DeviceProfile
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Network, Op
from edgeopt.graph.importer import import_network
from edgeopt.graph.load import load_model
from edgeopt.pipeline.artifact import make_artifact
from edgeopt.pipeline.firmware import board_of
from edgeopt.pipeline.firmware_meter import EmulatedCounter

WIDTHS = (8, 4, 2)
I8 = {"dtype": "i8", "out_dtype": "i8"}


def pointwise(size: int, inputs: int, outputs: int) -> OpKey:
    return OpKey("pointwise", (size, size, inputs), (size, size, outputs), **I8)  # type: ignore[arg-type]


#: Layers of the two networks, and those that other sections have.
KERNELS = {
    "1x1 24x24 32>32": pointwise(24, 32, 32),
    "1x1 48x48 8>16": pointwise(48, 8, 16),
    "1x1 25x5 64>64": OpKey("pointwise", (25, 5, 64), (25, 5, 64), **I8),  # type: ignore[arg-type]
    "1x1 6x6 128>128": pointwise(6, 128, 128),
    "1x1 3x3 256>256": pointwise(3, 256, 256),
    "1x1 5x5 31>45": pointwise(5, 31, 45),
    "3x3/2 96x96 3>8": OpKey("conv2d", (96, 96, 3), (48, 48, 8), kernel=(3, 3), strides=(2, 2),
                             pads=(0, 0, 1, 1), **I8),  # type: ignore[arg-type]
    "10x4/2 49x10 1>64": OpKey("conv2d", (49, 10, 1), (25, 5, 64), kernel=(10, 4), strides=(2, 2),
                               pads=(4, 1, 5, 1), **I8),  # type: ignore[arg-type]
    "3x3 24x24 32>32": OpKey("conv2d", (24, 24, 32), (24, 24, 32), kernel=(3, 3),
                             pads=(1, 1, 1, 1), **I8),  # type: ignore[arg-type]
    "linear 256>256": OpKey("linear", (256,), (256,), **I8),  # type: ignore[arg-type]
}  # fmt: skip


def of_width(key: OpKey, bits: int) -> OpKey:
    return replace(key, weight_bits=bits % 8)


def counted(keys: Sequence[OpKey], profile: DeviceProfile) -> dict[OpKey, int]:
    found, failed = EmulatedCounter(board_of(profile))(list(dict.fromkeys(keys)))
    assert not failed, failed
    return {key: counts[0] for key, counts in found.items()}


def kernels(boards: Sequence[str]) -> None:
    print("kernels: instructions, and bytes of weights, biases and multipliers")
    print(f"{'kernel':>18} {'core':>10} {'int8':>11} {'w4':>11} {'w2':>11} {'w4/int8':>7} "
          f"{'w2/int8':>7} {'bytes int8':>10} {'w4':>7} {'w2':>7}")  # fmt: skip
    for board in boards:
        profile = devices.load(board)
        keys = [of_width(key, bits) for key in KERNELS.values() for bits in WIDTHS]
        counts = counted(keys, profile)
        for name, key in KERNELS.items():
            those = [of_width(key, bits) for bits in WIDTHS]
            n = [counts[one] for one in those]
            size = [
                ckernels.select(one, profile.target).packed_bytes(one, profile.target)
                for one in those
            ]
            print(f"{name:>18} {core_of(profile):>10} {n[0]:>11,} {n[1]:>11,} {n[2]:>11,} "
                  f"{n[1] / n[0]:>7.3f} {n[2] / n[0]:>7.3f} {size[0]:>10,} {size[1]:>7,} "
                  f"{size[2]:>7,}")  # fmt: skip


def parts(boards: Sequence[str]) -> None:
    """Pointwise layers of 64 and 128 inputs and outputs: pixels x (a + b I + c O + d I O)."""
    print(
        "\nwhat a pointwise layer's instructions are made of, from layers of 64 and 128 inputs\n"
        "and outputs on 12x12; an output: its sum begun, requantization, narrowing, storing"
    )
    print(
        f"{'core':>10} {'weights':>7} {'a product':>9} {'an input':>8} {'an output':>9} "
        f"{'its table':>9}"
    )
    sizes = [(i, o) for i in (64, 128) for o in (64, 128)]
    for board in boards:
        profile = devices.load(board)
        grid = {(b, i, o): of_width(pointwise(12, i, o), b) for b in WIDTHS for i, o in sizes}
        tables = {b: replace(grid[b, 64, 64], activation="lut") for b in WIDTHS}
        counts = counted([*grid.values(), *tables.values()], profile)
        for bits in WIDTHS:
            system = np.array([(1, i, o, i * o) for i, o in sizes], float)
            totals = np.array([counts[grid[bits, i, o]] / 144 for i, o in sizes])
            _, an_input, an_output, product = np.linalg.solve(system, totals)
            table = (counts[tables[bits]] - counts[grid[bits, 64, 64]]) / (144 * 64)
            width = f"w{bits}" if bits < 8 else "int8"
            print(
                f"{core_of(profile):>10} {width:>7} {product:>9.3f} {an_input:>8.2f} "
                f"{an_output:>9.2f} {table:>9.2f}"
            )


def rounded(network: Network, bits: int) -> Network:
    """Weights of fewer bits in every layer that has a kernel for them."""
    if bits == 8:
        return network

    def narrow(op: Op) -> Op:
        w = op.constants.get("w")
        depthwise = int(op.attrs.get("groups", 1)) > 1  # type: ignore[call-overload]
        if op.kind not in ("conv2d", "linear") or w is None or w.dtype != np.int8 or depthwise:
            return op
        step = lowbits.double_step(bits) * lowbits.unit(bits)
        scale = (op.constants["w_scale"] * step).astype(np.float32)
        constants = {**op.constants, "w": lowbits.round_again(w, bits), "w_scale": scale}
        return replace(op, constants=constants, attrs={**op.attrs, "weight_bits": bits})

    return replace(network, ops=tuple(narrow(op) for op in network.ops))


def networks(models: Sequence[str], boards: Sequence[str]) -> None:
    folder = Path(os.environ["EDGEOPT_DATA"]) / "mlperf_tiny"
    print("\nnetworks: one inference")
    print(f"{'model':>5} {'core':>10} {'weights':>7} {'instructions':>12} {'/ int8':>6} "
          f"{'constants':>9} {'flash':>8} {'/ int8':>6} {'arena':>7} {'differ':>6}")  # fmt: skip
    for model in models:
        network = import_network(load_model(folder / MODELS[model]))
        for board in boards:
            profile = devices.load(board)
            first: tuple[int, int] | None = None
            for bits in WIDTHS:
                artifact = make_artifact(rounded(network, bits), profile.target)
                vectors = vectors_of(artifact, network, 2)
                done = firmware_run(artifact, profile, vectors, model)
                wrong = sum(
                    int((done.outputs[name] != wanted).sum())
                    for name, wanted in vectors.outputs.items()
                )
                first = first or (done.run_instructions, done.flash_bytes)
                print(f"{model:>5} {core_of(profile):>10} {f'w{bits}' if bits < 8 else 'int8':>7} "
                      f"{done.run_instructions:>12,} {done.run_instructions / first[0]:>6.3f} "
                      f"{artifact.weight_bytes:>9,} {done.flash_bytes:>8,} "
                      f"{done.flash_bytes / first[1]:>6.3f} {artifact.plan.arena_bytes:>7,} "
                      f"{wrong:>6}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="nucleo-l4r5zi,mps3-an547")
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    boards = options.devices.split(",")
    kernels(boards)
    parts(boards)
    if options.models:
        networks(options.models.split(","), boards)


if __name__ == "__main__":
    main()

"""Kernels in C that share what they do, beside one copy for each: bytes and instructions.

    python benchmarks/shared_kernels.py [--devices nucleo-l4r5zi,mps3-an547,rpi-pico,esp32c3]

Subnets of the elastic zoo entry, the smallest and the middle one of its card, with weights of
eight, four and two bits. Constants are one word a channel on either side; what differs is only
whether kernels share. Flash is that of linked images, instructions are exact under emulation, and
the outputs are compared.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import onnx
import torch
from mcu import firmware_run, vectors_of
from short_constants import NAME, configs, network_of

from edgeopt import devices
from edgeopt.graph.importer import import_network
from edgeopt.pipeline.artifact import make_artifact
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.zoo import elastic


def compare(name: str, label: str, model: bytes) -> None:
    """A row: shared by copies."""
    profile = devices.load(name).compacted()
    network = import_network(onnx.load_model_from_string(model))
    runs, weights = [], 0
    for compact in (True, False):
        artifact = make_artifact(network, replace(profile.target, compact=compact))
        assert artifact.target.narrow
        weights = artifact.weight_bytes
        vectors = vectors_of(artifact, network, 1)
        runs.append(firmware_run(artifact, profile, vectors, "net"))
        assert all((runs[-1].outputs[k] == v).all() for k, v in vectors.outputs.items())
    shared, copies = runs
    code = [run.flash_bytes - weights for run in runs]
    print(
        f"{name:>14} {label:>11} {code[0]:>7,} {code[1]:>7,} {shared.flash_bytes:>8,} "
        f"{shared.flash_bytes / copies.flash_bytes:>6.3f} {shared.stack_bytes:>6,} "
        f"{shared.stack_bytes - copies.stack_bytes:>+5} "
        f"{shared.run_instructions / copies.run_instructions:>7.3f}",
        flush=True,
    )


def main() -> None:
    """Compile, run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", default="nucleo-l4r5zi,mps3-an547,rpi-pico,esp32c3")
    options = parser.parse_args()
    torch.set_num_threads(1)
    entry = elastic.load(NAME)
    net = load_elastic(entry.space, entry.weights, entry.quantizers)
    known = configs(entry)
    print("bytes and exact instructions, kernels that share by one copy for each")
    print(
        f"{'device':>14} {'network':>11} {'code':>7} {'copies':>7} {'flash':>8} {'ratio':>6} "
        f"{'stack':>6} {'more':>5} {'instr.':>7}"
    )
    for subnet, config in (("smallest", known[0]), ("middle", known[len(known) // 2])):
        for bits in (8, 4, 2):
            model = network_of(entry, net, config, bits)
            for name in options.devices.split(","):
                compare(name, f"{subnet} w{bits}", model)


if __name__ == "__main__":
    main()

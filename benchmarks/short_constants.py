"""One word a channel for bias and multiplier, beside two: bytes, instructions, time and accuracy.

    python benchmarks/short_constants.py [--devices nucleo-l4r5zi,mps3-an547,local] [--runs 300]

Subnets of the elastic zoo entry, smallest, middle and largest of its card, with weights of eight
and of four bits; the models are the same, their constants are stored in one way and in the other.
Flash is that of linked images, or of constants and linked code where a board is no
microcontroller. Instructions are exact under emulation; times are medians of inferences in turns,
so only their ratio counts.

Then test images that integer networks classify correctly, computed exactly as on the board, with
scales and biases as they are exported, and as nearest to the float network: what choosing them for
short constants costs. And the share of outputs that onnxruntime computes alike in integers and,
with the same model as written, in float, which rounds on the way: multipliers with odd mantissas
keep sums away from halves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import torch
from mcu import firmware_run, vectors_of

from edgeopt import devices
from edgeopt.codegen import ckernels, programs, toolchain, verify
from edgeopt.codegen.objects import object_size
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import ToolError
from edgeopt.core.space import SubnetConfig
from edgeopt.graph.build import build_onnx
from edgeopt.graph.importer import import_network
from edgeopt.ofa.data import ImageSet, load_images, normalize
from edgeopt.ofa.export import to_network
from edgeopt.ofa.plans import to_precision, uniform
from edgeopt.pipeline import bundle
from edgeopt.pipeline.artifact import Artifact, build_kernels, make_artifact
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_evaluate import count_exactly, session_of
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.quant import export
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model
from edgeopt.quant.narrow import narrowed_layers
from edgeopt.zoo import elastic
from edgeopt.zoo.elastic import ElasticEntry

NAME = "cifar_mbv3_q"


class Timed:
    """An artifact for this machine."""

    def __init__(self, artifact: Artifact, kernels: bytes, device: DeviceProfile) -> None:
        self._work = tempfile.TemporaryDirectory()
        engine = verify.engine_for(device)
        assert isinstance(engine, verify.Engine)
        self._engine = engine
        vectors = vectors_of(artifact, artifact.graph, 1)
        code = bundle.render_code("net", "benchmark", {}, artifact, kernels, vectors)
        built = programs.build(
            code.files, "net", toolchain.find(device), Path(self._work.name), wanted=("bench",)
        )
        self._program = built.paths["bench"]

    def median_ns(self, runs: int) -> float:
        """Of so many inferences."""
        arguments = ("--runs", str(runs), "--min-ms", "0", "--samples")
        text = verify.run_program(self._engine, self._program, arguments)
        return float(statistics.median(json.loads(text)["samples_ns"]))


def network_of(
    entry: ElasticEntry, net: ElasticNet, config: SubnetConfig, bits: int, *, packed: bool = True
) -> bytes:
    """The integer network as it is exported; else with its weights in eight bits each."""
    images = normalize(entry.calibration, entry.space)
    subnet = net.prepare(config, uniform(entry.space, bits), images)
    model = onnx.load_model_from_string(build_onnx(to_network(subnet.net)))
    ranges = calibrate(model, images.contiguous().numpy())
    plan = to_precision(entry.space, config, uniform(entry.space, bits if packed else 8))
    stored = subnet.stored()
    if not packed:
        stored = {name: replace(layer, bits=8) for name, layer in stored.items()}
    made = quantize_model(model, ranges, plan=plan, stored=stored)
    data: bytes = made.SerializeToString()
    return data


def compare(name: str, label: str, model: bytes, runs: int) -> None:
    """A row: words by two numbers a channel."""
    profile = devices.load(name).compacted()
    network = import_network(onnx.load_model_from_string(model))
    both = [
        make_artifact(network, replace(profile.target, narrow=narrow)) for narrow in (True, False)
    ]
    assert both[0].target.narrow
    constants = [artifact.weight_bytes for artifact in both]
    arenas = [artifact.plan.arena_bytes for artifact in both]
    if ckernels.applies(profile.target):
        done = []
        for artifact in both:
            vectors = vectors_of(artifact, network, 1)
            done.append(firmware_run(artifact, profile, vectors, "net"))
            assert all((done[-1].outputs[k] == v).all() for k, v in vectors.outputs.items())
        flash = [run.flash_bytes for run in done]
        ratio = done[0].run_instructions / done[1].run_instructions
        unit = "instructions"
    else:
        store = StageCache(default_cache_dir())
        kernels = [build_kernels(artifact, "net", store)[0] for artifact in both]
        code = [object_size(data).code_bytes for data in kernels]
        flash = [sum(pair) for pair in zip(constants, code, strict=True)]
        timed = [Timed(a, k, profile) for a, k in zip(both, kernels, strict=True)]
        ratios = []
        for _ in range(15):
            short, long = (one.median_ns(runs) for one in timed)
            ratios.append(short / long)
        ratio, unit = statistics.median(ratios), "time"
    print(
        f"{name:>14} {label:>14} {constants[0]:>9,} {constants[0] / constants[1]:>6.3f} "
        f"{flash[0]:>9,} {flash[0] / flash[1]:>6.3f} {arenas[0]:>8,} {arenas[0] - arenas[1]:>+6,} "
        f"{ratio:>6.3f} of the {unit}",
        flush=True,
    )


def alike(entry: ElasticEntry, net: ElasticNet, test: ImageSet) -> None:
    """Outputs that are the same in integers and in float execution."""
    print(f"\n{'weights':>8} {'short':>7} {'nearest':>7}  of outputs of {len(test)} images")
    for config in configs(entry):
        for bits in (8, 4):
            shares = []
            for narrowed in (narrowed_layers, lambda *parts: parts[-1]):
                with mock.patch.object(export, "narrowed_layers", narrowed):
                    model = network_of(entry, net, config, bits, packed=False)
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = 1
                options.graph_optimization_level = (
                    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                )
                real = onnxruntime.InferenceSession(
                    model, options, providers=["CPUExecutionProvider"]
                )
                integer = session_of(model)
                name, same = integer.get_inputs()[0].name, []
                for index in range(len(test)):
                    image = normalize(test.images[index : index + 1], entry.space)
                    given = {name: image.contiguous().numpy()}
                    one, other = (s.run(None, given)[0] for s in (integer, real))
                    same.append(float((np.abs(one - other) < 1e-6).mean()))
                shares.append(statistics.fmean(same))
            print(f"{f'w{bits}':>8} {shares[0]:>7.1%} {shares[1]:>7.1%}  {config}", flush=True)


def accuracies(entry: ElasticEntry, net: ElasticNet, test: ImageSet) -> None:
    """Images classified correctly either way."""
    print(f"\n{'weights':>8} {'short':>7} {'nearest':>7} {'more':>6}  of {len(test):,} images")
    differences = []
    for config in configs(entry):
        for bits in (8, 4, 2):
            given = net, config, uniform(entry.space, bits), entry.calibration, test
            short = count_exactly(*given)
            with mock.patch.object(export, "narrowed_layers", lambda *parts: parts[-1]):
                nearest = count_exactly(*given)
            differences.append(short - nearest)
            print(f"{f'w{bits}':>8} {short:>7,} {nearest:>7,} {short - nearest:>+6}  {config}",
                  flush=True)  # fmt: skip
    mean, error = statistics.fmean(differences), statistics.stdev(differences)
    error /= len(differences) ** 0.5
    print(f"{'mean':>8} {mean:>+22.1f}  (standard error {error:.1f})")


def configs(entry: ElasticEntry) -> list[SubnetConfig]:
    """The card's subnets, the smallest first."""
    names = dict.fromkeys(row.subnet for row in entry.card.rows)
    size = {row.subnet: row.weight_bytes for row in entry.card.rows if row.kind == "w8"}
    return [SubnetConfig.parse(name) for name in sorted(names, key=size.__getitem__)]


def main() -> None:
    """Compile, count, time and classify."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", default="nucleo-l4r5zi,mps3-an547,local")
    parser.add_argument("--runs", type=int, default=300, help="inferences a turn")
    parser.add_argument("--test", type=int, default=10_000, help="images; 0: no accuracies")
    parser.add_argument("--data", default=os.environ.get("EDGEOPT_DATA", ""))
    options = parser.parse_args()
    torch.set_num_threads(1)
    entry = elastic.load(NAME)
    net = load_elastic(entry.space, entry.weights, entry.quantizers)
    found = configs(entry)
    print(
        f"{'device':>14} {'network':>14} {'constants':>9} {'ratio':>6} {'flash':>9} {'ratio':>6} "
        f"{'arena':>8} {'more':>6} {'ratio':>6}"
    )
    three = {"smallest": found[0], "middle": found[len(found) // 2], "largest": found[-1]}
    for label, config in three.items():
        for bits in (8, 4):
            model = network_of(entry, net, config, bits)
            for name in options.devices.split(","):
                try:
                    compare(name, f"{label} w{bits}", model, options.runs)
                except ToolError as error:
                    if "will not fit" not in str(error):
                        raise
                    print(f"{name:>14} {label + f' w{bits}':>14} does not fit the emulated board")
    if options.test:
        archive = Path(options.data) / "cifar10" / "cifar10_jpeg.npz"
        test = load_images(archive, "test", max(entry.space.resolutions)).head(options.test)
        accuracies(entry, net, test)
        alike(entry, net, test.head(150))


if __name__ == "__main__":
    main()

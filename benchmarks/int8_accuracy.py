"""What int8 costs in accuracy: ten subnets of the zoo's space, on all CIFAR-10 test images.

    EDGEOPT_DATA=... python benchmarks/int8_accuracy.py [--methods mse percentile] [--random 8]
        [--sources real distilled] [--limit 10000] [--weights FILE] [--ort 0]

Subnets are the largest, the smallest and random ones (seeds 0 to 7). Batch norms are recalibrated
and activation ranges chosen on the same images: training images (``real``), or those that ship
with the zoo (``distilled``), so each row compares fp32 and int8 of one network. int8 accuracy is
that of the exact simulation; ``--ort N`` also runs the first N test images in onnxruntime and
reports how many scores equal the simulation's.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeopt.core.space import SubnetConfig
from edgeopt.graph.build import build_onnx
from edgeopt.graph.importer import import_network
from edgeopt.graph.load import parse_model
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.checkpoint import load_weights
from edgeopt.ofa.data import load_images, normalize
from edgeopt.ofa.export import to_network
from edgeopt.ofa.extract import extract
from edgeopt.ofa.spaces import load_space
from edgeopt.ofa.supernet import Supernet
from edgeopt.quant.calibration import Calibration, calibrate
from edgeopt.quant.evaluate import evaluate_int8
from edgeopt.quant.export import quantize_model
from edgeopt.quant.simulate import simulate

ZOO = Path(__file__).resolve().parent.parent / "edgeopt" / "zoo" / "cifar_mbv3"


def subnets(supernet: Supernet, count: int) -> dict[str, SubnetConfig]:
    space = supernet.space
    found = {"largest": space.max_config(), "smallest": space.min_config()}
    for seed in range(count):
        found[f"random {seed}"] = space.sample(random.Random(seed))
    return found


@torch.no_grad()
def accuracy(static: torch.nn.Module, images: torch.Tensor, labels: np.ndarray) -> float:
    right = 0
    for start in range(0, len(images), 250):
        found = static(images[start : start + 250]).argmax(1).numpy()
        right += int((found == labels[start : start + 250]).sum())
    return 100.0 * right / len(images)


def agreement(model: Any, network: Any, images: np.ndarray) -> tuple[float, float]:
    """Share of equal scores, in percent, and the largest difference in steps."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    name = session.get_inputs()[0].name
    theirs = np.concatenate([session.run(None, {name: image[None]})[0] for image in images])
    ours = simulate(network, images, channels_first=True)
    quant = network.tensors[network.ops[-1].inputs[0]].quant
    steps = np.abs(np.rint((theirs - ours) / quant.scale))
    return 100.0 * float((steps == 0).mean()), float(steps.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOPT_DATA"))
    parser.add_argument("--weights", type=Path, default=ZOO / "weights.npz")
    parser.add_argument("--space", default="cifar")
    parser.add_argument("--methods", nargs="+", default=["mse", "percentile"])
    parser.add_argument("--percentile", type=float, default=99.99)
    parser.add_argument("--sources", nargs="+", default=["real", "distilled"])
    parser.add_argument("--random", type=int, default=8)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=512, help="for activation ranges")
    parser.add_argument("--bn-images", type=int, default=2000, help="for batch norms")
    parser.add_argument("--weight-method", default="max")
    parser.add_argument("--no-bias-correction", action="store_true")
    parser.add_argument("--ort", type=int, default=0)
    args = parser.parse_args()
    if args.data is None:
        parser.error("set EDGEOPT_DATA, or give --data")

    space = load_space(args.space)
    supernet = load_weights(space, args.weights)
    archive = Path(args.data) / "cifar10" / "cifar10_jpeg.npz"
    test = load_images(archive, "test", 32).head(args.limit)
    pictures, labels = normalize(test.images, space), test.labels
    stored = np.ascontiguousarray(pictures.permute(0, 2, 3, 1).numpy())
    available = {"real": load_images(archive, "train", 32).head(args.bn_images).images}
    distilled = ZOO / "calibration.npz"
    if distilled.exists():
        available["distilled"] = np.load(distilled)["images"]

    worst: dict[tuple[str, str], list[float]] = {}
    head = "| images | subnet | M MACs | fp32 % | " + " | ".join(f"{m} %" for m in args.methods)
    print(head + " | calibration s |", flush=True)
    print("|---" * (5 + len(args.methods)) + "|", flush=True)
    for source in args.sources:
        if source not in available:
            print(f"| {source} | no such images yet |")
            continue
        calibration = normalize(available[source], space)
        for title, config in subnets(supernet, args.random).items():
            static = extract(supernet, config)
            recalibrate_bn(static, calibration[: args.bn_images])
            fp32 = accuracy(static, pictures, labels)
            network = to_network(static)
            model = parse_model(build_onnx(network))
            cells, notes, seconds = [], "", 0.0
            for method in args.methods:
                started = time.perf_counter()
                ranges: Calibration = calibrate(
                    model,
                    calibration[: args.images].contiguous().numpy(),
                    method=method,
                    percentile=args.percentile,
                )
                seconds = max(seconds, time.perf_counter() - started)
                quantized = quantize_model(
                    model,
                    ranges,
                    weight_method=args.weight_method,
                    bias_correction=not args.no_bias_correction,
                )
                integer = import_network(quantized, isolated=False)
                int8 = evaluate_int8(integer, stored, labels)
                cells.append(f"{int8:.2f} ({int8 - fp32:+.2f})")
                worst.setdefault((source, method), []).append(fp32 - int8)
                if args.ort and method == args.methods[0]:
                    few = pictures[: args.ort].contiguous().numpy()
                    same, steps = agreement(quantized, integer, few)
                    notes = f" ort {same:.2f} % equal, {steps:.0f} steps"
            row = f"| {source} | {title} | {network.macs / 1e6:.1f} | {fp32:.2f} | "
            print(row + " | ".join(cells) + f" | {seconds:.1f}{notes} |", flush=True)
    for (source, method), losses in worst.items():
        mean = sum(losses) / len(losses)
        print(
            f"{source}, {method}: loss {mean:+.2f} points on average, {max(losses):+.2f} at worst"
        )


if __name__ == "__main__":
    main()

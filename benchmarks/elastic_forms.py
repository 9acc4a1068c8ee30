"""Scales by layer, channel or group, with zero points or without: what each keeps of accuracy.

Quantizers of every form are fitted to the weights of a zoo supernet, without training. One set of
integers of eight bits serves all widths of a form. Weights are quantized, activations in float,
batch norms calibrated on real images. ``overhead`` are the bits a weight that scales (32) and zero
points (8) add in the largest subnet. Kernels take the first two forms.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from edgeopt import zoo
from edgeopt.core.precision import LayerPrecision
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.data import load_images, normalize
from edgeopt.ofa.evaluate import count_right, fold_batch_norm
from edgeopt.ofa.plans import read_evaluations, uniform
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.zoo_build import spread

WIDTHS = (8, 4, 3, 2)
FORMS = {
    "channel": LayerPrecision(),
    "layer": LayerPrecision(granularity="tensor"),
    "channel, zero points": LayerPrecision(symmetric=False),
    "groups of 32": LayerPrecision(granularity="group", group=32),
    "groups of 32, zero points": LayerPrecision(granularity="group", group=32, symmetric=False),
    "groups of 8": LayerPrecision(granularity="group", group=8),
}


def overhead(net: ElasticNet) -> float:
    """Bits a weight that scales and zero points add."""
    scales = weights = 0
    for name, layer in net.net.weight_layers().items():
        if not name.endswith(".depth.conv"):
            scales += net.quantizer(name).log_scale.numel()
            weights += layer.weight.numel()
    return scales * (32 + (0 if net.form.symmetric else 8)) / weights


def subnets(entry: zoo.ZooEntry, space: SearchSpace, count: int) -> list[SubnetConfig]:
    rows = read_evaluations((entry.folder / "evaluations.csv").read_bytes(), space)
    return [row.config for row in spread(rows, count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOPT_DATA"))
    parser.add_argument("--supernet", default="cifar_mbv3")
    parser.add_argument("--subnets", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    options = parser.parse_args()
    if options.data is None:
        parser.error("set EDGEOPT_DATA, or give --data")
    torch.set_num_threads(1)
    entry = zoo.load(options.supernet)
    space, data = entry.space, Path(options.data) / "cifar10" / "cifar10_jpeg.npz"
    size = max(space.resolutions)
    real = normalize(load_images(data, "train", size).head(1000).images, space)
    test = load_images(data, "test", size).head(options.images)
    images = normalize(test.images, space)
    configs = subnets(entry, space, options.subnets)

    def accuracies(net: ElasticNet, bits: int | None) -> list[float]:
        plan = None if bits is None else uniform(space, bits)
        return [
            100 * count_right(fold_batch_norm(net.prepare(c, plan, real).net), images, test.labels)
            / len(test) for c in configs
        ]  # fmt: skip

    print(f"{len(configs)} subnets of {entry.name}, {len(test):,} test images, not trained")
    plain = np.array(accuracies(load_elastic(space, entry.weights, None), None))
    print(f"fp32: {plain.mean():.2f} %; points against it, mean (worst)")
    print(f"{'form':<26} {'overhead':>8}  " + "  ".join(f"{f'w{b}':>15}" for b in WIDTHS))
    for name, form in FORMS.items():
        net = load_elastic(space, entry.weights, None, form)
        cells = []
        for bits in WIDTHS:
            gaps = np.array(accuracies(net, bits)) - plain
            cells.append(f"{f'{gaps.mean():+.2f} ({gaps.min():+.2f})':>15}")
        print(f"{name:<26} {overhead(net):>8.2f}  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()

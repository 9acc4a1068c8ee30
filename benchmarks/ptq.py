"""What quantizing without training costs: recipes, widths, sources of images, mixed plans.

    EDGEOPT_DATA=... python benchmarks/ptq.py [--subnets 5] [--images 2000] [--final 10000]
        [--recipes plain mse bias even full] [--bits 8 4 3 2] [--average 4 3.5 3] [--adaround 1]

Subnets of the zoo, in float and with weights of 8, 4, 3 and 2 bits (depthwise layers keep 8),
activations of 8 bits, top-1 on CIFAR-10's test images in the exact integer simulation. Recipes,
each with what is before it: ``plain`` rounding to nearest; ``mse`` scales with the least squared
error; ``bias`` correction; ``even``: equalization across layers; ``full``: rounding with
compensation, layer by layer. ``distilled`` are the images that ship with the zoo, made without
data. Mixed plans come from the measured sensitivity by integer programming. ``adaround`` is
gradient descent on the rounding of the first subnet (Nagel et al. 2020), on the same objective,
beside compensation.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

import numpy as np
import torch

from edgeopt.core import lowbits
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.graph.build import build_onnx
from edgeopt.graph.importer import import_network
from edgeopt.graph.load import parse_model
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.checkpoint import load_weights
from edgeopt.ofa.data import load_images, normalize
from edgeopt.ofa.export import to_network
from edgeopt.ofa.extract import extract
from edgeopt.ofa.spaces import load_space
from edgeopt.quant import rounding, sensitivity
from edgeopt.quant.allocate import allocate, average_limit
from edgeopt.quant.evaluate import evaluate_int8
from edgeopt.quant.export import quantize_model
from edgeopt.quant.ptq import Prepared, Recipe, prepare

ZOO = Path(__file__).resolve().parent.parent / "edgeopt" / "zoo" / "cifar_mbv3"
PLAIN = {"scales": "max", "bias_correction": False, "equalization": False, "rounding": "nearest"}
RECIPES = {
    "plain": PLAIN,
    "mse": PLAIN | {"scales": "mse"},
    "bias": PLAIN | {"scales": "mse", "bias_correction": True},
    "even": PLAIN | {"scales": "mse", "bias_correction": True, "equalization": True},
    "full": {},
}


def uniform(prepared: Prepared, bits: int) -> PrecisionPlan:
    """So many bits, and eight in depthwise layers."""
    return PrecisionPlan(layers={
        name: LayerPrecision(8 if layer.depthwise else bits)
        for name, layer in prepared.layers.items()
    })  # fmt: skip


def mixed(prepared: Prepared, average: float) -> PrecisionPlan:
    """The plan of least measured sensitivity with so many bits a weight on average."""
    widths = {
        name: (8,) if layer.depthwise else (8, 4, 2) for name, layer in prepared.layers.items()
    }
    rated = sensitivity.measured(prepared, widths)
    found = allocate(rated, [average_limit(prepared.counts, widths, average)])
    return PrecisionPlan(layers={name: LayerPrecision(b) for name, b in found.bits.items()})


def accuracy(
    prepared: Prepared, plan: PrecisionPlan, images: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """Top-1 in percent, and seconds that rounding took."""
    started = time.process_time()
    stored = prepared.store(plan)
    seconds = time.process_time() - started
    model = quantize_model(prepared.model, prepared.calibration, plan=plan, stored=stored)
    network = import_network(model, isolated=False)
    return evaluate_int8(network, images, labels, channels_first=True), seconds


def float_accuracy(prepared: Prepared, images: np.ndarray, labels: np.ndarray) -> float:
    right = 0
    stored = np.ascontiguousarray(images.transpose(prepared.perm))
    with torch.no_grad():
        seen = 0
        for x in prepared.torch.batches(stored):
            found = prepared.torch.output(x).argmax(1).numpy()
            right += int((found == labels[seen : seen + len(x)]).sum())
            seen += len(x)
    return 100.0 * right / len(labels)


def adaround(
    weight: np.ndarray, gram: np.ndarray, scale: np.ndarray, bits: int, steps: int = 1000
) -> np.ndarray:
    """Up or down for each weight by gradient descent, as Nagel et al. regularize it."""
    w, a, s = (torch.from_numpy(v) for v in (weight, gram, scale))
    bound, odd = lowbits.largest(bits), int(lowbits.is_odd(bits))
    gap = 1 + odd
    low = gap * torch.floor((w / s - odd) / gap) + odd
    rest = ((w / s - low) / gap).clamp(0.01, 0.99)
    # A stretched sigmoid, so that 0 and 1 are reached.
    v = torch.log((rest + 0.1) / (1.1 - rest)).requires_grad_()
    descent = torch.optim.Adam([v], 1e-2)
    unit = float(torch.einsum("goi,gij,goj->", w, a, w)) / w.numel() + 1e-12
    for step in range(steps):
        up = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
        off = (low + gap * up).clamp(-bound, bound) * s - w
        loss = torch.einsum("goi,gij,goj->", off, a, off) / unit
        beta = 20 + (2 - 20) * step / steps
        if step > steps // 5:
            loss = loss + 0.01 * (1 - (2 * up - 1).abs() ** beta).sum()
        descent.zero_grad()
        loss.backward()
        descent.step()
    up = (torch.sigmoid(v.detach()) > 0.5).double()
    return np.asarray((low + gap * up).clamp(-bound, bound))


class Adaround:
    """Stands in for `rounding.fitted`."""

    def __call__(
        self, weight: np.ndarray, gram: np.ndarray, scale: np.ndarray, bits: int
    ) -> tuple[np.ndarray, np.ndarray]:
        with torch.enable_grad():
            return adaround(weight, gram, scale, bits), scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOPT_DATA"))
    parser.add_argument("--subnets", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000, help="of the sweep over recipes")
    parser.add_argument("--final", type=int, default=10_000, help="of the last rows; 0 for none")
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3, 2])
    parser.add_argument("--average", nargs="*", type=float, default=[4.0, 3.5, 3.0])
    parser.add_argument("--adaround", type=int, default=1, help="subnets it is run on")
    args = parser.parse_args()
    if args.data is None:
        parser.error("set EDGEOPT_DATA, or give --data")

    space = load_space("cifar")
    supernet = load_weights(space, ZOO / "weights.npz")
    archive = Path(args.data) / "cifar10" / "cifar10_jpeg.npz"
    test = load_images(archive, "test", 32)
    pictures, labels = normalize(test.images, space).contiguous().numpy(), test.labels
    sources = {
        "real": load_images(archive, "train", 32).head(2000).images,
        "distilled": np.load(ZOO / "calibration.npz")["images"],
    }
    configs = {"smallest": space.min_config(), "largest": space.max_config()}
    configs |= {f"random {seed}": space.sample(random.Random(seed)) for seed in range(3)}
    few, known = pictures[: args.images], labels[: args.images]

    print(f"{args.images} test images, {args.calibration} to calibrate on")
    heads = [f"w{bits}" for bits in args.bits]
    print(f"{'subnet':10} {'images':10} {'recipe':8} {'fp32':>6} "
          + " ".join(f"{head:>6}" for head in heads) + "   s")  # fmt: skip
    finals = []
    for number, (title, config) in enumerate(list(configs.items())[: args.subnets]):
        for source, images in sources.items():
            calibration = normalize(images, space)
            static = extract(supernet, config)
            recalibrate_bn(static, calibration[:2000])
            static.eval()
            model = parse_model(build_onnx(to_network(static)))
            given = calibration[: args.calibration].contiguous().numpy()
            names = [n for n in args.recipes if source == "real" or n == "full"]
            for name in names:
                prepared = prepare(model, given, Recipe(**RECIPES[name]))
                exact = float_accuracy(prepared, few, known)
                runs = [accuracy(prepared, uniform(prepared, b), few, known) for b in args.bits]
                cells = " ".join(f"{found:6.2f}" for found, _ in runs)
                print(f"{title:10} {source:10} {name:8} {exact:6.2f} {cells} "
                      f"{sum(s for _, s in runs):5.1f}", flush=True)  # fmt: skip
            if source == "real":
                prepared = prepare(model, given)
                finals.append((title, prepared))
            if source == "real" and number < args.adaround:
                ours, rounding.fitted = rounding.fitted, Adaround()  # type: ignore[assignment]
                runs = [accuracy(prepared, uniform(prepared, b), few, known) for b in args.bits]
                rounding.fitted = ours
                cells = " ".join(f"{found:6.2f}" for found, _ in runs)
                print(f"{title:10} {source:10} {'adaround':8} {exact:6.2f} {cells} "
                      f"{sum(s for _, s in runs):5.1f}", flush=True)  # fmt: skip
    if not args.final:
        return
    every, truth = pictures[: args.final], labels[: args.final]
    print(f"\n{len(every)} test images, recipe full, real images; points lost against fp32")
    kinds = [("w8", 8.0), ("w4", 4.0), *((f"mixed {a:g}", a) for a in args.average)]
    for title, prepared in finals:
        exact = float_accuracy(prepared, every, truth)
        cells = []
        for kind, bits in kinds:
            uniformly = kind.startswith("w")
            plan = uniform(prepared, int(bits)) if uniformly else mixed(prepared, bits)
            found, _ = accuracy(prepared, plan, every, truth)
            average = plan.average_bits(prepared.counts)
            cells.append(f"{kind} {exact - found:+.2f} ({average:.2f} bits)")
        print(f"{title:10} fp32 {exact:.2f}: " + ", ".join(cells), flush=True)
    print("goals: w8 within 0.5, w4 within 1.5, mixed plans of 3 to 4 bits within 1.0")


if __name__ == "__main__":
    main()

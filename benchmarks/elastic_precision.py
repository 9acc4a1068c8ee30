"""One elastic supernet against the same subnets quantized alone, and the zoo entry's card.

    EDGEOPT_DATA=... python benchmarks/elastic_precision.py [--steps 7887] [--work FOLDER] [--own]
                                                                [--subnets smallest,middle]

Every run starts from the fp32 zoo weights, with the plans and guides of `edgeopt train --quantize`.
The elastic supernet is the one that ships; a subnet alone gets ``--steps`` steps, by default a
fifth of the supernet's: what each of the card's five subnets has if all are made from one budget.
With ``--own`` the elastic run is made here, of as many steps as the runs alone. Accuracies: uniform
bits, quantized weights and float activations, batch norms measured on 2,000 training images, all
test images. A run is resumed from --work. Without names in --subnets nothing is trained. Last come
the accuracies of the largest subnets that guide: of fp32 weights, and of the entry at eight bits.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgeopt import zoo
from edgeopt.core.space import SubnetConfig
from edgeopt.ofa.data import load_images, normalize
from edgeopt.ofa.evaluate import count_right, fold_batch_norm
from edgeopt.ofa.plans import uniform
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.elastic_train import (
    QuantizeOptions,
    Start,
    guide_of,
    quantize_supernet,
)
from edgeopt.zoo import elastic
from edgeopt.zoo.elastic import ElasticEntry

WIDTHS = (8, 4, 3, 2)
SUBNETS = ("smallest", "middle")
#: Points that a width may lose against fp32, mixed plans of 3 to 4 bits among them.
GOALS = {"w8": 0.5, "w4": 1.5, "mixed 4": 1.0, "mixed 3.5": 1.0, "mixed 3": 1.0}


@dataclass(frozen=True, slots=True)
class Trial:
    """What all runs have in common."""

    base: zoo.ZooEntry
    data: Path
    work: Path
    options: QuantizeOptions
    shipped: ElasticEntry | None = None  # instead of an elastic run

    def scores(self, label: str, only: str, configs: list[SubnetConfig]) -> list[dict[int, float]]:
        """Per cent by bits of each subnet after a run; after fitting alone for the label fitted."""
        space = self.base.space
        torch.set_num_threads(1)
        if label == "fitted":
            net = load_elastic(space, self.base.weights, None)
        elif label == "elastic" and self.shipped is not None:
            net = load_elastic(space, self.shipped.weights, self.shipped.quantizers)
        else:
            options = replace(self.options, only=only)
            found = quantize_supernet(
                space, Start(self.base.weights), self.data, self.work / label, options,
                lambda event: print(label, dict(event), file=sys.stderr, flush=True),
            )  # fmt: skip
            net = load_elastic(space, found.weights, found.quantizers)
        size = max(space.resolutions)
        real = normalize(load_images(self.data, "train", size).head(2000).images, space)
        test = load_images(self.data, "test", size)
        images = normalize(test.images, space)
        rows: list[dict[int, float]] = []
        for config in configs:
            row = {}
            for bits in WIDTHS:
                static = fold_batch_norm(net.prepare(config, uniform(space, bits), real).net)
                row[bits] = 100 * count_right(static, images, test.labels) / len(test)
            rows.append(row)
        return rows


def alone(trial: Trial, steps: int, names: list[str]) -> None:
    """Print the elastic run beside runs of one subnet each."""
    space = trial.base.space
    known = dict(zip(SUBNETS, (space.min_config(), space.uniform(3, 3, 2)), strict=True))
    configs = {name: known[name] for name in names}
    fitted = trial.scores("fitted", "", list(configs.values()))
    shared = trial.scores("elastic", "", list(configs.values()))
    print(f"{steps} steps of {trial.options.batch} images alone, from the weights of "
          f"{trial.base.name}; per cent of all test images")  # fmt: skip
    title = "elastic, as many steps"
    if trial.shipped is not None:
        title = f"{trial.shipped.name}, {trial.shipped.card.training['steps']:,} steps"
    print(f"{'subnet':<10} {'run':<26}" + "".join(f"{f'w{b}':>8}" for b in WIDTHS))
    for index, (name, config) in enumerate(configs.items()):
        own = trial.scores(f"alone-{name}", str(config), [config])[0]
        for label, row in (
            ("fitted, no training", fitted[index]),
            (title, shared[index]),
            ("alone", own),
        ):
            print(f"{name:<10} {label:<26}" + "".join(f"{row[b]:8.2f}" for b in WIDTHS))
        gaps = {bits: shared[index][bits] - own[bits] for bits in WIDTHS}
        print(f"{name:<10} {'elastic - alone (goal >= 0)':<26}" + _gaps(gaps))


def _gaps(gaps: Mapping[int, float]) -> str:
    return "".join(f"{gaps[bits]:+8.2f}" for bits in WIDTHS)


def guides(trial: Trial) -> None:
    """Print what the largest subnet has, which guides: from fp32 weights, and from the entry."""
    space, entry = trial.base.space, trial.shipped
    if entry is None:
        return
    size = max(space.resolutions)
    real = normalize(load_images(trial.data, "train", size).head(2000).images, space)
    test = load_images(trial.data, "test", size)
    images, labels = normalize(test.images, space), torch.from_numpy(test.labels).long()
    form = trial.options.form
    found = {
        "fp32": guide_of(space, Start(trial.base.weights), form, real),
        f"{entry.name} in w8": guide_of(space, Start(entry.weights, entry.quantizers), form, real),
    }
    print(f"largest subnet as a guide, {len(test):,} test images")
    with torch.no_grad():
        for name, net in found.items():
            logits = torch.cat([net(part) for part in images.split(500)])
            right = 100 * float((logits.argmax(1) == labels).float().mean())
            nats = float(torch.nn.functional.cross_entropy(logits, labels))
            print(f"{name:<26} {right:6.2f} %  {nats:.3f} nats a label")


def card() -> None:
    """Print the shipped entries' losses beside the goals."""
    for name in elastic.names():
        entry = elastic.load(name)
        rows = entry.card.rows
        subnets = len({row.subnet for row in rows})
        print(f"{name}: {subnets} subnets, {rows[0].images} test images, integers alone; "
              "points lost against fp32")  # fmt: skip
        for kind in dict.fromkeys(row.kind for row in rows):
            losses = [100 * (row.fp32 - row.accuracy) for row in rows if row.kind == kind]
            goal = f"  goal {GOALS[kind]:g}" if kind in GOALS else ""
            mean = statistics.fmean(losses)
            print(f"{kind:<10} mean {mean:6.2f}  worst {max(losses):6.2f}{goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="of runs alone; else a fifth of the entry's")
    parser.add_argument("--subnets", default="smallest,middle", help="those run alone, if any")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--own", action="store_true", help="train the elastic supernet here too")
    given = parser.parse_args()
    names = [name for name in given.subnets.split(",") if name]
    if unknown := sorted(set(names) - set(SUBNETS)):
        parser.error(f"no subnet {', '.join(unknown)}; there are {', '.join(SUBNETS)}")
    data = Path(os.environ.get("EDGEOPT_DATA", "")) / "cifar10" / "cifar10_jpeg.npz"
    if not data.is_file():
        sys.exit("set EDGEOPT_DATA to a folder that holds cifar10/cifar10_jpeg.npz")
    entry = elastic.load("cifar_mbv3_q")
    steps = given.steps or int(str(entry.card.training["steps"])) // 5
    options = QuantizeOptions(
        epochs=steps * 128 / 50_000, workers=given.workers, evaluate_seconds=1e9
    )
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        shipped = None if given.own else entry
        trial = Trial(zoo.load("cifar_mbv3"), data, work, options, shipped)
        if names:
            alone(trial, steps, names)
    card()
    guides(trial)


if __name__ == "__main__":
    main()

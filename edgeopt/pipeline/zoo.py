"""Build a zoo entry from trained weights: calibrate, measure, fit, describe.

Run as ``python -m edgeopt.pipeline.zoo --data DATA --weights W --out zoo/NAME``. Every step keeps
its result in the work folder under a name that holds the digest of what went in; a run that is
cut goes on where it stopped. The entry appears complete, or not at all.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgeopt.core.files import digest, read_bytes
from edgeopt.core.space import SearchSpace, SubnetConfig, parse_space
from edgeopt.ofa.checkpoint import load_weights
from edgeopt.ofa.data import ImageSet, check_labels, load_images, normalize
from edgeopt.ofa.describe import describe
from edgeopt.ofa.distill import DistillOptions
from edgeopt.ofa.evaluate import Evaluation, evaluate_subnets, prepare
from edgeopt.ofa.extract import StaticNet
from edgeopt.ofa.genes import SubnetDomain
from edgeopt.ofa.predictor import fit_predictor
from edgeopt.ofa.supernet import Supernet
from edgeopt.pipeline.zoo_build import (
    About,
    Say,
    add_common,
    distilled,
    install,
    npz,
    of_all_sizes,
    run_main,
    spread,
)
from edgeopt.pipeline.zoo_card import render_card
from edgeopt.pipeline.zoo_int8 import measure_int8
from edgeopt.zoo import load_folder
from edgeopt.zoo.card import SCHEMA, Accuracy, Calibration, Card, Int8
from edgeopt.zoo.entries import CARD, FILES

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ZooOptions:
    """How much is measured."""

    subnets: int = 210  # besides the largest and the smallest
    fresh: int = 12  # both real and shipped images are compared on
    real_images: int = 2000
    anchors: int = 8  # statistics are taken from
    int8_subnets: int = 10
    test_images: int | None = None  # None: all
    workers: int = 2
    seed: int = 0
    distill: DistillOptions = DistillOptions()  # noqa: RUF009 (frozen)


def build_entry(
    space_file: Path,
    weights: Path,
    data: Path,
    out: Path,
    *,
    work: Path,
    options: ZooOptions | None = None,
    training: Mapping[str, str | int | float] | None = None,
    licences: Mapping[str, str] | None = None,
    say: Say = lambda text: None,
) -> Card:
    """Measure a trained supernet and write the zoo entry ``out``.

    Args:
        space_file: the search space, TOML.
        weights: what `edgeopt train` wrote.
        data: npz file or folder with train and test images.
        out: the entry's folder; its name is the entry's name. Files in it are replaced.
        work: folder for intermediate results.
        options: see `ZooOptions`.
        training: how the weights were trained, for the card.
        licences: what the parts may be used for, for the card.
        say: told what is being done.

    Raises:
        InputError: something given cannot be used.
    """
    options = options or ZooOptions()
    torch.set_num_threads(1)  # as in the workers: more threads wait for each other
    work.mkdir(parents=True, exist_ok=True)
    space_text = read_bytes(space_file, max_bytes=FILES["space.toml"], noun="search space")
    space = parse_space(space_text.decode(), str(space_file))
    weight_bytes = read_bytes(weights, max_bytes=FILES["weights.npz"], noun="weights file")
    supernet = load_weights(space, weights)
    size = max(space.resolutions)
    train = load_images(data, "train", size, space.in_channels).head(options.real_images)
    test = load_images(data, "test", size, space.in_channels)
    check_labels(test, space, str(data))
    test = test if options.test_images is None else test.head(options.test_images)
    job = _Build(space, supernet, digest(weight_bytes)[:12], train, test, work, options, say)

    calibration = job.calibration()
    results = job.measure("shipped", job.sample(), calibration)
    cost = job.calibration_cost(results, calibration)
    say("fitting the predictor")
    predictor = fit_predictor(
        space, [r.config for r in results], [r.accuracy for r in results], seed=options.seed
    )
    int8 = job.int8(results, calibration)
    files = {
        "space.toml": space_text,
        "weights.npz": weight_bytes,
        "calibration.npz": npz(calibration),
        "predictor.json": predictor.dump(),
        "evaluations.csv": _csv(results),
    }
    card = Card(
        schema=SCHEMA,
        name=out.name,
        summary=space.summary,
        space=space.name,
        macs_largest=describe(space, space.max_config()).macs,
        macs_smallest=describe(space, space.min_config()).macs,
        accuracy=_accuracy(space, results),
        calibration=cost,
        int8=int8,
        prediction=predictor.document.summary(),
        training=dict(training or {}),
        licences=dict(licences or {}),
        digests={name: digest(content) for name, content in files.items()},
    )
    install(out, files, (CARD, card), render_card(card, space), load_folder)
    return card


@dataclass(frozen=True, slots=True, eq=False)
class _Build:
    space: SearchSpace
    supernet: Supernet
    weights_id: str
    train: ImageSet
    test: ImageSet
    work: Path
    options: ZooOptions
    say: Say

    def calibration(self) -> U8:
        """Images distilled from the statistics that real ones cause in the anchors."""
        options = self.options
        recipe = digest(repr((options.distill, options.anchors, len(self.train))).encode())[:8]
        kept = self.work / f"distilled-{self.weights_id}-{recipe}.npz"

        def nets() -> list[StaticNet]:
            real = normalize(self.train.images, self.space)
            rng = random.Random(f"{options.seed}/anchors")
            anchors = [self.space.max_config(), self.space.min_config()]
            while len(anchors) < options.anchors:
                anchors.append(self.space.sample(rng))
            return [prepare(self.supernet, config, real) for config in anchors]

        return distilled(nets, self.space, options.distill, kept, self.say)

    def sample(self) -> list[SubnetConfig]:
        """Extremes, then draws that reach all sizes, half of them uniform."""
        space, wanted = self.space, min(self.options.subnets + 2, SubnetDomain(self.space).size)
        uniform = random.Random(f"{self.options.seed}/sample")
        found = dict.fromkeys((space.max_config(), space.min_config()))
        draws = of_all_sizes(space, self.options.seed)
        while len(found) < wanted:
            found[next(draws)] = None
            if len(found) < wanted:
                found[space.sample(uniform)] = None
        return list(found)

    def measure(
        self, label: str, configs: Sequence[SubnetConfig], calibration: U8
    ) -> list[Evaluation]:
        """Test accuracies, from the journal where they are there already."""
        inputs = digest(calibration.tobytes() + repr(self.test.images.shape).encode())[:8]
        started = time.monotonic()

        def tell(result: Evaluation, done: int, planned: int) -> None:
            if done % 10 == 0 or done == planned:
                rate = time.monotonic() - started
                self.say(f"{label} images: {done} of {planned} subnets, {rate:.0f} s, "
                         f"last {result.accuracy:.2%}")  # fmt: skip

        return evaluate_subnets(
            self.supernet, configs, calibration, self.test,
            journal=self.work / f"evaluations-{label}-{self.weights_id}-{inputs}.jsonl",
            workers=self.options.workers, on_result=tell,
        )  # fmt: skip

    def calibration_cost(self, results: Sequence[Evaluation], calibration: U8) -> Calibration:
        """Real against shipped images on fresh subnets, and on the extremes."""
        rng = random.Random(f"{self.options.seed}/fresh")
        fresh = [self.space.sample(rng) for _ in range(self.options.fresh)]
        extremes = [self.space.max_config(), self.space.min_config()]
        shipped = self.measure("shipped", fresh, calibration)
        real = self.measure("real", [*extremes, *fresh], self.train.images)
        losses = [r.accuracy - s.accuracy for r, s in zip(real[2:], shipped, strict=True)]
        return Calibration(
            images=len(calibration),
            real_images=len(self.train),
            subnets=len(fresh),
            real_mean=statistics.fmean(r.accuracy for r in real[2:]),
            shipped_mean=statistics.fmean(s.accuracy for s in shipped),
            mean_loss=statistics.fmean(losses),
            worst_loss=max(losses),
            largest_real=real[0].accuracy,
            smallest_real=real[1].accuracy,
        )

    def int8(self, results: Sequence[Evaluation], calibration: U8) -> Int8 | None:
        """Accuracy of quantized subnets, spread evenly over the measured accuracies."""
        count = min(self.options.int8_subnets, len(results))
        if not count:
            return None
        inputs = digest(calibration.tobytes() + repr(self.test.images.shape).encode())[:8]
        kept = self.work / f"int8-{self.weights_id}-{inputs}.json"
        return measure_int8(
            self.supernet, spread(results, count), calibration, self.test, kept, self.say
        )


def _accuracy(space: SearchSpace, results: Sequence[Evaluation]) -> Accuracy:
    by_config = {r.config: r.accuracy for r in results}
    values = list(by_config.values())
    return Accuracy(
        subnets=len(values),
        images=results[0].images,
        minimum=min(values),
        median=statistics.median(values),
        maximum=max(values),
        largest=by_config[space.max_config()],
        smallest=by_config[space.min_config()],
    )


def _csv(results: Sequence[Evaluation]) -> bytes:
    lines = ["subnet,right,images,accuracy"]
    lines += [f"{r.config},{r.right},{r.images},{r.accuracy:.4f}" for r in results]
    return ("\n".join(lines) + "\n").encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; gives the exit code."""
    usual = ZooOptions()
    parser = argparse.ArgumentParser(
        prog="python -m edgeopt.pipeline.zoo", description="Build a zoo entry."
    )
    parser.add_argument("--space", type=Path, required=True, help="search space, TOML")
    parser.add_argument("--weights", type=Path, required=True, help="trained weights, npz")
    parser.add_argument("--subnets", type=int, default=usual.subnets)
    parser.add_argument("--int8-subnets", type=int, default=usual.int8_subnets)
    parser.add_argument("--test-images", type=int, help="fewer than all, for a trial")
    parser.add_argument("--distill-steps", type=int, default=usual.distill.steps)
    add_common(parser, usual.workers)

    def run(given: argparse.Namespace, about: About, say: Say) -> str:
        card = build_entry(
            given.space, given.weights, given.data, given.out, work=given.work,
            options=ZooOptions(
                subnets=given.subnets, int8_subnets=given.int8_subnets,
                test_images=given.test_images, workers=given.workers,
                distill=DistillOptions(steps=given.distill_steps),
            ),
            training=about.get("training"), licences=about.get("licences"), say=say,
        )  # fmt: skip
        return f"largest {card.accuracy.largest:.2%}, smallest {card.accuracy.smallest:.2%}"

    return run_main(parser.parse_args(arguments), run)


if __name__ == "__main__":
    raise SystemExit(main())

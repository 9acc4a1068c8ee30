"""Build a zoo entry from trained weights: calibrate, measure, fit, describe.

Run as ``python -m edgeopt.pipeline.zoo --data DATA --weights W --out zoo/NAME``. Every step keeps
its result in the work folder under a name that holds the digest of what went in; a run that is
cut goes on where it stopped. The entry appears complete, or not at all.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgeopt.core.errors import EdgeoptError, InputError
from edgeopt.core.files import digest, read_bytes, write_atomic
from edgeopt.core.space import SearchSpace, SubnetConfig, parse_space
from edgeopt.ofa.checkpoint import load_weights
from edgeopt.ofa.data import ImageSet, check_labels, load_images, normalize
from edgeopt.ofa.describe import describe
from edgeopt.ofa.distill import DistillOptions, distill_images
from edgeopt.ofa.evaluate import Evaluation, evaluate_subnets, prepare
from edgeopt.ofa.genes import SubnetDomain
from edgeopt.ofa.predictor import fit_predictor
from edgeopt.ofa.supernet import Supernet
from edgeopt.pipeline.zoo_card import render_card
from edgeopt.pipeline.zoo_int8 import measure_int8
from edgeopt.zoo import load_folder
from edgeopt.zoo.card import SCHEMA, Accuracy, Calibration, Card, Int8
from edgeopt.zoo.entries import CARD, FILES

U8 = npt.NDArray[np.uint8]
Say = Callable[[str], None]


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
        "calibration.npz": _npz(calibration),
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
    _install(out, files, card, render_card(card, space))
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
        if kept.exists():
            with np.load(kept, allow_pickle=False) as archive:
                return np.asarray(archive["images"])
        self.say(f"taking statistics of {options.anchors} anchor subnets from real images")
        real = normalize(self.train.images, self.space)
        rng = random.Random(f"{options.seed}/anchors")
        anchors = [self.space.max_config(), self.space.min_config()]
        while len(anchors) < options.anchors:
            anchors.append(self.space.sample(rng))
        nets = [prepare(self.supernet, config, real) for config in anchors]

        def progress(step: int, steps: int, mismatch: float) -> None:
            if step % 50 == 0:
                self.say(f"distilling images: step {step} of {steps}, mismatch {mismatch:.4f}")

        images = distill_images(nets, self.space, options.distill, progress)
        write_atomic(kept, _npz(images))
        return images

    def sample(self) -> list[SubnetConfig]:
        """Extremes, then draws that reach all sizes, half of them uniform."""
        space, rng = self.space, np.random.default_rng(self.options.seed)
        domain = SubnetDomain(space)
        values = np.asarray(domain.cardinalities)
        uniform = random.Random(f"{self.options.seed}/sample")
        found = dict.fromkeys((space.max_config(), space.min_config()))
        while len(found) < min(self.options.subnets + 2, domain.size):
            drawn = rng.binomial(values - 1, rng.random())
            found[domain.decode(tuple(int(g) for g in drawn))] = None
            if len(found) < self.options.subnets + 2:
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
        ordered = sorted(results, key=lambda r: (r.accuracy, str(r.config)))
        at = np.linspace(0, len(ordered) - 1, count).round().astype(int)
        inputs = digest(calibration.tobytes() + repr(self.test.images.shape).encode())[:8]
        kept = self.work / f"int8-{self.weights_id}-{inputs}.json"
        return measure_int8(
            self.supernet, [ordered[i] for i in at], calibration, self.test, kept, self.say
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


def _npz(images: U8) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, images=images)
    return stream.getvalue()


def _csv(results: Sequence[Evaluation]) -> bytes:
    lines = ["subnet,right,images,accuracy"]
    lines += [f"{r.config},{r.right},{r.images},{r.accuracy:.4f}" for r in results]
    return ("\n".join(lines) + "\n").encode()


def _install(out: Path, files: Mapping[str, bytes], card: Card, text: str) -> None:
    """Write the entry beside ``out``, load it from there, then move its files in."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".zoo-", dir=out.parent) as folder:
            draft = Path(folder) / out.name
            draft.mkdir()
            for name, content in files.items():
                write_atomic(draft / name, content)
            document = msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"
            write_atomic(draft / CARD, document)
            write_atomic(draft / "README.md", text)
            load_folder(draft)
            out.mkdir(exist_ok=True)
            for path in sorted(draft.iterdir()):
                shutil.move(path, out / path.name)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", where=str(out)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; gives the exit code."""
    usual = ZooOptions()
    parser = argparse.ArgumentParser(
        prog="python -m edgeopt.pipeline.zoo", description="Build a zoo entry."
    )
    parser.add_argument("--space", type=Path, required=True, help="search space, TOML")
    parser.add_argument("--weights", type=Path, required=True, help="trained weights, npz")
    parser.add_argument("--data", type=Path, required=True, help="npz file or folder of images")
    parser.add_argument("--out", type=Path, required=True, help="the entry's folder")
    parser.add_argument("--work", type=Path, required=True, help="folder of intermediate results")
    parser.add_argument("--about", type=Path, help="JSON with the objects training and licences")
    parser.add_argument("--subnets", type=int, default=usual.subnets)
    parser.add_argument("--int8-subnets", type=int, default=usual.int8_subnets)
    parser.add_argument("--test-images", type=int, help="fewer than all, for a trial")
    parser.add_argument("--distill-steps", type=int, default=usual.distill.steps)
    parser.add_argument("--workers", type=int, default=usual.workers)
    given = parser.parse_args(arguments)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        about = json.loads(given.about.read_text()) if given.about else {}
        card = build_entry(
            given.space, given.weights, given.data, given.out, work=given.work,
            options=ZooOptions(
                subnets=given.subnets, int8_subnets=given.int8_subnets,
                test_images=given.test_images, workers=given.workers,
                distill=DistillOptions(steps=given.distill_steps),
            ),
            training=about.get("training"), licences=about.get("licences"), say=say,
        )  # fmt: skip
    except EdgeoptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    say(f"wrote {given.out}: largest {card.accuracy.largest:.2%}, "
        f"smallest {card.accuracy.smallest:.2%}")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Build an elastic zoo entry: evaluate subnets under plans, count some exactly, describe.

Run as ``python -m edgeopt.pipeline.zoo_elastic --base zoo:NAME --data DATA --out zoo/NAME_q``, with
``--weights`` and ``--quantizers`` of `edgeopt train --quantize`, or without them for a supernet
that cannot be trained: then quantizers are fitted to the base's weights. Every result is kept in
the work folder; a run that is cut goes on where it stopped.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgeopt import zoo
from edgeopt.core.files import digest, read_bytes, write_atomic
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.checkpoint import load_weights
from edgeopt.ofa.data import ImageSet, check_labels, load_images, normalize
from edgeopt.ofa.distill import DistillOptions
from edgeopt.ofa.evaluations import Pair
from edgeopt.ofa.extract import StaticNet
from edgeopt.ofa.plan_predictor import PlanPredictor, fit_plan_predictor
from edgeopt.ofa.plans import BlockPlan, PlanEvaluation
from edgeopt.ofa.predictor import MINIMUM, load_predictor
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_evaluate import count_exactly, evaluate_plans
from edgeopt.pipeline.elastic_files import QUANTIZERS, load_elastic, save_elastic
from edgeopt.pipeline.elastic_pairs import drawn, promising, weight_bytes
from edgeopt.pipeline.elastic_plans import mixed_plans
from edgeopt.pipeline.zoo_build import (
    About,
    Say,
    add_common,
    distilled,
    install,
    npz,
    run_main,
    spread,
)
from edgeopt.pipeline.zoo_elastic_card import render_elastic
from edgeopt.zoo.elastic import CARD, SCHEMA, CalibrationRow, ElasticCard, Row, load_folder

U8 = npt.NDArray[np.uint8]

#: Widths that all layers of the card's uniform plans have.
UNIFORM = (8, 4, 3, 2)
#: Average bits that mixed plans of the card are found for.
TARGETS = (4.0, 3.5, 3.0)


@dataclass(frozen=True, slots=True)
class ElasticOptions:
    """How much is measured."""

    pairs: int = 210  # drawn
    promising: int = 600  # searched with the predictor of what was measured before
    rounds: int = 20  # that these are searched in
    pair_images: int | None = None  # None: all
    exact_subnets: int = 5
    exact_images: int | None = None
    compared: int = 6  # subnets that shipped and real images are compared on
    compared_images: int = 2000
    real_images: int = 2000
    plan_images: int = 600  # training images that mixed plans are chosen on
    anchors: int = 12  # subnets that shipped images are distilled from
    workers: int = 2
    seed: int = 0
    distill: DistillOptions = DistillOptions(steps=1000)  # noqa: RUF009 (frozen)


def build_elastic(
    base: zoo.ZooEntry,
    weights: Path | None,
    quantizers: Path | None,
    data: Path,
    out: Path,
    *,
    work: Path,
    options: ElasticOptions | None = None,
    training: Mapping[str, str | int | float] | None = None,
    licences: Mapping[str, str] | None = None,
    say: Say = lambda text: None,
) -> ElasticCard:
    """Measure an elastic supernet and write the zoo entry ``out``.

    Args:
        base: the fp32 entry.
        weights: fine-tuned weights, or None for the base's.
        quantizers: their quantizers, or None to fit them.
        data: npz file or folder with train and test images.
        out: the entry's folder; its name is the entry's name.
        work: folder for intermediate results.
        options: see `ElasticOptions`.
        training: how the weights were fine-tuned, for the card.
        licences: what the parts may be used for, for the card.
        say: told what is being done.

    Raises:
        InputError: something given cannot be used.
    """
    options = options or ElasticOptions()
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    space = base.space
    net = load_elastic(space, weights or base.weights, quantizers)
    size = max(space.resolutions)
    train = load_images(data, "train", size, space.in_channels)
    test = load_images(data, "test", size, space.in_channels)
    check_labels(test, space, str(data))
    job = _Build(base, net, train, test, work, options, say)
    images = job.calibration
    pairs = job.pairs()
    rows = job.rows()
    compared = job.compare()
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "weights.npz", Path(folder) / QUANTIZERS
        save_elastic(net, *paths)
        kept = [path.read_bytes() for path in paths]
    files = {
        "space.toml": read_bytes(base.folder / "space.toml", max_bytes=1 << 20, noun="space"),
        "weights.npz": kept[0],
        "quantizers.npz": kept[1],
        "calibration.npz": npz(images),
        "evaluations.csv": plans.write_evaluations(pairs),
    }
    prediction = None
    if len(pairs) >= MINIMUM:
        say("fitting the predictor")
        predictor = job.fitted(pairs)
        files["predictor.json"] = predictor.dump()
        prediction = predictor.document.summary()
    card = ElasticCard(
        schema=SCHEMA,
        name=out.name,
        base=base.name,
        space=space.name,
        trained=weights is not None,
        rows=rows,
        calibration_images=len(images),
        real_images=options.real_images,
        calibration=compared,
        pairs=sum(pair.plan is not None for pair in pairs),
        pair_images=pairs[0].images,
        prediction=prediction,
        training=dict(training or {}),
        licences=dict(licences or {}),
        digests={name: digest(content) for name, content in files.items()},
    )
    install(out, files, (CARD, card), render_elastic(card), _check)
    return card


@dataclass(frozen=True, eq=False)
class _Build:
    base: zoo.ZooEntry
    net: ElasticNet
    train: ImageSet
    test: ImageSet
    work: Path
    options: ElasticOptions
    say: Say

    @property
    def space(self) -> SearchSpace:
        return self.base.space

    @cached_property
    def identity(self) -> str:
        """Digest of weights and quantizers."""
        state = {n: t.detach().numpy().tobytes() for n, t in self.net.state_dict().items()}
        return digest(b"".join(n.encode() + value for n, value in sorted(state.items())))[:12]

    def of(self, calibration: U8) -> str:
        """Digest of weights, quantizers and calibration images."""
        return f"{self.identity}-{digest(calibration.tobytes())[:8]}"

    @cached_property
    def calibration(self) -> U8:
        """Images distilled from statistics of subnets as fine-tuned, of all sizes and widths."""
        options, space = self.options, self.space
        recipe = (options.distill, options.anchors, options.real_images, options.seed)
        kept = self.work / f"distilled-{self.identity}-{digest(repr(recipe).encode())[:8]}.npz"

        def nets() -> list[StaticNet]:
            real = normalize(self.train.images[: options.real_images], space)
            rng = random.Random(f"{options.seed}/anchors")
            anchors: list[Pair] = [
                (space.max_config(), plans.uniform(space, 8)),
                (space.min_config(), plans.uniform(space, 8)),
            ]
            while len(anchors) < options.anchors:
                config = space.sample(rng)
                anchors.append((config, plans.sample(space, config, rng)))
            return [self.net.prepare(config, plan, real).net.eval() for config, plan in anchors]

        return distilled(nets, space, options.distill, kept, self.say)

    def evaluate(
        self, label: str, pairs: Sequence[Pair], calibration: U8, test: ImageSet,
        net: ElasticNet | None = None,
    ) -> list[PlanEvaluation]:  # fmt: skip
        """Accuracies, from the journal where they are there already."""

        def tell(result: PlanEvaluation, done: int, planned: int) -> None:
            if done % 10 == 0 or done == planned:
                self.say(f"{label}: {done} of {planned}, last {result.accuracy:.2%}")

        return evaluate_plans(
            net or self.net, pairs, calibration, test,
            journal=self.work / f"{label}-{self.of(calibration)}-{len(test)}.jsonl",
            workers=self.options.workers, on_result=tell,
        )  # fmt: skip

    def pairs(self) -> list[PlanEvaluation]:
        """What a predictor learns from: pairs of all kinds, then those that it finds promising."""
        options, space = self.options, self.space
        test = self.test if options.pair_images is None else self.test.head(options.pair_images)
        known = drawn(space, options.pairs, options.seed)
        measured = self.evaluate("pairs", known, self.calibration, test)
        for turn in range(options.rounds if len(known) >= MINIMUM else 0):
            kept = self.work / f"front{turn}-{self.of(self.calibration)}-{len(test)}.json"
            if kept.exists():  # a search repeats exactly on one machine only
                names = msgspec.json.decode(kept.read_bytes(), type=list[tuple[str, str]])
                best: list[Pair] = [(SubnetConfig.parse(a), BlockPlan.parse(b)) for a, b in names]
            else:
                self.say(f"searching pairs that are predicted best, round {turn + 1}")
                count = -(-options.promising // options.rounds)
                best = promising(space, self.fitted(measured), count, options.seed + turn)
                write_atomic(kept, msgspec.json.encode([(str(a), str(b)) for a, b in best]))
            known = list(dict.fromkeys([*known, *best]))
            measured = self.evaluate("pairs", known, self.calibration, test)
        return measured

    def fitted(self, measured: Sequence[PlanEvaluation]) -> PlanPredictor:
        """The predictor of measured pairs; the base's predictions in fp32 are a feature."""
        subnets = load_predictor(self.base.predictor, self.space)
        return fit_plan_predictor(self.space, measured, subnets=subnets, seed=self.options.seed)

    def spread(self, count: int) -> list[SubnetConfig]:
        """Measured subnets of the base, spread evenly from the smallest to the largest."""
        rows = plans.read_evaluations(
            read_bytes(self.base.folder / "evaluations.csv", max_bytes=16 << 20, noun="rows"),
            self.space,
        )
        inner = [row.config for row in spread(rows, count)[1:-1]]
        return [self.space.min_config(), *inner, self.space.max_config()]

    def rows(self) -> tuple[Row, ...]:
        """Exact counts of a few subnets under uniform and mixed plans."""
        options, space = self.options, self.space
        configs = self.spread(options.exact_subnets)
        test = self.test if options.exact_images is None else self.test.head(options.exact_images)
        original = ElasticNet(load_weights(space, self.base.weights)).eval()
        floats = [(config, None) for config in configs]
        before = self.evaluate("fp32", floats, self.base.calibration, test, original)
        after = self.evaluate("fp32-after", floats, self.calibration, test)
        kept = self.work / f"rows-{self.of(self.calibration)}-{len(test)}.json"
        rows: list[Row] = []
        if kept.exists():
            rows = msgspec.json.decode(kept.read_bytes(), type=list[Row])
        known = {(row.subnet, row.kind): row for row in rows}
        for config, first, second in zip(configs, before, after, strict=True):
            if all((str(config), kind) in known for kind in self.kinds()):
                continue
            for kind, plan in zip(self.kinds(), self._plans(config), strict=True):
                if (str(config), kind) in known:
                    continue
                right = count_exactly(self.net, config, plan, self.calibration, test)
                rows.append(
                    Row(
                        subnet=str(config), plan=str(plan), kind=kind,
                        average_bits=plans.average_bits(space, config, plan),
                        weight_bytes=weight_bytes(space, config, plan),
                        fp32=first.accuracy, fp32_after=second.accuracy,
                        accuracy=right / len(test), images=len(test),
                    )
                )  # fmt: skip
                write_atomic(kept, msgspec.json.encode(rows))
                self.say(f"exact: {config} {kind}: {right / len(test):.2%}")
        wanted = {str(config) for config in configs}
        rows = [row for row in rows if row.subnet in wanted]
        pairs = [(SubnetConfig.parse(row.subnet), BlockPlan.parse(row.plan)) for row in rows]
        weights_only = self.evaluate("weights-only", pairs, self.calibration, test)
        return tuple(
            msgspec.structs.replace(row, weights_only=found.accuracy)
            for row, found in zip(rows, weights_only, strict=True)
        )

    @staticmethod
    def kinds() -> list[str]:
        """Names of the plans of a subnet."""
        return [f"w{bits}" for bits in UNIFORM] + [f"mixed {target:g}" for target in TARGETS]

    def _plans(self, config: SubnetConfig) -> list[BlockPlan]:
        space, count = self.space, self.options.plan_images
        held = self.train.images[-count:]
        uniform = [plans.canonical(space, config, plans.uniform(space, b)) for b in UNIFORM]
        return uniform + mixed_plans(self.net, config, self.calibration, held, TARGETS)

    def compare(self) -> tuple[CalibrationRow, ...]:
        """Shipped against real calibration images."""
        options, space = self.options, self.space
        configs = self.spread(options.compared)
        pairs: list[Pair] = []
        for index, config in enumerate(configs):
            plan = plans.uniform(space, (8, 4, 3)[index % 3])
            pairs.append((config, plans.canonical(space, config, plan)))
        test = self.test.head(options.compared_images)
        real = self.train.images[: options.real_images]
        ours = self.evaluate("shipped", pairs, self.calibration, test)
        theirs = self.evaluate("real", pairs, real, test)
        return tuple(
            CalibrationRow(
                subnet=str(a.config), plan=str(a.plan), shipped=a.accuracy, real=b.accuracy,
                images=a.images,
            )
            for a, b in zip(ours, theirs, strict=True)
        )  # fmt: skip


def _check(folder: Path) -> None:
    entry = load_folder(folder)
    load_elastic(entry.space, entry.weights, entry.quantizers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; gives the exit code."""
    usual = ElasticOptions()
    parser = argparse.ArgumentParser(
        prog="python -m edgeopt.pipeline.zoo_elastic", description="Build an elastic zoo entry."
    )
    parser.add_argument("--base", default="zoo:cifar_mbv3", help="the fp32 entry")
    parser.add_argument("--weights", type=Path, help="fine-tuned weights, npz")
    parser.add_argument("--quantizers", type=Path, help="their quantizers, npz")
    parser.add_argument("--pairs", type=int, default=usual.pairs)
    parser.add_argument("--promising", type=int, default=usual.promising)
    parser.add_argument("--pair-images", type=int, help="fewer than all")
    parser.add_argument("--exact-images", type=int, help="fewer than all, for a trial")
    parser.add_argument("--distill-steps", type=int, default=usual.distill.steps)
    add_common(parser, usual.workers)

    def run(given: argparse.Namespace, about: About, say: Say) -> str:
        card = build_elastic(
            zoo.load(given.base.removeprefix("zoo:")), given.weights, given.quantizers,
            given.data, given.out, work=given.work,
            options=ElasticOptions(
                pairs=given.pairs, promising=given.promising, pair_images=given.pair_images,
                exact_images=given.exact_images, workers=given.workers,
                distill=DistillOptions(steps=given.distill_steps),
            ),
            training=about.get("training"), licences=about.get("licences"), say=say,
        )  # fmt: skip
        return f"{len(card.rows)} exact rows, {card.pairs} pairs"

    return run_main(parser.parse_args(arguments), run)


if __name__ == "__main__":
    raise SystemExit(main())

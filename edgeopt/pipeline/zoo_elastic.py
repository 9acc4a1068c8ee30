"""Build an elastic zoo entry: evaluate subnets under plans, count some exactly, describe.

Run as ``python -m edgeopt.pipeline.zoo_elastic --base zoo:NAME --data DATA --out zoo/NAME_q``, with
``--weights`` and ``--quantizers`` of `edgeopt train --quantize`, or without them for a supernet
that cannot be trained: then quantizers are fitted to the base's weights. Every result is kept in
the work folder; a run that is cut goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgeopt import zoo
from edgeopt.core.errors import EdgeoptError, InputError
from edgeopt.core.files import digest, read_bytes, write_atomic
from edgeopt.core.lowbits import packed_bytes
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.checkpoint import load_weights
from edgeopt.ofa.data import ImageSet, check_labels, load_images
from edgeopt.ofa.evaluations import Pair
from edgeopt.ofa.genes import SubnetDomain
from edgeopt.ofa.plan_predictor import fit_plan_predictor
from edgeopt.ofa.plans import BlockPlan, PlanEvaluation
from edgeopt.ofa.predictor import MINIMUM, load_predictor
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_evaluate import count_exactly, evaluate_plans
from edgeopt.pipeline.elastic_files import QUANTIZERS, load_elastic, save_elastic
from edgeopt.pipeline.elastic_plans import mixed_plans
from edgeopt.pipeline.zoo_elastic_card import render_elastic
from edgeopt.zoo.elastic import CARD, FILES, SCHEMA, CalibrationRow, ElasticCard, Row, load_folder

U8 = npt.NDArray[np.uint8]
Say = Callable[[str], None]

#: Widths that all layers of the card's uniform plans have.
UNIFORM = (8, 4, 3, 2)
#: Average bits that mixed plans of the card are found for.
TARGETS = (4.0, 3.5)


@dataclass(frozen=True, slots=True)
class ElasticOptions:
    """How much is measured."""

    pairs: int = 210
    pair_images: int | None = None  # None: all
    exact_subnets: int = 5
    exact_images: int | None = None
    compared: int = 6  # subnets that shipped and real images are compared on
    compared_images: int = 2000
    real_images: int = 2000
    plan_images: int = 600  # training images that mixed plans are chosen on
    workers: int = 2
    seed: int = 0


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
        "calibration.npz": read_bytes(
            base.folder / "calibration.npz", max_bytes=FILES["calibration.npz"], noun="images"
        ),
        "evaluations.csv": plans.write_evaluations(pairs),
    }
    prediction = None
    if len(pairs) >= MINIMUM:
        say("fitting the predictor")
        subnets = load_predictor(base.predictor, space)
        predictor = fit_plan_predictor(space, pairs, subnets=subnets, seed=options.seed)
        files["predictor.json"] = predictor.dump()
        prediction = predictor.document.summary()
    card = ElasticCard(
        schema=SCHEMA,
        name=out.name,
        base=base.name,
        space=space.name,
        trained=weights is not None,
        rows=rows,
        calibration_images=len(base.calibration),
        real_images=options.real_images,
        calibration=compared,
        pairs=sum(pair.plan is not None for pair in pairs),
        pair_images=pairs[0].images,
        prediction=prediction,
        training=dict(training or {}),
        licences=dict(licences or {}),
        digests={name: digest(content) for name, content in files.items()},
    )
    _install(out, files, card, render_elastic(card))
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
            journal=self.work / f"{label}-{self.identity}-{len(test)}.jsonl",
            workers=self.options.workers, on_result=tell,
        )  # fmt: skip

    def pairs(self) -> list[PlanEvaluation]:
        """Subnets of all sizes under plans of all averages, for a predictor to learn from."""
        options, space = self.options, self.space
        rng, numbers = random.Random(f"{options.seed}/pairs"), np.random.default_rng(options.seed)
        domain = SubnetDomain(space)
        values = np.asarray(domain.cardinalities)
        found: dict[Pair, None] = {}
        for config in (space.max_config(), space.min_config()):
            for bits in (8, 4, 2):
                plan = plans.canonical(space, config, plans.uniform(space, bits))
                found[config, plan] = None
        while len(found) < options.pairs:
            drawn = domain.decode(
                tuple(int(g) for g in numbers.binomial(values - 1, numbers.random()))
            )
            for config in (drawn, space.sample(rng)):
                found[config, plans.sample(space, config, rng)] = None
        test = self.test if options.pair_images is None else self.test.head(options.pair_images)
        return self.evaluate("pairs", list(found), self.base.calibration, test)

    def spread(self, count: int) -> list[SubnetConfig]:
        """Measured subnets of the base, spread evenly from the smallest to the largest."""
        rows = plans.read_evaluations(
            read_bytes(self.base.folder / "evaluations.csv", max_bytes=16 << 20, noun="rows"),
            self.space,
        )
        ordered = sorted(rows, key=lambda r: (r.accuracy, str(r.config)))
        at = np.linspace(0, len(ordered) - 1, count).round().astype(int)
        inner = [ordered[i].config for i in at[1:-1]]
        return [self.space.min_config(), *inner, self.space.max_config()]

    def rows(self) -> tuple[Row, ...]:
        """Exact counts of a few subnets under uniform and mixed plans."""
        options, space = self.options, self.space
        configs = self.spread(options.exact_subnets)
        test = self.test if options.exact_images is None else self.test.head(options.exact_images)
        original = ElasticNet(load_weights(space, self.base.weights)).eval()
        floats = [(config, None) for config in configs]
        before = self.evaluate("fp32", floats, self.base.calibration, test, original)
        after = self.evaluate("fp32-after", floats, self.base.calibration, test)
        kept = self.work / f"rows-{self.identity}-{len(test)}.json"
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
                right = count_exactly(self.net, config, plan, self.base.calibration, test)
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
        return tuple(row for row in rows if row.subnet in wanted)

    @staticmethod
    def kinds() -> list[str]:
        """Names of the plans of a subnet."""
        return [f"w{bits}" for bits in UNIFORM] + [f"mixed {target:g}" for target in TARGETS]

    def _plans(self, config: SubnetConfig) -> list[BlockPlan]:
        space, count = self.space, self.options.plan_images
        held = ImageSet(self.train.images[-count:], self.train.labels[-count:])
        uniform = [plans.canonical(space, config, plans.uniform(space, b)) for b in UNIFORM]
        return uniform + mixed_plans(self.net, config, self.base.calibration, held, TARGETS)

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
        ours = self.evaluate("shipped", pairs, self.base.calibration, test)
        theirs = self.evaluate("real", pairs, real, test)
        return tuple(
            CalibrationRow(
                subnet=str(a.config), plan=str(a.plan), shipped=a.accuracy, real=b.accuracy,
                images=a.images,
            )
            for a, b in zip(ours, theirs, strict=True)
        )  # fmt: skip


def weight_bytes(space: SearchSpace, config: SubnetConfig, plan: BlockPlan) -> int:
    """Bytes of a subnet's weights, packed; three bits take the room of four."""
    bits = plans.layer_bits(space, config, plan)
    total = 0
    for name, count in plans.weight_counts(space, config).items():
        width = bits.get(name, 8)
        total += count if width == 8 else packed_bytes(count, 4 if width == 3 else width)
    return total


def _install(out: Path, files: Mapping[str, bytes], card: ElasticCard, text: str) -> None:
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
            entry = load_folder(draft)
            load_elastic(entry.space, entry.weights, entry.quantizers)
            out.mkdir(exist_ok=True)
            for path in sorted(draft.iterdir()):
                shutil.move(path, out / path.name)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", where=str(out)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; gives the exit code."""
    usual = ElasticOptions()
    parser = argparse.ArgumentParser(
        prog="python -m edgeopt.pipeline.zoo_elastic", description="Build an elastic zoo entry."
    )
    parser.add_argument("--base", default="zoo:cifar_mbv3", help="the fp32 entry")
    parser.add_argument("--weights", type=Path, help="fine-tuned weights, npz")
    parser.add_argument("--quantizers", type=Path, help="their quantizers, npz")
    parser.add_argument("--data", type=Path, required=True, help="npz file or folder of images")
    parser.add_argument("--out", type=Path, required=True, help="the entry's folder")
    parser.add_argument("--work", type=Path, required=True, help="folder of intermediate results")
    parser.add_argument("--about", type=Path, help="JSON with the objects training and licences")
    parser.add_argument("--pairs", type=int, default=usual.pairs)
    parser.add_argument("--pair-images", type=int, help="fewer than all")
    parser.add_argument("--exact-images", type=int, help="fewer than all, for a trial")
    parser.add_argument("--workers", type=int, default=usual.workers)
    given = parser.parse_args(arguments)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        about = json.loads(given.about.read_text()) if given.about else {}
        card = build_elastic(
            zoo.load(given.base.removeprefix("zoo:")), given.weights, given.quantizers,
            given.data, given.out, work=given.work,
            options=ElasticOptions(
                pairs=given.pairs, pair_images=given.pair_images,
                exact_images=given.exact_images, workers=given.workers,
            ),
            training=about.get("training"), licences=about.get("licences"), say=say,
        )  # fmt: skip
    except EdgeoptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    say(f"wrote {given.out}: {len(card.rows)} exact rows, {card.pairs} pairs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

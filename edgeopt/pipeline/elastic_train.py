"""Fine-tuning a trained supernet for every bit-width at once: `edgeopt train --quantize`.

A step takes one subnet through three plans of bits, each guided by the one before: a high plan
(eight bits, or four and eight mixed) learns the labels and the outputs of the frozen largest
subnet, as the run found it: in fp32, or at eight bits where that was fine-tuned before and has
become better than fp32; a random plan (two to eight bits) and then a low one (two to four) learn
the outputs of the plan above, blended with the largest's. Weights learn by SGD, scales and steps
by Adam on their logarithms, slower the fewer the bits.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeopt import zoo
from edgeopt.core.errors import InputError
from edgeopt.core.files import digest, read_bytes
from edgeopt.core.precision import LayerPrecision
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.checkpoint import MAX_FILE_BYTES, load_weights
from edgeopt.ofa.data import normalize
from edgeopt.ofa.evaluate import fold_batch_norm, prepare
from edgeopt.ofa.extract import StaticNet
from edgeopt.ofa.loop import WEIGHTS, Loop, OnEvent, accuracy, run_workers
from edgeopt.ofa.plans import BlockPlan, uniform
from edgeopt.ofa.schedule import RunOptions, at_resolution
from edgeopt.ofa.train import decays
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_files import QUANTIZERS, load_elastic, save_elastic
from edgeopt.quant.elastic import kurtosis
from edgeopt.zoo import elastic

_BETAS = (0.9, 0.98)
_STATISTICS = 2000  # images that the guide's batch norms are measured on
_LARGEST, _SMALLEST = 0.15, 0.1  # shares of the steps


@dataclass(frozen=True, slots=True)
class QuantizeOptions(RunOptions):
    """How to fine-tune a supernet for quantization.

    ``scale_rate`` is the learning rate of the logarithms of scales, and ``slower`` the share of it
    that steps of 4, 3 and 2 bits learn with (adaptive learning rate scaling). ``kurtosis`` weighs
    the pull of each layer's weights towards a uniform distribution, which rounds best.
    """

    epochs: float = 10.0
    learning_rate: float = 0.02
    warmup: float = 0.05
    weight_decay: float = 1e-4
    evaluate_seconds: float = 600.0
    label_weight: float = 0.5  # of the labels against the guide, in the high plan
    guide_weight: float = 0.5  # of the largest's outputs against the plan above, in the others
    scale_rate: float = 2e-3
    slower: tuple[float, float, float] = (0.5, 0.3, 0.2)
    kurtosis: float = 0.01
    only: str = ""  # one subnet instead of all
    granularity: str = "channel"  # of scales; groups of inputs and zero points are for simulation
    group: int = 0
    symmetric: bool = True
    noun: ClassVar[str] = "quantization options"

    @property
    def form(self) -> LayerPrecision:
        """What all quantizers are.

        Raises:
            InputError: there is no such granularity, or its group is not stated.
        """
        return LayerPrecision(
            granularity=self.granularity, group=self.group, symmetric=self.symmetric
        )

    def limits(self) -> dict[str, bool]:
        """Of what pulls at weights and scales."""
        return {
            "scale_rate must not be negative": self.scale_rate >= 0,
            "kurtosis must not be negative": self.kurtosis >= 0,
            "label_weight must be 0 to 1": 0 <= self.label_weight <= 1,
            "guide_weight must be 0 to 1": 0 <= self.guide_weight <= 1,
        }

    def phase(self, progress: float) -> str:
        """There is one."""
        return "quantize"

    def subnet(self, space: SearchSpace, step: int) -> SubnetConfig:
        """The subnet of a step: in a quarter of them an extreme, else one of any size."""
        if self.only:
            return space.validate(SubnetConfig.parse(self.only))
        rng = random.Random(f"{self.seed}/subnet/{step}")
        draw, size = rng.random(), max(space.resolutions)
        if draw < _LARGEST:
            return space.max_config()
        if draw < _LARGEST + _SMALLEST:
            return at_resolution(space.min_config(), size)
        return _of_any_size(space, rng)

    def plans(self, space: SearchSpace, step: int) -> tuple[BlockPlan, ...]:
        """The plans of a step: high, random, low; most often in what takes the least flash."""
        rng = random.Random(f"{self.seed}/plans/{step}")
        high = uniform(space, 8)
        if rng.random() < 0.5:
            high = _drawn(space, rng, (4, 8), (1, 1))
        middle = _drawn(space, rng, (2, 3, 4, 8), (7, 3, 6, 4))
        return high, middle, uniform(space, rng.choices((4, 3, 2), (3, 2, 5))[0])


def _of_any_size(space: SearchSpace, rng: random.Random) -> SubnetConfig:
    """A subnet whose choices lean: how often each value occurs is itself drawn.

    Choices drawn evenly add up to middling sizes, and a search under a budget looks elsewhere too.
    Shares come from a Dirichlet distribution of 1/2: few values, in most draws.
    """

    def shares(count: int) -> list[float]:
        return [rng.gammavariate(0.5, 1.0) + 1e-12 for _ in range(count)]

    count = space.block_count
    kernels = rng.choices(space.kernels, shares(len(space.kernels)), k=count)
    expands = rng.choices(space.expands, shares(len(space.expands)), k=count)
    deep = shares(max(len(stage.depths) for stage in space.stages))
    depths = [rng.choices(s.depths, deep[: len(s.depths)])[0] for s in space.stages]
    size = max(space.resolutions)
    return space.canonical(SubnetConfig(tuple(kernels), tuple(expands), tuple(depths), size))


def _drawn(
    space: SearchSpace, rng: random.Random, bits: Sequence[int], odds: Sequence[float]
) -> BlockPlan:
    picks = [rng.choices(bits, odds)[0] for _ in uniform(space, 8).genes]
    return BlockPlan(tuple(picks[: space.block_count]), tuple(picks[space.block_count :]))


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What a finished run left behind; accuracies (0..1) on all test images by uniform bits."""

    weights: Path
    quantizers: Path
    steps: int
    largest: dict[int, float]
    smallest: dict[int, float]


@dataclass(frozen=True, slots=True)
class Start:
    """What a run starts from.

    Attributes:
        weights: see `edgeopt.ofa.checkpoint.load_weights`.
        quantizers: of a supernet that was fine-tuned before; None to fit them to the weights.
    """

    weights: Path
    quantizers: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Those that are given."""
        return [path for path in (self.weights, self.quantizers) if path is not None]

    def identity(self) -> str:
        """Digest of all files."""
        found = [read_bytes(p, max_bytes=MAX_FILE_BYTES, noun="weights file") for p in self.files]
        return digest(b"".join(digest(data).encode() for data in found))


def zoo_start(name: str) -> tuple[SearchSpace, Start]:
    """Space and weights of a zoo entry; an elastic one goes on, guided by its own largest.

    Raises:
        InputError: no such entry, or a file of it is missing, changed or malformed.
    """
    if name in elastic.names():
        entry = elastic.load(name)
        return entry.space, Start(entry.weights, entry.quantizers)
    base = zoo.load(name)
    return base.space, Start(base.weights)


def quantize_supernet(
    space: SearchSpace,
    start: Start,
    data: Path,
    out_dir: Path,
    options: QuantizeOptions | None = None,
    on_event: OnEvent | None = None,
) -> QuantizeResult:
    """Fine-tune a supernet for every bit-width, or go on with the run found in ``out_dir``.

    Args:
        space: the search space.
        start: weights to start from.
        data: npz file or image folder with train and test images.
        out_dir: receives ``weights.npz``, ``quantizers.npz``, journal and checkpoint.
        options: see `QuantizeOptions`.
        on_event: called with every journal entry.

    Raises:
        InputError: weights, data or ``out_dir`` cannot be used, or ``out_dir`` holds another run.
    """
    options = options or QuantizeOptions()
    options.subnet(space, 0)  # refuses one that is not in the space
    net = load_elastic(space, start.weights, start.quantizers, options.form)
    if net.form != options.form:  # refused here, not in a worker process
        raise InputError(
            f"these quantizers are of another form than the options ask for: {net.form}",
            where=str(start.quantizers), hint="leave the quantizers out to fit new ones",
        )  # fmt: skip
    make = functools.partial(
        _make, space=space, start=start, data=data, out_dir=out_dir, options=options
    )
    result: QuantizeResult = run_workers(make, out_dir, options.workers, on_event)
    return result


def guide_of(space: SearchSpace, start: Start, form: LayerPrecision, images: Tensor) -> StaticNet:
    """The largest subnet as a run finds it, frozen: in fp32, or at eight bits if fine-tuned before.

    Args:
        space: the search space.
        start: what the run starts from.
        form: of the quantizers.
        images: f32 [N,C,H,W], normalised, to measure batch-norm statistics on.
    """
    config = space.max_config()
    if start.quantizers is None:
        return fold_batch_norm(prepare(load_weights(space, start.weights), config, images))
    net = load_elastic(space, start.weights, start.quantizers, form).eval()
    return fold_batch_norm(net.prepare(config, uniform(space, 8), images).net)


def _make(
    rank: int, on_event: OnEvent | None, *,
    space: SearchSpace, start: Start, data: Path, out_dir: Path, options: QuantizeOptions,
) -> _Worker:  # fmt: skip
    return _Worker(rank, space, start, data, out_dir, options, on_event)


class _Worker(Loop[QuantizeOptions, QuantizeResult]):
    net: ElasticNet

    def __init__(
        self, rank: int, space: SearchSpace, start: Start, data: Path, out_dir: Path,
        options: QuantizeOptions, on_event: OnEvent | None,
    ) -> None:  # fmt: skip
        self.start = start
        super().__init__(rank, space, data, out_dir, options, on_event, start.identity())
        real = normalize(self.train_set.images[:_STATISTICS], space)
        self.guide = guide_of(space, start, options.form, real)

    def build(self) -> ElasticNet:
        net = self._started().train()
        parameters = [n for n, _ in net.named_parameters()]
        self.adapted = [n for n in parameters if n.startswith("quantizers.")]
        self.squares = {n: torch.zeros_like(net.get_parameter(n)) for n in self.adapted}
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _started(self) -> ElasticNet:
        start = self.start
        return load_elastic(self.space, start.weights, start.quantizers, self.options.form)

    def buffers(self) -> dict[str, dict[str, Tensor]]:
        return {"squares": self.squares}

    def gradients(self, x: Tensor, y: Tensor, progress: float) -> float:
        options, space = self.options, self.space
        config = options.subnet(space, self.step)
        with torch.no_grad():
            guide = self.guide(x).softmax(1)
        first, above = math.nan, guide
        for plan in options.plans(space, self.step):
            logits = self.net(x, config, plan)
            if math.isnan(first):
                known = F.cross_entropy(logits, y, label_smoothing=options.label_smoothing)
                share = options.label_weight
                loss = share * known + (1 - share) * F.cross_entropy(logits, guide)
                first = float(loss.detach())
                if not math.isfinite(first):
                    return first
            else:
                loss = F.cross_entropy(logits, above.lerp(guide, options.guide_weight))
            above = logits.detach().softmax(1)
            loss.backward()  # type: ignore[no-untyped-call]
        if options.kurtosis:
            self._flatten_weights()
        return first

    def _flatten_weights(self) -> None:
        layers = self.net.net.weight_layers()
        decided = plans.layer_bits(self.space, self.space.max_config(), uniform(self.space, 8))
        pulled = [layers[name] for name in decided]
        excess = [(kurtosis(layer.weight) - 1.8).square() for layer in pulled]
        (self.options.kurtosis * torch.stack(excess).mean()).backward()  # type: ignore[no-untyped-call]

    def descend(self, grads: list[Tensor], progress: float) -> None:
        """Nesterov SGD for weights, Adam for the logarithms of scales and steps."""
        options, rate = self.options, self.options.rate(progress)
        by_name = dict(zip(self.parameters, grads, strict=True))
        names = [n for n in by_name if n not in self.squares]
        weights = [self.parameters[n].data for n in names]
        moved = [by_name[n] for n in names]
        decayed = [i for i, n in enumerate(names) if decays(n, weights[i])]
        torch._foreach_add_(
            [moved[i] for i in decayed], [weights[i] for i in decayed], alpha=options.weight_decay
        )
        velocity = [self.velocity[n] for n in names]
        torch._foreach_mul_(velocity, options.momentum)
        torch._foreach_add_(velocity, moved)
        torch._foreach_add_(moved, velocity, alpha=options.momentum)
        torch._foreach_add_(weights, moved, alpha=-rate)
        self._adapt(by_name, rate / options.learning_rate)

    def _adapt(self, grads: dict[str, Tensor], share: float) -> None:
        options, (one, two) = self.options, _BETAS
        slower = dict(zip(("log_step4", "log_step3", "log_step2"), options.slower, strict=True))
        age = self.step + 1
        for name, square in self.squares.items():
            grad, velocity = grads[name], self.velocity[name]
            velocity.lerp_(grad, 1 - one)
            square.lerp_(grad.square(), 1 - two)
            rate = options.scale_rate * share * slower.get(name.rpartition(".")[2], 1.0)
            spread = (square / (1 - two**age)).sqrt_().add_(1e-12)
            self.parameters[name].data.addcdiv_(velocity / (1 - one**age), spread, value=-rate)

    # -- what worker 0 keeps -------------------------------------------------------------------

    def _averaged(self) -> ElasticNet:
        net = self._started()
        net.load_state_dict(self.average, strict=False)
        return net.eval()

    def _extremes(self) -> dict[str, SubnetConfig]:
        if self.options.only:
            return {"largest": self.options.subnet(self.space, 0)}
        return {"largest": self.space.max_config(), "smallest": self.space.min_config()}

    def evaluate(self, progress: float) -> dict[str, object]:
        net, subset = self._averaged(), self.test_set.head(self.options.evaluate_images)
        real = normalize(self.train_set.images[:1000], self.space)
        scores: dict[str, object] = {"images": len(subset)}
        for name, config in self._extremes().items():
            for bits in (4, 2):
                static = net.prepare(config, uniform(self.space, bits), real).net
                scores[f"{name}_w{bits}"] = accuracy(fold_batch_norm(static), subset, self.space)
        return scores

    def _result(self, largest: dict[int, float], smallest: dict[int, float]) -> QuantizeResult:
        return QuantizeResult(
            self.out_dir / WEIGHTS, self.out_dir / QUANTIZERS, self.step, largest, smallest
        )

    def partial_result(self) -> QuantizeResult:
        return self._result({}, {})

    def finish(self) -> tuple[QuantizeResult, dict[str, object]]:
        net = self._averaged()
        save_elastic(net, self.out_dir / WEIGHTS, self.out_dir / QUANTIZERS)
        real = normalize(self.train_set.images[:_STATISTICS], self.space)
        found: dict[str, dict[int, float]] = {"largest": {}, "smallest": {}}
        for name, config in self._extremes().items():
            for bits in (8, 4, 3, 2):
                static = net.prepare(config, uniform(self.space, bits), real).net
                found[name][bits] = accuracy(fold_batch_norm(static), self.test_set, self.space)
        scores = {f"{n}_w{b}": v for n, values in found.items() for b, v in values.items()}
        return self._result(found["largest"], found["smallest"]), dict(scores)

"""Fine-tuning a trained supernet for every bit-width at once: `edgeopt train --quantize`.

A step takes one subnet through three plans of bits, each guided by the one before: a high plan
(eight bits, or four and eight mixed) learns the labels and the outputs of the frozen fp32 network
of the largest subnet; a random plan (two to eight bits) and then a low one (two to four) learn the
outputs of the plan above, blended with the largest's. Weights learn by SGD, scales and steps by
Adam on their logarithms, slower the fewer the bits.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeopt.core.errors import InputError
from edgeopt.core.files import digest, read_bytes
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa import plans
from edgeopt.ofa.checkpoint import MAX_FILE_BYTES, load_weights
from edgeopt.ofa.data import normalize
from edgeopt.ofa.evaluate import fold_batch_norm, prepare
from edgeopt.ofa.loop import WEIGHTS, Loop, OnEvent, accuracy, run_workers
from edgeopt.ofa.plans import BlockPlan, uniform
from edgeopt.ofa.schedule import at_resolution
from edgeopt.ofa.train import decays
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_files import QUANTIZERS, save_elastic
from edgeopt.quant.elastic import kurtosis

_BETAS = (0.9, 0.98)
_STATISTICS = 2000  # images that the guide's batch norms are measured on


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to fine-tune a supernet for quantization; see `edgeopt.ofa.schedule.TrainOptions`.

    ``scale_rate`` is the learning rate of the logarithms of scales, and ``slower`` the share of it
    that steps of 4, 3 and 2 bits learn with (adaptive learning rate scaling). ``kurtosis`` weighs
    the pull of each layer's weights towards a uniform distribution, which rounds best.
    """

    epochs: float = 10.0
    minutes: float | None = None
    batch: int = 128
    workers: int = 1
    seed: int = 0
    learning_rate: float = 0.02
    warmup: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.05
    label_weight: float = 0.5  # of the labels against the guide, in the high plan
    guide_weight: float = 0.5  # of the largest's outputs against the plan above, in the others
    scale_rate: float = 2e-3
    slower: tuple[float, float, float] = (0.5, 0.3, 0.2)
    kurtosis: float = 0.01
    ema_decay: float = 0.998
    only: str = ""  # one subnet instead of all
    crop_pad: int = 2
    checkpoint_seconds: float = 120.0
    evaluate_seconds: float = 600.0
    evaluate_images: int = 2000

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{item.name} is {value}", where="quantization options")
        shares = {"label_weight": self.label_weight, "guide_weight": self.guide_weight}
        checks = {
            "epochs must be positive": self.epochs > 0,
            "minutes must be positive": self.minutes is None or self.minutes > 0,
            "workers must be 1 to 256": 1 <= self.workers <= 256,
            "batch must be at least 2 images a worker": self.batch >= 2 * self.workers,
            "learning_rate must be positive": self.learning_rate > 0,
            "scale_rate must not be negative": self.scale_rate >= 0,
            "kurtosis must not be negative": self.kurtosis >= 0,
            "warmup must be 0 to 0.5": 0 <= self.warmup <= 0.5,
            "momentum must be 0 to below 1": 0 <= self.momentum < 1,
            "ema_decay must be 0 to below 1": 0 <= self.ema_decay < 1,
            "crop_pad must be 0 to 16": 0 <= self.crop_pad <= 16,
            "label_smoothing must be 0 to below 1": 0 <= self.label_smoothing < 1,
            **{f"{name} must be 0 to 1": 0 <= value <= 1 for name, value in shares.items()},
        }
        for text, holds in checks.items():
            if not holds:
                raise InputError(text, where="quantization options")

    def phase(self, progress: float) -> str:
        """There is one."""
        return "quantize"

    def rate(self, progress: float) -> float:
        """Learning rate: linear warm-up, then half a cosine down to zero."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        ramp = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.learning_rate * cosine * max(ramp, 0.02)

    def decay(self, step: int) -> float:
        """Decay of the averaged weights; they follow fast at first."""
        return min(self.ema_decay, (1.0 + step) / (10.0 + step))

    def subnet(self, space: SearchSpace, step: int) -> SubnetConfig:
        """The subnet of a step: one of the extremes in two of five."""
        if self.only:
            return space.validate(SubnetConfig.parse(self.only))
        rng = random.Random(f"{self.seed}/subnet/{step}")
        draw, size = rng.random(), max(space.resolutions)
        if draw < 0.2:
            return space.max_config()
        return at_resolution(space.min_config() if draw < 0.4 else space.sample(rng), size)

    def plans(self, space: SearchSpace, step: int) -> tuple[BlockPlan, ...]:
        """The plans of a step: high, random, low."""
        rng = random.Random(f"{self.seed}/plans/{step}")
        high = uniform(space, 8)
        if rng.random() < 0.5:
            high = _drawn(space, rng, (4, 8), (1, 1))
        middle = _drawn(space, rng, (2, 3, 4, 8), (5, 5, 6, 4))
        return high, middle, uniform(space, rng.choices((4, 3, 2), (3, 4, 3))[0])


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


def quantize_supernet(
    space: SearchSpace,
    weights: Path,
    data: Path,
    out_dir: Path,
    options: QuantizeOptions | None = None,
    on_event: OnEvent | None = None,
) -> QuantizeResult:
    """Fine-tune a supernet for every bit-width, or go on with the run found in ``out_dir``.

    Args:
        space: the search space.
        weights: fp32 weights to start from (see `edgeopt.ofa.checkpoint.load_weights`).
        data: npz file or image folder with train and test images.
        out_dir: receives ``weights.npz``, ``quantizers.npz``, journal and checkpoint.
        options: see `QuantizeOptions`.
        on_event: called with every journal entry.

    Raises:
        InputError: weights, data or ``out_dir`` cannot be used, or ``out_dir`` holds another run.
    """
    options = options or QuantizeOptions()
    options.subnet(space, 0)  # refuses one that is not in the space
    load_weights(space, weights)  # refused here rather than in a worker process
    make = functools.partial(
        _make, space=space, weights=weights, data=data, out_dir=out_dir, options=options
    )
    result: QuantizeResult = run_workers(make, out_dir, options.workers, on_event)
    return result


def _make(
    rank: int, on_event: OnEvent | None, *,
    space: SearchSpace, weights: Path, data: Path, out_dir: Path, options: QuantizeOptions,
) -> _Worker:  # fmt: skip
    return _Worker(rank, space, weights, data, out_dir, options, on_event)


class _Worker(Loop[QuantizeOptions, QuantizeResult]):
    net: ElasticNet

    def __init__(
        self, rank: int, space: SearchSpace, weights: Path, data: Path, out_dir: Path,
        options: QuantizeOptions, on_event: OnEvent | None,
    ) -> None:  # fmt: skip
        self.source = weights
        start = digest(read_bytes(weights, max_bytes=MAX_FILE_BYTES, noun="weights file"))
        super().__init__(rank, space, data, out_dir, options, on_event, start)
        supernet = load_weights(space, weights)
        real = normalize(self.train_set.images[:_STATISTICS], space)
        teacher = space.max_config()
        self.guide = fold_batch_norm(prepare(supernet, teacher, real))

    def build(self) -> ElasticNet:
        net = ElasticNet(load_weights(self.space, self.source))
        net.fit()
        parameters = [n for n, _ in net.named_parameters()]
        self.adapted = [n for n in parameters if n.startswith("quantizers.")]
        self.squares = {n: torch.zeros_like(net.get_parameter(n)) for n in self.adapted}
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

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
        net = ElasticNet(load_weights(self.space, self.source))
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

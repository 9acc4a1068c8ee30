"""Training a supernet on CPU: sandwich rule, in-place distillation, averaged weights, resumable."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.checkpoint import save_weights
from edgeopt.ofa.data import normalize
from edgeopt.ofa.extract import StaticNet, adopt_statistics, extract
from edgeopt.ofa.loop import CHECKPOINT, JOURNAL, WEIGHTS, Loop, OnEvent, accuracy, run_workers
from edgeopt.ofa.schedule import TrainOptions
from edgeopt.ofa.sorting import channel_orders, reorder_channels
from edgeopt.ofa.supernet import Supernet

__all__ = ["CHECKPOINT", "JOURNAL", "WEIGHTS", "TrainResult", "accuracy", "train"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished run left behind; accuracies (0..1) on all test images."""

    weights: Path
    steps: int
    accuracy_largest: float
    accuracy_smallest: float


def train(
    space: SearchSpace,
    data: Path,
    out_dir: Path,
    options: TrainOptions | None = None,
    on_event: OnEvent | None = None,
) -> TrainResult:
    """Train a supernet, or go on with the run found in ``out_dir``.

    Args:
        space: the search space.
        data: npz file or image folder with train and test images (see `load_images`).
        out_dir: receives ``weights.npz``, ``journal.jsonl`` and ``checkpoint.pt``.
        options: see `TrainOptions`.
        on_event: called with every journal entry (progress, loss, accuracies).

    Raises:
        InputError: the data or ``out_dir`` cannot be used, or ``out_dir`` holds another run.
    """
    options = options or TrainOptions()
    make = functools.partial(_make, space=space, data=data, out_dir=out_dir, options=options)
    result: TrainResult = run_workers(make, out_dir, options.workers, on_event)
    return result


def _make(
    rank: int, on_event: OnEvent | None, *,
    space: SearchSpace, data: Path, out_dir: Path, options: TrainOptions,
) -> _Worker:  # fmt: skip
    return _Worker(rank, space, data, out_dir, options, on_event)


class _Worker(Loop[TrainOptions, TrainResult]):
    def build(self) -> Supernet:
        net = Supernet(self.space)
        net.zero_residual_scales()
        if self.options.grow > 0:
            net.zero_outer_taps()
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def flag_names(self) -> tuple[str, ...]:
        return ("sorted",)

    def before_step(self, progress: float) -> None:
        if self.options.phase(progress) == "sandwich" and not self.flags["sorted"]:
            self._sort()

    def gradients(self, x: Tensor, y: Tensor, progress: float) -> float:
        options = self.options
        first, teacher = math.nan, None
        for config, distilled in options.subnets(self.space, progress, self.step):
            logits = self.net(x, config)
            if teacher is None:
                loss = F.cross_entropy(logits, y, label_smoothing=options.label_smoothing)
                teacher = logits.detach().softmax(1)
                first = float(loss.detach())
            else:
                assert distilled
                loss = options.distill_weight * F.cross_entropy(logits, teacher)
            loss.backward()  # type: ignore[no-untyped-call]
        return first

    def descend(self, grads: list[Tensor], progress: float) -> None:
        """Nesterov SGD."""
        options, names = self.options, list(self.parameters)
        weights = [p.data for p in self.parameters.values()]
        if options.phase(progress) == "grow":
            # only the centre taps train, so their matrices must stay identities
            for name, grad in zip(names, grads, strict=True):
                if name.endswith("_matrix"):
                    grad.zero_()
        decayed = [i for i, n in enumerate(names) if decays(n, weights[i])]
        torch._foreach_add_(
            [grads[i] for i in decayed], [weights[i] for i in decayed], alpha=options.weight_decay
        )
        velocity = list(self.velocity.values())
        torch._foreach_mul_(velocity, options.momentum)
        torch._foreach_add_(velocity, grads)
        torch._foreach_add_(grads, velocity, alpha=options.momentum)
        torch._foreach_add_(weights, grads, alpha=-options.rate(progress))

    @torch.no_grad()
    def _sort(self) -> None:
        orders = channel_orders(self.net.state_dict())
        for state in (self.net.state_dict(), self.average, self.velocity):
            reorder_channels(state, orders)
        self.flags["sorted"] = True

    # -- what worker 0 keeps -----------------------------------------------------------------

    def _averaged(self) -> Supernet:
        net = Supernet(self.space)
        net.load_state_dict(self.average, strict=False)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _ready(self, net: Supernet, config: SubnetConfig, images: int) -> StaticNet:
        static = extract(net, config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate_bn(static, normalize(self.train_set.images[:images], self.space))
        return static  # type: ignore[no-any-return]

    def evaluate(self, progress: float) -> dict[str, object]:
        net = self._averaged()
        subset = self.test_set.head(self.options.evaluate_images)
        scores: dict[str, object] = {"images": len(subset)}
        for name, config in _extremes(self.space, self.options.phase(progress)):
            scores[name] = accuracy(self._ready(net, config, 1000), subset, self.space)
        return scores

    def partial_result(self) -> TrainResult:
        return TrainResult(self.out_dir / WEIGHTS, self.step, math.nan, math.nan)

    def finish(self) -> tuple[TrainResult, dict[str, object]]:
        path = self.out_dir / WEIGHTS
        net = self._averaged()
        scores: dict[str, float] = {}
        for name, config in _extremes(self.space, "sandwich"):
            static = self._ready(net, config, 2000)
            scores[name] = accuracy(static, self.test_set, self.space)
            if name == "largest":
                adopt_statistics(net, static)
        save_weights(net, path)
        result = TrainResult(path, self.step, scores["largest"], scores["smallest"])
        return result, dict(scores)


def decays(name: str, weight: Tensor) -> bool:
    """Whether weight decay pulls at a parameter."""
    return weight.dim() > 1 and not name.endswith("_matrix")


def _extremes(space: SearchSpace, phase: str) -> Iterator[tuple[str, SubnetConfig]]:
    largest = space.max_config()
    if phase == "grow":
        largest = space.uniform(min(space.kernels), max(space.expands), max)
    yield "largest", largest
    if phase == "sandwich":
        yield "smallest", space.min_config()

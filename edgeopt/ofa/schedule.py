"""What a training step does, as a function of how far the training has come."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace, SubnetConfig


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What every training run has: length, workers, and a learning rate over time.

    Length: ``epochs``, and/or a wall-clock budget of ``minutes``; whichever is further on sets
    the progress, 0 to 1, so that the learning rate always ends at zero.
    """

    epochs: float = 60.0
    minutes: float | None = None
    batch: int = 128  # over all workers
    workers: int = 1  # processes, one thread each, averaging their gradients
    seed: int = 0
    learning_rate: float = 0.12
    warmup: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 3e-4
    label_smoothing: float = 0.05
    ema_decay: float = 0.998
    crop_pad: int = 2
    checkpoint_seconds: float = 120.0
    evaluate_seconds: float = 300.0
    evaluate_images: int = 2000
    noun: ClassVar[str] = "training options"

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{item.name} is {value}", where=self.noun)
        checks = {
            "epochs must be positive": self.epochs > 0,
            "minutes must be positive": self.minutes is None or self.minutes > 0,
            "workers must be 1 to 256": 1 <= self.workers <= 256,
            "batch must be at least 2 images a worker": self.batch >= 2 * self.workers,
            "learning_rate must be positive": self.learning_rate > 0,
            "warmup must be 0 to 0.5": 0 <= self.warmup <= 0.5,
            "momentum must be 0 to below 1": 0 <= self.momentum < 1,
            "ema_decay must be 0 to below 1": 0 <= self.ema_decay < 1,
            "crop_pad must be 0 to 16": 0 <= self.crop_pad <= 16,
            "label_smoothing must be 0 to below 1": 0 <= self.label_smoothing < 1,
            **self.limits(),
        }
        for text, holds in checks.items():
            if not holds:
                raise InputError(text, where=self.noun)

    def limits(self) -> dict[str, bool]:
        """What else must hold of the options of this kind of run."""
        return {}

    def phase(self, progress: float) -> str:
        """Name of what is being done."""
        return "train"

    def rate(self, progress: float) -> float:
        """Learning rate: linear warm-up, then half a cosine down to zero."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        ramp = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.learning_rate * cosine * max(ramp, 0.02)

    def decay(self, step: int) -> float:
        """Decay of the averaged weights; they follow fast at first."""
        return min(self.ema_decay, (1.0 + step) / (10.0 + step))


@dataclass(frozen=True, slots=True)
class TrainOptions(RunOptions):
    """How to train a supernet.

    Progress runs through three phases: up to ``grow`` the largest subnet with the smallest kernels
    (they cost half), up to ``shrink`` the largest subnet, then the sandwich rule: largest,
    ``samples`` random ones and smallest, each distilled from the largest one's outputs of the same
    step.
    """

    distill_weight: float = 0.6
    grow: float = 0.22
    shrink: float = 0.55
    samples: int = 1

    def limits(self) -> dict[str, bool]:
        """Of phases and samples."""
        return {
            "0 <= grow <= shrink <= 1 must hold": 0 <= self.grow <= self.shrink <= 1,
            "samples must be 0 to 16": 0 <= self.samples <= 16,
        }

    def phase(self, progress: float) -> str:
        """``grow``, ``largest`` or ``sandwich``."""
        if progress < self.grow:
            return "grow"
        return "largest" if progress < self.shrink else "sandwich"

    def subnets(
        self, space: SearchSpace, progress: float, step: int
    ) -> Iterator[tuple[SubnetConfig, bool]]:
        """Subnets of one step, the teacher first, and whether each is distilled."""
        phase = self.phase(progress)
        largest = space.max_config()
        if phase == "grow":
            yield space.uniform(min(space.kernels), max(space.expands), max), False
            return
        yield largest, False
        if phase == "sandwich":
            rng = random.Random(f"{self.seed}/{step}")
            for _ in range(self.samples):
                sampled = space.sample(rng)
                yield at_resolution(sampled, largest.resolution), True
            yield at_resolution(space.min_config(), largest.resolution), True


def at_resolution(config: SubnetConfig, resolution: int) -> SubnetConfig:
    """The same subnet for images of another size."""
    return SubnetConfig(config.kernels, config.expands, config.depths, resolution)

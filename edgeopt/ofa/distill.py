"""Calibration images without data: synthesised from a supernet's own batch-norm statistics.

Images start as smooth noise and are optimised until the means and deviations they cause at every
batch norm match those that real images caused (DeepInversion, Yin et al. 2020, without its class
term), for several subnets at once, since a subnet that is chosen later is none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeopt.core.errors import EdgeoptError, InputError
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.extract import StaticNet

U8 = npt.NDArray[np.uint8]

#: ``progress(step, steps, mismatch)``
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class DistillOptions:
    """How calibration images are synthesised."""

    images: int = 512
    steps: int = 250
    batch: int = 128
    learning_rate: float = 0.08  # in units of the normalized input
    total_variation: float = 0.003
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.batch <= self.images:
            raise InputError(
                f"batch must be 2 to {self.images}, not {self.batch}", where="distillation options"
            )
        if self.steps < 1:
            raise InputError("steps must be positive", where="distillation options")


def distill_images(
    anchors: Sequence[StaticNet],
    space: SearchSpace,
    options: DistillOptions | None = None,
    progress: Progress | None = None,
) -> U8:
    """Synthesise images whose statistics in every anchor match the anchor's stored ones.

    Args:
        anchors: static subnets whose batch-norm statistics were measured on real images; one is
            used a step, in turn.
        space: gives resolution, mean and std.
        options: see `DistillOptions`.
        progress: told after every step.

    Returns:
        uint8 [images,H,W,C].

    Raises:
        InputError: there are no anchors.
        EdgeoptError: the optimisation diverged.
    """
    options = options or DistillOptions()
    if not anchors:
        raise InputError("no subnet to take statistics from", where="distillation")
    mean = torch.tensor(space.mean).view(1, -1, 1, 1)
    std = torch.tensor(space.std).view(1, -1, 1, 1)
    low, high = (0 - mean) / std, (1 - mean) / std
    generator = torch.Generator().manual_seed(options.seed)
    images = _smooth_noise(options.images, space, generator).clamp(low, high)
    images = images.contiguous(memory_format=torch.channels_last)
    moments = [torch.zeros_like(images), torch.zeros_like(images)]
    counts = torch.zeros(options.images)
    watches = [_Watch(anchor) for anchor in anchors]
    try:
        order = torch.empty(0, dtype=torch.int64)
        for step in range(options.steps):
            if len(order) < options.batch:
                order = torch.cat([order, torch.randperm(options.images, generator=generator)])
            picks, order = torch.unique(order[: options.batch]), order[options.batch :]
            batch = images[picks].requires_grad_(True)
            mismatch = watches[step % len(watches)].mismatch(batch)
            (gradient,) = torch.autograd.grad(
                mismatch + options.total_variation * _variation(batch), batch
            )
            value = float(mismatch.detach())
            if not np.isfinite(value):
                raise EdgeoptError(
                    f"the mismatch became {value} at step {step}", where="distillation",
                    hint="lower the learning rate; are the anchors' statistics finite?",
                )  # fmt: skip
            rate = options.learning_rate * 0.5 * (1 + np.cos(np.pi * step / options.steps))
            _adam(images, moments, counts, picks, gradient, float(rate))
            images[picks] = images[picks].clamp(low, high)
            if progress is not None:
                progress(step + 1, options.steps, value)
    finally:
        for watch in watches:
            watch.remove()
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def _smooth_noise(count: int, space: SearchSpace, generator: torch.Generator) -> Tensor:
    """Noise at several scales, the coarse ones strongest, as in natural images; unit deviation."""
    size = max(space.resolutions)
    total = torch.zeros(count, space.in_channels, size, size)
    edge = 2
    while edge <= size:
        noise = torch.randn(count, space.in_channels, edge, edge, generator=generator)
        total += F.interpolate(noise, (size, size), mode="bilinear") * (2 / edge) ** 0.5
        edge *= 2
    return total / total.std()


def _variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels."""
    across = (images[..., 1:] - images[..., :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return across + down


@torch.no_grad()
def _adam(
    images: Tensor, moments: list[Tensor], counts: Tensor, picks: Tensor, gradient: Tensor,
    rate: float,
) -> None:  # fmt: skip
    """One step of Adam on the picked images alone, each with its own count of steps."""
    gradient = gradient * len(picks)  # the loss is a mean over the batch
    counts[picks] += 1
    first = moments[0][picks].lerp_(gradient, 0.1)
    second = moments[1][picks].lerp_(gradient.square(), 0.01)
    moments[0][picks], moments[1][picks] = first, second
    age = counts[picks].view(-1, 1, 1, 1)
    step = first / (1 - 0.9**age) / ((second / (1 - 0.99**age)).sqrt() + 1e-8)
    images[picks] -= rate * step


class _Watch:
    """Sees the input of every batch norm of a network and compares it with what is stored."""

    def __init__(self, net: StaticNet) -> None:
        self.net = net.eval()
        self.terms: list[Tensor] = []
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        self.hooks = [
            layer.register_forward_pre_hook(self._compare)
            for layer in net.modules()
            if isinstance(layer, nn.BatchNorm2d)
        ]

    def _compare(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None and layer.running_var is not None
        (x,) = inputs
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        # relative to the channel's own deviation, so that every layer counts alike
        deviation = (layer.running_var + layer.eps).sqrt()
        shift = (mean - layer.running_mean) / deviation
        stretch = (variance + layer.eps).sqrt() / deviation - 1
        self.terms.append(shift.square().mean() + stretch.square().mean())

    def mismatch(self, images: Tensor) -> Tensor:
        """Mean over layers of the squared differences."""
        self.terms.clear()
        self.net(images)
        return torch.stack(self.terms).mean()

    def remove(self) -> None:
        """Stop watching."""
        for hook in self.hooks:
            hook.remove()

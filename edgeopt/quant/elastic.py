"""Elastic weight quantizers in torch: integers of every width from one float weight, trainable.

A quantizer has a scale and one step a width for each output channel, learned as logarithms:

    W_8 = clamp(rint(w / scale), -127, 127)
    W_b = clamp(rint(W_8 / step_b), -largest(b), largest(b)),  real = W_b * (step_b * scale)

which is what `core.lowbits` defines, bit for bit; double rounding is the case of
``step_b = 2 ** (8 - b)``. Gradients pass straight through the roundings, scales and steps learn
as in LSQ (Esser et al. 2020). The scale learns from passes of eight bits only, so that the low
widths do not pull at the integers that all of them share. A quantizer of a slice of the weight is
the slice of the quantized weight, so one quantizer serves every subnet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.core.lowbits import double_step, largest

#: Widths that are rounded from the stored eight bits.
LOW_BITS = (4, 3, 2)

_SHARES = 60  # steps tried for the least squared error
_DEAD = 1e-12  # channels smaller than this hold nothing


class ElasticQuantizer(nn.Module):
    """Scales and steps of one layer's weight [O, ...].

    Args:
        outputs: O of the largest form of the layer.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(outputs))
        for bits in LOW_BITS:
            start = torch.full((outputs,), double_step(bits)).log()
            self.register_parameter(f"log_step{bits}", nn.Parameter(start))

    def scale(self, outputs: int | None = None) -> Tensor:
        """Scale of the stored integers [outputs]."""
        return self.log_scale[:outputs].detach().exp()

    def step(self, bits: int, outputs: int | None = None) -> Tensor:
        """Stored steps in one of ``bits`` [outputs]; ones for eight."""
        if bits == 8:
            return torch.ones_like(self.log_scale[:outputs])
        return self.get_parameter(f"log_step{bits}")[:outputs].detach().exp()

    def forward(self, weight: Tensor, bits: int) -> Tensor:
        """The weight as ``bits`` can say it; same shape, leading slices are allowed."""
        count = weight.shape[0]
        scale = self.log_scale[:count].exp()
        y: Tensor
        if bits == 8:
            y = _Round8.apply(weight, scale)  # type: ignore[no-untyped-call]
        else:
            step, bound = self.get_parameter(f"log_step{bits}")[:count].exp(), largest(bits)
            y = _RoundLow.apply(weight, scale.detach(), step, bound)  # type: ignore[no-untyped-call]
        return y

    @torch.no_grad()
    def integers(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Integers (as floats) [O, ...] of a weight, and their scales [O]."""
        count = weight.shape[0]
        scale, step = self.scale(count), self.step(bits, count)
        whole = (weight / _spread(scale, weight)).round_().clamp_(-127, 127)
        if bits < 8:
            bound = largest(bits)
            whole = (whole / _spread(step, weight)).round_().clamp_(-bound, bound)
        return whole, step * scale

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Choose the scale by the largest magnitude and the steps by the least squared error."""
        scale = max_scale(weight)
        self.log_scale.copy_(scale.log())
        stored = (weight / _spread(self.scale(), weight)).round_().clamp_(-127, 127)
        for bits in LOW_BITS:
            self.get_parameter(f"log_step{bits}").copy_(_best_step(stored, bits).log())


def max_scale(weight: Tensor) -> Tensor:
    """Scales [O] with which the largest magnitude of each channel is 127; one's own if empty."""
    peak = weight.detach().abs().flatten(1).amax(1)
    return torch.where(peak > _DEAD, peak, torch.ones_like(peak)) / 127


def round_max(weight: Tensor) -> Tensor:
    """The weight in eight bits of a scale that follows its largest magnitude; trainable."""
    y: Tensor = _Round8.apply(weight, max_scale(weight))  # type: ignore[no-untyped-call]
    return y


@torch.no_grad()
def integers_max(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (as floats) and scales [O] of `round_max`."""
    scale = max_scale(weight)
    return (weight / _spread(scale, weight)).round_().clamp_(-127, 127), scale


def kurtosis(weight: Tensor) -> Tensor:
    """Fourth standardized moment of all weights: 1.8 where they are uniform, 3 where normal."""
    centred = weight - weight.mean()
    squares = centred.square()
    return squares.square().mean() / squares.mean().square().clamp_min(_DEAD)


def _best_step(stored: Tensor, bits: int) -> Tensor:
    flat, bound = stored.flatten(1), largest(bits)
    peak = flat.abs().amax(1).clamp_min(1.0)
    best = torch.full_like(peak, double_step(bits))
    least = torch.full_like(peak, torch.inf)
    for index in range(_SHARES):
        step = peak / bound * (0.15 + 0.95 * index / (_SHARES - 1))
        back = (flat / step[:, None]).round_().clamp_(-bound, bound) * step[:, None]
        error = (back - flat).square().sum(1)
        better = error < least
        best, least = torch.where(better, step, best), torch.where(better, error, least)
    return best


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))


class _Round8(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        wide = _spread(scale, weight)
        divided = weight / wide
        whole = divided.round().clamp_(-127, 127)
        ctx.save_for_backward(divided, whole)
        return whole * wide

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        divided, whole = ctx.saved_tensors
        inside = divided.abs() <= 127.5
        error = torch.where(inside, whole - divided, whole)
        return grads[0] * inside, (grads[0] * error).flatten(1).sum(1)


class _RoundLow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, step: Tensor, bound: int) -> Tensor:
        stored = (weight / _spread(scale, weight)).round_().clamp_(-127, 127)
        divided = stored.div_(_spread(step, weight))
        whole = divided.round().clamp_(-bound, bound)
        ctx.save_for_backward(divided, whole, scale)
        ctx.bound = bound
        return whole * _spread(step * scale, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, None]:
        divided, whole, scale = ctx.saved_tensors
        inside = divided.abs() <= ctx.bound + 0.5
        error = torch.where(inside, whole - divided, whole)
        by_step = (grads[0] * error).flatten(1).sum(1) * scale
        return grads[0] * inside, None, by_step, None

"""Elastic weight quantizers in torch: integers of every width from one float weight, trainable.

A quantizer has a scale and one step a width for each output channel, learned as logarithms:

    W_8 = clamp(rint(w / scale), -127, 127)
    W_b = clamp(rint(W_8 / step_b), -largest(b), largest(b)),  real = W_b * (step_b * scale)
    W_2 = 2 * clamp(floor(W_8 / step_2), -2, 1) + 1,           real = W_2 * (step_2 * scale / 2)

which is what `core.lowbits` defines, bit for bit; double rounding is the case of
``step_b = 2 ** (8 - b)``. Gradients pass straight through the roundings, scales and steps learn
as in LSQ (Esser et al. 2020). The scale learns from passes of eight bits only, so that the low
widths do not pull at the integers that all of them share. A quantizer of a slice of the weight is
the slice of the quantized weight, so one quantizer serves every subnet.

One scale may also serve all channels, or a group of inputs of one channel, and integers may have
zero points, which are fitted and do not learn: integers here are always those less the zero point,
which moves their limits. Groups and zero points are for simulation; kernels have neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.core.lowbits import NEARLY_ZERO, double_step, is_odd, limits, unit
from edgeopt.core.precision import DEPLOYED, LayerPrecision

#: Widths that are rounded from the stored eight bits.
LOW_BITS = (4, 3, 2)

_SHARES = 60  # steps tried for the least squared error
_DEAD = 1e-12  # channels smaller than this hold nothing


#: The least and the largest integer, broadcasting against the weights.
Limits = tuple[Tensor, Tensor]
#: Of steps that are rounded down, to whose middles odd integers belong.
_ODD: Limits = torch.tensor(-2.0), torch.tensor(1.0)


class ElasticQuantizer(nn.Module):
    """Scales and steps of one layer's weight [O, I, ...].

    Args:
        outputs: O of the largest form of the layer.
        inputs: its I; counts where groups have scales of their own.
        form: granularity, group and symmetry; its bits are not looked at.
    """

    def __init__(self, outputs: int, inputs: int = 1, form: LayerPrecision = DEPLOYED) -> None:
        super().__init__()
        self.form = form
        shape: tuple[int, ...] = (1,) if form.granularity == "tensor" else (outputs,)
        if form.granularity == "group":
            shape = outputs, -(-inputs // form.group)
        self.log_scale = nn.Parameter(torch.zeros(shape))
        for bits in LOW_BITS:
            start = torch.full(shape, double_step(bits)).log()
            self.register_parameter(f"log_step{bits}", nn.Parameter(start))
        if not form.symmetric:
            for bits in (8, *LOW_BITS):
                self.register_buffer(f"zero{bits}", torch.zeros(shape))

    def scale(self, outputs: int | None = None) -> Tensor:
        """Scale of the stored integers [outputs]; [1] for all, [outputs, groups] for groups."""
        return self.log_scale[:outputs].detach().exp()

    def step(self, bits: int, outputs: int | None = None) -> Tensor:
        """Stored steps in one of ``bits``, shaped as scales; ones for eight."""
        if bits == 8:
            return torch.ones_like(self.log_scale[:outputs])
        return self.get_parameter(f"log_step{bits}")[:outputs].detach().exp()

    def zero(self, bits: int, outputs: int | None = None) -> Tensor:
        """Zero points of the integers of ``bits``, shaped as scales."""
        if self.form.symmetric:
            return torch.zeros_like(self.log_scale[:outputs])
        return self.get_buffer(f"zero{bits}")[:outputs]

    def spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """Values shaped as scales, so that they broadcast against a weight or a slice of one."""
        if values.dim() == 1:
            return _spread(values, weight)
        wide = values.repeat_interleave(self.form.group, 1)[:, : weight.shape[1]]
        return wide.view(*wide.shape, *(1,) * (weight.dim() - 2))

    def _limits(self, bits: int, weight: Tensor) -> Limits:
        low, high = limits(bits, self.form.symmetric)
        if self.form.symmetric:
            return torch.tensor(float(low)), torch.tensor(float(high))
        zero = self.spread(self.zero(bits, weight.shape[0]), weight)
        return low - zero, high - zero

    def forward(self, weight: Tensor, bits: int) -> Tensor:
        """The weight as ``bits`` can say it; same shape, leading slices are allowed."""
        count = weight.shape[0]
        scale = self.spread(self.log_scale[:count].exp(), weight)
        eight = self._limits(8, weight)
        y: Tensor
        if bits == 8:
            y = _Round8.apply(weight, scale, eight)  # type: ignore[no-untyped-call]
        else:
            step = self.spread(self.get_parameter(f"log_step{bits}")[:count].exp(), weight)
            odd = is_odd(bits, self.form.symmetric)
            ends = _ODD if odd else self._limits(bits, weight)
            y = _RoundLow.apply(  # type: ignore[no-untyped-call]
                weight, scale.detach(), eight, step, ends, 0.5 * odd
            )
        return y

    @torch.no_grad()
    def integers(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Integers (as floats) [O, ...] of a weight less zero points, and their scales."""
        count = weight.shape[0]
        scale, step = self.scale(count), self.step(bits, count)
        whole = (weight / self.spread(scale, weight)).round_().clamp_(*self._limits(8, weight))
        if bits == 8:
            return whole, scale
        whole = whole / self.spread(step, weight)
        if is_odd(bits, self.form.symmetric):
            whole.floor_().clamp_(*_ODD).mul_(2).add_(1)
        else:
            whole.round_().clamp_(*self._limits(bits, weight))
        return whole, step * scale * unit(bits, self.form.symmetric)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Choose the scale by the range of the weights, steps by the least squared error."""
        shape = self.log_scale.shape
        cells = self._cells(weight)
        scale, zero = _range(cells, 8, self.form.symmetric)
        self.log_scale.copy_(scale.view(shape).log())
        low, high = limits(8, self.form.symmetric)
        wide = self.log_scale.exp().view(-1, 1)
        stored = (cells / wide).round_()
        stored = torch.minimum(torch.maximum(stored, low - zero[:, None]), high - zero[:, None])
        found = {8: zero}
        for bits in LOW_BITS:
            step, found[bits] = _best_step(stored, bits, self.form.symmetric)
            self.get_parameter(f"log_step{bits}").copy_(step.view(shape).log())
        if not self.form.symmetric:
            for bits, zeros in found.items():
                self.get_buffer(f"zero{bits}").copy_(zeros.view(shape))

    def _cells(self, weight: Tensor) -> Tensor:
        """Weights by scale [scales, weights of it]; zeros fill the last group."""
        if self.form.granularity == "tensor":
            return weight.reshape(1, -1)
        if self.form.granularity == "channel":
            return weight.flatten(1)
        groups = self.log_scale.shape[1]
        flat = weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]
        missing = groups * self.form.group - flat.shape[1]
        return nn.functional.pad(flat, (0, 0, 0, missing)).reshape(len(weight) * groups, -1)


def max_scale(weight: Tensor) -> Tensor:
    """Scales [O] with which the largest magnitude of each channel is 127; one's own if empty."""
    peak = weight.detach().abs().flatten(1).amax(1)
    return torch.where(peak > _DEAD, peak, torch.ones_like(peak)) / 127


def round_max(weight: Tensor) -> Tensor:
    """The weight in eight bits of a scale that follows its largest magnitude; trainable."""
    wide = _spread(max_scale(weight), weight)
    bounds = torch.tensor(-127.0), torch.tensor(127.0)
    y: Tensor = _Round8.apply(weight, wide, bounds)  # type: ignore[no-untyped-call]
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


def _range(cells: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scales and zero points with which each row's range, zero in it, is the integers'."""
    low, high = limits(bits, symmetric)
    if symmetric:
        return max_scale(cells) * (127 / high), torch.zeros(len(cells))
    least, most = cells.amin(1).clamp_max(0), cells.amax(1).clamp_min(0)
    width = most - least
    scale = torch.where(width > _DEAD, width, torch.full_like(width, 255.0 / 127)) / (high - low)
    return scale, (low - least / scale).round_().clamp_(low, high)


def _best_step(stored: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Steps and zero points of each row with the least squared error."""
    low, high = limits(bits, symmetric)
    peak = stored.abs().amax(1).clamp_min(1.0)
    least, most = stored.amin(1).clamp_max(0), stored.amax(1).clamp_min(0)
    best, zeros = torch.full_like(peak, double_step(bits)), torch.zeros_like(peak)
    smallest = torch.full_like(peak, torch.inf)
    for index in range(_SHARES):
        share = 0.15 + 0.95 * index / (_SHARES - 1)
        if symmetric:
            step, zero = peak / (high * unit(bits)) * share, torch.zeros_like(peak)
        else:
            step = (most - least).clamp_min(1.0) / (high - low) * share
            zero = (low - least * share / step).round_().clamp_(low, high)
        wide = step[:, None]
        if is_odd(bits, symmetric):
            back = (stored / wide).floor_().clamp_(*_ODD) + 0.5
        else:
            back = (stored / wide).round_()
            back = torch.minimum(torch.maximum(back, low - zero[:, None]), high - zero[:, None])
        error = (back * wide - stored).square().sum(1)
        better = error < smallest
        best, zeros = torch.where(better, step, best), torch.where(better, zero, zeros)
        smallest = torch.where(better, error, smallest)
    if is_odd(bits, symmetric):
        best = torch.where(stored.abs().amax(1) > 0, best, best * NEARLY_ZERO)
    return best, zeros


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))


def _learned(divided: Tensor, whole: Tensor, limits: Limits, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of LSQ: of the weights, and of each weight's scale."""
    low, high = limits
    inside = (divided >= low - 0.5) & (divided <= high + 0.5)
    error = torch.where(inside, whole - divided, whole)
    return grad * inside, grad * error


class _Round8(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, wide: Tensor, limits: Limits) -> Tensor:
        divided = weight / wide
        whole = divided.round().clamp_(*limits)
        ctx.save_for_backward(divided, whole)
        ctx.limits, ctx.shape = limits, wide.shape
        return whole * wide

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        divided, whole = ctx.saved_tensors
        by_weight, by_scale = _learned(divided, whole, ctx.limits, grads[0])
        return by_weight, by_scale.sum_to_size(ctx.shape), None


class _RoundLow(torch.autograd.Function):
    """Rounded to whole steps, or with ``middle`` of 1/2 to the middles of those that hold it."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        wide: Tensor,
        eight: Limits,
        step: Tensor,
        limits: Limits,
        middle: float,
    ) -> Tensor:
        stored = (weight / wide).round_().clamp_(*eight)
        divided = stored.div_(step)
        whole = divided.floor() if middle else divided.round()
        whole = whole.clamp_(*limits).add_(middle)
        ctx.save_for_backward(divided, whole, wide)
        ctx.limits = limits[0] + middle, limits[1] + middle
        return whole * (step * wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, Tensor, None, None]:
        divided, whole, wide = ctx.saved_tensors
        by_weight, by_step = _learned(divided, whole, ctx.limits, grads[0])
        return by_weight, None, None, by_step.sum_to_size(wide.shape) * wide, None, None

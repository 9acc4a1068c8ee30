"""Measuring the batch-norm statistics of a subnet, which are its own and not the supernet's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Measure:
    """Stands in for a layer's forward: normalizes with the batch's statistics and averages them."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        self.bn = bn
        self.mean = torch.zeros_like(bn.weight)
        self.variance = torch.zeros_like(bn.weight)
        self.count = 0

    def __call__(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        values = x.numel() // x.shape[1]
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        if values > 1:
            # one fused pass, several times faster; it leaves the unbiased variance behind
            y = F.batch_norm(
                x, mean, variance, self.bn.weight, self.bn.bias, True, 1.0, self.bn.eps
            )
            variance *= (values - 1) / values
        else:
            mean = x.mean((0, 2, 3))
            y = F.batch_norm(
                x, mean, variance, self.bn.weight, self.bn.bias, False, 0.0, self.bn.eps
            )
        self.mean += mean * count
        self.variance += variance * count
        self.count += count
        return y


@torch.no_grad()
def recalibrate_bn(module: nn.Module, images: Tensor, batch: int = 200) -> None:
    """Replace every running mean and variance by their average over batches of ``images``.

    The once-for-all authors' rule: each batch is normalized with its own statistics on the way,
    variances are biased, batches are weighted by their size. An incomplete last batch counts.

    Args:
        module: a static network (see `edgeopt.ofa.extract.extract`).
        images: normalized images [N,C,H,W].
        batch: images a batch.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    measures = [_Measure(layer) for layer in layers]
    training = module.training
    module.eval()
    try:
        for layer, measure in zip(layers, measures, strict=True):
            layer.__dict__["forward"] = measure  # shadows the method until popped
        for start in range(0, images.shape[0], batch):
            module(images[start : start + batch])
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
        module.train(training)
    for layer, measure in zip(layers, measures, strict=True):
        if measure.count:
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.copy_(measure.mean / measure.count)
            layer.running_var.copy_(measure.variance / measure.count)

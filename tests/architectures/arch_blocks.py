"""Building blocks that the architectures share, as their papers and torchvision have them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Activation = Callable[[], nn.Module]


def conv(
    i: int, o: int, k: int = 1, s: int = 1, g: int = 1, act: Activation | None = None
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False),
        nn.BatchNorm2d(o),
    ]
    if act is not None:
        layers.append(act())
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """A gate for each channel from the mean of its map."""

    def __init__(self, channels: int, inner: int, act: Activation, gate: Activation) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), act(),
            nn.Conv2d(inner, channels, 1), gate(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.body(x)


class Inverted(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project; the residual where shapes allow."""

    def __init__(
        self, i: int, o: int, expand: int, k: int, s: int, act: Activation,
        se: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        wide = i * expand
        layers: list[nn.Module] = [] if expand == 1 else [conv(i, wide, act=act)]
        layers.append(conv(wide, wide, k, s, wide, act))
        if se is not None:
            layers.append(se)
        layers.append(conv(wide, o))
        self.body = nn.Sequential(*layers)
        self.skip = s == 1 and i == o

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class Classifier(nn.Module):
    """Features, their mean, dropout, a linear layer."""

    def __init__(self, features: nn.Module, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.head(torch.flatten(x, 1))

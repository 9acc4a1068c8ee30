"""Keyword spotting and other small networks over sound."""

from __future__ import annotations

import torch
from arch_blocks import conv
from torch import nn


class DsCnn(nn.Module):
    """Depthwise separable convolutions over a spectrogram (MLPerf Tiny's keyword spotting)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, (10, 4), 2, (4, 1), bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.body = nn.Sequential(
            *(
                nn.Sequential(conv(16, 16, 3, 1, 16, nn.ReLU), conv(16, 16, act=nn.ReLU))
                for _ in range(2)
            )
        )
        self.pool = nn.AvgPool2d((24, 5))
        self.head = nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.body(self.stem(x)))
        return torch.softmax(self.head(torch.flatten(x, 1)), -1)


class Wave(nn.Module):
    """Conv1d over a raw signal, with both one-dimensional pools (M5)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 8, 16, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4),
            nn.Conv1d(8, 12, 3), nn.BatchNorm1d(12), nn.ReLU(), nn.AvgPool1d(2),
            nn.Conv1d(12, 12, 3, padding=1, groups=12), nn.ReLU(), nn.Conv1d(12, 16, 1),
        )  # fmt: skip
        self.head = nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).mean(-1)
        return torch.log_softmax(self.head(x), 1)


class Causal(nn.Module):
    """A dilated convolution that sees only the past, with a residual."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(nn.functional.pad(x, (self.pad, 0))))
        return torch.relu(x + self.mix(y))


class Tcn(nn.Module):
    """A temporal convolutional network: dilations 1, 2, 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(10, 16, 1)
        self.body = nn.Sequential(*(Causal(16, d) for d in (1, 2, 4)))
        self.head = nn.Conv1d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)))[:, :, -1]

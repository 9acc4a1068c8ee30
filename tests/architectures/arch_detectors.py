"""A small YOLO: CSP blocks, pyramid pooling, a neck up and down, decoupled heads."""

from __future__ import annotations

import torch
from arch_blocks import conv
from torch import nn


class Csp(nn.Module):
    """YOLOv8's C2f: split, a chain of bottlenecks, everything side by side."""

    def __init__(self, i: int, o: int, shortcut: bool = True) -> None:
        super().__init__()
        half = o // 2
        self.first = conv(i, o, act=nn.SiLU)
        self.inner = nn.Sequential(
            conv(half, half, 3, act=nn.SiLU), conv(half, half, 3, act=nn.SiLU)
        )
        self.last = conv(3 * half, o, act=nn.SiLU)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x).chunk(2, 1)
        c = self.inner(b)
        return self.last(torch.cat([a, b, b + c if self.shortcut else c], 1))


class Sppf(nn.Module):
    """Three max pools one after another, side by side with what went in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels // 2, act=nn.SiLU)
        self.last = conv(2 * channels, channels, act=nn.SiLU)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        a = self.pool(x)
        b = self.pool(a)
        return self.last(torch.cat([x, a, b, self.pool(b)], 1))


class Yolo(nn.Module):
    """Two scales; boxes are a distribution over ``bins`` distances, decoded by a softmax."""

    def __init__(self, mode: str = "nearest", classes: int = 3, bins: int = 4) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        self.stem = nn.Sequential(conv(3, 8, 3, 2, act=nn.SiLU), conv(8, 16, 3, 2, act=nn.SiLU))
        self.c3 = Csp(16, 16)
        self.down = conv(16, 24, 3, 2, act=nn.SiLU)
        self.c4 = nn.Sequential(Csp(24, 24), Sppf(24))
        self.up = nn.Upsample(
            scale_factor=2, mode=mode, align_corners=False if mode == "bilinear" else None
        )
        self.p3 = Csp(40, 16, shortcut=False)
        self.back = conv(16, 16, 3, 2, act=nn.SiLU)
        self.p4 = Csp(40, 24, shortcut=False)
        self.boxes = nn.ModuleList(nn.Conv2d(c, 4 * bins, 1) for c in (16, 24))
        self.scores = nn.ModuleList(nn.Conv2d(c, classes, 1) for c in (16, 24))
        self.register_buffer("steps", torch.arange(bins, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        small = self.c3(self.stem(x))
        large = self.c4(self.down(small))
        p3 = self.p3(torch.cat([self.up(large), small], 1))
        p4 = self.p4(torch.cat([self.back(p3), large], 1))
        found = [
            torch.cat([box(p), score(p)], 1).flatten(2)
            for p, box, score in zip((p3, p4), self.boxes, self.scores, strict=True)
        ]
        whole = torch.cat(found, 2)
        box, score = whole.split((4 * self.bins, self.classes), 1)
        b, _, n = box.shape
        spread = box.view(b, 4, self.bins, n).transpose(2, 1).softmax(1)
        distances = (spread * self.steps.view(1, -1, 1, 1)).sum(1)
        return torch.cat([distances * 8.0, score.sigmoid()], 1), p4


class YoloV5Head(nn.Module):
    """Anchors: [1, A*(5+C), H, W] to [1, A*H*W, 5+C], and a sigmoid; leaky activations before."""

    def __init__(self, anchors: int = 3, classes: int = 2) -> None:
        super().__init__()
        self.anchors, self.outputs = anchors, 5 + classes
        act = lambda: nn.LeakyReLU(0.1)  # noqa: E731
        self.body = nn.Sequential(
            conv(3, 8, 3, 2, act=act), conv(8, 16, 3, 2, act=act), conv(16, 16, 3, act=act)
        )
        self.head = nn.Conv2d(16, anchors * self.outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.body(x))
        n, _, h, w = x.shape
        x = x.view(n, self.anchors, self.outputs, h, w).permute(0, 1, 3, 4, 2)
        y = x.sigmoid()
        xy, wh, rest = y.split((2, 2, self.outputs - 4), 4)
        y = torch.cat([xy * 2 - 0.5, (wh * 2) ** 2, rest], 4)
        return y.reshape(n, -1, self.outputs)

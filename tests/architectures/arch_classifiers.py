"""Image classifiers of the usual families: the real blocks, fewer and narrower."""

from __future__ import annotations

import torch
from arch_blocks import Classifier, Inverted, SqueezeExcite, conv
from torch import nn


def mobilenet_v1() -> nn.Module:
    layers = [conv(3, 8, 3, 2, act=nn.ReLU)]
    for i, o, s in ((8, 16, 1), (16, 24, 2), (24, 24, 1)):
        layers += [conv(i, i, 3, s, i, nn.ReLU), conv(i, o, act=nn.ReLU)]
    return Classifier(nn.Sequential(*layers), 24)


def mobilenet_v2() -> nn.Module:
    return Classifier(
        nn.Sequential(
            conv(3, 8, 3, 2, act=nn.ReLU6),
            Inverted(8, 8, 1, 3, 1, nn.ReLU6),
            Inverted(8, 12, 6, 3, 2, nn.ReLU6),
            Inverted(12, 12, 6, 3, 1, nn.ReLU6),
            conv(12, 40, act=nn.ReLU6),
        ),
        40,
    )


class MobileNetV3(nn.Module):
    """Squeeze-and-excite with a hard sigmoid, and the head behind the pooling."""

    def __init__(self) -> None:
        super().__init__()

        def se(channels: int) -> nn.Module:
            return SqueezeExcite(channels, 8, nn.ReLU, nn.Hardsigmoid)

        self.features = nn.Sequential(
            conv(3, 8, 3, 2, act=nn.Hardswish),
            Inverted(8, 8, 1, 3, 2, nn.ReLU, se(8)),
            Inverted(8, 12, 4, 5, 1, nn.Hardswish, se(32)),
            Inverted(12, 12, 3, 3, 1, nn.Hardswish),
            conv(12, 36, act=nn.Hardswish),
        )
        self.head = nn.Sequential(
            nn.Linear(36, 40), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(40, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.head(torch.flatten(x, 1))


def efficientnet(lite: bool = False) -> nn.Module:
    """EfficientNet: SiLU and squeeze-and-excite; the Lite ones have ReLU6 and no gates."""
    act = nn.ReLU6 if lite else nn.SiLU

    def se(channels: int, i: int) -> nn.Module | None:
        return None if lite else SqueezeExcite(channels, max(1, i // 4), nn.SiLU, nn.Sigmoid)

    return Classifier(
        nn.Sequential(
            conv(3, 8, 3, 2, act=act),
            Inverted(8, 8, 1, 3, 1, act, se(8, 8)),
            Inverted(8, 12, 6, 5, 2, act, se(48, 8)),
            Inverted(12, 12, 6, 3, 1, act, se(72, 12)),
            conv(12, 40, act=act),
        ),
        40,
    )


class Residual(nn.Module):
    """ResNet's basic block, its bottleneck, or RegNet's with groups."""

    def __init__(
        self, i: int, o: int, s: int, *, inner: int = 0, groups: int = 1, se: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module]
        if inner:
            layers = [
                conv(i, inner, act=nn.ReLU),
                conv(inner, inner, 3, s, groups, nn.ReLU),
                conv(inner, o),
            ]
            if se:
                layers.insert(2, SqueezeExcite(inner, 4, nn.ReLU, nn.Sigmoid))
        else:
            layers = [conv(i, o, 3, s, act=nn.ReLU), conv(o, o, 3)]
        self.body = nn.Sequential(*layers)
        self.skip = conv(i, o, 1, s) if s != 1 or i != o else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet() -> nn.Module:
    stem = [conv(3, 8, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    return Classifier(nn.Sequential(*stem, Residual(8, 8, 1), Residual(8, 16, 2)), 16)


def resnet_bottleneck() -> nn.Module:
    stem = [conv(3, 8, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    blocks = [Residual(8, 16, 1, inner=4), Residual(16, 32, 2, inner=8)]
    return Classifier(nn.Sequential(*stem, *blocks), 32)


def regnet() -> nn.Module:
    blocks = [
        Residual(8, 24, 2, inner=24, groups=3, se=True),
        Residual(24, 24, 1, inner=24, groups=3, se=True),
    ]
    return Classifier(nn.Sequential(conv(3, 8, 3, 2, act=nn.ReLU), *blocks), 24)


class Fire(nn.Module):
    """SqueezeNet's block."""

    def __init__(self, i: int, s: int, e: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(i, s, 1)
        self.one, self.three = nn.Conv2d(s, e, 1), nn.Conv2d(s, e, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)


class SqueezeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(12, 4, 8), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16, 4, 8),
            nn.Dropout(0.5), nn.Conv2d(16, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.flatten(self.features(x), 1), 1)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's block: half the channels, or all of them and half the map; then a shuffle."""

    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        half = o // 2
        self.stride = s
        self.left = (
            nn.Sequential(conv(i, i, 3, s, i), conv(i, half, act=nn.ReLU)) if s > 1 else None
        )
        self.right = nn.Sequential(
            conv(i if s > 1 else half, half, act=nn.ReLU),
            conv(half, half, 3, s, half),
            conv(half, half, act=nn.ReLU),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.left is None:
            a, b = x.chunk(2, dim=1)
            x = torch.cat([a, self.right(b)], 1)
        else:
            x = torch.cat([self.left(x), self.right(x)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    return Classifier(
        nn.Sequential(
            conv(3, 8, 3, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1), ShuffleUnit(8, 24, 2),
            ShuffleUnit(24, 24, 1), conv(24, 32, act=nn.ReLU),
        ),
        32,
    )  # fmt: skip


class DenseLayer(nn.Module):
    """Batch norm and activation before each convolution; the input is kept beside the result."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth), nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    return Classifier(
        nn.Sequential(
            conv(3, 8, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1), DenseLayer(8, 6),
            DenseLayer(14, 6), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1, bias=False),
            nn.AvgPool2d(2), DenseLayer(10, 6), nn.BatchNorm2d(16), nn.ReLU(),
        ),
        16,
    )  # fmt: skip


def mnasnet() -> nn.Module:
    def se(channels: int) -> nn.Module:
        return SqueezeExcite(channels, 6, nn.ReLU, nn.Sigmoid)

    return Classifier(
        nn.Sequential(
            conv(3, 8, 3, 2, act=nn.ReLU), conv(8, 8, 3, 1, 8, nn.ReLU), conv(8, 6),
            Inverted(6, 8, 3, 5, 2, nn.ReLU, se(18)), Inverted(8, 8, 3, 5, 1, nn.ReLU, se(24)),
            conv(8, 32, act=nn.ReLU),
        ),
        32,
    )  # fmt: skip


class Mixed(nn.Module):
    """Operators that models use now and then: each family of pointwise functions, odd pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.PReLU(8), nn.ZeroPad2d((0, 1, 0, 1)))
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.LeakyReLU(0.1))
        self.b = nn.Sequential(nn.Conv2d(8, 8, (1, 3)), nn.GELU(), nn.Conv2d(8, 8, (3, 1)))
        self.c = nn.Sequential(
            nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(8, 8, 3), nn.ELU()
        )
        self.head = nn.Linear(8 * 9, 5)
        self.register_buffer("mean", torch.linspace(-0.3, 0.3, 8).view(1, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem((x - 0.1) / 1.5)
        x = torch.tanh(self.a(x)) + self.b(x) * 0.5 - self.c(x)
        x = (x - self.mean).clamp(-2, 3)
        x = nn.functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        x = x + torch.sigmoid(x.mean([2, 3], keepdim=True))
        x = torch.cat([x[:, :4, :, :], x.flip(1)[:, :4] - x.amax((2, 3), keepdim=True)[:, 4:]], 1)
        return nn.functional.log_softmax(self.head(torch.flatten(x, 1)), 1)

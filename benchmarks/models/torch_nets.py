"""Networks everybody knows, written in plain torch modules with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_bn(
    i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, batch norm and perhaps an activation."""
    parts = [
        nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(o),
    ]
    return nn.Sequential(*parts, *([act] if act is not None else []))


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, i: int, o: int, stride: int, expand: int) -> None:
        super().__init__()
        mid = i * expand
        parts: list[nn.Module] = [] if expand == 1 else [conv_bn(i, mid, act=nn.ReLU6())]
        parts += [conv_bn(mid, mid, 3, stride, mid, nn.ReLU6()), conv_bn(mid, o)]
        self.conv = nn.Sequential(*parts)
        self.residual = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2, width 1.0 (Sandler et al. 2018, table 2)."""

    BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        parts: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=nn.ReLU6())]
        channels = 32
        for expand, width, count, stride in self.BLOCKS:
            for index in range(count):
                parts.append(InvertedResidual(channels, width, stride if not index else 1, expand))
                channels = width
        parts += [conv_bn(channels, 1280, act=nn.ReLU6()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.net = nn.Sequential(*parts, nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv_bn(i, o, 3, stride, act=nn.ReLU()), conv_bn(o, o, 3))
        self.shortcut = nn.Identity() if stride == 1 and i == o else conv_bn(i, o, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.conv(x) + self.shortcut(x))
        return y


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2015, table 1)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        parts: list[nn.Module] = [
            conv_bn(3, 64, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1),
        ]  # fmt: skip
        channels = 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            parts += [BasicBlock(channels, width, stride), BasicBlock(width, width, 1)]
            channels = width
        parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
        self.net = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class SamePad(nn.Module):
    """TensorFlow's "same" padding, the surplus at the end."""

    def __init__(self, kernel: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel in zip((x.shape[3], x.shape[2]), self.kernel[::-1], strict=True):
            total = max((-(-size // self.stride) - 1) * self.stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return nn.functional.pad(x, pads) if any(pads) else x


def same_conv(i: int, o: int, kernel: tuple[int, int], stride: int, groups: int = 1) -> nn.Module:
    """A convolution with TensorFlow's "same" padding, batch norm and ReLU."""
    if stride == 1:  # symmetric
        pad: list[nn.Module] = []
        padding = (kernel[0] // 2, kernel[1] // 2)
    else:
        pad, padding = [SamePad(kernel, stride)], (0, 0)
    conv = nn.Conv2d(i, o, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(*pad, conv, nn.BatchNorm2d(o), nn.ReLU())


class DsCnn(nn.Module):
    """MLPerf Tiny's keyword spotting network: 49x10 features, 12 words."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        parts = [same_conv(1, 64, (10, 4), 2)]
        for _ in range(4):
            parts += [same_conv(64, 64, (3, 3), 1, 64), same_conv(64, 64, (1, 1), 1)]
        parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes), nn.Softmax(-1)]
        self.net = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class MobileNetV1(nn.Module):
    """MLPerf Tiny's visual wake words network: MobileNetV1 of width 0.25 on 96x96 images."""

    BLOCKS = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (128, 1),
              (128, 1), (128, 1), (256, 2), (256, 1))  # fmt: skip

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        parts = [same_conv(3, 8, (3, 3), 2)]
        channels = 8
        for width, stride in self.BLOCKS:
            parts += [
                same_conv(channels, channels, (3, 3), stride, channels),
                same_conv(channels, width, (1, 1), 1),
            ]
            channels = width
        parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
        self.net = nn.Sequential(*parts, nn.Softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


@torch.no_grad()
def randomize(module: nn.Module, images: Tensor, seed: int) -> nn.Module:
    """Random weights under which activations stay of the size they have in a trained network."""
    from edgeopt.ofa.bn import recalibrate_bn

    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0, 0.1, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.uniform_(0.7, 1.3, generator=generator)
            layer.bias.normal_(0, 0.2, generator=generator)
    recalibrate_bn(module, images)
    return module.eval()

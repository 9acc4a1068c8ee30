"""Small networks of the usual families, exported by torch and quantized by onnxruntime."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn


def conv(i: int, o: int, k: int = 1, s: int = 1, g: int = 1, act: nn.Module | None = None):
    layers: list[nn.Module] = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False)]
    layers.append(nn.BatchNorm2d(o))
    if act is not None:
        layers.append(act)
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.expand(torch.relu(self.reduce(self.pool(x)))))


class Inverted(nn.Module):
    def __init__(self, i: int, o: int, s: int, act: type[nn.Module], se: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(i, i * 3, act=act()),
            conv(i * 3, i * 3, 3, s, i * 3, act()),
            SqueezeExcite(i * 3) if se else nn.Identity(),
            conv(i * 3, o),
        )
        self.skip = s == 1 and i == o

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 8, 3, 2, act=nn.ReLU6()),
            Inverted(8, 8, 1, nn.ReLU6),
            Inverted(8, 16, 2, nn.ReLU6),
            conv(16, 32, act=nn.ReLU6()),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean([2, 3]))


class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 8, 3, 2, act=nn.Hardswish()),
            Inverted(8, 8, 1, nn.ReLU, se=True),
            Inverted(8, 16, 2, nn.Hardswish, se=True),
            conv(16, 32, act=nn.Hardswish()),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(32, 24, 1),
            nn.Hardswish(),
        )
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.features(x), 1))


class Basic(nn.Module):
    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(i, o, 3, s, act=nn.ReLU()), conv(o, o, 3))
        self.skip = conv(i, o, 1, s) if s != 1 or i != o else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 8, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1), Basic(8, 8, 1), Basic(8, 16, 2)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 1), 1))


class Fire(nn.Module):
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
            nn.Conv2d(16, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.features(x), 1)


class Plain(nn.Module):
    """A flattened map in front of linear layers, so that weights have to be permuted."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.BatchNorm2d(8),
            nn.Conv2d(8, 6, 3, groups=2), nn.GELU(), nn.MaxPool2d(2, 2),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(6 * 7 * 7, 20), nn.LeakyReLU(0.1), nn.Linear(20, 5),
            nn.Softmax(1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class Shuffle(nn.Module):
    """Channel shuffle, split and concatenation: transposes that are not NCHW to NHWC."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, 2, act=nn.ReLU())
        self.branch = nn.Sequential(conv(4, 4, act=nn.ReLU()), conv(4, 4, 3, 1, 4))
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        a, b = x.chunk(2, dim=1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = x * torch.sigmoid(x.mean([2, 3], keepdim=True))
        return self.head(x.mean([2, 3]))


class Keywords(nn.Module):
    """1-D convolutions over [1, C, L]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(5, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(),
            nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.Tanh(), nn.MaxPool1d(2),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


NETS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "mobilenet_v2": (MobileNetV2, (1, 3, 32, 32)),
    "mobilenet_v3": (MobileNetV3, (1, 3, 32, 32)),
    "resnet": (ResNet, (1, 3, 48, 48)),
    "squeezenet": (SqueezeNet, (1, 3, 40, 40)),
    "plain": (Plain, (1, 3, 32, 32)),
    "shuffle": (Shuffle, (1, 3, 24, 24)),
    "keywords": (Keywords, (1, 5, 40)),
}


def build(name: str) -> nn.Module:
    """A network with weights and statistics that are not trivial."""
    torch.manual_seed(len(name))
    net = NETS[name][0]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return net.eval()


def export(name: str, *, dynamo: bool = False) -> onnx.ModelProto:
    """What torch.onnx makes of a network; with or without batch norms in it."""
    net, shape = build(name), NETS[name][1]
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(net, (torch.zeros(shape),), dynamo=True, verbose=False)
            return program.model_proto
        torch.onnx.export(
            net, (torch.zeros(shape),), buffer, dynamo=False, opset_version=17,
            do_constant_folding=True, training=torch.onnx.TrainingMode.EVAL,
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


def quantize(
    model: onnx.ModelProto, folder: Path, *, unsigned: bool = False, per_channel: bool = True
) -> onnx.ModelProto:
    """onnxruntime's own static quantization, in QDQ form."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, ready, target = (folder / f"{n}.onnx" for n in ("float", "ready", "int8"))
    onnx.save(model, source)
    info = model.graph.input[0]
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    batches = iter([{info.name: rng.standard_normal(shape).astype(np.float32)} for _ in range(4)])

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)
        quant_pre_process(str(source), str(ready))
        quantize_static(
            str(ready), str(target), Reader(), quant_format=QuantFormat.QDQ,
            per_channel=per_channel, weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
        )  # fmt: skip
        logging.getLogger().setLevel(level)
    return onnx.load(str(target))

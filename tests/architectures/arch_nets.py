"""Every architecture by name: how to build it, export it, feed it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from functools import partial

import arch_audio as audio
import arch_classifiers as classifiers
import arch_detectors as detectors
import onnx
import torch
from torch import nn

Shape = tuple[int, ...]

NETS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "mobilenet_v1": (classifiers.mobilenet_v1, (1, 3, 24, 24)),
    "mobilenet_v2": (classifiers.mobilenet_v2, (1, 3, 24, 24)),
    "mobilenet_v3": (classifiers.MobileNetV3, (1, 3, 24, 24)),
    "efficientnet": (classifiers.efficientnet, (1, 3, 24, 24)),
    "efficientnet_lite": (partial(classifiers.efficientnet, lite=True), (1, 3, 24, 24)),
    "resnet": (classifiers.resnet, (1, 3, 32, 32)),
    "resnet_bottleneck": (classifiers.resnet_bottleneck, (1, 3, 32, 32)),
    "regnet": (classifiers.regnet, (1, 3, 24, 24)),
    "squeezenet": (classifiers.SqueezeNet, (1, 3, 40, 40)),
    "shufflenet_v2": (classifiers.shufflenet_v2, (1, 3, 32, 32)),
    "densenet": (classifiers.densenet, (1, 3, 32, 32)),
    "mnasnet": (classifiers.mnasnet, (1, 3, 24, 24)),
    "mixed": (classifiers.Mixed, (1, 3, 15, 15)),
    "yolo": (detectors.Yolo, (1, 3, 32, 32)),
    "yolo_bilinear": (partial(detectors.Yolo, "bilinear"), (1, 3, 32, 32)),
    "yolo_v5": (detectors.YoloV5Head, (1, 3, 32, 32)),
    "ds_cnn": (audio.DsCnn, (1, 1, 49, 10)),
    "wave": (audio.Wave, (1, 1, 400)),
    "tcn": (audio.Tcn, (1, 10, 30)),
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
    """What one of torch's two exporters makes of a network."""
    net, shape = build(name), NETS[name][1]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(net, (torch.zeros(shape),), dynamo=True, verbose=False)
            return program.model_proto
        buffer = io.BytesIO()
        torch.onnx.export(net, (torch.zeros(shape),), buffer, dynamo=False, opset_version=17)
    return onnx.load_from_string(buffer.getvalue())

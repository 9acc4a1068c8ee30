"""The benchmark's models: what they are called and how each is made, with fixed seeds."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from .torch_nets import DsCnn, MobileNetV1, MobileNetV2, ResNet18, randomize

#: Images that batch norms and activation ranges are measured on.
IMAGES = 16


@dataclass(frozen=True, slots=True)
class Model:
    """A network of the benchmark.

    Attributes:
        name: on the command line and in tables.
        shape: of the torch module's input, [1,C,H,W].
        make: builds the torch module in eval mode; ``images`` is [N,C,H,W].
        given: files of this precision and kind that are used instead of converted ones,
            ``("int8", "tflite") -> path`` under the folder of reference data.
    """

    name: str
    shape: tuple[int, int, int, int]
    make: Callable[[torch.Tensor], nn.Module]
    given: dict[tuple[str, str], str]

    def images(self) -> torch.Tensor:
        """Images to calibrate with: smooth noise, so that maps are not all alike."""
        generator = torch.Generator().manual_seed(1)
        _, channels, height, width = self.shape
        coarse = torch.randn(IMAGES, channels, (height + 7) // 8, (width + 7) // 8,
                             generator=generator)  # fmt: skip
        smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        fine = torch.randn(IMAGES, channels, height, width, generator=generator)
        return smooth + 0.3 * fine

    def module(self) -> nn.Module:
        """The torch module."""
        torch.manual_seed(0)
        return self.make(self.images())


def data_dir() -> Path | None:
    """The folder of reference data, if there is one."""
    value = os.environ.get("EDGEOPT_DATA")
    return Path(value) if value and Path(value).is_dir() else None


def _zoo(index: int) -> Callable[[torch.Tensor], nn.Module]:
    def make(images: torch.Tensor) -> nn.Module:
        from edgeopt import zoo
        from edgeopt.ofa.bn import recalibrate_bn
        from edgeopt.ofa.checkpoint import load_weights
        from edgeopt.ofa.extract import extract

        entry = zoo.load("cifar_mbv3")
        rng = random.Random(0)
        configs = [entry.space.max_config(), entry.space.min_config()]
        configs += [entry.space.sample(rng) for _ in range(2)]
        static = extract(load_weights(entry.space, entry.weights), configs[index])
        recalibrate_bn(static, images)
        return static.eval()

    return make


def _ofa(kind: str, resolution: int) -> Callable[[torch.Tensor], nn.Module]:
    def make(images: torch.Tensor) -> nn.Module:
        from edgeopt.ofa.extract import build
        from edgeopt.ofa.spaces import load_space

        space = load_space("ofa_mbv3")
        if kind in ("min", "max"):
            config = space.min_config() if kind == "min" else space.max_config()
        else:
            config = space.sample(random.Random(f"{kind}-{resolution}"))
        config = space.canonical(replace(config, resolution=resolution))
        return randomize(build(space, config), images, seed=resolution)

    return make


def _random(kind: Callable[[], nn.Module], seed: int) -> Callable[[torch.Tensor], nn.Module]:
    return lambda images: randomize(kind(), images, seed)


def _catalog() -> dict[str, Model]:
    models = [
        Model(f"zoo-{name}", (1, 3, 32, 32), _zoo(index), {})
        for index, name in enumerate(("max", "min", "a", "b"))
    ]
    for resolution, kinds in ((128, ("min", "a")), (160, ("min", "a", "b")),
                              (224, ("a", "b", "max"))):  # fmt: skip
        models += [
            Model(f"ofa-{kind}-{resolution}", (1, 3, resolution, resolution),
                  _ofa(kind, resolution), {})
            for kind in kinds
        ]  # fmt: skip
    kws = {("int8", "onnx"): "kws_ref_model.op18.onnx", ("int8", "tflite"): "kws_ref_model.tflite"}
    vww = {
        ("fp32", "onnx"): "vww_96_float.op18.onnx",
        ("fp32", "tflite"): "vww_96_float.tflite",
        ("int8", "onnx"): "vww_96_int8.op18.onnx",
        ("int8", "tflite"): "vww_96_int8.tflite",
    }
    models += [
        Model("kws", (1, 1, 49, 10), _random(DsCnn, 1), kws),
        Model("vww", (1, 3, 96, 96), _random(MobileNetV1, 2), vww),
        Model("mobilenetv2-224", (1, 3, 224, 224), _random(MobileNetV2, 3), {}),
        Model("resnet18-224", (1, 3, 224, 224), _random(ResNet18, 4), {}),
    ]
    return {model.name: model for model in models}


#: Every model by name, in the order of tables.
MODELS = _catalog()

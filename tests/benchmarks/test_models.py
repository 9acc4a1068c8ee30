"""The benchmark's networks are the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.models import MODELS, to_onnx
from benchmarks.models.torch_nets import DsCnn, MobileNetV1, MobileNetV2, ResNet18
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import parse_model
from edgeopt.graph.reference import run_onnx


def macs_of(module: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates that torch itself performs."""
    total = 0

    def count(layer: torch.nn.Module, args: object, out: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
        total += out.numel() * layer.weight[0].numel()

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module.eval()(torch.zeros(shape))
    return total


@pytest.mark.parametrize(
    ("kind", "shape", "macs", "parameters"),
    [
        (MobileNetV2, (1, 3, 224, 224), 300.8e6, 3_504_872),
        (ResNet18, (1, 3, 224, 224), 1.814e9, 11_689_512),
        (DsCnn, (1, 1, 49, 10), 2.657e6, None),
        (MobileNetV1, (1, 3, 96, 96), 7.49e6, None),
    ],
)
def test_sizes_are_the_published_ones(
    kind: type[torch.nn.Module], shape: tuple[int, ...], macs: float, parameters: int | None
) -> None:
    module = kind()
    assert macs_of(module, shape) == pytest.approx(macs, rel=1e-3)
    if parameters is not None:
        assert sum(p.numel() for p in module.parameters()) == parameters


def test_there_are_the_models_that_were_asked_for() -> None:
    sizes = [model.shape[2] for name, model in MODELS.items() if name.startswith(("zoo-", "ofa-"))]
    assert sizes.count(32) == 4 and len(sizes) == 12
    assert {128, 160, 224} < set(sizes)


def test_a_model_is_the_same_every_time_and_in_onnx() -> None:
    model = MODELS["kws"]
    first, second = model.module(), model.module()
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    data = to_onnx(first, model.shape)
    image = model.images()[:1]
    (name,) = import_model(parse_model(data), isolated=False).inputs
    (output,) = run_onnx(data, {name: image.numpy()}).values()
    expected = first(image).detach().numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-6)
    assert expected.std() > 1e-3  # activations have not died out


def test_the_folder_of_a_model_is_written_once(tmp_path: Path, data_dir: Path) -> None:
    from benchmarks.models import prepare

    folder = prepare(MODELS["kws"], tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"fp32.onnx", "int8.onnx", "int8.tflite", "module.pt2", "images.npy"}
    before = (folder / "fp32.onnx").stat().st_mtime_ns
    assert prepare(MODELS["kws"], tmp_path) == folder
    assert (folder / "fp32.onnx").stat().st_mtime_ns == before

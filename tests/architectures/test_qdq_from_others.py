"""Quantized models as other tools write them: templates, integers throughout, the same numbers."""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from pathlib import Path

import arch_nets
import numpy as np
import onnx
import pytest
import torch
from arch_run import HOST, feeds_of, import_checked
from torch import nn

from edgeopt.codegen import schedules
from edgeopt.codegen.lower import lower
from edgeopt.codegen.reference import run_kernels
from edgeopt.core.kernels import KernelGraph
from edgeopt.graph.load import load_model
from edgeopt.graph.reference import run_onnx

#: What onnxruntime's quantizer is told: type of activations, of weights, scales a channel,
#: symmetric activations.
STYLES = {
    "s8s8": ("s", "s", True, False),
    "u8s8": ("u", "s", False, False),
    "s8s8_symmetric": ("s", "s", True, True),
    "u8u8": ("u", "u", False, False),
}
CASES = [
    ("mobilenet_v3", "s8s8"), ("mobilenet_v3", "u8s8"), ("mobilenet_v3", "u8u8"),
    ("shufflenet_v2", "s8s8_symmetric"), ("shufflenet_v2", "u8s8"), ("efficientnet", "s8s8"),
    ("yolo", "s8s8"), ("yolo_bilinear", "u8s8"), ("squeezenet", "u8s8"), ("tcn", "s8s8"),
    ("densenet", "s8s8"),
]  # fmt: skip
#: What is left in float, and why. Batch norms that no convolution could take are float in the
#: model itself.
FLOAT = {("densenet", "s8s8"): {"depthwise": 5}}


def quantize(model: onnx.ModelProto, folder: Path, style: str) -> onnx.ModelProto:
    """onnxruntime's own static quantization, in QDQ form."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, ready, target = (folder / f"{n}.onnx" for n in ("float", "ready", "int8"))
    onnx.save(model, source)
    info = model.graph.input[0]
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    batches = iter([{info.name: rng.standard_normal(shape).astype(np.float32)} for _ in range(3)])

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    activation, weight, per_channel, symmetric = STYLES[style]
    kinds = {"s": QuantType.QInt8, "u": QuantType.QUInt8}
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        quant_pre_process(str(source), str(ready))
        static(
            str(ready), str(target), Reader(), quant_format=QuantFormat.QDQ,
            per_channel=per_channel, weight_type=kinds[weight], activation_type=kinds[activation],
            extra_options={"ActivationSymmetric": symmetric},
        )  # fmt: skip
        root.setLevel(level)
    return onnx.load(str(target))


def in_float(graph: KernelGraph) -> dict[str, int]:
    """Kernels that compute in float, conversions aside."""
    return Counter(
        kernel.key.op
        for kernel in graph.kernels
        if kernel.key.precision == "f32" and kernel.key.op != "quantize"
    )


def check(model: onnx.ModelProto, *, exact: bool = True, share: float = 1.0) -> KernelGraph:
    """Lower without a fallback, and compare with onnxruntime running the model as written.

    ``share`` of the elements must be equal, the others within two percent of the largest.
    """
    imported = import_checked(model)
    graph = lower(imported.network)
    assert [str(k.key) for k in graph.kernels if schedules.select(k.key, HOST) is None] == []
    for seed in range(2):
        feeds = feeds_of(model, seed)
        results = run_kernels(
            graph, {name: imported.inputs[name].from_onnx(v) for name, v in feeds.items()}
        )
        for name, want in run_onnx(model.SerializeToString(), feeds).items():
            got = imported.outputs[name].to_onnx(results[name])
            assert got.dtype == want.dtype
            if share < 1:
                assert (got == want).mean() >= share
                assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
            elif exact:
                np.testing.assert_array_equal(got, want)
            else:
                np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    return graph


@pytest.mark.parametrize(("name", "style"), CASES)
def test_onnxruntimes_quantizer(name: str, style: str, tmp_path: Path) -> None:
    # As written, onnxruntime adds up floats and takes exponentials of floats: where a sum lies just
    # between two steps it may round to the other one, and what follows carries that on. The
    # detectors are deep enough for one such sum (their last layers multiply a step by eight);
    # batch norms in float are folded, which rounds differently, too.
    share = {"yolo": 0.9, "yolo_bilinear": 0.9, "densenet": 0.5}.get(name, 1.0)
    graph = check(quantize(arch_nets.export(name), tmp_path, style), share=share)
    if style == "u8u8":
        # Weights with a zero point take nine bits: these layers run in float, exactly as written.
        assert in_float(graph).keys() <= {"conv2d", "pointwise", "depthwise"}
        return
    assert in_float(graph) == FLOAT.get((name, style), {})


@pytest.mark.parametrize("name", ["kws_ref_model.op18", "vww_96_int8.op18"])
def test_converted_from_tflite(name: str, data_dir: Path) -> None:
    graph = check(load_model(data_dir / "mlperf_tiny" / f"{name}.onnx"))
    assert {kernel.key.dtype for kernel in graph.kernels} == {"i8"}


class Fake(nn.Module):
    """A fake quantization with a fixed scale."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, 0, -128, 127)


class FakeConv(nn.Module):
    """A convolution trained for integers: its weights are quantized a channel, its bias is not."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.act, self.out = conv, act, Fake(0.03)
        weight = conv.weight.detach()
        self.register_buffer("scale", weight.abs().flatten(1).amax(1) / 127)
        self.register_buffer("zero", torch.zeros(len(weight), dtype=torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.conv
        w = torch.fake_quantize_per_channel_affine(c.weight, self.scale, self.zero, 0, -128, 127)
        y = nn.functional.conv2d(x, w, c.bias, c.stride, c.padding, c.dilation, c.groups)
        return self.out(y if self.act is None else self.act(y))


class Trained(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.q, self.add = Fake(0.04), Fake(0.05)
        self.a = FakeConv(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.b = FakeConv(nn.Conv2d(8, 8, 3, 1, 1, groups=8), act)
        self.c = FakeConv(nn.Conv2d(8, 8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(self.q(x))
        x = self.add(x + self.c(self.b(x)))
        return torch.flatten(self.add(nn.functional.adaptive_avg_pool2d(x, 1)), 1)


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.Hardswish()], ids=["relu6", "hardswish"])
def test_quantization_aware_training_in_torch(act: nn.Module) -> None:
    """Fake quantizations become pairs around float operators and initializers."""
    torch.manual_seed(3)
    net, buffer = Trained(act).eval(), io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(1, 3, 16, 16),), buffer, dynamo=False, opset_version=17)
    graph = check(onnx.load_from_string(buffer.getvalue()), exact=False)
    # A function between a convolution and its quantization that is no clamp is one of real numbers.
    wanted = {} if isinstance(act, nn.ReLU6) else {"depthwise": 1}
    assert in_float(graph) == wanted

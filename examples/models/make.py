"""Makes the two small quantized networks of the firmware example; their weights are random.

    python examples/models/make.py

camera.onnx takes an image of 24 x 24 pixels in colour, audio.onnx 49 frames of 10 features. Put
your own networks in their place: names, shapes and scales come from the generated headers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent


class Net:
    """A quantized network under construction: every activation is int8."""

    def __init__(self, name: str, shape: tuple[int, ...], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.name, self.shape = name, shape
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[str, np.ndarray] = {}
        self.channels = shape[1]
        self.last = self.pair(name, 1 / 64, 0)

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """An operator with one output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def pair(self, value: str, scale: float, zero: int) -> str:
        """Quantize and dequantize."""
        self.values[f"{value}_s"] = np.array(scale, np.float32)
        self.values[f"{value}_z"] = np.array(zero, np.int8)
        known = [f"{value}_s", f"{value}_z"]
        held = self.node("QuantizeLinear", [value, *known], f"{value}_q")
        return self.node("DequantizeLinear", [held, *known], f"{value}_d")

    def weights(self, name: str, *shape: int) -> str:
        """Random int8 weights, dequantized."""
        self.values[name] = self.rng.integers(-127, 128, shape, dtype=np.int8)
        spread = 1.6 / 127 / np.sqrt(np.prod(shape[1:]))
        self.values[f"{name}_s"] = np.full(shape[0], spread, np.float32)
        self.values[f"{name}_z"] = np.zeros(shape[0], np.int8)
        return self.node(
            "DequantizeLinear", [name, f"{name}_s", f"{name}_z"], f"{name}_d", axis=0
        )  # fmt: skip

    def conv(self, out: int, kernel: tuple[int, int], *, stride: int = 1, groups: int = 1) -> None:
        """A convolution and its ReLU."""
        name = f"conv{len(self.nodes)}"
        wide = self.weights(f"{name}_w", out, self.channels // groups, *kernel)
        pads = [(kernel[0] - 1) // 2, (kernel[1] - 1) // 2] * 2
        self.node(
            "Conv", [self.last, wide], name, strides=[stride, stride], pads=pads, group=groups
        )
        self.node("Relu", [name], f"{name}_relu")
        self.channels, self.last = out, self.pair(f"{name}_relu", 1 / 48, -128)

    def classes(self, count: int) -> onnx.ModelProto:
        """The mean over space and a classifier: the model."""
        self.node("GlobalAveragePool", [self.last], "mean")
        self.node("Flatten", [self.pair("mean", 1 / 100, -128)], "flat")
        wide = self.weights("fc_w", count, self.channels)
        self.node("Gemm", [self.pair("flat", 1 / 100, -128), wide], "fc", transB=1)
        self.node("Identity", [self.pair("fc", 1 / 50, 0)], "scores")
        graph = helper.make_graph(
            self.nodes, self.name,
            [helper.make_tensor_value_info(self.name, TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, count))],
            [numpy_helper.from_array(value, name) for name, value in self.values.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def camera() -> onnx.ModelProto:
    """A stem and two depthwise separable blocks."""
    net = Net("image", (1, 3, 24, 24), seed=1)
    net.conv(8, (3, 3), stride=2)
    for out in (16, 24):
        net.conv(net.channels, (3, 3), stride=2, groups=net.channels)
        net.conv(out, (1, 1))
    return net.classes(10)


def audio() -> onnx.ModelProto:
    """One wide convolution over time and features, and a depthwise separable block."""
    net = Net("spectrum", (1, 1, 49, 10), seed=2)
    net.conv(16, (9, 5), stride=2)
    net.conv(16, (3, 3), groups=16)
    net.conv(24, (1, 1))
    return net.classes(12)


if __name__ == "__main__":
    for name, model in (("camera", camera()), ("audio", audio())):
        (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))

"""Small float networks in ONNX, with every pattern that quantization treats specially."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Maker:
    """Appends operators to a model; every method returns the name of the tensor it wrote."""

    def __init__(self, channels: int = 3, size: int = 12, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape = [1, channels, size, size]

    def constant(self, value: np.ndarray, stem: str) -> str:
        name = f"{stem}{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, *inputs: str, **attrs: object) -> str:
        output = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attrs)
        )
        return output

    def conv(
        self, x: str, i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1,
        bias: bool = True,
    ) -> str:  # fmt: skip
        fan = i // groups * kernel * kernel
        # Channels differ in size, as after folding batch norm.
        size = self.rng.lognormal(0, 0.7, (o, 1, 1, 1)) / np.sqrt(fan)
        w = (self.rng.standard_normal((o, i // groups, kernel, kernel)) * size).astype(np.float32)
        inputs = [x, self.constant(w, "w")]
        if bias:
            values = self.rng.standard_normal(o).astype(np.float32) * 0.3
            inputs.append(self.constant(values, "b"))
        return self.op(
            "Conv", *inputs, strides=[stride, stride], pads=[kernel // 2] * 4, group=groups
        )

    def bn(self, x: str, channels: int) -> str:
        parts = [
            self.rng.uniform(0.5, 1.5, channels),
            self.rng.standard_normal(channels) * 0.2,
            self.rng.standard_normal(channels) * 0.2,
            self.rng.uniform(0.5, 2.0, channels),
        ]
        names = [self.constant(part.astype(np.float32), "bn") for part in parts]
        return self.op("BatchNormalization", x, *names)

    def clip(self, x: str, low: float, high: float) -> str:
        bounds = [self.constant(np.array(v, np.float32), "limit") for v in (low, high)]
        return self.op("Clip", x, *bounds)

    def linear(self, x: str, i: int, o: int) -> str:
        w = (self.rng.standard_normal((o, i)) / np.sqrt(i)).astype(np.float32)
        b = self.rng.standard_normal(o).astype(np.float32) * 0.1
        return self.op("Gemm", x, self.constant(w, "w"), self.constant(b, "b"), transB=1)

    def finish(self, output: str, opset: int = 18) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "scores"
        assert output == f"{self.nodes[-1].op_type.lower()}{len(self.nodes) - 1}"
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
            self.constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )
        inferred = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(inferred)
        return inferred


def mobile(seed: int = 0) -> onnx.ModelProto:
    """Inverted residuals with squeeze and excite, every activation style, batch norm unfolded."""
    m = Maker(seed=seed)
    x = m.op("HardSwish", m.bn(m.conv("image", 3, 8, 3, bias=False), 8))
    y = m.op("Relu", m.bn(m.conv(x, 8, 16, bias=False), 16))
    y = m.clip(m.conv(y, 16, 16, 3, groups=16), 0.0, 6.0)
    gate = m.op("GlobalAveragePool", y)
    gate = m.op("Relu", m.conv(gate, 16, 4))
    gate = m.op("HardSigmoid", m.conv(gate, 4, 16), alpha=1 / 6, beta=0.5)
    y = m.conv(m.op("Mul", y, gate), 16, 8)
    x = m.op("Add", x, y)
    x = m.op("HardSwish", m.conv(x, 8, 24, 3, stride=2))
    x = m.op("Flatten", m.op("GlobalAveragePool", x))
    return m.finish(m.linear(x, 24, 10))


def varied(seed: int = 0) -> onnx.ModelProto:
    """Pools, concatenation, a clamp behind a sum, silu in two nodes, softmax left in float."""
    m = Maker(channels=4, size=11, seed=seed)
    x = m.op("Relu", m.conv("image", 4, 8, 3))
    a = m.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    b = m.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    c = m.conv(x, 8, 8, 3, stride=2)
    s = m.op("Mul", c, m.op("Sigmoid", c))
    x = m.op("Concat", a, b, s, axis=1)
    x = m.op("Relu", m.op("Add", m.conv(x, 24, 24), m.conv(x, 24, 24, 3, groups=24)))
    x = m.op("LeakyRelu", m.conv(x, 24, 12, 1), alpha=0.2)
    x = m.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = m.op("Flatten", x)
    return m.finish(m.op("Softmax", m.linear(x, 12 * 9, 7), axis=1))


def images(model: onnx.ModelProto, count: int, seed: int = 1) -> np.ndarray:
    """Smooth random images for a model's input, [N,C,H,W]."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, *shape[1:]))
    return (noise + rng.standard_normal((count, shape[1], 1, 1))).astype(np.float32)

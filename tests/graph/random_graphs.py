"""Random small networks: what a strategy draws is made into an ONNX model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

Shape = tuple[int, ...]


class Maker:
    """A model under construction; every step reads what was written before."""

    def __init__(self, draw: st.DrawFn, shape: Shape) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: dict[str, Shape] = {"image": shape}
        self.current = "image"
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def pick(self, *options: object) -> object:
        return self.draw(st.sampled_from(options))

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weights(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        values = self.rng.standard_normal(shape) / np.sqrt(fan)
        return self.constant(values.astype(np.float32))

    def add(self, op: str, inputs: list[str], shape: Shape, **attrs: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n_{name}", **attrs))
        self.shapes[name] = shape
        self.current = name
        return name

    @property
    def shape(self) -> Shape:
        return self.shapes[self.current]

    def others(self, shape: Shape) -> list[str]:
        return [n for n, s in self.shapes.items() if s == shape and n != self.current]

    def model(self) -> onnx.ModelProto:
        outputs = [self.current]
        extra = [n for n in self.shapes if n not in ("image", self.current)]
        if extra and self.draw(st.integers(0, 3)) == 0:
            outputs.append(self.draw(st.sampled_from(extra)))

        def info(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, self.shapes[name])

        graph = helper.make_graph(
            self.nodes, "random", [info("image")], [info(n) for n in outputs], self.constants
        )
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def conv(m: Maker) -> None:
    _, c, h, w = m.shape
    kernel = m.pick(1, 3, (3, 1), 5)
    kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
    stride, dilation = m.pick(1, 1, 2), m.pick(1, 1, 2)
    groups = m.pick(1, 1, c, 2 if c % 2 == 0 else 1)
    out = m.pick(c, 2 * c, 4 * groups)
    out = max(groups, out // groups * groups)
    pads = [m.pick(0, 1, 2) for _ in range(4)]
    oh = (h + pads[0] + pads[2] - dilation * (kh - 1) - 1) // stride + 1
    ow = (w + pads[1] + pads[3] - dilation * (kw - 1) - 1) // stride + 1
    if oh < 1 or ow < 1:
        return
    inputs = [m.current, m.weights(out, c // groups, kh, kw)]
    if m.pick(True, False):
        inputs.append(m.weights(out))
    m.add(
        "Conv", inputs, (1, out, oh, ow), strides=[stride] * 2, pads=pads, group=groups,
        dilations=[dilation] * 2, kernel_shape=[kh, kw],
    )  # fmt: skip


def same_conv(m: Maker) -> None:
    _, c, h, w = m.shape
    stride = m.pick(1, 2)
    inputs = [m.current, m.weights(3, c, 3, 3)]
    shape = (1, 3, -(-h // stride), -(-w // stride))
    auto = m.pick("SAME_UPPER", "SAME_LOWER")
    m.add("Conv", inputs, shape, strides=[stride] * 2, auto_pad=auto, kernel_shape=[3, 3])


def batch_norm(m: Maker) -> None:
    c = m.shape[1]
    stats = [m.weights(c) for _ in range(3)]
    positive = m.constant(m.rng.uniform(0.5, 2, c).astype(np.float32))
    m.add("BatchNormalization", [m.current, *stats, positive], m.shape, epsilon=1e-4)


def activation(m: Maker) -> None:
    op, attrs = m.pick(
        ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("HardSwish", {}), ("HardSigmoid", {}),
        ("LeakyRelu", {"alpha": 0.2}), ("Elu", {"alpha": 0.7}), ("Abs", {}), ("Softsign", {}),
    )  # fmt: skip
    m.add(op, [m.current], m.shape, **attrs)


def clip(m: Maker) -> None:
    low, high = m.pick((0, 6), (-1, 1), (0, 1), (None, 2), (0.5, None))
    names = ["" if v is None else m.constant(np.float32(v)) for v in (low, high)]
    m.add("Clip", [m.current, *names], m.shape)


def gate(m: Maker) -> None:
    source, shape = m.current, m.shape
    m.add(m.pick("Sigmoid", "HardSigmoid"), [source], shape)
    m.add("Mul", [source, m.current], shape)


def combine(m: Maker) -> None:
    others = m.others(m.shape)
    if others:
        m.add(m.pick("Add", "Mul", "Sub", "Max"), [m.pick(*others), m.current], m.shape)


def channel_constant(m: Maker) -> None:
    c = m.weights(m.shape[1], 1, 1) if m.pick(True, False) else m.weights(1)
    names = [m.current, c]
    m.add(m.pick("Add", "Mul", "Sub"), names[:: m.pick(1, -1)], m.shape)


def full_constant(m: Maker) -> None:
    m.add(m.pick("Add", "Mul"), [m.current, m.weights(*m.shape)], m.shape)


def pool(m: Maker) -> None:
    _, c, h, w = m.shape
    k, stride, pad = m.pick(2, 3), m.pick(1, 2), m.pick(0, 1)
    up = m.pick(0, 1)
    sizes = []
    for size in (h, w):
        free = size + 2 * pad - k
        count = (-(-free // stride) if up else free // stride) + 1
        if up and (count - 1) * stride >= size + pad:
            return  # a window of padding only: onnx and onnxruntime do not agree on those
        sizes.append(count)
    if min(sizes) < 1 or k > min(h, w):
        return
    attrs: dict[str, object] = {
        "kernel_shape": [k, k], "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": up,
    }  # fmt: skip
    op = m.pick("MaxPool", "AveragePool")
    if op == "AveragePool":
        attrs["count_include_pad"] = 0 if up else m.pick(0, 1)
    m.add(op, [m.current], (1, c, *sizes), **attrs)


def padded(m: Maker) -> None:
    _, c, h, w = m.shape
    amounts = [m.pick(0, 1, 2) for _ in range(4)]
    pads = m.constant(np.array([0, 0, *amounts[:2], 0, 0, *amounts[2:]], np.int64))
    m.add(
        "Pad", [m.current, pads], (1, c, h + amounts[0] + amounts[2], w + amounts[1] + amounts[3])
    )


def squeeze_excite(m: Maker) -> None:
    source, (_, c, _, _) = m.current, m.shape
    whole = m.shape
    if m.pick(True, False):
        m.add("GlobalAveragePool", [source], (1, c, 1, 1))
    else:
        m.add("ReduceMean", [source], (1, c, 1, 1), axes=[2, 3], keepdims=1)
    m.add("Conv", [m.current, m.weights(c, c, 1, 1), m.weights(c)], (1, c, 1, 1))
    m.add("HardSigmoid", [m.current], (1, c, 1, 1), alpha=1 / 6, beta=0.5)
    m.add("Mul", [source, m.current][:: m.pick(1, -1)], whole)


def concat(m: Maker) -> None:
    _, c, h, w = m.shape
    same = [n for n, s in m.shapes.items() if len(s) == 4 and s[2:] == (h, w)]
    other = m.pick(*same)
    m.add("Concat", [m.current, other], (1, c + m.shapes[other][1], h, w), axis=m.pick(1, -3))


def shuffle(m: Maker) -> None:
    _, c, h, w = m.shape
    if c % 2:
        return
    wide = m.constant(np.array([1, 2, c // 2, h, w], np.int64))
    narrow = m.constant(np.array([1, -1, h, w], np.int64))
    m.add("Reshape", [m.current, wide], (1, 2, c // 2, h, w))
    m.add("Transpose", [m.current], (1, c // 2, 2, h, w), perm=[0, 2, 1, 3, 4])
    m.add("Reshape", [m.current, narrow], (1, c, h, w))


def turned(m: Maker) -> None:
    perm = list(m.draw(st.permutations([1, 2, 3])))
    shape = (1, *(m.shape[axis] for axis in perm))
    m.add("Transpose", [m.current], shape, perm=[0, *perm])


def folded(m: Maker) -> None:
    _, c, h, w = m.shape
    target = m.pick((1, h, w, c), (1, c * h, 1, w), (1, c, h * w, 1), (1, w, c, h))
    m.add("Reshape", [m.current, m.constant(np.array(target, np.int64))], target)


def sliced(m: Maker) -> None:
    axis = m.pick(1, 2, 3)
    size = m.shape[axis]
    start = m.draw(st.integers(0, size - 1))
    step = m.pick(1, 2)
    shape = list(m.shape)
    shape[axis] = -(-(size - start) // step)
    parts = [m.constant(np.array([v], np.int64)) for v in (start, 2**31, axis, step)]
    m.add("Slice", [m.current, *parts], tuple(shape))


def upsampled(m: Maker) -> None:
    _, c, h, w = m.shape
    scales = m.constant(np.array([1, 1, 2, 3], np.float32))
    m.add(
        "Resize", [m.current, "", scales], (1, c, 2 * h, 3 * w), mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def rows(m: Maker) -> None:
    """A matrix product over the rows of a 3-D view, as transformers have it."""
    _, c, h, w = m.shape
    m.add("Reshape", [m.current, m.constant(np.array([1, c, h * w], np.int64))], (1, c, h * w))
    m.add("Transpose", [m.current], (1, h * w, c), perm=[0, 2, 1])
    m.add("MatMul", [m.current, m.weights(c, c)], (1, h * w, c))
    m.add("Add", [m.weights(c), m.current], (1, h * w, c))
    m.add("Transpose", [m.current], (1, c, h * w), perm=[0, 2, 1])
    m.add("Reshape", [m.current, m.constant(np.array([1, c, h, w], np.int64))], (1, c, h, w))


def softmax(m: Maker) -> None:
    m.add("Softmax", [m.current], m.shape, axis=m.pick(1, 2, 3, -1))


STEPS: tuple[Callable[[Maker], None], ...] = (
    conv, conv, conv, same_conv, batch_norm, activation, activation, clip, gate, combine, combine,
    channel_constant, full_constant, pool, padded, squeeze_excite, concat, shuffle, turned, folded,
    sliced, upsampled, rows, softmax,
)  # fmt: skip


def head(m: Maker) -> None:
    """An end with linear layers, some of the time."""
    _, c, h, w = m.shape
    kind = m.pick("none", "flatten", "mean", "pool")
    if kind == "none":
        return
    if kind == "flatten":
        m.add("Flatten", [m.current], (1, c * h * w), axis=1)
    elif kind == "mean":
        m.add("ReduceMean", [m.current], (1, c), axes=[2, 3], keepdims=0)
    else:
        m.add("GlobalAveragePool", [m.current], (1, c, 1, 1))
        m.add("Squeeze", [m.current, m.constant(np.array([2, 3], np.int64))], (1, c))
    width = m.shape[1]
    turned_weights = m.pick(0, 1)
    w_name = m.weights(5, width) if turned_weights else m.weights(width, 5)
    m.add("Gemm", [m.current, w_name, m.weights(5)], (1, 5), transB=turned_weights)
    if m.pick(True, False):
        m.add("Softmax", [m.current], (1, 5), axis=1)


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """A model of up to nine steps from an input of up to 6 channels and 9 x 9."""
    m = Maker(draw, (1, draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(1, 9))))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=9)):
        if np.prod(m.shape) < 20_000 and len(m.shape) == 4:
            step(m)
    head(m)
    if not m.nodes:
        m.add("Relu", [m.current], m.shape)
    return m.model()

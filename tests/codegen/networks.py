"""Networks for the tests of this package, built by hand from primitive operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeopt.codegen import refops
from edgeopt.core.network import Network, Op, Quant, Tensor


class Builder:
    """Appends operators with random weights; every method returns the new tensor's name."""

    def __init__(self, seed: int = 0, *, integer: bool = False, constants: bool = True) -> None:
        self.random = np.random.default_rng(seed)
        self.integer = integer
        self.constants = constants
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.inputs: list[str] = []

    def quant(self, like: str | None = None) -> Quant | None:
        if not self.integer:
            return None
        if like is not None:
            return self.tensors[like].quant
        scale = float(np.float32(self.random.uniform(0.01, 0.2)))
        return Quant(scale, int(self.random.integers(-30, 30)))

    def input(self, *shape: int, dtype: str | None = None) -> str:
        name = f"in{len(self.inputs)}"
        dtype = dtype or ("i8" if self.integer else "f32")
        quant = self.quant() if dtype == "i8" else None
        self.tensors[name] = Tensor(name, shape, dtype, quant)
        self.inputs.append(name)
        return name

    def op(
        self,
        kind: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        attrs: Mapping[str, object] | None = None,
        constants: Mapping[str, Any] | None = None,
        *,
        quant: Quant | None = None,
        dtype: str | None = None,
    ) -> str:
        name = f"{kind}{len(self.ops)}"
        dtype = dtype or self.tensors[inputs[0]].dtype
        if dtype == "i8" and quant is None:
            quant = self.quant()
        self.tensors[name] = Tensor(name, shape, dtype, quant if dtype == "i8" else None)
        given = dict(constants or {}) if self.constants else {}
        self.ops.append(Op(name, kind, inputs, name, dict(attrs or {}), given))
        return name

    def weights(self, shape: tuple[int, ...]) -> dict[str, Any]:
        outputs, fan = shape[0], int(np.prod(shape[1:]))
        if not self.integer:
            return {
                "w": self.random.normal(0, fan**-0.5, shape).astype(np.float32),
                "b": self.random.normal(0, 0.3, outputs).astype(np.float32),
            }
        return {
            "w": self.random.integers(-127, 128, shape).astype(np.int8),
            "w_scale": (self.random.uniform(0.2, 1, outputs) / 60 / fan**0.5).astype(np.float32),
            "b": self.random.integers(-2000, 2000, outputs).astype(np.int32),
        }

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        pads: tuple[int, int, int, int] | None = None,
        dilation: int = 1,
        bias: bool = True,
    ) -> str:
        shape = self.tensors[x].shape
        edge = dilation * (kernel - 1) // 2
        attrs = {
            "kernel": (kernel, kernel),
            "strides": (stride, stride),
            "pads": pads if pads is not None else (edge,) * 4,
            "dilations": (dilation, dilation),
            "groups": groups,
        }
        constants = self.weights((channels, kernel, kernel, shape[-1] // groups))
        if not bias:
            del constants["b"]
        out = (1, *refops.out_size(shape, attrs), channels)
        return self.op("conv2d", (x,), out, attrs, constants)

    def depthwise(self, x: str, kernel: int = 3, stride: int = 1) -> str:
        channels = self.tensors[x].shape[-1]
        return self.conv(x, channels, kernel, stride, groups=channels)

    def linear(self, x: str, outputs: int) -> str:
        inputs = self.tensors[x].shape[-1]
        return self.op("linear", (x,), (1, outputs), {}, self.weights((outputs, inputs)))

    def act(self, x: str, function: str = "relu", *, same: bool = True, **attrs: object) -> str:
        """An activation; in int8 a clamp keeps its input's quantization if ``same``."""
        clamps = function in ("relu", "relu6", "clip")
        quant = self.quant(x if same and clamps else None)
        shape = self.tensors[x].shape
        return self.op("activation", (x,), shape, {"function": function, **attrs}, quant=quant)

    def add(self, a: str, b: str) -> str:
        return self.op("add", (a, b), self.tensors[a].shape)

    def mul(self, a: str, b: str) -> str:
        shapes = self.tensors[a].shape, self.tensors[b].shape
        return self.op("mul", (a, b), max(shapes, key=np.prod))

    def gap(self, x: str) -> str:
        return self.op("global_avgpool", (x,), (1, 1, 1, self.tensors[x].shape[-1]))

    def pool(self, kind: str, x: str, kernel: int, stride: int, pad: int = 0, **more: Any) -> str:
        shape = self.tensors[x].shape
        attrs = {
            "kernel": (kernel, kernel),
            "strides": (stride, stride),
            "pads": (pad,) * 4,
            **more,
        }
        size = refops.out_size(shape, {**attrs, "dilations": (1, 1)})
        quant = self.quant(x) if kind == "maxpool" else None
        return self.op(kind, (x,), (1, *size, shape[-1]), attrs, quant=quant)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("reshape", (x,), shape, quant=self.quant(x))

    def squeeze_excite(self, x: str, middle: int) -> str:
        channels = self.tensors[x].shape[-1]
        gate = self.act(self.conv(self.gap(x), middle), "relu")
        gate = self.act(self.conv(gate, channels), "hardsigmoid", alpha=1 / 6, beta=0.5)
        return self.mul(x, gate)

    def bottleneck(
        self, x: str, middle: int, out: int, kernel: int, stride: int, function: str, se: bool
    ) -> str:
        y = self.act(self.conv(x, middle), function)
        y = self.act(self.depthwise(y, kernel, stride), function)
        if se:
            y = self.squeeze_excite(y, middle // 4)
        y = self.conv(y, out)
        if stride == 1 and self.tensors[x].shape[-1] == out:
            y = self.add(y, x)
        return y

    def network(self, *outputs: str) -> Network:
        names = outputs or (self.ops[-1].output,)
        return Network("net", self.tensors, tuple(self.ops), tuple(self.inputs), names)


def mobilenet(seed: int = 0, *, size: int = 32, blocks: int = 6, **options: bool) -> Network:
    """A small MobileNetV3: stem, bottlenecks with and without SE, head."""
    b = Builder(seed, **options)
    x = b.act(b.conv(b.input(1, size, size, 3), 16, 3, 2), "hardswish")
    width = 16
    for index in range(blocks):
        if index % 3 == 1:
            width += 8
        stride = 2 if index % 3 == 1 else 1
        function = "relu" if index % 2 else "hardswish"
        kernel = 5 if index % 2 else 3
        x = b.bottleneck(x, width * 3, width, kernel, stride, function, index % 2 == 1)
    x = b.gap(b.act(b.conv(x, 96), "hardswish"))
    x = b.act(b.conv(x, 128), "hardswish")
    return_shape = (1, 128)
    return b.network(b.linear(b.reshape(x, *return_shape), 10))


def random_inputs(network: Network, seed: int = 0) -> dict[str, Any]:
    """Seeded inputs of a network."""
    random = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for name in network.inputs:
        tensor = network.tensors[name]
        if tensor.dtype == "i8":
            found[name] = random.integers(-128, 128, tensor.shape).astype(np.int8)
        else:
            found[name] = random.normal(0, 1, tensor.shape).astype(np.float32)
    return found

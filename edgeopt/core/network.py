"""A network as operators over named tensors: what import produces and lowering consumes.

Conventions that every producer and consumer keeps:

* batch is 1; 4-D feature maps are NHWC (physical layout), others keep their ONNX order.
* `Op` is primitive: a convolution carries its bias, but activations, residual additions,
  squeeze-and-excite pieces are ops of their own. Fusing them into kernels is lowering's job.
* integer tensors carry their affine quantization: real = scale * (stored - zero_point).
* constants live in `Op.constants`; a shape-only network (search) has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError

Array = npt.NDArray[np.generic]

DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"f32": 4, "i8": 1, "u8": 1, "i32": 4, "i64": 8})

#: Elementwise functions of one tensor, named as in ONNX but lower case. Parameters in `Op.attrs`
#: ("alpha", "beta", "min", "max") where the function has any.
ACTIVATIONS = frozenset(
    {"relu", "relu6", "clip", "hardswish", "hardsigmoid", "sigmoid", "tanh", "leakyrelu", "silu",
     "elu", "gelu", "erf", "exp", "abs", "sqrt", "mish"}
)  # fmt: skip

#: Kinds of primitive op and the constants and attributes each may carry.
#:   conv2d      w[O,kh,kw,I/groups] (f32, or i8 with "w_scale" f32[O]), b[O] (f32 or i32), attrs
#:               kernel, strides, dilations (h,w), pads (top,left,bottom,right),
#:               groups, weight_bits (2 or 4: int8 weights that fit so many bits, kept packed)
#:   linear      w[O,I] (same), b[O]; input [1,I], output [1,O]; attrs may have weight_bits
#:   activation  attrs function + its parameters
#:   add, mul    two inputs, or one input and constant "c"; the second may be [1,1,1,C] or [1,C],
#:               one number a channel, or [1,H,W,1], one a pixel
#:   maxpool, avgpool   attrs kernel, strides, pads, count_include_pad (avgpool)
#:   global_avgpool     [1,H,W,C] -> [1,1,1,C]
#:   softmax     attrs axis (of the physical layout), log (True: its logarithm)
#:   concat      attrs axis (of the physical layout)
#:   reshape     element order unchanged in the physical layout; costs nothing
#:   transpose   attrs perm
#:   resize      attrs mode: "nearest" with scales (h, w), or with constants "index" i32[OH+OW],
#:               the source row of each row and the source column of each column; "linear" with
#:               "index" i32[2*(OH+OW)] (upper rows, lower rows, left columns, right columns) and
#:               "share" f32[2*(OH+OW)], what each weighs
#:   slice       attrs starts, steps (positive), one for each axis
#:   gather      attrs axis; constant "index" i32[n] in range
#:   pad         attrs begins, ends, one for each axis, value (a real number)
#:   reduce      attrs how ("sum", "max", "min"); [1,H,W,C] -> [1,1,1,C]
#:   sub, div, max, min   as add; f32, or int8 by way of f32
#:   prelu       constant "c" f32[C]: x, or x * c where x is negative
#:   quantize, dequantize   between f32 and a tensor with quantization
#:   onnx        anything else: attrs "node" (serialised ModelProto of this one node, inputs and
#:               outputs in ONNX layout), compiled through TVM's own legalization
KINDS = frozenset(
    {"conv2d", "linear", "activation", "add", "mul", "maxpool", "avgpool", "global_avgpool",
     "softmax", "concat", "reshape", "transpose", "resize", "quantize", "dequantize", "onnx",
     "slice", "gather", "pad", "reduce", "sub", "div", "max", "min", "prelu"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quant:
    """Per-tensor affine quantization: real = scale * (stored - zero_point)."""

    scale: float  # a float32 value
    zero_point: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise InputError(
                f"quantization scale {self.scale!r} is not a positive finite number",
                hint="recalibrate: a tensor had an empty or infinite range",
            )


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named activation tensor with a static shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "f32"
    quant: Quant | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise InputError(f"tensor type {self.dtype!r} is not supported", where=self.name)
        if any(not isinstance(d, int) or d <= 0 for d in self.shape):
            raise InputError(
                f"shape {self.shape} is not static and positive",
                where=self.name,
                hint="export the model with fixed input sizes",
            )

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of storage, without alignment."""
        return self.elements * DTYPE_BYTES[self.dtype]


_NO_CONSTANTS: Mapping[str, Array] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Op:
    """One primitive operator (see `KINDS`)."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, object] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=lambda: _NO_CONSTANTS)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown op kind {self.kind!r}")


@dataclass(frozen=True, slots=True)
class Network:
    """Operators in execution order over named tensors."""

    name: str
    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        known = set(self.inputs)
        for op in self.ops:
            for name in op.inputs:
                if name not in known:
                    raise ValueError(f"op {op.name!r} reads {name!r} before it is written")
            if op.output in known:
                raise ValueError(f"tensor {op.output!r} is written twice")
            known.add(op.output)
        for name in (*known, *self.outputs):
            if name not in self.tensors or name not in known:
                raise ValueError(f"tensor {name!r} is not declared or never written")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all convolutions and linear layers."""
        total = 0
        for op in self.ops:
            out = self.tensors[op.output]
            if op.kind == "conv2d":
                kernel, groups = op.attrs["kernel"], op.attrs["groups"]
                assert isinstance(kernel, tuple) and isinstance(groups, int)
                channels = self.tensors[op.inputs[0]].shape[-1] // groups
                total += out.elements * channels * kernel[0] * kernel[1]
            elif op.kind == "linear":
                total += out.elements * self.tensors[op.inputs[0]].shape[-1]
        return total

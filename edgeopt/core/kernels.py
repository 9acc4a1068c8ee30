"""Kernels: the fused units that run on a board, are measured on it, and add up to a network."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import PACKED_BITS
from edgeopt.core.network import DTYPE_BYTES, Array, Tensor

#: Operators a kernel template may implement. "pointwise" is a 1x1 stride-1 convolution with one
#: group, "depthwise" one with groups == channels; "conv2d" is every other convolution.
#: "scale" multiplies a map by one number a channel (squeeze-and-excite); "fallback" is
#: compiled by TVM's own legalization and identified by `OpKey.variant`. "reduce" is a sum, maximum
#: or minimum over a map, "gather" copies along one axis by a table of indices. "irb" is an inverted
#: residual block: what widens a map, a depthwise convolution and what narrows it, as one kernel.
KERNEL_OPS = frozenset(
    {"pointwise", "depthwise", "conv2d", "linear", "maxpool", "avgpool", "global_avgpool", "add",
     "mul", "scale", "activation", "softmax", "concat", "copy", "transpose", "resize", "quantize",
     "dequantize", "fallback", "slice", "gather", "pad", "reduce", "sub", "div", "max", "min",
     "prelu", "irb"}
)  # fmt: skip

#: Those whose weights may be packed.
WITH_WEIGHTS = frozenset({"pointwise", "depthwise", "conv2d", "linear"})

#: Width of an inverted residual block, and the activation after its first two parts.
_BLOCK = re.compile(r"e([1-9][0-9]{0,5})\.(.+)")


@dataclass(frozen=True, slots=True, order=True)
class OpKey:
    """What determines a kernel's code and so its latency; weights and scales do not.

    `str` gives the canonical text and `OpKey.parse` reads it back. Shapes are physical (NHWC
    without the batch of 1, or [N]). `dtype` is that of the (first) input, `out_dtype` of the
    output. `inputs` counts activation inputs, the residual not among them.
    """

    op: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtype: str = "f32"
    out_dtype: str = "f32"
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str = "none"  # applied before the residual is added
    residual: bool = False
    residual_activation: str = "none"  # applied after
    inputs: int = 1
    variant: str = ""  # anything else that changes the code: letters, digits, '.', '-', '_'
    weight_bits: int = 0  # of packed weights: 2 or 4; 0 where they have the type of ``dtype``

    def __post_init__(self) -> None:
        if self.op not in KERNEL_OPS:
            raise InputError(f"unknown kernel operator {self.op!r}", where="kernel key")
        for shape in (self.in_shape, self.out_shape):
            if not shape or any(d <= 0 for d in shape) or math.prod(shape) > 2**31:
                raise InputError(f"shape {shape} is out of range", where="kernel key")
        if self.weight_bits and (
            self.weight_bits not in PACKED_BITS or self.op not in WITH_WEIGHTS or self.dtype != "i8"
        ):
            raise InputError(
                f"weights of {self.weight_bits} bits in {self.op} of {self.dtype}",
                where="kernel key", hint="layers of int8 activations have packed weights of 2 or 4",
            )  # fmt: skip
        if self.op == "irb" and not (
            _BLOCK.fullmatch(self.variant) and len(self.in_shape) == len(self.out_shape) == 3
        ):
            raise InputError(
                f"variant {self.variant!r} of shapes {self.in_shape} and {self.out_shape} "
                "describes no block", where="kernel key", hint="write maps, and e96.relu6",
            )  # fmt: skip

    def __str__(self) -> str:
        parts = [self.op]
        for item in fields(self)[1:]:
            value = getattr(self, item.name)
            if item.name in ("in_shape", "out_shape") or value != item.default:
                parts.append(f"{item.name}={_show(value)}")
        return " ".join(parts)

    @classmethod
    def parse(cls, text: str) -> OpKey:
        """Read canonical text.

        Raises:
            InputError: an unknown operator or field, or a value of the wrong form.
        """
        op, *rest = text.split(" ")
        known = {item.name: item for item in fields(cls)}
        values: dict[str, object] = {"op": op}
        for part in rest:
            name, equals, value = part.partition("=")
            if not equals or name not in known or name in values:
                raise InputError(f"{part!r} is not a known field", where=f"kernel key {text!r}")
            try:
                values[name] = _read(name, value)
            except ValueError as error:
                raise InputError(f"{part!r}: {error}", where=f"kernel key {text!r}") from error
        if "in_shape" not in values or "out_shape" not in values:
            raise InputError("in_shape and out_shape are required", where=f"kernel key {text!r}")
        return cls(**values)  # type: ignore[arg-type]

    @property
    def weight_type(self) -> str:
        """What a latency class calls the weights: ``f32``, ``i8``, ``w4`` or ``w2``."""
        return f"w{self.weight_bits}" if self.weight_bits else self.precision

    @property
    def digest(self) -> str:
        """Twelve hex digits of the canonical text's SHA-256: names files and symbols."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:12]

    @property
    def precision(self) -> str:
        """``f32`` or ``i8``: what the arithmetic runs in."""
        return "i8" if self.dtype in ("i8", "u8") else "f32"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run; 0 for kernels that are not convolutions."""
        if self.op in ("pointwise", "conv2d", "depthwise"):
            per_output = self.in_shape[-1] // self.groups * self.kernel[0] * self.kernel[1]
            return math.prod(self.out_shape) * per_output
        if self.op == "linear":
            return self.in_shape[-1] * self.out_shape[-1]
        return sum(part.macs for part in self.parts)

    @property
    def parts(self) -> tuple[OpKey, ...]:
        """The kernels that an inverted residual block computes in one; else none.

        Its variant ``e96.relu6`` says how wide the block is, and the activation that follows both
        of its first two parts; what else the key says of windows is the depthwise part's.
        """
        if self.op != "irb":
            return ()
        match = _BLOCK.fullmatch(self.variant)
        assert match is not None
        wide, activation = int(match[1]), match[2]
        plain = replace(
            self, op="pointwise", kernel=(1, 1), strides=(1, 1), pads=(0, 0, 0, 0), variant=""
        )
        inner = replace(
            plain, activation=activation, residual=False, residual_activation="none",
            out_shape=(*self.in_shape[:2], wide),
        )  # fmt: skip
        between = (*self.out_shape[:2], wide)
        depthwise = replace(
            inner, op="depthwise", in_shape=inner.out_shape, out_shape=between, groups=wide,
            kernel=self.kernel, strides=self.strides, pads=self.pads,
        )  # fmt: skip
        return inner, depthwise, replace(plain, in_shape=between)

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations read and written once."""
        read = math.prod(self.in_shape) * DTYPE_BYTES[self.dtype] * self.inputs
        write = math.prod(self.out_shape) * DTYPE_BYTES[self.out_dtype]
        return read + write * (2 if self.residual else 1)

    @property
    def weight_count(self) -> int:
        """Number of weights, biases not counted."""
        if self.op in ("pointwise", "conv2d", "depthwise"):
            return (
                self.out_shape[-1] * self.in_shape[-1] // self.groups
                * self.kernel[0] * self.kernel[1]
            )  # fmt: skip
        if self.op == "linear":
            return self.in_shape[-1] * self.out_shape[-1]
        return sum(part.weight_count for part in self.parts)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as they are stored, without padding; biases not counted."""
        if self.parts:
            return sum(part.weight_bytes for part in self.parts)
        return -(-self.weight_count * (self.weight_bits or 8 * DTYPE_BYTES[self.dtype]) // 8)


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(str(part) for part in value)
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)


_TUPLES = {"kernel": 2, "strides": 2, "pads": 4, "dilations": 2}


def _read(name: str, value: str) -> object:
    if name in ("in_shape", "out_shape") or name in _TUPLES:
        if len(value) > 64:
            raise ValueError("too long")
        numbers = tuple(int(part) for part in value.split("x"))
        if name in _TUPLES and len(numbers) != _TUPLES[name]:
            raise ValueError(f"needs {_TUPLES[name]} numbers")
        return numbers
    if name in ("groups", "inputs", "weight_bits"):
        return int(value)
    if name == "residual":
        if value not in ("0", "1"):
            raise ValueError("is 0 or 1")
        return value == "1"
    if not all(c.isalnum() or c in "._-" for c in value):
        raise ValueError("has characters outside letters, digits, '.', '-', '_'")
    return value


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel call in a lowered network.

    `constants` holds what the reference semantics need, unpacked: ``w`` (as in `core.network`),
    ``b``; for int8 also ``multiplier`` f32[O] (see `core.affine`), ``lut`` i8[256] for a table
    activation, and ``qparams`` i32[...] with zero points and clamps, laid out as
    `core.affine.QPARAMS` says for the operator. An inverted residual block has ``w1``, ``b1``,
    ``wd``, ``bd``, ``w2`` and ``b2``.
    """

    name: str
    key: OpKey
    inputs: tuple[str, ...]  # activations; the residual, if any, comes last
    output: str
    constants: Mapping[str, Array] = field(default_factory=dict)
    sources: tuple[str, ...] = ()  # names of the ops it was fused from
    payload: bytes = b""  # fallback kernels: the one-node ONNX model


@dataclass(frozen=True, slots=True)
class KernelGraph:
    """A lowered network: kernels in execution order."""

    name: str
    tensors: Mapping[str, Tensor]
    kernels: tuple[Kernel, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    #: tensor -> tensor it shares storage with (reshapes cost nothing)
    aliases: Mapping[str, str] = field(default_factory=dict)
    #: aliases that are a part of the tensor they share storage with -> where it begins, in bytes
    offsets: Mapping[str, int] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[OpKey, ...]:
        """The kernels' keys, in execution order."""
        return tuple(kernel.key for kernel in self.kernels)


@dataclass(frozen=True, slots=True)
class Buffer:
    """A placed activation or scratch buffer."""

    name: str
    offset_bytes: int
    size_bytes: int
    first: int  # index of the kernel that writes it first (-1: a network input)
    last: int  # index of the last kernel that reads it (len(kernels): a network output)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where every buffer lives in the one arena, and how good that is.

    Attributes:
        buffers: every activation and scratch buffer but the caller's.
        arena_bytes: what they take together.
        lower_bound_bytes: the largest set of bytes live at once.
        alignment_bytes: of every buffer.
        proven_bytes: no placement of these kernels in this order takes less; at least the lower
            bound.
    """

    buffers: tuple[Buffer, ...]
    arena_bytes: int
    lower_bound_bytes: int
    alignment_bytes: int
    proven_bytes: int = 0

    @property
    def gap_bytes(self) -> int:
        """How much smaller the arena might still be; 0: this plan is proven to be the best."""
        return self.arena_bytes - max(self.proven_bytes, self.lower_bound_bytes)

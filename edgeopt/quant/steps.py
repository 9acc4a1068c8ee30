"""Each operator of a network as a function on torch tensors, prepared once.

Integer tensors are float32 holding whole numbers; the arithmetic is that of `core.affine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from edgeopt.core import activations, affine, moves
from edgeopt.core.errors import InputError
from edgeopt.core.network import Network, Op, Quant, Tensor
from edgeopt.quant.accumulate import Accumulator, convolve, requantize_

if TYPE_CHECKING:
    import torch

    Values = list[torch.Tensor]
    Step = Callable[[Values], torch.Tensor]

NUMPY: Mapping[str, type[np.generic]] = {
    "f32": np.float32, "i8": np.int8, "u8": np.uint8, "i32": np.int32, "i64": np.int64,
}  # fmt: skip


def prepare(op: Op, network: Network) -> Step:
    """The function that computes one operator of ``network`` from its inputs."""
    tensors = [network.tensors[name] for name in op.inputs]
    return _STEPS[op.kind](op, tensors, network.tensors[op.output])


def mixes_batch(op: Op) -> bool:
    """Whether an operator joins or moves along the first axis."""
    if op.kind == "transpose":
        return cast(tuple[int, ...], op.attrs["perm"])[0] != 0
    return op.kind in ("concat", "softmax") and op.attrs["axis"] == 0


def _quant(tensor: Tensor) -> Quant:
    if tensor.quant is None:
        raise InputError(
            "integer tensor has no quantization",
            where=f"tensor {tensor.name!r}",
            hint="integers must come from QuantizeLinear with constant scale",
        )
    return tensor.quant


def _accumulating(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import torch

    if tensors[0].dtype != "f32":
        accumulator = Accumulator(op, _quant(tensors[0]), _quant(y))
        return lambda x: accumulator(x[0])
    w = torch.from_numpy(np.array(op.constants["w"], np.float32))
    b = torch.from_numpy(np.array(op.constants.get("b", np.zeros(len(w))), np.float32))
    if op.kind == "linear":
        return lambda x: x[0] @ w.t() + b
    kernel = w.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return lambda x: convolve(x[0], kernel, op.attrs) + b


def _activation(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import torch

    function = cast(str, op.attrs["function"])
    if tensors[0].dtype == "f32":
        return lambda x: torch.from_numpy(activations.apply(function, x[0].numpy(), op.attrs))
    quant_x, quant_y = _quant(tensors[0]), _quant(y)
    if function in activations.CLAMPS and quant_x == quant_y:
        low, high = activations.clamp(function, op.attrs, quant_y)
        if (low, high) == (affine.I8_MIN, affine.I8_MAX):
            return lambda x: x[0]
        return lambda x: x[0].clamp(low, high)
    table = activations.table(function, op.attrs, quant_x, quant_y).astype(np.float32)
    if function in ("hardswish", "hardsigmoid"):
        quick = _piecewise(op, quant_x, quant_y)
        every = torch.arange(affine.I8_MIN, affine.I8_MAX + 1).float()
        if np.array_equal(quick([every]).numpy(), table):  # three times as fast
            return quick
    return lambda x: torch.from_numpy(table[x[0].add(128).to(torch.uint8).numpy()])


def _piecewise(op: Op, quant_x: Quant, quant_y: Quant) -> Step:
    """HardSwish or HardSigmoid in the steps that `core.activations` rounds after."""
    import torch

    gates = op.attrs["function"] == "hardsigmoid"
    given = (op.attrs.get("alpha", 0.2), op.attrs.get("beta", 0.5)) if gates else (1 / 6, 0.5)
    alpha, beta = (float(np.float32(cast(float, value))) for value in given)
    scale_y = torch.tensor(quant_y.scale)

    def compute(x: Values) -> torch.Tensor:
        real = (x[0] - quant_x.zero_point).mul_(quant_x.scale)
        gate = (real * alpha).add_(beta).clamp_(0, 1)
        y = gate if gates else gate.mul_(real)
        return requantize_(y.div_(scale_y), quant_y.zero_point)

    return compute


def _line_up(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N,C] with [N,H,W,C]."""
    if a.ndim == 4 and b.ndim == 2:
        return a, b[:, None, None, :]
    if a.ndim == 2 and b.ndim == 4:
        return a[:, None, None, :], b
    return a, b


def constant_operand(op: Op) -> tuple[npt.NDArray[np.int8], Quant]:
    """The constant of an int8 sum or product: int8 ``c`` with ``c_scale``, ``c_zero``, or float."""
    c = op.constants["c"]
    if c.dtype == np.int8:
        zero = int(np.asarray(op.constants.get("c_zero", 0)).item())
        stored: npt.NDArray[np.int8] = c.astype(np.int8)
        return stored, Quant(float(np.float32(op.constants["c_scale"].item())), zero)
    real = c.astype(np.float32)
    scale = float(np.float32(np.abs(real).max() / np.float32(affine.I8_MAX))) or 1.0
    return affine.quantize(real, scale, 0), Quant(scale, 0)


def _binary(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import torch

    is_add = op.kind == "add"
    if tensors[0].dtype == "f32":
        constant = op.constants.get("c")
        operand = None if constant is None else torch.from_numpy(np.array(constant, np.float32))

        def compute(x: Values) -> torch.Tensor:
            a, b = _line_up(x[0], x[1] if operand is None else operand)
            return a + b if is_add else a * b

        return compute
    quant_a, quant_y = _quant(tensors[0]), _quant(y)
    stored: torch.Tensor | None = None
    if len(tensors) == 2:
        quant_b = _quant(tensors[1])
    else:
        constant_i8, quant_b = constant_operand(op)
        stored = torch.from_numpy(constant_i8.astype(np.float32))
    scale_a, scale_b = np.float32(quant_a.scale), np.float32(quant_b.scale)
    scale_y = np.float32(quant_y.scale)
    if is_add:
        factors = np.array([scale_a / scale_y, scale_b / scale_y], np.float32)
        zeros = (quant_a.zero_point, quant_b.zero_point, quant_y.zero_point)
        offset = float(affine.offset_of_sum(factors, *zeros))
        factor_a, factor_b = (float(value) for value in factors)

        def total(x: Values) -> torch.Tensor:
            a, b = _line_up(x[0], x[1] if stored is None else stored)
            # float64 holds each product and sum exactly: rounded once, as a fused multiply-add.
            left, right = a.double() + affine.GRID, b.double() + affine.GRID
            right = right.mul_(factor_b).add_(offset).float()
            return requantize_(left.mul_(factor_a).add_(right).float(), -affine.GRID)

        return total
    factor = float(np.float32(scale_a * scale_b) / scale_y)

    def product(x: Values) -> torch.Tensor:
        a, b = _line_up(x[0], x[1] if stored is None else stored)
        scaled = ((a - quant_a.zero_point) * (b - quant_b.zero_point)).mul_(factor)
        return requantize_(scaled.add_(quant_y.zero_point + affine.GRID), -affine.GRID)

    return product


def _windows(op: Op, x: Tensor, y: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pads (left, right, top, bottom) of a pooling: as stated, and as far as windows reach."""
    (kh, kw), (sh, sw) = (cast(tuple[int, int], op.attrs[key]) for key in ("kernel", "strides"))
    top, left, bottom, right = cast(tuple[int, ...], op.attrs["pads"])
    low = max(bottom, (y.shape[1] - 1) * sh + kh - top - x.shape[1])
    far = max(right, (y.shape[2] - 1) * sw + kw - left - x.shape[2])
    return (left, right, top, bottom), (left, far, top, low)


def _maxpool(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import torch.nn.functional as F

    attrs = cast(Mapping[str, Any], op.attrs)
    pads = _windows(op, tensors[0], y)[1]

    def compute(x: Values) -> torch.Tensor:
        image = F.pad(x[0].permute(0, 3, 1, 2), pads, value=-np.inf)
        best = F.max_pool2d(image, attrs["kernel"], attrs["strides"])
        return best[:, :, : y.shape[1], : y.shape[2]].permute(0, 2, 3, 1)

    return compute


def _average(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import torch
    import torch.nn.functional as F

    tensor = tensors[0]
    if op.kind == "global_avgpool":
        kernel = strides = cast(tuple[int, int], tensor.shape[1:3])
        stated: tuple[int, ...] = (0, 0, 0, 0)
        reach = stated
    else:
        attrs = cast(Mapping[str, Any], op.attrs)
        kernel, strides = attrs["kernel"], attrs["strides"]
        stated, reach = _windows(op, tensor, y)

    def sums(x: torch.Tensor, pads: tuple[int, ...]) -> torch.Tensor:
        if op.kind == "global_avgpool":
            return x.sum((1, 2)).reshape(len(x), *y.shape[1:])
        padded = F.pad(x.permute(0, 3, 1, 2), pads)
        total = F.avg_pool2d(padded, kernel, strides, divisor_override=1)
        return total[:, :, : y.shape[1], : y.shape[2]].permute(0, 2, 3, 1)

    ones = torch.ones((1, *tensor.shape[1:3], 1))
    if op.attrs.get("count_include_pad"):
        padded = F.pad(ones.permute(0, 3, 1, 2), stated, value=1.0).permute(0, 2, 3, 1)
        count = sums(padded, tuple(r - s for r, s in zip(reach, stated, strict=True)))
    elif op.kind == "global_avgpool":
        count = torch.full((1,), float(kernel[0] * kernel[1]))
    else:
        count = sums(ones, reach)
    if tensor.dtype == "f32":
        return lambda x: (sums(x[0].double(), reach) / count).float()
    quant_x, quant_y = _quant(tensor), _quant(y)
    zero_y = quant_y.zero_point
    shares = np.float32(quant_x.scale) / np.float32(count.numpy())
    factor = torch.from_numpy((shares / np.float32(quant_y.scale)).astype(np.float32))
    # Whole numbers below 2^24 add up exactly in float32.
    wide = torch.float32 if kernel[0] * kernel[1] < 2**16 else torch.float64
    return lambda x: requantize_(
        sums((x[0] - quant_x.zero_point).to(wide), reach).float().mul_(factor), zero_y
    )


def _concat(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import torch

    axis = cast(int, op.attrs["axis"])
    if y.dtype != "i8" or all(tensor.quant == y.quant for tensor in tensors):
        return lambda x: torch.cat(x, axis)
    quant_y = _quant(y)
    zeros = [_quant(tensor).zero_point for tensor in tensors]
    factors = [
        float(np.float32(_quant(tensor).scale) / np.float32(quant_y.scale)) for tensor in tensors
    ]

    def compute(x: Values) -> torch.Tensor:
        parts = [
            requantize_((part - zero).mul_(factor), quant_y.zero_point)
            for part, zero, factor in zip(x, zeros, factors, strict=True)
        ]
        return torch.cat(parts, axis)

    return compute


def _plainly(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    """In numpy, as `core.moves` defines it."""
    import torch

    kinds = [NUMPY[tensor.dtype] for tensor in tensors]
    quants = [tensor.quant for tensor in (*tensors, y)] if y.dtype == "i8" else []

    def compute(x: Values) -> torch.Tensor:
        arrays = [value.numpy().astype(kind) for value, kind in zip(x, kinds, strict=True)]
        result = moves.compute(op.kind, op.attrs, op.constants, arrays, y.shape, quants)
        return torch.from_numpy(np.ascontiguousarray(result, np.float32))

    return compute


def _quantize(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import torch

    quant = _quant(y)
    scale = torch.tensor(quant.scale)
    return lambda x: requantize_(x[0] / scale, quant.zero_point)


def _dequantize(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    quant = _quant(tensors[0])
    return lambda x: (x[0] - quant.zero_point).mul_(quant.scale)


def _onnx(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        cast(bytes, op.attrs["node"]), options, providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    kinds = [NUMPY[tensor.dtype] for tensor in tensors]

    def compute(x: Values) -> torch.Tensor:
        found = []
        for index in range(len(x[0])):
            ones = [value[index : index + 1].numpy() for value in x]
            fed = {n: v.astype(k) for n, v, k in zip(names, ones, kinds, strict=True)}
            found.append(session.run(None, fed)[0])
        whole = np.concatenate(found)
        return torch.from_numpy(whole.astype(np.float32) if y.dtype in ("i8", "u8") else whole)

    return compute


def _transpose(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    perm = cast(tuple[int, ...], op.attrs["perm"])
    return lambda x: x[0].permute(perm)


def _softmax(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    import torch

    axis = cast(int, op.attrs["axis"])
    if y.dtype == "i8":
        quant_x, quant_y = _quant(tensors[0]), _quant(y)
        table = affine.exponentials(quant_x.scale, tensors[0].shape[axis])

        def stored(x: Values) -> torch.Tensor:
            whole = x[0].numpy().astype(np.int8)
            result = affine.softmax(whole, table, quant_y.scale, quant_y.zero_point, axis)
            return torch.from_numpy(result.astype(np.float32))

        return stored
    if op.attrs.get("log"):
        return lambda x: x[0].double().log_softmax(axis).float()
    return lambda x: x[0].double().softmax(axis).float()


def _reshape(op: Op, tensors: list[Tensor], y: Tensor) -> Step:
    if y.shape[0] == 1 and tensors[0].shape[0] == 1:
        return lambda x: x[0].reshape(len(x[0]), *y.shape[1:])
    return lambda x: x[0].reshape(y.shape)


_STEPS: Mapping[str, Callable[[Op, list[Tensor], Tensor], Step]] = {
    "conv2d": _accumulating,
    "linear": _accumulating,
    "activation": _activation,
    "add": _binary,
    "mul": _binary,
    "maxpool": _maxpool,
    "avgpool": _average,
    "global_avgpool": _average,
    "softmax": _softmax,
    "concat": _concat,
    "reshape": _reshape,
    "transpose": _transpose,
    **dict.fromkeys(moves.KINDS, _plainly),
    "quantize": _quantize,
    "dequantize": _dequantize,
    "onnx": _onnx,
}

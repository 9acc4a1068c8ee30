"""Two executors in numpy: of a network as it was given, and of the kernels it became.

They share no decision: `run_network` evaluates one primitive operator after another, `run_kernels`
reads only keys and constants. That both agree is what lowering promises; kernels on every target
are compared with the second. Float networks are summed in float64, int8 networks are computed
exactly as `core.affine` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgeopt.codegen import constants, refmoves, refops
from edgeopt.codegen.refops import Numbers
from edgeopt.core import activations, affine, moves
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import Kernel, KernelGraph, OpKey
from edgeopt.core.network import DTYPE_BYTES, Network, Op, Quant, Tensor

_NUMPY: Mapping[str, type[np.generic]] = {
    "f32": np.float32, "i8": np.int8, "u8": np.uint8, "i32": np.int32, "i64": np.int64,
}  # fmt: skip
assert _NUMPY.keys() == DTYPE_BYTES.keys()


def run_network(
    network: Network, inputs: Mapping[str, Numbers], *, keep: bool = False
) -> dict[str, Numbers]:
    """Run a network operator by operator.

    Args:
        network: what to run.
        inputs: an array for each network input, of its shape and type.
        keep: return every tensor, not only the outputs.

    Raises:
        InputError: an input is missing or has the wrong shape or type.
    """
    values = _checked(network.inputs, network.tensors, inputs)
    for op in network.ops:
        x = [values[name] for name in op.inputs]
        tensors = [network.tensors[name] for name in op.inputs]
        y = network.tensors[op.output]
        values[op.output] = _finish(_OPS[op.kind](op, x, tensors, y), y)
    return values if keep else {name: values[name] for name in network.outputs}


def run_kernels(
    graph: KernelGraph, inputs: Mapping[str, Numbers], *, keep: bool = False, fixed: bool = False
) -> dict[str, Numbers]:
    """Run a lowered network kernel by kernel; arguments as `run_network`.

    With ``fixed`` sums are requantized as on processors without floating point.

    Raises:
        InputError: an input is missing or has the wrong shape or type.
    """
    values = _checked(graph.inputs, graph.tensors, inputs)
    shared: dict[str, list[str]] = {}
    for name, root in graph.aliases.items():
        if name not in graph.offsets:
            shared.setdefault(root, []).append(name)

    def store(name: str, array: Numbers) -> None:
        values[name] = array
        for alias in shared.get(name, ()):
            values[alias] = array.reshape(graph.tensors[alias].shape)

    def part(name: str) -> Numbers:
        """A part of a tensor that exists, to be read or written."""
        tensor = graph.tensors[name]
        first = graph.offsets[name] // DTYPE_BYTES[tensor.dtype]
        whole = values[graph.aliases[name]].reshape(-1)
        return whole[first : first + tensor.elements].reshape(tensor.shape)

    for name in graph.inputs:
        store(name, values[name])
    for kernel in graph.kernels:
        arrays = [part(n) if n in graph.offsets else values[n] for n in kernel.inputs]
        y = graph.tensors[kernel.output]
        result = _finish(run_kernel(kernel, arrays, fixed=fixed), y)
        if kernel.output in graph.offsets:
            root = graph.aliases[kernel.output]
            if root not in values:
                whole = graph.tensors[root]
                store(root, np.zeros(whole.shape, _NUMPY[whole.dtype]))
            part(kernel.output)[...] = result
        else:
            store(kernel.output, result)
    return values if keep else {name: values[name] for name in graph.outputs}


def run_kernel(kernel: Kernel, inputs: Sequence[Numbers], *, fixed: bool = False) -> Numbers:
    """Run one kernel; the result has the key's output shape, whatever the batch axis was.

    Inputs may come with or without the batch of 1; ``fixed`` as `run_kernels`.
    """
    key = kernel.key
    if key.op == "fallback":
        return refops.run_onnx(kernel.payload, list(inputs))[0]
    run = _KERNELS.get(key.op, _unary)
    with refops.arithmetic(fixed=fixed):
        return np.asarray(run(kernel, list(inputs))).reshape(key.out_shape)


def _checked(
    names: Sequence[str], tensors: Mapping[str, Tensor], inputs: Mapping[str, Numbers]
) -> dict[str, Numbers]:
    values: dict[str, Numbers] = {}
    for name in names:
        tensor = tensors[name]
        if name not in inputs:
            raise InputError(f"input {name!r} is missing", hint=f"give {', '.join(names)}")
        value = np.asarray(inputs[name])
        if value.shape != tensor.shape or value.dtype != _NUMPY[tensor.dtype]:
            raise InputError(
                f"input {name!r} is {value.dtype}{list(value.shape)}, "
                f"not {_NUMPY[tensor.dtype].__name__}{list(tensor.shape)}"
            )
        values[name] = value
    return values


def _finish(value: Numbers, tensor: Tensor) -> Numbers:
    """The stored value; a wrong type is a bug of the executor and not converted away."""
    if tensor.dtype == "f32" and value.dtype == np.float64:
        value = value.astype(np.float32)
    if value.dtype != _NUMPY[tensor.dtype]:
        raise TypeError(f"{tensor.name!r} was computed as {value.dtype}, not {tensor.dtype}")
    return value.reshape(tensor.shape)


# ---- primitive operators -------------------------------------------------------------------


def _quant(tensor: Tensor) -> Quant:
    if tensor.quant is None:
        raise InputError(f"integer tensor {tensor.name!r} has no quantization")
    return tensor.quant


def _integer_sums(op: Op, x: Numbers, w: Numbers, quant: Quant) -> npt.NDArray[np.int32]:
    """Sums of w * (x - zero): what folding the zero point into the bias comes to."""
    centred = x.astype(np.int32) - quant.zero_point
    return refops.integer_accumulator(_sums(op, centred, w) + _bias(op.constants))


def _sums(op: Op, x: Numbers, w: Numbers) -> refops.F64:
    if op.kind == "linear":
        return refops.accumulate_linear(x, w)
    return refops.accumulate_conv(x, w, cast(Mapping[str, Any], op.attrs))


def _bias(values: Mapping[str, Numbers]) -> refops.F64:
    return np.asarray(values.get("b", 0.0), np.float64)


def _op_accumulating(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    w = op.constants["w"]
    if tensors[0].dtype == "f32":
        return _sums(op, x[0], w) + _bias(op.constants)
    quant_x, quant_y = _quant(tensors[0]), _quant(y)
    scale_w = np.broadcast_to(op.constants["w_scale"].astype(np.float32), (w.shape[0],))
    acc = _integer_sums(op, x[0], w, quant_x)
    factor = affine.multiplier(quant_x.scale, scale_w, quant_y.scale)
    return affine.requantize(acc, factor, quant_y.zero_point)


def _op_activation(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    function = cast(str, op.attrs["function"])
    if tensors[0].dtype == "f32":
        return activations.apply(function, x[0].astype(np.float32), op.attrs)
    lut = activations.table(function, op.attrs, _quant(tensors[0]), _quant(y))
    return lut[x[0].astype(np.int16) + 128]


def _op_binary(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    if tensors[0].dtype == "f32":
        a = x[0].astype(np.float32)
        b = np.asarray(x[1] if len(x) == 2 else op.constants["c"], np.float32)
        if len(x) == 2:
            a, b = _broadcast_gate(a, b)
        return a + b if op.kind == "add" else a * b
    quant_a, quant_y = _quant(tensors[0]), _quant(y)
    if len(x) == 2:
        other, quant_b = x[1], _quant(tensors[1])
    else:
        other, quant_b = constants.constant_operand(op)
    a8, b8 = _broadcast_gate(x[0].astype(np.int8), np.asarray(other, np.int8))
    zeros = (quant_a.zero_point, quant_b.zero_point, quant_y.zero_point)
    factor = np.asarray(constants.factors(op, quant_a, quant_b, quant_y), np.float32)
    if op.kind == "add":
        return affine.add(a8, b8, factor, *zeros)
    return affine.mul(a8, b8, np.float32(factor[0]), *zeros)


def _broadcast_gate(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[Any, Any]:
    """Line up [1,C] with [1,H,W,C]."""
    if a.ndim == 4 and b.ndim == 2:
        b = b[:, None, None, :]
    elif a.ndim == 2 and b.ndim == 4:
        a = a[:, None, None, :]
    return a, b


def _op_maxpool(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    best = refops.pool(x[0], cast(Mapping[str, Any], op.attrs), (y.shape[1], y.shape[2]))
    return best.astype(x[0].dtype)


def _op_average(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    if op.kind == "global_avgpool":
        hw = (x[0].shape[1], x[0].shape[2])
        attrs: Mapping[str, Any] = {"kernel": hw, "strides": (1, 1), "pads": (0, 0, 0, 0)}
    else:
        attrs = cast(Mapping[str, Any], op.attrs)
    size = (y.shape[1], y.shape[2])
    if tensors[0].dtype == "f32":
        total, count = refops.average(x[0].astype(np.float64), attrs, size)
        return total / count
    quant_x, quant_y = _quant(tensors[0]), _quant(y)
    stored = x[0].astype(np.int8)
    total, count = refops.average(stored.astype(np.float64) - quant_x.zero_point, attrs, size)
    share = np.float32(quant_x.scale) / np.asarray(count, np.float32)
    factor = (share / np.float32(quant_y.scale)).astype(np.float32)
    return refops.requantized(refops.integer_accumulator(total), factor, quant_y.zero_point)


def _op_concat(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    axis = cast(int, op.attrs["axis"])
    if y.dtype != "i8" or all(tensor.quant == y.quant for tensor in tensors):
        return np.concatenate(x, axis)
    quant_y = _quant(y)
    parts = []
    for value, tensor in zip(x, tensors, strict=True):
        quant = _quant(tensor)
        factor = np.float32(quant.scale) / np.float32(quant_y.scale)
        centred = value.astype(np.int32) - quant.zero_point
        parts.append(refops.requantized(centred, np.asarray(factor), quant_y.zero_point))
    return np.concatenate(parts, axis)


def _op_quantize(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    quant = _quant(y)
    return affine.quantize(x[0].astype(np.float32), quant.scale, quant.zero_point)


def _op_dequantize(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    quant = _quant(tensors[0])
    return affine.dequantize(x[0].astype(np.int8), quant.scale, quant.zero_point)


def _op_softmax(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    axis = cast(int, op.attrs["axis"])
    if y.dtype == "f32":
        return refops.softmax(x[0], axis, log=bool(op.attrs.get("log")))
    quant = _quant(y)
    table = affine.exponentials(_quant(tensors[0]).scale, x[0].shape[axis])
    return affine.softmax(x[0].astype(np.int8), table, quant.scale, quant.zero_point, axis)


def _op_move(op: Op, x: list[Numbers], tensors: list[Tensor], y: Tensor) -> Numbers:
    quants = [_quant(tensor) for tensor in (*tensors, y)] if y.dtype == "i8" else []
    attrs, values = cast(Mapping[str, Any], op.attrs), op.constants
    if len(x) == 2 and x[0].ndim == 2 and x[1].ndim == 4:
        x = [_broadcast_gate(x[1], x[0])[1], x[1]]
    return moves.compute(op.kind, attrs, values, x, y.shape, quants)


_OPS: Mapping[str, Callable[[Op, list[Numbers], list[Tensor], Tensor], Numbers]] = {
    "conv2d": _op_accumulating,
    "linear": _op_accumulating,
    "activation": _op_activation,
    "add": _op_binary,
    "mul": _op_binary,
    "maxpool": _op_maxpool,
    "avgpool": _op_average,
    "global_avgpool": _op_average,
    "softmax": _op_softmax,
    "concat": _op_concat,
    "reshape": lambda op, x, t, y: x[0].reshape(y.shape),
    "transpose": lambda op, x, t, y: x[0].transpose(cast(tuple[int, ...], op.attrs["perm"])),
    **dict.fromkeys(moves.KINDS, _op_move),
    "quantize": _op_quantize,
    "dequantize": _op_dequantize,
    "onnx": lambda op, x, t, y: refops.run_onnx(cast(bytes, op.attrs["node"]), x)[0],
}


# ---- kernels -------------------------------------------------------------------------------


def _geometry(key: OpKey) -> dict[str, Any]:
    return {
        "kernel": key.kernel, "strides": key.strides, "pads": key.pads,
        "dilations": key.dilations, "groups": key.groups,
        "count_include_pad": key.variant == "include",
    }  # fmt: skip


def _tail(key: OpKey, y: Numbers, residual: Numbers | None) -> Numbers:
    y = refmoves.activated(key.activation, y)
    if residual is not None:
        y = y + np.asarray(residual, np.float32).reshape(y.shape)
    return refmoves.activated(key.residual_activation, y)


def _k_accumulating(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key, c = kernel.key, kernel.constants
    x = inputs[0].reshape((1, *key.in_shape))

    def sums(pad_value: float = 0) -> refops.F64:
        if key.op == "linear":
            return refops.accumulate_linear(x, c["w"])
        return refops.accumulate_conv(x, c["w"], _geometry(key), pad_value)

    if key.dtype == "f32":
        y = sums() + _bias(c)
        residual = inputs[1].reshape((1, *key.out_shape)) if key.residual else None
        return _tail(key, y, residual)
    zero_x, zero_y, lo, hi = (int(v) for v in np.asarray(c["qparams"], np.int32))
    w = c["w"].astype(np.int64)
    bias = c["b"].astype(np.int64) - zero_x * w.reshape(w.shape[0], -1).sum(axis=1)
    acc = refops.integer_accumulator(sums(zero_x) + bias)
    stored = refops.requantized(acc, c["multiplier"], zero_y, lo, hi)
    if key.activation == "lut":
        return c["lut"][stored.astype(np.int16) + 128]
    return stored


def _k_average(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key, c = kernel.key, kernel.constants
    x = inputs[0].reshape((1, *key.in_shape))
    geometry = _geometry(key)
    if key.op == "global_avgpool":
        geometry["kernel"] = key.in_shape[:2]
    size = (key.out_shape[0], key.out_shape[1])
    if key.dtype == "f32":
        total, count = refops.average(x.astype(np.float64), geometry, size)
        return refmoves.activated(key.activation, total / count)
    zero_x, zero_y, lo, hi = (int(v) for v in np.asarray(c["qparams"], np.int32))
    total, count = refops.average(x.astype(np.float64) - zero_x, geometry, size)
    acc = refops.integer_accumulator(total)
    factor = c["multiplier"]
    if factor.size > 1:  # one for each number of elements a window may have
        factor = factor[np.asarray(count, np.int64) - 1]
    return refops.requantized(acc, factor, zero_y, lo, hi)


def _k_maxpool(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key = kernel.key
    x = inputs[0].reshape((1, *key.in_shape))
    best = refops.pool(x, _geometry(key), (key.out_shape[0], key.out_shape[1]))
    return best.astype(x.dtype)


def _unary(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    key, c = kernel.key, kernel.constants
    x = inputs[0].reshape(key.in_shape)
    if key.op == "activation":
        if key.activation == "lut":
            return c["lut"][x.astype(np.int16) + 128]
        return refmoves.activated(key.activation, x)
    if key.op == "quantize":
        zero = int(np.asarray(c["qparams"], np.int32)[0])
        return affine.quantize(x.astype(np.float32), float(c["scale"].item()), zero)
    if key.op == "dequantize":
        zero = int(np.asarray(c["qparams"], np.int32)[0])
        return affine.dequantize(x.astype(np.int8), float(c["scale"].item()), zero)
    if key.op == "transpose":
        return x.transpose([int(v) for v in key.variant.removeprefix("perm").split("-")])
    if key.op == "copy":
        return x
    raise ValueError(f"no reference for kernel operator {key.op!r}")


def _k_block(kernel: Kernel, inputs: list[Numbers]) -> Numbers:
    """The three parts one after another; what lies between is stored as float32."""
    c, y, others = kernel.constants, inputs[0], inputs[1:]
    parts = kernel.key.parts
    for key, suffix in zip(parts, ("1", "d", "2"), strict=True):
        own = {name: c[name + suffix] for name in "wb" if name + suffix in c}
        given = [y, *others] if key.residual else [y]
        y = _k_accumulating(Kernel(kernel.name, key, (), "", own), given).astype(np.float32)
    return y


_KERNELS: Mapping[str, Callable[[Kernel, list[Numbers]], Numbers]] = {
    "irb": _k_block,
    "pointwise": _k_accumulating,
    "depthwise": _k_accumulating,
    "conv2d": _k_accumulating,
    "linear": _k_accumulating,
    **refmoves.KERNELS,
    "global_avgpool": _k_average,
    "avgpool": _k_average,
    "maxpool": _k_maxpool,
}

"""What a kernel reads besides activations: weights, multipliers, zero points, clamps, tables.

Functions here return the constants of the table in `codegen.schedules`, computed as `core.affine`
says. A shape-only integer network, whose tensors carry no quantization, has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from edgeopt.codegen.fuse import Group, is_clamp, key_shape
from edgeopt.core import activations, affine, narrow
from edgeopt.core.network import Array, Network, Op, Quant, Tensor

Constants = Mapping[str, Array]

_NONE: Constants = {}


def _int32(*values: int) -> Array:
    return np.array(values, np.int32)


def clamp_of(network: Network, activation: Op | None) -> tuple[int, int]:
    """Bounds on stored values: those of a clamping activation, else those of int8."""
    if activation is None or not is_clamp(network, activation):
        return affine.I8_MIN, affine.I8_MAX
    quant = network.tensors[activation.output].quant
    assert quant is not None
    function = cast(str, activation.attrs["function"])
    return activations.clamp(function, activation.attrs, quant)


def table(network: Network, activation: Op) -> Constants:
    """The table of an int8 activation."""
    x = network.tensors[activation.inputs[0]].quant
    y = network.tensors[activation.output].quant
    if x is None or y is None:
        return _NONE
    function = cast(str, activation.attrs["function"])
    return {"lut": activations.table(function, activation.attrs, x, y)}


def accumulating(network: Network, group: Group, integer: bool) -> Constants:
    """Constants of a convolution or linear layer with what is fused into it."""
    root = group.root
    if not integer:
        return {name: root.constants[name] for name in ("w", "b") if name in root.constants}
    w = root.constants["w"]
    x, y = network.tensors[root.inputs[0]].quant, network.tensors[root.output].quant
    assert x is not None and y is not None
    scale_w = np.broadcast_to(root.constants["w_scale"].astype(np.float32), (w.shape[0],))
    lo, hi = clamp_of(network, group.activation)
    found: dict[str, Array] = {
        "w": w,
        "b": root.constants.get("b", np.zeros(w.shape[0], np.int32)),
        "multiplier": affine.multiplier(x.scale, scale_w, y.scale),
        "qparams": _int32(x.zero_point, y.zero_point, lo, hi),
    }
    if group.activation is not None and not is_clamp(network, group.activation):
        found.update(table(network, group.activation))
    return found


def have_words(constants: Constants) -> bool:
    """Whether biases and multipliers of an accumulating integer kernel fit `core.narrow`'s words.

    However activations are held: zero points are folded into the bias in as many ways.
    """
    w = constants["w"]
    sums = w.reshape(w.shape[0], -1).astype(np.int64).sum(axis=1)
    folded = constants["b"].astype(np.int64) - int(constants["qparams"][0]) * sums
    for bias in (folded - offset * sums for offset in narrow.OFFSETS):
        if np.abs(bias).max() >= 2**31:
            return False
        if not narrow.fits(bias.astype(np.int32), constants["multiplier"]):
            return False
    return True


def spread(op: Op, y: Tensor) -> tuple[str, Array]:
    """The constant operand of an addition or product as a key's variant and an array to match."""
    c = np.asarray(op.constants["c"])
    channels = y.shape[-1]
    if c.size == 1 or (c.size == channels and c.shape[-1:] == (channels,)):
        return "channel", np.ascontiguousarray(np.broadcast_to(c.reshape(-1), (channels,)))
    return "full", np.ascontiguousarray(np.broadcast_to(c, y.shape)).reshape(key_shape(y.shape))


def constant_operand(op: Op) -> tuple[Array, Quant]:
    """The constant operand of an int8 addition or product, quantized.

    The operator may carry it as int8 ``c`` with ``c_scale`` and ``c_zero``; a float ``c`` is
    quantized symmetrically.
    """
    c = np.asarray(op.constants["c"])
    if c.dtype == np.int8:
        zero = int(np.asarray(op.constants.get("c_zero", 0)).item())
        return c, Quant(float(np.float32(op.constants["c_scale"].item())), zero)
    real = c.astype(np.float32)
    scale = np.float32(np.abs(real).max() / np.float32(affine.I8_MAX)) or np.float32(1)
    return affine.quantize(real, float(scale), 0), Quant(float(scale), 0)


def factors(op: Op, a: Quant, b: Quant, y: Quant) -> Array:
    """``factors`` [2] of an int8 addition, or ``multiplier`` [1] of a product."""
    scale_a, scale_b, scale_y = (np.float32(q.scale) for q in (a, b, y))
    if op.kind == "add":
        return np.array([scale_a / scale_y, scale_b / scale_y], np.float32)
    product = np.float32(scale_a * scale_b)
    return np.array([product / scale_y], np.float32)


def binary(network: Network, group: Group, inputs: Sequence[str]) -> Constants:
    """Constants of an int8 addition or product; ``inputs`` in the kernel's order."""
    root = group.root
    y = network.tensors[root.output].quant
    operands = [network.tensors[name].quant for name in inputs]
    found: dict[str, Array] = {}
    if len(operands) == 1:
        c, quant = constant_operand(root)
        operands.append(quant)
        stored = Op(root.name, root.kind, root.inputs, root.output, root.attrs, {"c": c})
        found["c"] = spread(stored, network.tensors[root.output])[1]
    a, b = operands
    if a is None or b is None or y is None:
        return _NONE
    found["factors" if root.kind == "add" else "multiplier"] = factors(root, a, b, y)
    lo, hi = clamp_of(network, group.activation)
    found["qparams"] = _int32(a.zero_point, b.zero_point, y.zero_point, lo, hi)
    return found


def pair(network: Network, group: Group, inputs: Sequence[str]) -> Constants:
    """Constants of an operator that int8 takes by way of float32 (`core.moves.PAIRS`)."""
    root = group.root
    y = network.tensors[root.output]
    found: dict[str, Array] = {}
    if len(inputs) == 1 and root.constants:
        found["c"] = spread(root, y)[1].astype(np.float32)
    quants = [network.tensors[name].quant for name in (*inputs, root.output)]
    if y.dtype == "i8" and all(quant is not None for quant in quants):
        known = cast(list[Quant], quants)
        found["scales"] = np.array([quant.scale for quant in known], np.float32)
        found["qparams"] = _int32(*(quant.zero_point for quant in known))
    return found


def is_global(op: Op, x: Tensor) -> bool:
    """Whether a pooling averages the whole map."""
    if op.kind == "global_avgpool":
        return True
    attrs = cast(Mapping[str, Any], op.attrs)
    return (
        op.kind == "avgpool" and attrs["kernel"] == x.shape[1:3] and not any(attrs["pads"])
    )  # fmt: skip


def counts_of(op: Op, x: Tensor, y: Tensor) -> range:
    """How many elements windows of an average may be divided by: one number, or from one up."""
    attrs = cast(Mapping[str, Any], op.attrs)
    (kh, kw), (sh, sw) = attrs["kernel"], attrs["strides"]
    top, left, bottom, right = attrs["pads"]
    hangs = (y.shape[1] - 1) * sh + kh - top > x.shape[1] + bottom
    hangs = hangs or (y.shape[2] - 1) * sw + kw - left > x.shape[2] + right
    uneven = hangs or (any(attrs["pads"]) and not attrs.get("count_include_pad"))
    return range(1 if uneven else kh * kw, kh * kw + 1)


def average(network: Network, group: Group, *counts: int) -> Constants:
    """Constants of an int8 average: a multiplier for each number of elements there may be."""
    x = network.tensors[group.root.inputs[0]].quant
    y = network.tensors[group.root.output].quant
    if x is None or y is None:
        return _NONE
    shares = [np.float32(np.float32(x.scale) / np.float32(count)) for count in counts]
    return {
        "multiplier": np.array([share / np.float32(y.scale) for share in shares], np.float32),
        "qparams": _int32(x.zero_point, y.zero_point, affine.I8_MIN, affine.I8_MAX),
    }


def concat(network: Network, op: Op) -> Constants:
    """Constants of an int8 concatenation of tensors with different quantizations."""
    y = network.tensors[op.output].quant
    quants = [network.tensors[name].quant for name in op.inputs]
    if y is None or any(q is None for q in quants):
        return _NONE
    known = cast(list[Quant], quants)
    scales = [np.float32(q.scale) / np.float32(y.scale) for q in known]
    return {
        "factors": np.array(scales, np.float32),
        "qparams": _int32(*(q.zero_point for q in known), y.zero_point),
    }


def softmax(network: Network, op: Op) -> Constants:
    """Constants of an int8 softmax."""
    x, y = network.tensors[op.inputs[0]], network.tensors[op.output]
    if x.quant is None or y.quant is None:
        return _NONE
    length = x.shape[cast(int, op.attrs["axis"])]
    return {
        "table": affine.exponentials(x.quant.scale, length),
        "scale": np.array([y.quant.scale], np.float32),
        "qparams": _int32(y.quant.zero_point),
    }


def conversion(op: Op, x: Tensor, y: Tensor) -> Constants:
    """Constants of a quantize or dequantize kernel."""
    quant = y.quant if op.kind == "quantize" else x.quant
    if quant is None:
        return _NONE
    return {"scale": np.array([quant.scale], np.float32), "qparams": _int32(quant.zero_point)}

"""Quantization as ONNX writes it (QuantizeLinear, DequantizeLinear) and as `core.affine` has it.

Activations of uint8 are held as int8, 128 below: their zero point moves with them, so nothing
changes in what they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.network import Array, Quant
from edgeopt.graph.ir import Graph, Node

Wide = npt.NDArray[np.float64]

#: Operators that only rename elements: what is known of an integer's scale passes through them.
RENAMING = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})

#: What `core.affine` clamps with, by the operator it is written as.
CLAMPS = frozenset({"Relu", "Clip"})


#: Integer types of fewer than eight bits.
NARROW = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}

MIN_SCALE, MAX_SCALE = 1e-18, 1e18


@dataclass(frozen=True, slots=True)
class Stored:
    """A constant that is kept as integers: real = scale * (stored - zero), along ``axis``.

    With a ``block``, scales and zero points have the rank of ``stored``, and so many values along
    the axis share one.
    """

    stored: Array
    scale: npt.NDArray[np.float32]
    zero: Array
    axis: int
    bits: int = 8  # of the type that the model stores it in
    block: int = 0

    def real(self) -> npt.NDArray[np.float32]:
        """The float values."""
        if self.block:
            places = np.arange(self.stored.shape[self.axis]) // self.block
            zeros = self.zero.astype(np.int32).take(places, self.axis)
            difference = (self.stored.astype(np.int32) - zeros).astype(np.float32)
            blocked: npt.NDArray[np.float32] = difference * self.scale.take(places, self.axis)
            return blocked
        shape = [1] * self.stored.ndim
        if self.scale.size > 1:
            shape[self.axis] = self.scale.size
        steps = self.stored.astype(np.int32) - self.zero.astype(np.int32).reshape(
            shape if self.zero.size > 1 else [1] * self.stored.ndim
        )
        scale = self.scale.reshape(shape if self.scale.size > 1 else [1] * self.stored.ndim)
        product: npt.NDArray[np.float32] = (steps.astype(np.float32) * scale).astype(np.float32)
        return product

    def weights(self, axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
        """Int8 values without zero point and one scale for each index along ``axis``.

        None where there are none, for the reason that `obstacle` gives.
        """
        if self.obstacle(axis):
            return None
        shape = [1] * self.stored.ndim
        if self.zero.size > 1:
            shape[self.axis] = self.zero.size
        values = self.stored.astype(np.int32) - self.zero.astype(np.int32).reshape(shape)
        scale = np.broadcast_to(self.scale.reshape(-1), (self.stored.shape[axis],))
        return values.astype(np.int8), scale.astype(np.float32)

    def obstacle(self, axis: int) -> str:
        """Why integer kernels with outputs along ``axis`` cannot compute with it, or nothing."""
        if self.block:
            return f"one scale serves {self.block} inputs of a weight, not an output"
        if self.scale.size > 1 and self.axis != axis:
            return "the scales of its weights are not those of its outputs"
        shape = [1] * self.stored.ndim
        if self.zero.size > 1:
            shape[self.axis] = self.zero.size
        values = self.stored.astype(np.int32) - self.zero.astype(np.int32).reshape(shape)
        if values.size and (values.min() < -128 or values.max() > 127):
            return "its weights, less their zero points, need more than 8 bits"
        return ""


def parameters(graph: Graph, node: Node) -> Quant | None:
    """Scale and zero point of a per-tensor (de)quantization to or from 8 bits, in int8 terms."""
    scale = graph.array(node.input(1))
    if scale is None or scale.size != 1 or scale.dtype != np.float32:
        return None
    if not node.input(2):
        kind = int(node.attrs.get("output_dtype", 0))
        if node.op == "QuantizeLinear":
            unsigned = kind != 3  # TensorProto.INT8
        else:
            unsigned = graph.types[node.inputs[0]].dtype == np.uint8
        return _quant(scale, -128 if unsigned else 0, node) if kind in (0, 2, 3) else None
    zero = graph.array(node.input(2))
    if zero is None or zero.size != 1 or zero.dtype not in (np.int8, np.uint8):
        return None
    shift = 128 if zero.dtype == np.uint8 else 0
    return _quant(scale, int(zero.reshape(-1)[0]) - shift, node)


def _quant(scale: Array, zero: int, node: Node) -> Quant:
    value = float(scale.reshape(-1)[0])
    _check_scale(scale, node)
    return Quant(value, zero)


def _check_scale(scale: Array, node: Node) -> None:
    """Scales outside these bounds overflow in binary32 when they are multiplied or divided."""
    values = scale.astype(np.float64)
    if not ((values >= MIN_SCALE) & (values <= MAX_SCALE)).all():
        raise InputError(
            f"quantization scale {values.reshape(-1)[:1].tolist()[0]!r} is not a positive finite "
            f"number from {MIN_SCALE:g} to {MAX_SCALE:g}",
            where=f"node {node.name!r} ({node.op})",
            hint="recalibrate: a tensor had an empty or infinite range",
        )


def stored_constant(graph: Graph, node: Node) -> Stored | None:
    """The constant that a DequantizeLinear makes real; None if it is not one we keep.

    Raises:
        InputError: scales or zero points do not fit it.
    """
    value, scale = graph.array(node.input(0)), graph.array(node.input(1))
    if value is None or scale is None or scale.dtype != np.float32:
        return None
    bits = NARROW.get(value.dtype.name, 8)
    if bits < 8:
        value = value.astype(np.uint8 if value.dtype.name.startswith("u") else np.int8)
    if value.dtype not in (np.int8, np.uint8, np.int32):
        return None
    zero = graph.array(node.input(2)) if node.input(2) else np.zeros(scale.shape, value.dtype)
    if zero is None:
        return None
    axis, block = int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0))
    axis = axis + value.ndim if axis < 0 else axis
    _check_shapes(node, value, scale, zero, axis, block)
    _check_scale(scale, node)
    scale32 = scale.astype(np.float32)
    if block:
        return Stored(value, scale32, zero, axis, bits, block)
    return Stored(value, scale32.reshape(-1), zero.reshape(-1), axis, bits)


def with_halves(stored: Stored, term: Array) -> Stored | None:
    """Integers of two bits and half a step more, as odd integers of half the scale.

    None where ``term`` is not half of each scale, or the integers have other widths.
    """
    shape = [1] * stored.stored.ndim
    if stored.scale.size > 1:
        shape[stored.axis] = stored.scale.size
    half = (stored.scale / np.float32(2)).reshape(-1)
    if stored.bits != 2 or stored.block or term.dtype != np.float32 or term.size != half.size:
        return None
    if (term.size > 1 and list(term.shape) != shape) or not np.array_equal(term.reshape(-1), half):
        return None
    zeros = [1] * stored.stored.ndim
    if stored.zero.size > 1:
        zeros[stored.axis] = stored.zero.size
    steps = stored.stored.astype(np.int32) - stored.zero.astype(np.int32).reshape(zeros)
    odd = (2 * steps + 1).astype(np.int8)
    return Stored(odd, half, np.zeros(half.shape, np.int8), stored.axis, bits=2)


def _check_shapes(
    node: Node, value: Array, scale: Array, zero: Array, axis: int, block: int
) -> None:
    inside = 0 <= axis < value.ndim
    if block:
        parts = -(-value.shape[axis] // block) if inside and block > 0 else 0
        wanted = (*value.shape[:axis], parts, *value.shape[axis + 1 :])
        good, hint = parts > 0 and scale.shape == wanted, f"blocks of {block} need {list(wanted)}"
    else:
        good = scale.size == 1 or (scale.ndim == 1 and inside and value.shape[axis] == scale.size)
        hint = "one for all, or one for each index of the axis"
    where = f"node {node.name!r} ({node.op})"
    if not good:
        raise InputError(
            f"scales {list(scale.shape)} do not fit a constant {list(value.shape)} along axis "
            f"{axis}", where=where, hint=hint,
        )  # fmt: skip
    if zero.size != scale.size:
        raise InputError(
            f"{zero.size} zero points and {scale.size} scales", where=where,
            hint="there is a zero point for each scale, or none at all",
        )  # fmt: skip


def known_quantizations(graph: Graph) -> Mapping[str, Quant]:
    """The quantization of network inputs that are integers, from who dequantizes them."""
    readers = graph.readers()
    found: dict[str, Quant] = {}
    for name in graph.inputs:
        if graph.types[name].dtype not in (np.int8, np.uint8):
            continue
        queue, seen = [name], set()
        while queue and name not in found:
            current = queue.pop(0)
            for node in readers.get(current, ()):
                quant = parameters(graph, node) if node.op == "DequantizeLinear" else None
                if quant is not None and node.inputs[0] == current:
                    found.setdefault(name, quant)
                elif node.op in RENAMING and node.outputs[0] not in seen:
                    seen.add(node.outputs[0])
                    queue.append(node.outputs[0])
    return found


def bias_int32(
    real: Wide, scale_x: float, scale_w: npt.NDArray[np.float32], scale_y: float
) -> npt.NDArray[np.int32] | None:
    """A bias in steps of the accumulator.

    None if it does not fit, or if rounding it could move the output by a sixty-fourth of a step.
    """
    step = (np.float32(scale_x) * scale_w).astype(np.float32).astype(np.float64)
    steps = np.rint(real / step)
    if real.any() and float(step.max()) / 2 > scale_y / 64:
        return None
    if not np.isfinite(steps).all() or np.abs(steps).max(initial=0) > 2**31 - 1:
        return None
    return steps.astype(np.int32)

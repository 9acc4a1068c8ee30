"""Lowering of operators on pairs of tensors, and of those that move or reduce."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from edgeopt.codegen import constants
from edgeopt.codegen.fuse import Group, key_shape
from edgeopt.codegen.lower_parts import activation_text, key_axis, make_kernel, make_key, require
from edgeopt.core import affine, moves
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import Kernel
from edgeopt.core.network import Array, Network, Op, Tensor

#: Operators whose operands can be exchanged.
_COMMUTES = frozenset({"add", "mul", "max", "min"})


def binary(network: Network, group: Group, name: str) -> Kernel:
    """A sum, product, difference… of two tensors, or of one and a constant."""
    root = group.root
    tensors = [network.tensors[i] for i in root.inputs]
    inputs = root.inputs
    y = network.tensors[root.output]
    integer = require(root, tensors[0], y)
    operator, variant = root.kind, ""
    if len(inputs) == 1:
        variant = constants.spread(root, y)[0]
    elif not _same(tensors[0], tensors[1]):
        if tensors[0].elements < tensors[1].elements and root.kind in _COMMUTES:
            inputs, tensors = inputs[::-1], tensors[::-1]
        variant = _broadcast(root, *tensors)
        if root.kind == "mul" and variant == "channel":
            operator, variant = "scale", ""
    key = make_key(
        operator, key_shape(tensors[0].shape), key_shape(y.shape), y.dtype, y.dtype,
        activation=activation_text(network, group.activation), inputs=len(inputs),
        variant=variant,
    )  # fmt: skip
    values: Mapping[str, Any] = {}
    if root.kind in moves.PAIRS:
        values = constants.pair(network, group, inputs)
    elif integer:
        values = constants.binary(network, group, inputs)
    elif root.constants:
        values = {"c": constants.spread(root, y)[1]}
    return make_kernel(name, key, inputs, group, values)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether elements of two tensors meet one by one ([1,C] and [1,1,1,C] do)."""
    return a.shape == b.shape or a.elements == b.elements == a.shape[-1] == b.shape[-1]


def _broadcast(op: Op, of: Tensor, by: Tensor) -> str:
    """How the second operand is spread: one number a channel, or one a pixel."""
    channels = of.shape[-1]
    if by.shape[-1] == channels == by.elements:
        return "channel"
    if by.shape == (*of.shape[:-1], 1):
        return "pixel"
    raise InputError(
        f"{op.kind} of shapes {of.shape} and {by.shape} is not supported",
        where=f"operator {op.name!r}",
    )


def slice_(network: Network, group: Group, name: str) -> Kernel:
    """Every so many-th element of each axis, from a start on."""
    root = group.root
    x, y = network.tensors[root.inputs[0]], network.tensors[root.output]
    require(root, x, y)
    starts, steps = (cast(tuple[int, ...], root.attrs[key]) for key in ("starts", "steps"))
    dropped = len(y.shape) - len(key_shape(y.shape))
    in_shape = x.shape[dropped:] or (1,)
    _batch_stays(root, x, y, dropped)
    variant = "start" + _dashed(starts[dropped:])
    if any(step != 1 for step in steps):
        variant += ".step" + _dashed(steps[dropped:])
    key = make_key("slice", in_shape, key_shape(y.shape), x.dtype, y.dtype, variant=variant)
    return make_kernel(name, key, root.inputs, group, {})


def _dashed(numbers: tuple[int, ...]) -> str:
    return "-".join(map(str, numbers))


def _batch_stays(op: Op, x: Tensor, y: Tensor, dropped: int) -> None:
    if x.shape[:dropped] != y.shape[:dropped]:
        raise InputError(
            f"{op.kind} along the batch axis is not supported", where=f"operator {op.name!r}"
        )


def pad(network: Network, group: Group, name: str) -> Kernel:
    """One value all around."""
    root = group.root
    x, y = network.tensors[root.inputs[0]], network.tensors[root.output]
    require(root, x, y)
    begins, ends = (cast(tuple[int, ...], root.attrs[key]) for key in ("begins", "ends"))
    dropped = len(x.shape) - len(key_shape(x.shape))
    _batch_stays(root, x, y, dropped)
    variant = f"pad{_dashed(begins[dropped:])}.{_dashed(ends[dropped:])}"
    key = make_key("pad", key_shape(x.shape), y.shape[dropped:], x.dtype, y.dtype, variant=variant)
    stored = moves.stored_value(cast(float, root.attrs["value"]), x.quant)
    kind = np.int8 if x.dtype == "i8" else np.float32
    return make_kernel(name, key, root.inputs, group, {"value": np.array([stored], kind)})


def gather(network: Network, group: Group, name: str) -> Kernel:
    """Along one axis, by a table of indices."""
    root = group.root
    x, y = network.tensors[root.inputs[0]], network.tensors[root.output]
    require(root, x, y)
    dropped = len(x.shape) - len(key_shape(x.shape))
    key = make_key(
        "gather", key_shape(x.shape), y.shape[dropped:], x.dtype, y.dtype,
        variant=f"axis{key_axis(root, x)}",
    )  # fmt: skip
    return make_kernel(name, key, root.inputs, group, dict(root.constants))


def resize(network: Network, group: Group, name: str) -> Kernel:
    """Nearest or linear neighbours; without tables, by whole factors."""
    root = group.root
    x, y = network.tensors[root.inputs[0]], network.tensors[root.output]
    integer = require(root, x, y)
    linear = root.attrs["mode"] == "linear"
    variant = "linear" if linear else "index" if root.attrs.get("table") else ""
    values: dict[str, Array] = dict(root.constants)
    if linear and integer and x.quant is not None and y.quant is not None:
        values["scales"] = np.array([x.quant.scale, y.quant.scale], np.float32)
        values["qparams"] = np.array([x.quant.zero_point, y.quant.zero_point], np.int32)
    key = make_key(
        "resize", key_shape(x.shape), key_shape(y.shape), x.dtype, y.dtype, variant=variant
    )
    return make_kernel(name, key, root.inputs, group, values)


def reduce(network: Network, group: Group, name: str) -> Kernel:
    """A sum, maximum or minimum over a map."""
    root = group.root
    x, y = network.tensors[root.inputs[0]], network.tensors[root.output]
    integer = require(root, x, y)
    how = cast(str, root.attrs["how"])
    key = make_key("reduce", key_shape(x.shape), key_shape(y.shape), x.dtype, y.dtype, variant=how)
    values: dict[str, Array] = {}
    if integer and how == "sum" and x.quant is not None and y.quant is not None:
        factor = np.float32(x.quant.scale) / np.float32(y.quant.scale)
        zeros = (x.quant.zero_point, y.quant.zero_point)
        values["multiplier"] = np.array([factor], np.float32)
        values["qparams"] = np.array([*zeros, affine.I8_MIN, affine.I8_MAX], np.int32)
    return make_kernel(name, key, root.inputs, group, values)

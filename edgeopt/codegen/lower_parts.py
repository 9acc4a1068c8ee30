"""What all lowering rules share: keys, type checks, kernels."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from edgeopt.codegen.fuse import Group, is_clamp, is_integer, key_shape
from edgeopt.core.activations import text_of
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import Kernel, OpKey
from edgeopt.core.network import Network, Op, Tensor

# Subnets of one space share most of their kernels, and making a validated key costs far more than
# finding it.
make_key = functools.lru_cache(maxsize=65536)(OpKey)


@functools.lru_cache(maxsize=65536)
def packed_key(key: OpKey, bits: int) -> OpKey:
    """The key of the same kernel with packed weights."""
    return replace(key, weight_bits=bits)


def require(op: Op, x: Tensor, y: Tensor) -> bool:
    """Whether the operator is int8.

    Raises:
        InputError: its types are not one of the two that kernels have.
    """
    if x.dtype == y.dtype == "f32":
        return False
    if x.dtype == y.dtype == "i8":
        return True
    raise InputError(
        f"{op.kind} from {x.dtype} to {y.dtype} is not supported",
        where=f"operator {op.name!r}",
        hint="quantize to signed int8, input and output alike, or leave the operator in float",
    )


def activation_text(network: Network, op: Op | None) -> str:
    """An activation's text in a key: in int8 a clamp changes no code, all others are a table."""
    if op is None:
        return "none"
    if is_integer(network, op):
        return "none" if is_clamp(network, op) else "lut"
    return text_of(cast(str, op.attrs["function"]), op.attrs)


def key_axis(op: Op, x: Tensor) -> int:
    """An axis of the physical layout as one of the key's shape.

    Raises:
        InputError: it is the batch.
    """
    axis = cast(int, op.attrs["axis"]) % len(x.shape)
    axis -= len(x.shape) - len(key_shape(x.shape))
    if axis < 0:
        raise InputError(
            f"{op.kind} along the batch axis is not supported", where=f"operator {op.name!r}"
        )
    return axis


def make_kernel(
    name: str, key: OpKey, inputs: tuple[str, ...], group: Group, values: Mapping[str, Any]
) -> Kernel:
    """The kernel of a group."""
    return Kernel(name, key, inputs, group.output, values, tuple(op.name for op in group.ops))

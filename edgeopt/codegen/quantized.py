"""The int8 shape of a float network: what quantization will make of it, before weights exist."""

from __future__ import annotations

import functools
from dataclasses import replace

from edgeopt.core.activations import REAL
from edgeopt.core.network import Network, Op, Tensor

#: Operators whose result is int8 whatever they read.
_INT8 = frozenset(
    {"conv2d", "linear", "activation", "add", "mul", "global_avgpool", "avgpool", "sub", "max",
     "min", "prelu"}
)  # fmt: skip
#: Operators that move numbers or choose among them: int8 if all that they read is.
_MOVING = frozenset(
    {"reshape", "transpose", "maxpool", "concat", "resize", "slice", "gather", "pad", "reduce"}
)


def _computes(op: Op) -> bool:
    """Whether an operator is int8 whatever it reads."""
    if op.kind == "resize":
        return op.attrs["mode"] == "linear"
    if op.kind == "activation":
        return op.attrs["function"] not in REAL
    if op.kind == "mul" and len(set(op.inputs)) < len(op.inputs):
        return False  # a power, not a product of two
    # A constant operand stays a real number, and with it the operator.
    return op.kind in _INT8 and (op.kind == "prelu" or "c" not in op.constants)


def _moves(op: Op) -> bool:
    """Whether an operator keeps the type of what it reads."""
    if op.kind == "pad":
        return op.attrs["value"] == 0
    return op.kind in _MOVING and op.attrs.get("how") != "sum"


@functools.lru_cache(maxsize=65536)
def _stored(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, shape, "i8")  # subnets share names and shapes: check each once


def as_int8(network: Network) -> Network:
    """The quantized network of a float one, without scales: types, shapes and conversions.

    Inputs and outputs stay float; every convolution, linear layer, activation, addition, product
    and average gives int8, operators that only move numbers keep what they read, and what has no
    int8 form (softmax, foreign operators) runs between conversions.
    """
    tensors = {name: network.tensors[name] for name in network.inputs}
    ops: list[Op] = []
    stored: dict[str, str] = {}  # tensor -> its int8 form
    real = set(network.inputs)  # tensors that exist in float
    movable = set(network.inputs)  # tensors that can be moved as int8

    def as_stored(name: str) -> str:
        found = stored.get(name)
        if found is None:
            found = stored[name] = name + ".q"
            tensors[found] = _stored(found, network.tensors[name].shape)
            ops.append(Op("quantize_" + name, "quantize", (name,), found))
        return found

    def as_real(name: str) -> str:
        if name not in real:
            real.add(name)
            tensors[name] = network.tensors[name]
            ops.append(Op("dequantize_" + name, "dequantize", (stored[name],), name))
        return name

    for op in network.ops:
        kind, output = op.kind, op.output
        if _computes(op) or (_moves(op) and all(name in movable for name in op.inputs)):
            inputs = tuple([stored.get(name) or as_stored(name) for name in op.inputs])
            found = stored[output] = output + ".q"
            movable.add(output)
            tensors[found] = _stored(found, network.tensors[output].shape)
            kept = {"c": op.constants["c"]} if "c" in op.constants else {}
            ops.append(Op(op.name, kind, inputs, found, op.attrs, kept))
        else:
            inputs = tuple([as_real(name) for name in op.inputs])
            real.add(output)
            tensors[output] = network.tensors[output]
            ops.append(replace(op, inputs=inputs))
    for name in network.outputs:
        as_real(name)
    return replace(network, tensors=tensors, ops=tuple(ops))

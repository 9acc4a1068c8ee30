"""From a network to the kernels that will run: the one enumeration everybody shares.

The profiler measures these keys, the latency model adds them up, and the build compiles them.
Names and contents of constants are those of the table in `codegen.schedules`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from edgeopt.codegen import constants, lower_moves
from edgeopt.codegen.fuse import Group, groups, key_shape
from edgeopt.codegen.lowbits import stored_bits
from edgeopt.codegen.lower_parts import (
    activation_text,
    key_axis,
    make_kernel,
    make_key,
    packed_key,
    require,
)
from edgeopt.codegen.quantized import as_int8
from edgeopt.core import moves
from edgeopt.core.activations import text_of
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import WITH_WEIGHTS, Kernel, KernelGraph
from edgeopt.core.network import Network, Op
from edgeopt.core.target import TargetSpec

Shape = tuple[int, ...]


def lower(network: Network, target: TargetSpec | None = None) -> KernelGraph:
    """Fuse a network's operators into kernels; shape-only networks give the same keys.

    Args:
        network: float, integer or mixed.
        target: says which layers read packed weights; without one, and where it has no kernel for
            them, weights of fewer bits are int8 like all others.

    Raises:
        InputError: an operator that no kernel can compute, by name.
    """
    kernels: list[Kernel] = []
    aliases: dict[str, str] = {}
    names: set[str] = set()
    for group in groups(network):
        root = group.root
        if root.kind == "reshape" or (root.kind == "transpose" and _moves_nothing(network, root)):
            aliases[root.output] = aliases.get(root.inputs[0], root.inputs[0])
            continue
        name = _unused(root.name or root.output, names)
        kernel = _LOWER[root.kind](network, group, name)
        kernels.append(kernel if target is None else _packed(kernel, root, target))
    _copy_shared_outputs(network, kernels, aliases, names)
    return KernelGraph(
        network.name, network.tensors, tuple(kernels), network.inputs, network.outputs, aliases
    )


def _packed(kernel: Kernel, root: Op, target: TargetSpec) -> Kernel:
    """The kernel with its weights packed, where they fit and the target has one that reads them."""
    bits = cast(int, root.attrs.get("weight_bits", 0))
    if not bits or kernel.key.op not in WITH_WEIGHTS:
        return kernel
    width = stored_bits(kernel.key, bits, target, kernel.constants.get("w"))
    return kernel if width == 8 else replace(kernel, key=packed_key(kernel.key, width))


def lower_shapes(
    network: Network, precision: str = "f32", target: TargetSpec | None = None
) -> KernelGraph:
    """Lower a float network as it is, or as it will be once it is quantized to int8.

    With ``i8`` the keys, tensor types and sizes are those of the network that the quantizer
    exports; constants are left out. ``target`` is that of `lower`.

    Raises:
        InputError: an unknown precision.
    """
    if precision == "f32":
        return lower(network, target)
    if precision != "i8":
        raise InputError(f"precision {precision!r} is not known", hint="use f32 or i8")
    return lower(as_int8(network), target)


def _unused(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    names.add(name)
    return name


def _copy_shared_outputs(
    network: Network, kernels: list[Kernel], aliases: dict[str, str], names: set[str]
) -> None:
    """Copy into outputs that would share storage with an input or with another output."""
    owners = set(network.inputs)
    # Outputs that own their storage come first: those that only look at it are copied.
    for output in sorted(dict.fromkeys(network.outputs), key=lambda name: name in aliases):
        if output in network.inputs:
            raise InputError(
                f"output {output!r} is also an input: there is nothing to compute",
                where=f"network {network.name!r}",
            )
        root = aliases.get(output, output)
        if root not in owners:
            owners.add(root)
            continue
        del aliases[output]
        for index, kernel in enumerate(kernels):
            if output in kernel.inputs:
                inputs = tuple(root if name == output else name for name in kernel.inputs)
                kernels[index] = replace(kernel, inputs=inputs)
        tensor = network.tensors[output]
        shape = key_shape(tensor.shape)
        key = make_key("copy", shape, shape, tensor.dtype, tensor.dtype)
        kernels.append(Kernel(_unused(f"copy_{output}", names), key, (root,), output))


def _moves_nothing(network: Network, op: Op) -> bool:
    """Whether a transposition only moves dimensions of size 1."""
    shape = network.tensors[op.inputs[0]].shape
    moved = [axis for axis in cast(Shape, op.attrs["perm"]) if shape[axis] != 1]
    return moved == sorted(moved)


def _accumulating(network: Network, group: Group, name: str) -> Kernel:
    root = group.root
    x, y = network.tensors[root.inputs[0]], network.tensors[root.output]
    integer = require(root, x, y)
    attrs = cast(Mapping[str, Any], root.attrs)
    tail = (
        activation_text(network, group.activation),
        group.residual is not None,
        activation_text(network, group.residual_activation),
    )
    head = (key_shape(x.shape), key_shape(y.shape), x.dtype, y.dtype)
    if root.kind == "linear":
        key = make_key("linear", *head, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, *tail)
    else:
        geometry = (
            attrs["kernel"],
            attrs["strides"],
            attrs["pads"],
            attrs["dilations"],
            attrs["groups"],
        )
        if geometry == ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1):
            operator = "pointwise"
        elif attrs["groups"] == x.shape[-1] == y.shape[-1] and attrs["groups"] > 1:
            operator = "depthwise"
        else:
            operator = "conv2d"
        key = make_key(operator, *head, *geometry, *tail)
    inputs = root.inputs if group.residual is None else (*root.inputs, group.residual)
    values = constants.accumulating(network, group, integer) if root.constants else {}
    return make_kernel(name, key, inputs, group, values)


def _pool(network: Network, group: Group, name: str) -> Kernel:
    root = group.root
    x, y = network.tensors[root.inputs[0]], network.tensors[root.output]
    integer = require(root, x, y)
    head = (key_shape(x.shape), key_shape(y.shape), x.dtype, y.dtype)
    if constants.is_global(root, x):
        values = constants.average(network, group, x.shape[1] * x.shape[2]) if integer else {}
        return make_kernel(name, make_key("global_avgpool", *head), root.inputs, group, values)
    attrs = cast(Mapping[str, Any], root.attrs)
    geometry = (attrs["kernel"], attrs["strides"], attrs["pads"])
    values = {}
    variant = ""
    if root.kind == "avgpool":
        counted = bool(attrs.get("count_include_pad")) and any(attrs["pads"])
        variant = "include" if counted else ""
        if integer:
            values = constants.average(network, group, *constants.counts_of(root, x, y))
    elif integer and x.quant != y.quant:
        raise InputError(
            "maximum pooling cannot change the quantization", where=f"operator {root.name!r}"
        )
    return make_kernel(
        name, make_key(root.kind, *head, *geometry, variant=variant), root.inputs, group, values
    )


def _simple(network: Network, group: Group, name: str) -> Kernel:
    """Operators of one input whose key is little more than the shapes."""
    root = group.root
    x, y = network.tensors[root.inputs[0]], network.tensors[root.output]
    kind, activation, variant = root.kind, "none", ""
    values: Mapping[str, Any] = {}
    if kind in ("quantize", "dequantize"):
        values = constants.conversion(root, x, y)
    elif require(root, x, y) and kind == "softmax":
        if root.attrs.get("log"):
            raise InputError(
                "log softmax of int8 is not supported", where=f"operator {root.name!r}"
            )
        values = constants.softmax(network, root)
    if kind == "activation":
        if x.dtype == "i8":
            activation, values = "lut", constants.table(network, root)
        else:
            activation = text_of(cast(str, root.attrs["function"]), root.attrs)
    elif kind == "softmax":
        axis = key_axis(root, x)
        parts = [] if axis == len(key_shape(x.shape)) - 1 else [f"axis{axis}"]
        variant = ".".join([*parts, *(["log"] if root.attrs.get("log") else [])])
    elif kind == "transpose":
        perm = cast(Shape, root.attrs["perm"])
        dropped = len(x.shape) - len(key_shape(x.shape))
        kept = [axis - dropped for axis in perm if axis >= dropped]
        in_shape = key_shape(x.shape)
        key = make_key(
            kind, in_shape, tuple(in_shape[axis] for axis in kept), x.dtype, y.dtype,
            variant="perm" + "-".join(map(str, kept)),
        )  # fmt: skip
        return make_kernel(name, key, root.inputs, group, values)
    key = make_key(
        kind, key_shape(x.shape), key_shape(y.shape), x.dtype, y.dtype,
        activation=activation, variant=variant,
    )  # fmt: skip
    return make_kernel(name, key, root.inputs, group, values)


def _concat(network: Network, group: Group, name: str) -> Kernel:
    root = group.root
    tensors = [network.tensors[i] for i in root.inputs]
    y = network.tensors[root.output]
    kinds = [require(root, x, y) for x in tensors]  # every input is checked
    integer = kinds[0]
    axis = key_axis(root, y)
    sizes = "-".join(str(key_shape(x.shape)[axis]) for x in tensors)
    variant = f"axis{axis}.{sizes}"
    values: Mapping[str, Any] = {}
    if integer:
        if all(x.quant == y.quant for x in tensors):
            variant += ".same"
        else:
            values = constants.concat(network, root)
    key = make_key(
        "concat", key_shape(tensors[0].shape), key_shape(y.shape), y.dtype, y.dtype,
        inputs=len(tensors), variant=variant,
    )  # fmt: skip
    return make_kernel(name, key, root.inputs, group, values)


def _fallback(network: Network, group: Group, name: str) -> Kernel:
    root = group.root
    payload = root.attrs["node"]
    if not isinstance(payload, bytes):
        raise TypeError(f"operator {root.name!r} carries no ONNX node")
    x = network.tensors[root.inputs[0]] if root.inputs else network.tensors[root.output]
    y = network.tensors[root.output]
    key = make_key(
        "fallback", key_shape(x.shape), key_shape(y.shape), x.dtype, y.dtype,
        inputs=len(root.inputs), variant=hashlib.sha256(payload).hexdigest()[:16],
    )  # fmt: skip
    return Kernel(name, key, root.inputs, root.output, {}, (root.name,), payload)


_LOWER: Mapping[str, Callable[[Network, Group, str], Kernel]] = {
    "conv2d": _accumulating,
    "linear": _accumulating,
    **dict.fromkeys(("add", "mul", *moves.PAIRS), lower_moves.binary),
    "slice": lower_moves.slice_,
    "gather": lower_moves.gather,
    "pad": lower_moves.pad,
    "reduce": lower_moves.reduce,
    "maxpool": _pool,
    "avgpool": _pool,
    "global_avgpool": _pool,
    "activation": _simple,
    "softmax": _simple,
    "transpose": _simple,
    "resize": lower_moves.resize,
    "quantize": _simple,
    "dequantize": _simple,
    "concat": _concat,
    "onnx": _fallback,
}

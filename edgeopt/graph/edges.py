"""Integers or floats at a network's edges: quantization of inputs and outputs in or out of it.

A quantized model usually takes and gives floats, and its first and last operators convert. A
camera or a codec gives integers anyway: `with_edges` leaves the conversions to the caller, who
finds scale and zero point with each tensor; or adds them where a model has integer edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.network import Network, Op, Tensor
from edgeopt.graph.importer import Imported, Interface

#: As the model has them; integers wherever the network computes in them; floats everywhere.
EDGES = ("model", "int8", "float")


def with_edges(imported: Imported, kind: str) -> Imported:
    """The network with the edges asked for; tensors keep their names.

    Args:
        imported: any network.
        kind: one of `EDGES`.

    Raises:
        InputError: an unknown kind, or ``int8`` for an input or output that the network does not
            hold as integers.
    """
    if kind not in EDGES:
        raise InputError(
            f"unknown kind of inputs and outputs {kind!r}", where="--io",
            hint=suggest(kind, EDGES, noun="kind"),
        )  # fmt: skip
    if kind == "model":
        return imported
    network, inputs, outputs = imported.network, dict(imported.inputs), dict(imported.outputs)
    for tensor, model in zip(network.inputs, tuple(inputs), strict=True):
        if kind == "int8" and network.tensors[tensor].dtype == "f32":
            network = _without_quantize(network, tensor)
            inputs[model] = replace(inputs[model], quant=network.tensors[tensor].quant)
        elif kind == "float" and network.tensors[tensor].dtype == "i8":
            inputs[model] = _as_float(inputs[model], network, tensor)
            network = _with_quantize(network, tensor)
    for tensor, model in zip(network.outputs, tuple(outputs), strict=True):
        if kind == "int8" and network.tensors[tensor].dtype == "f32":
            network = _without_dequantize(network, tensor)
            outputs[model] = replace(outputs[model], quant=network.tensors[tensor].quant)
        elif kind == "float" and network.tensors[tensor].dtype == "i8":
            outputs[model] = _as_float(outputs[model], network, tensor)
            network = _with_dequantize(network, tensor)
    return Imported(network, inputs, outputs, imported.notes)


def _as_float(interface: Interface, network: Network, tensor: str) -> Interface:
    return replace(interface, quant=network.tensors[tensor].quant, as_float=True)


def _refuse(tensor: str, side: str) -> InputError:
    return InputError(
        f"{side} {tensor!r} is not quantized, so it cannot be int8", where="--io int8",
        hint="quantize the network (--precision int8), or leave --io out",
    )  # fmt: skip


def _without_quantize(network: Network, tensor: str) -> Network:
    readers = [op for op in network.ops if tensor in op.inputs]
    held = {network.tensors[op.output].quant for op in readers}
    quantized = all(op.kind == "quantize" for op in readers) and len(held) == 1
    if not quantized or tensor in network.outputs:
        raise _refuse(tensor, "input")
    gone = {op.output for op in readers}
    if gone & set(network.outputs):
        raise _refuse(tensor, "input")
    stored = replace(network.tensors[readers[0].output], name=tensor)
    tensors = {**_dropped(network.tensors, gone), tensor: stored}
    kept = (op for op in network.ops if op not in readers)
    renamed = dict.fromkeys(gone, tensor)
    return replace(network, tensors=tensors, ops=tuple(_renamed(op, renamed) for op in kept))


def _without_dequantize(network: Network, tensor: str) -> Network:
    maker = next((op for op in network.ops if op.output == tensor), None)
    if maker is None or maker.kind != "dequantize" or any(tensor in o.inputs for o in network.ops):
        raise _refuse(tensor, "output")
    (held,) = maker.inputs
    if held in network.inputs or held in network.outputs:
        raise _refuse(tensor, "output")
    stored = replace(network.tensors[held], name=tensor)
    tensors = {**_dropped(network.tensors, {held}), tensor: stored}
    kept = (op for op in network.ops if op is not maker)
    ops = tuple(_renamed(op, {held: tensor}) for op in kept)
    return replace(network, tensors=tensors, ops=ops)


def _with_quantize(network: Network, tensor: str) -> Network:
    held = _fresh(network, tensor)
    known = network.tensors[tensor]
    tensors = {
        **network.tensors,
        held: replace(known, name=held),
        tensor: Tensor(tensor, known.shape),
    }
    first = Op(f"quantize_{tensor}", "quantize", (tensor,), held)
    rest = (replace(_renamed(op, {tensor: held}), output=op.output) for op in network.ops)
    outputs = tuple(held if name == tensor else name for name in network.outputs)
    return replace(network, tensors=tensors, ops=(first, *rest), outputs=outputs)


def _with_dequantize(network: Network, tensor: str) -> Network:
    held = _fresh(network, tensor)
    known = network.tensors[tensor]
    tensors = {
        **network.tensors,
        held: replace(known, name=held),
        tensor: Tensor(tensor, known.shape),
    }
    if tensor in network.inputs:  # an input that is an output as it is
        raise _refuse(tensor, "output")
    ops = tuple(_renamed(op, {tensor: held}) for op in network.ops)
    last = Op(f"dequantize_{tensor}", "dequantize", (held,), tensor)
    return replace(network, tensors=tensors, ops=(*ops, last))


def _renamed(op: Op, names: Mapping[str, str]) -> Op:
    if op.output not in names and not names.keys() & set(op.inputs):
        return op
    inputs = tuple(names.get(name, name) for name in op.inputs)
    return replace(op, inputs=inputs, output=names.get(op.output, op.output))


def _dropped(tensors: Mapping[str, Tensor], gone: set[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in gone}


def _fresh(network: Network, tensor: str) -> str:
    name = f"{tensor}_int8"
    while name in network.tensors:
        name += "_"
    return name

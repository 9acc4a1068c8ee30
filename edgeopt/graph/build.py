"""Write a `core.network.Network` with float32 weights as an ONNX model.

The model is in ONNX's own order (NCHW maps, OIHW weights); node and tensor names are those of
the network's operators, so that a report can point from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.core.network import Array, Network, Op, Tensor

if TYPE_CHECKING:
    import onnx

OPSET = 18
IR_VERSION = 10

_FUNCTIONS = {
    "relu": "Relu",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "leakyrelu": "LeakyRelu",
    "elu": "Elu",
}


def build_onnx(network: Network, metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialise a float32 network; the same network gives the same bytes.

    Args:
        network: operators conv2d, linear, activation, add, mul, global_avgpool, reshape and
            softmax, with weights in ``constants``.
        metadata: entries for the model's ``metadata_props``.

    Raises:
        ValueError: an operator that this does not write, or one without weights.
    """
    from onnx import checker, helper

    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for op in network.ops:
        node, constants = _node(op, network)
        nodes.append(node)
        initializers += constants
    written = {op.output for op in network.ops} - set(network.outputs)
    graph = helper.make_graph(
        nodes,
        network.name,
        [_info(network.tensors[name]) for name in network.inputs],
        [_info(network.tensors[name]) for name in network.outputs],
        initializers,
        value_info=[
            _info(network.tensors[op.output]) for op in network.ops if op.output in written
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edgeopt",
    )
    for key in sorted(metadata or {}):
        model.metadata_props.add(key=key, value=(metadata or {})[key])
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _shape(tensor: Tensor) -> list[int]:
    """ONNX order: maps are NHWC in the network."""
    if len(tensor.shape) == 4:
        n, h, w, c = tensor.shape
        return [n, c, h, w]
    return list(tensor.shape)


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper

    if tensor.dtype != "f32":
        raise ValueError(f"tensor {tensor.name!r} is {tensor.dtype}, not f32")
    return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, _shape(tensor))


def _node(op: Op, network: Network) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    from onnx import helper

    attrs: dict[str, object] = {}
    constants: dict[str, Array] = {}
    if op.kind == "conv2d":
        kind = "Conv"
        attrs = {
            "kernel_shape": op.attrs["kernel"],
            "strides": op.attrs["strides"],
            "dilations": op.attrs["dilations"],
            "pads": op.attrs["pads"],
            "group": op.attrs["groups"],
        }
        constants["weight"] = np.ascontiguousarray(_weight(op).transpose(0, 3, 1, 2))
    elif op.kind == "linear":
        kind = "Gemm"
        attrs = {"transB": 1}
        constants["weight"] = _weight(op)
    elif op.kind == "activation":
        kind = _FUNCTIONS.get(str(op.attrs["function"]), "")
        attrs = {key: value for key, value in op.attrs.items() if key != "function"}
    elif op.kind == "reshape":
        kind = "Reshape"
        shape = _shape(network.tensors[op.output])
        constants["shape"] = np.array(shape, np.int64)
    else:
        kind = {"add": "Add", "mul": "Mul", "global_avgpool": "GlobalAveragePool",
                "softmax": "Softmax"}.get(op.kind, "")  # fmt: skip
        attrs = {"axis": -1} if kind == "Softmax" else {}
    if not kind:
        raise ValueError(f"op {op.name!r}: cannot write {op.kind} {dict(op.attrs)}")
    if op.kind in ("conv2d", "linear") and "b" in op.constants:
        constants["bias"] = op.constants["b"]
    names = [f"{op.name}.{part}" for part in constants]
    node = helper.make_node(kind, [*op.inputs, *names], [op.output], name=op.name, **attrs)
    return node, [_tensor(n, a) for n, a in zip(names, constants.values(), strict=True)]


def _weight(op: Op) -> Array:
    weight = op.constants.get("w")
    if weight is None or weight.dtype != np.float32:
        raise ValueError(f"op {op.name!r} has no float32 weights")
    return weight


def _tensor(name: str, array: Array) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(array), name)

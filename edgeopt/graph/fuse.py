"""Fusions on the ONNX level: batch norm, padding and bias go into the layer beside them.

Every pass takes a graph and returns it with whether it changed; a second run changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.network import Array
from edgeopt.graph.fuse_activations import (
    fuse_gelu,
    fuse_hard_sigmoid,
    fuse_self_gate,
    normalise_clips,
)
from edgeopt.graph.ir import FUSED, Graph, Node
from edgeopt.graph.qdq import stored_constant
from edgeopt.graph.rewrite import Pass, Rewrite

Wide = npt.NDArray[np.float64]


def fuse_matmul_add(graph: Graph) -> tuple[Graph, bool]:
    """Add(MatMul(x, W), b) with a constant W and a bias of one row becomes Gemm-like "Linear"."""
    work = Rewrite(graph)
    for node in graph.nodes:
        if node.op != "Add" or node.domain or len(node.inputs) != 2:
            continue
        for index in (0, 1):
            matmul = work.only(node.inputs[index], "MatMul")
            bias = node.inputs[1 - index]
            if matmul is None or not _is_constant(work, bias):
                continue
            if not _is_constant(work, matmul.inputs[1]):
                continue
            weight = graph.shape(matmul.inputs[1])
            if len(weight) != 2 or not _is_row(graph.shape(bias), weight[1]):
                continue
            new = Node("Linear", matmul.name, (*matmul.inputs, bias), node.outputs, {}, FUSED)
            work.replace(node, new, matmul)
            break
    return work.finish()


def _is_constant(work: Rewrite, name: str) -> bool:
    """Whether a value is a constant, or the dequantization of one."""
    if name in work.graph.constants:
        return True
    node = work.producers.get(name)
    return (
        node is not None
        and node.op == "DequantizeLinear"
        and all(n in work.graph.constants for n in node.inputs if n)
    )


def _is_row(shape: tuple[int, ...], width: int) -> bool:
    return bool(shape) and shape[-1] == width and all(d == 1 for d in shape[:-1])


def fuse_batch_norm(graph: Graph) -> tuple[Graph, bool]:
    """Batch norm becomes weights of the convolution before it, else a 1x1 depthwise one."""
    work = Rewrite(graph)
    for node in graph.nodes:
        if node.op != "BatchNormalization" or node.domain:
            continue
        parts = [_real(work, name) for name in node.inputs[1:5]]
        if len(parts) != 4 or any(part is None for part in parts):
            continue
        if any(node.outputs[1:]) or node.attrs.get("training_mode", 0):
            continue
        channels = graph.shape(node.inputs[0])[1:2]
        if any(part is not None and part.shape != channels for part in parts):
            raise InputError(
                f"its constants do not fit the {channels} channels of its input",
                where=f"node {node.name!r} (BatchNormalization)",
                hint="the file is damaged, or was not written by an exporter",
            )
        gamma, beta, mean, var = (np.asarray(part, np.float64) for part in parts)
        with np.errstate(all="ignore"):
            factor = gamma / np.sqrt(var + float(node.attrs.get("epsilon", 1e-5)))
            shift = beta - mean * factor
        if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
            raise InputError(
                "its variance is negative, or one of its constants is not finite",
                where=f"node {node.name!r} (BatchNormalization)",
                hint="the training diverged, or the file is damaged",
            )
        if not _into_convolution(work, node, node.inputs[0], factor, shift):
            _as_depthwise(work, node, factor, shift)
    return work.finish()


def _real(work: Rewrite, name: str) -> Array | None:
    """A constant, also one that is stored as integers."""
    node = work.producers.get(name)
    if node is not None and node.op == "DequantizeLinear" and not node.domain:
        stored = stored_constant(work.graph, node)
        return None if stored is None else stored.real()
    return work.constant(name)


def fuse_channel_affine(graph: Graph) -> tuple[Graph, bool]:
    """Mul and Add of one constant a channel become weights of the convolution before them."""
    work = Rewrite(graph)
    for node in graph.nodes:
        if node.op not in ("Mul", "Add", "Sub", "Div") or node.domain or len(node.inputs) != 2:
            continue
        for index in (0, 1):
            constant = work.constant(node.inputs[1 - index])
            if constant is None or constant.dtype != np.float32:
                continue
            if index == 1 and node.op in ("Sub", "Div"):
                continue
            channels = _channel_vector(graph, node.outputs[0], constant)
            if channels is None:
                continue
            one, zero = np.ones_like(channels), np.zeros_like(channels)
            if node.op in ("Mul", "Div"):
                with np.errstate(divide="ignore"):
                    factor, shift = (channels if node.op == "Mul" else one / channels), zero
            else:
                factor, shift = one, (channels if node.op == "Add" else -channels)
            if np.isfinite(factor).all() and _into_convolution(
                work, node, node.inputs[index], factor, shift
            ):
                break
    return work.finish()


def _channel_vector(graph: Graph, output: str, constant: Array) -> Wide | None:
    shape = graph.types[output].shape if output in graph.types else ()
    if len(shape) not in (3, 4) or constant.ndim > len(shape):
        return None
    aligned = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    if any(dim != 1 for axis, dim in enumerate(aligned.shape) if axis != 1):
        return None
    return np.broadcast_to(aligned.reshape(-1), (shape[1],)).astype(np.float64)


def _into_convolution(work: Rewrite, node: Node, source: str, factor: Wide, shift: Wide) -> bool:
    conv = work.only(source, "Conv")
    if conv is None:
        return False
    weight = work.constant(conv.inputs[1])
    bias = work.constant(conv.input(2)) if conv.input(2) else np.zeros(len(factor))
    if weight is None or bias is None or weight.dtype != np.float32:
        return False
    if weight.shape[0] != len(factor):
        return False
    scaled = np.asarray(weight, np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))
    moved = np.asarray(bias, np.float64) * factor + shift
    w = work.store(f"{conv.name}.weight", scaled.astype(np.float32))
    b = work.store(f"{conv.name}.bias", moved.astype(np.float32))
    new = replace(conv, inputs=(conv.inputs[0], w, b), outputs=node.outputs[:1])
    work.replace(node, new, conv)
    return True


def _as_depthwise(work: Rewrite, node: Node, factor: Wide, shift: Wide) -> None:
    shape = work.graph.shape(node.inputs[0])
    if len(shape) not in (3, 4):
        return
    channels = shape[1]
    ones = (1,) * (len(shape) - 2)
    w = work.store(f"{node.name}.weight", factor.astype(np.float32).reshape(-1, 1, *ones))
    b = work.store(f"{node.name}.bias", shift.astype(np.float32))
    attrs = {"group": channels, "kernel_shape": list(ones)}
    new = Node("Conv", node.name, (node.inputs[0], w, b), node.outputs[:1], attrs)
    work.replace(node, new)


def fuse_pad(graph: Graph) -> tuple[Graph, bool]:
    """Zero padding before a convolution or an average pool becomes its own padding."""
    work = Rewrite(graph)
    for node in graph.nodes:
        if node.op not in ("Conv", "AveragePool", "MaxPool") or node.domain:
            continue
        pad = work.only(node.inputs[0], "Pad")
        if pad is None or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            continue
        amounts = _spatial_pads(work, pad)
        own = node.ints("pads")
        rank = len(graph.shape(pad.inputs[0])) - 2
        own = own or (0,) * (2 * rank)
        if amounts is None or len(own) != len(amounts):
            continue
        attrs = dict(node.attrs, pads=[a + b for a, b in zip(own, amounts, strict=True)])
        attrs.pop("auto_pad", None)
        if node.op != "Conv":
            kernel = node.ints("kernel_shape")
            if any(p >= k for p, k in zip(attrs["pads"], kernel * 2, strict=False)):
                continue  # a window of padding alone
        if node.op == "AveragePool":
            counts = bool(attrs.get("count_include_pad", 0))
            if (any(own) and not counts) or attrs.get("ceil_mode", 0):
                continue
            attrs["count_include_pad"] = 1
        if node.op == "MaxPool":
            # the pool pads with -inf: the same only if values are >= 0
            before = work.producers.get(pad.inputs[0])
            if any(own) or before is None or before.op != "Relu":
                continue
        new = replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs=attrs)
        work.replace(node, new, pad)
    return work.finish()


def _spatial_pads(work: Rewrite, pad: Node) -> tuple[int, ...] | None:
    """Begin and end amounts of the spatial axes, if the pad is constant zero and only there."""
    if pad.attrs.get("mode", "constant") != "constant" or pad.input(3):
        return None
    value = work.scalar(pad.inputs[2]) if pad.input(2) else float(pad.attrs.get("value", 0.0))
    listed = work.constant(pad.inputs[1]) if pad.input(1) else np.asarray(pad.ints("pads"))
    if value != 0 or listed is None:
        return None
    amounts = [int(v) for v in listed.reshape(-1)]
    rank = len(amounts) // 2
    if rank < 3 or min(amounts) < 0 or any(amounts[i] or amounts[rank + i] for i in (0, 1)):
        return None
    return (*amounts[2:rank], *amounts[rank + 2 :])


#: In the order they run; `edgeopt.graph.simplify` repeats them until nothing changes.
FUSIONS: tuple[Pass, ...] = (
    normalise_clips,
    fuse_pad,
    fuse_batch_norm,
    fuse_channel_affine,
    fuse_matmul_add,
    fuse_hard_sigmoid,
    fuse_self_gate,
    fuse_gelu,
)

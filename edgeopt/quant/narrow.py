"""Scales and biases of a quantized network that leave kernels short constants.

Any scale of weights near the best one is as good, and so is any bias within a sixteenth of an
output step. Among them are always some whose multiplier and folded bias fit one word a channel
(`core.narrow`), so these are the ones that are exported. A board that is short of flash stores
them so; to everything else they are numbers like others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeopt.core import affine, narrow
from edgeopt.core.network import Quant
from edgeopt.graph.ir import Graph
from edgeopt.graph.qdq_build import IntegerLayer
from edgeopt.graph.qdq_sites import Layer, Sites


def narrowed_layers(
    graph: Graph, sites: Sites, quants: Mapping[str, Quant], layers: Mapping[str, IntegerLayer]
) -> dict[str, IntegerLayer]:
    """The layers with scales and biases that fit words, where there are such.

    Args:
        graph: the simplified float network.
        sites: what `find_sites` found in it.
        quants: a scale and zero point for every tensor of ``sites.tensors``.
        layers: stored weights for every layer of ``sites.layers``, by its key.
    """
    tensors = frozenset(sites.tensors)
    readers: dict[str, list[str]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node.outputs[0])
    found = {}
    for site in sites.layers:
        layer, output = layers[site.key], site.key
        while output not in tensors and len(readers.get(output, ())) == 1:
            (output,) = readers[output]  # a clamp, which belongs to the layer
        scaled = output in tensors and site.input in tensors
        found[site.key] = layer
        if scaled and layer.zero is None and not layer.block and layer.real_bias is None:
            found[site.key] = _narrowed(site, layer, quants[site.input], quants[output])
    return found


def _narrowed(site: Layer, layer: IntegerLayer, x: Quant, y: Quant) -> IntegerLayer:
    outputs = len(layer.weight)
    scale = narrow.weight_scales(x.scale, layer.scale.reshape(-1), y.scale)
    if scale is None:
        return layer
    multiplier = np.broadcast_to(affine.multiplier(x.scale, scale, y.scale), (outputs,))
    sums = layer.weight.reshape(outputs, -1).astype(np.int64).sum(axis=1)
    bias_scale = (np.float32(x.scale) * scale).astype(np.float32)
    real = np.zeros(outputs)
    if layer.bias is not None:
        real = layer.bias * (layer.bias_scale.astype(np.float64) / bias_scale)
    bias = narrow.biases(real, sums, x.zero_point, multiplier)
    if bias is None:
        return layer
    shape = layer.scale.shape
    return replace(
        layer,
        scale=scale.reshape(shape),
        bias_scale=bias_scale.reshape(layer.bias_scale.shape),
        bias=None if layer.bias is None and not bias.any() else bias,
    )

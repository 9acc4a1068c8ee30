"""From a float ONNX network and its calibration to a quantized one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.precision import PrecisionPlan
from edgeopt.graph import qdq_build, qdq_sites
from edgeopt.quant import weights
from edgeopt.quant.calibration import Calibration
from edgeopt.quant.weights import StoredWeights

if TYPE_CHECKING:
    from edgeopt.graph.qdq_build import Model


_NONE_STORED: Mapping[str, StoredWeights] = MappingProxyType({})


def _integer_layer(
    layer: qdq_sites.Layer, calibration: Calibration, method: str, bias_correction: bool, bits: int
) -> qdq_build.IntegerLayer:
    scale_x = calibration[layer.input].scale
    if bits < 8:
        method = "mse"  # the largest weight alone would decide over all others
    stored, scale = weights.store(
        layer.weight, layer.bias, scale_x, method=method, where=layer.key, bits=bits
    )
    bias = None if layer.bias is None else layer.bias.astype(np.float64)
    if bias_correction:
        mean = calibration.means[layer.input]
        shift = weights.shift_of_mean(layer.weight, stored, scale, mean, layer.groups)
        bias = -shift if bias is None else bias - shift
    bias_scale = (np.float32(scale_x) * scale).astype(np.float32)
    if bias is None:
        return qdq_build.IntegerLayer(stored, scale, None, bias_scale, bits)
    steps, bias_scale = weights.store_bias(bias, scale_x, scale)
    return qdq_build.IntegerLayer(stored, scale, steps, bias_scale, bits)


def _given_layer(
    layer: qdq_sites.Layer, given: StoredWeights, scale_x: float, bits: int
) -> qdq_build.IntegerLayer:
    if given.weight.shape != layer.weight.shape:
        raise InputError(
            f"stored weights {list(given.weight.shape)} are not those of a layer "
            f"{list(layer.weight.shape)}", where=layer.name,
            hint="they must come from the network that is quantized",
        )  # fmt: skip
    if given.bits != bits:
        raise InputError(
            f"stored weights have {given.bits} bits, the plan says {bits}", where=layer.name,
            hint="take the weights from the supernet with the same plan",
        )  # fmt: skip
    stored, scale = weights.take(given, scale_x)
    if given.bias is None:
        bias_scale = (np.float32(scale_x) * scale).astype(np.float32)
        return qdq_build.IntegerLayer(stored, scale, None, bias_scale, bits)
    steps, bias_scale = weights.store_bias(given.bias, scale_x, scale)
    return qdq_build.IntegerLayer(stored, scale, steps, bias_scale, bits)


def quantize_model(
    model: Model,
    calibration: Calibration,
    *,
    plan: PrecisionPlan = PrecisionPlan(),  # noqa: B008
    stored: Mapping[str, StoredWeights] = _NONE_STORED,
    weight_method: str = "max",
    bias_correction: bool = True,
) -> Model:
    """The quantized (QDQ) ONNX model; a model that is quantized already comes back as it is.

    Args:
        model: the float model that was calibrated.
        calibration: what `edgeopt.quant.calibration.calibrate` returned for it.
        plan: bits of each layer's weights; layers are named as their nodes.
        stored: weights that are exported as they are, by layer; others are made here.
        weight_method: ``max`` or ``mse``, how the scales of weights are chosen.
        bias_correction: let biases take up the mean error that rounding the weights makes.

    Returns:
        An `onnx.ModelProto` with the float model's inputs and outputs, of opset 18 or later; 21
        with weights of 3 or 4 bits, and 25 with such of 2.

    Raises:
        InputError: the calibration is of another model, or the plan or stored weights are.
    """
    if qdq_build.is_quantized(model):
        return model
    named = {plan.default.weight_bits, *(layer.weight_bits for layer in plan.layers.values())}
    graph = qdq_build.float_graph(model, max(qdq_build.OPSETS[bits] for bits in named))
    sites = qdq_sites.find_sites(graph)
    names = [layer.name for layer in sites.layers]
    plan.check(names)
    for name in stored:
        if name not in names:
            raise InputError(
                f"there is no layer {name!r}", where="stored weights",
                hint=suggest(name, names, noun="layer"),
            )  # fmt: skip
    missing = [name for name in sites.tensors if name not in calibration]
    if missing:
        raise InputError(
            f"the calibration has no range for {len(missing)} tensors, first {missing[0]!r}",
            where=graph.name,
            hint="calibrate with the same model that is quantized",
        )
    layers = {
        layer.key: _integer_layer(layer, calibration, weight_method, bias_correction, bits)
        if (given := stored.get(layer.name)) is None
        else _given_layer(layer, given, calibration[layer.input].scale, bits)
        for layer in sites.layers
        for bits in [plan.of(layer.name).weight_bits]
    }
    return qdq_build.build(graph, sites, calibration, layers)

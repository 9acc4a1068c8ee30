"""From a float ONNX network and its calibration to a quantized one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.graph import qdq_build, qdq_sites
from edgeopt.quant import weights
from edgeopt.quant.calibration import Calibration

if TYPE_CHECKING:
    from edgeopt.graph.qdq_build import Model


def _integer_layer(
    layer: qdq_sites.Layer, calibration: Calibration, method: str, bias_correction: bool
) -> qdq_build.IntegerLayer:
    scale_x = calibration[layer.input].scale
    stored, scale = weights.store(layer.weight, layer.bias, scale_x, method=method, where=layer.key)
    bias = None if layer.bias is None else layer.bias.astype(np.float64)
    if bias_correction:
        mean = calibration.means[layer.input]
        shift = weights.shift_of_mean(layer.weight, stored, scale, mean, layer.groups)
        bias = -shift if bias is None else bias - shift
    bias_scale = (np.float32(scale_x) * scale).astype(np.float32)
    if bias is None:
        return qdq_build.IntegerLayer(stored, scale, None, bias_scale)
    steps, bias_scale = weights.store_bias(bias, scale_x, scale)
    return qdq_build.IntegerLayer(stored, scale, steps, bias_scale)


def quantize_model(
    model: Model,
    calibration: Calibration,
    *,
    weight_method: str = "max",
    bias_correction: bool = True,
) -> Model:
    """The quantized (QDQ) ONNX model; a model that is quantized already comes back as it is.

    Args:
        model: the float model that was calibrated.
        calibration: what `edgeopt.quant.calibration.calibrate` returned for it.
        weight_method: ``max`` or ``mse``, how the scales of weights are chosen.
        bias_correction: let biases take up the mean error that rounding the weights makes.

    Returns:
        An `onnx.ModelProto` of opset 18 or later that onnxruntime runs, with the float model's
        inputs and outputs.

    Raises:
        InputError: the calibration is of another model.
    """
    if qdq_build.is_quantized(model):
        return model
    graph = qdq_build.float_graph(model)
    sites = qdq_sites.find_sites(graph)
    missing = [name for name in sites.tensors if name not in calibration]
    if missing:
        raise InputError(
            f"the calibration has no range for {len(missing)} tensors, first {missing[0]!r}",
            where=graph.name,
            hint="calibrate with the same model that is quantized",
        )
    layers = {
        layer.key: _integer_layer(layer, calibration, weight_method, bias_correction)
        for layer in sites.layers
    }
    return qdq_build.build(graph, sites, calibration, layers)

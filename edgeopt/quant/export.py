"""From a float ONNX network and its calibration to a quantized one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.graph import qdq_build, qdq_sites
from edgeopt.quant import ranges, scales, weights
from edgeopt.quant.calibration import Calibration
from edgeopt.quant.narrow import narrowed_layers
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


def _simulated_layer(
    layer: qdq_sites.Layer,
    calibration: Calibration,
    precision: LayerPrecision,
    bias_correction: bool,
) -> qdq_build.IntegerLayer:
    """A layer in a precision beyond symmetric weights with one scale a channel."""
    weights.check_finite(layer.weight, layer.bias, layer.key)
    wide = scales.rows(layer.weight, precision, where=layer.name)
    grid = scales.fit(wide, precision)
    steps = grid.store(wide).reshape(layer.weight.shape)
    real = grid.real(grid.store(wide)).reshape(layer.weight.shape)
    bias = None if layer.bias is None else layer.bias.astype(np.float64)
    if bias_correction:
        mean = calibration.means[layer.input]
        ones = np.ones(len(real), np.float32)
        shift = weights.shift_of_mean(layer.weight, real, ones, mean, layer.groups)
        bias = -shift if bias is None else bias - shift
    scale, zero = (_spread(part, layer.weight, precision) for part in (grid.scale, grid.zero))
    scale32 = scale.astype(np.float32)
    stored, bits = steps.astype(np.int8), precision.weight_bits
    zeros = None if precision.symmetric else zero.astype(np.int8)
    bias_scale = (np.float32(calibration[layer.input].scale) * scale32).astype(np.float32)
    if bias is None or precision.granularity == "group":
        kept = None if bias is None else bias.astype(np.float32)
        return qdq_build.IntegerLayer(
            stored, scale32, None, bias_scale, bits, zeros, precision.group, kept
        )
    integers, bias_scale = weights.store_bias(bias, calibration[layer.input].scale, scale32)
    return qdq_build.IntegerLayer(stored, scale32, integers, bias_scale, bits, zeros)


def _spread(
    rows: scales.Doubles, weight: scales.Floats, precision: LayerPrecision
) -> scales.Doubles:
    """One number a row of `edgeopt.quant.scales.rows`, shaped as ONNX has scales."""
    if precision.granularity == "tensor":
        return rows.reshape(())
    if precision.granularity == "channel":
        return rows.reshape(-1)
    blocks = rows.reshape(weight.shape[0], -1, *(1,) * (weight.ndim - 2))
    return np.broadcast_to(blocks, (*blocks.shape[:2], *weight.shape[2:])).copy()


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


def _narrow_tensors(
    sites: qdq_sites.Sites, plan: PrecisionPlan, *, simulation: bool
) -> dict[str, int]:
    """Bits of the tensors that layers want in fewer than eight; those with one scale share them."""
    found: dict[str, int] = {}
    for layer in sites.layers:
        bits = plan.of(layer.name).activation_bits
        if bits == 8:
            continue
        if not simulation:
            raise InputError(
                plan.of(layer.name).obstacle, where=f"layer {layer.name!r}",
                hint="leave activation_bits out of the plan, or export it for simulation",
            )  # fmt: skip
        found[layer.input] = min(bits, found.get(layer.input, 8))
    for group in sites.groups:
        if any(name in found for name in group):
            least = min(found.get(name, 8) for name in group)
            found.update(dict.fromkeys(group, least))
    return found


def _opset(precision: LayerPrecision) -> int:
    """The oldest operator set that can express it."""
    needed = qdq_build.OPSETS[precision.weight_bits]
    return max(needed, qdq_build.BLOCKED_OPSET) if precision.granularity == "group" else needed


def _stored_layer(
    layer: qdq_sites.Layer,
    calibration: Calibration,
    precision: LayerPrecision,
    given: StoredWeights | None,
    method: str,
    bias_correction: bool,
) -> qdq_build.IntegerLayer:
    bits = precision.weight_bits
    plain = precision.symmetric and precision.granularity == "channel"
    if given is not None:
        if not plain:
            raise InputError(
                "stored weights are symmetric with one scale a channel, the plan says otherwise",
                where=layer.name, hint="leave granularity and symmetric out of the plan",
            )  # fmt: skip
        return _given_layer(layer, given, calibration[layer.input].scale, bits)
    if plain:
        return _integer_layer(layer, calibration, method, bias_correction, bits)
    return _simulated_layer(layer, calibration, precision, bias_correction)


def quantize_model(
    model: Model,
    calibration: Calibration,
    *,
    plan: PrecisionPlan = PrecisionPlan(),  # noqa: B008
    stored: Mapping[str, StoredWeights] = _NONE_STORED,
    weight_method: str = "max",
    bias_correction: bool = True,
    simulation: bool = False,
) -> Model:
    """The quantized (QDQ) ONNX model; a model that is quantized already comes back as it is.

    Args:
        model: the float model that was calibrated.
        calibration: what `edgeopt.quant.calibration.calibrate` returned for it.
        plan: bits of each layer's weights; layers are named as their nodes.
        stored: weights that are exported as they are, by layer; others are made here.
        weight_method: ``max`` or ``mse``, how the scales of weights are chosen.
        bias_correction: let biases take up the mean error that rounding the weights makes.
        simulation: allow activations of fewer than eight bits, which no board computes: clamps
            before QuantizeLinear leave them so many steps.

    Returns:
        An `onnx.ModelProto` with the float model's inputs and outputs, of opset 18 or later; 21
        with weights of 3 or 4 bits, and 25 with such of 2.

    Raises:
        InputError: the calibration is of another model, or the plan or stored weights are.
    """
    if qdq_build.is_quantized(model):
        return model
    graph = qdq_build.float_graph(model, max(map(_opset, (plan.default, *plan.layers.values()))))
    sites = qdq_sites.find_sites(graph)
    names = [layer.name for layer in sites.layers]
    plan.check(names)
    for name in stored:
        if name not in names:
            raise InputError(
                f"there is no layer {name!r}", where="stored weights",
                hint=suggest(name, names, noun="layer"),
            )  # fmt: skip
    if calibration.bits:
        raise InputError(
            f"activations of {min(calibration.bits.values())} bits exist in simulation only",
            where=graph.name, hint="calibrate with eight for export",
        )  # fmt: skip
    missing = [name for name in sites.tensors if name not in calibration]
    if missing:
        raise InputError(
            f"the calibration has no range for {len(missing)} tensors, first {missing[0]!r}",
            where=graph.name,
            hint="calibrate with the same model that is quantized",
        )
    narrow = _narrow_tensors(sites, plan, simulation=simulation)
    quants = {
        name: ranges.narrowed(quant, narrow.get(name, 8)) for name, quant in calibration.items()
    }
    calibration = replace(calibration, quants=quants)
    layers = {
        layer.key: _stored_layer(
            layer,
            calibration,
            plan.of(layer.name),
            stored.get(layer.name),
            weight_method,
            bias_correction,
        )
        for layer in sites.layers
    }
    layers = narrowed_layers(graph, sites, calibration, layers)
    return qdq_build.build(graph, sites, calibration, layers, narrow)

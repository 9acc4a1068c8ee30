"""Weights of any width for a trained network, without training: recipes of increasing care.

`prepare` calibrates a float model, `Prepared.store` makes integers for every layer of a plan, and
`edgeopt.quant.export.quantize_model` takes both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.network import Array, Network, Op
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.graph import ir, qdq_build, qdq_sites
from edgeopt.graph.importer import import_model
from edgeopt.quant import reconstruct, scales
from edgeopt.quant.calibration import Calibration, calibrate
from edgeopt.quant.equalize import equalize
from edgeopt.quant.torchnet import TorchNetwork
from edgeopt.quant.weights import StoredWeights

if TYPE_CHECKING:
    from edgeopt.graph.qdq_build import Model

Floats = npt.NDArray[np.float32]

ROUNDINGS = ("nearest", "compensated")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is quantized.

    Attributes:
        ranges: of activations, see `edgeopt.quant.ranges`.
        scales: of weights: ``max`` or ``mse``.
        bias_correction: biases take up the mean error that rounding leaves.
        equalization: neighbouring layers share their channels' ranges first.
        rounding: ``nearest``, or ``compensated`` as `edgeopt.quant.rounding` does.
        rounding_images: calibration images that rounding looks at.
    """

    ranges: str = "mse"
    scales: str = "mse"
    bias_correction: bool = True
    equalization: bool = True
    rounding: str = "compensated"
    rounding_images: int = 256

    def __post_init__(self) -> None:
        for name, value, known in (
            ("scales", self.scales, scales.METHODS), ("rounding", self.rounding, ROUNDINGS),
        ):  # fmt: skip
            if value not in known:
                raise InputError(
                    f"unknown {name} {value!r}", where="recipe",
                    hint=suggest(value, known, noun=name),
                )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PtqLayer:
    """A layer that can be quantized.

    Attributes:
        name: of its node, as plans call it.
        key: of the tensor it writes.
        op: its operator in the float network.
        weights: how many it has.
        depthwise: one input channel an output: few weights, no packed kernel.
        order: where each weight of the network's layout is in ONNX's, flat.
    """

    name: str
    key: str
    op: Op
    site: qdq_sites.Layer
    weights: int
    depthwise: bool
    order: npt.NDArray[np.int64] = field(repr=False)

    def to_onnx(self, stored: Array) -> Array:
        """Weights in the network's layout as ONNX has them."""
        flat = np.empty(self.weights, stored.dtype)
        flat[self.order.reshape(-1)] = stored.reshape(-1)
        return flat.reshape(self.site.weight.shape)

    def to_network(self, weight: Array) -> Array:
        """The reverse."""
        return weight.reshape(-1)[self.order]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network on its way to integers, calibrated.

    Attributes:
        model: the float model, equalized if the recipe says so; computes what was given.
        layers: by node name, in graph order.
        images: calibration images as the network stores them.
        perm: how the network's input transposes the model's.
    """

    model: Model
    recipe: Recipe
    calibration: Calibration
    network: Network
    torch: TorchNetwork
    layers: Mapping[str, PtqLayer]
    images: Floats
    perm: tuple[int, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Weights of each layer."""
        return {name: layer.weights for name, layer in self.layers.items()}

    def store(
        self, plan: PrecisionPlan, *, say: Callable[[str], None] = lambda _: None
    ) -> dict[str, StoredWeights]:
        """Integers for every layer, by node name.

        Args:
            plan: symmetric, one scale a channel (what a kernel could compute, or 3 bits).
            say: told how far it is.

        Raises:
            InputError: the plan names a layer that is not there, or another granularity.
        """
        plan.check(self.layers)
        for name in self.layers:
            wanted = plan.of(name)
            if wanted != LayerPrecision(wanted.weight_bits):
                raise InputError(
                    "integers are symmetric with one scale a channel, and activations have 8 bits",
                    where=f"layer {name!r}",
                    hint="other precisions can be simulated only",
                )
        if self.recipe.rounding == "compensated":
            return reconstruct.compensated_layers(self, plan, say)
        return {name: self._nearest(layer, plan.of(name)) for name, layer in self.layers.items()}

    def _nearest(self, layer: PtqLayer, precision: LayerPrecision) -> StoredWeights:
        site, bits = layer.site, precision.weight_bits
        values = scales.rows(site.weight, precision)
        grid = scales.fit(values, precision, self.recipe.scales)
        stored = grid.store(values).reshape(site.weight.shape).astype(np.int8)
        scale = grid.scale.reshape(-1).astype(np.float32)
        bias = site.bias
        if self.recipe.bias_correction:
            from edgeopt.quant.weights import shift_of_mean

            mean = self.calibration.means[site.input]
            shift = shift_of_mean(site.weight, stored, scale, mean, site.groups)
            bias = ((0.0 if bias is None else bias) - shift).astype(np.float32)
        return StoredWeights(stored, scale, bits, bias)


def prepare(model: Model, images: Floats, recipe: Recipe = Recipe()) -> Prepared:
    """Calibrate a float model and get its layers ready.

    Args:
        model: float, as `edgeopt.graph.load.load_model` gives it.
        images: float32 [N, ...] in the layout of the model's input.
        recipe: how it will be quantized.

    Raises:
        InputError: as `edgeopt.quant.calibration.calibrate`; or no layer has constant weights.
    """
    if recipe.equalization:
        model, _ = equalize(model)
    graph = qdq_build.float_graph(model)
    sites = qdq_sites.find_sites(graph)
    plain = ir.to_model(qdq_build.expanded(graph))
    imported = import_model(plain, isolated=False)
    layers = _layers(graph, sites, imported.network)
    if not layers:
        raise InputError(
            "no convolution or linear layer has constant weights",
            where=graph.name, hint="there is nothing to quantize: keep it in fp32",
        )  # fmt: skip
    calibration = calibrate(model, images, method=recipe.ranges)
    (interface,) = imported.inputs.values()
    perm = interface.perm
    return Prepared(
        model=model,
        recipe=recipe,
        calibration=calibration,
        network=imported.network,
        torch=TorchNetwork(imported.network),
        layers=layers,
        images=np.ascontiguousarray(images.transpose(perm), np.float32),
        perm=perm,
    )


def _layers(graph: ir.Graph, sites: qdq_sites.Sites, network: Network) -> dict[str, PtqLayer]:
    """Layers by node name, with the order of their weights in both layouts."""
    nodes = graph.producers()
    ops = {op.output: op for op in network.ops if op.kind in ("conv2d", "linear")}
    places = _places(graph, sites)
    found: dict[str, PtqLayer] = {}
    for site in sites.layers:
        op = ops.get(site.key)
        name = nodes[site.key].name
        if op is None or site.key not in places:
            continue  # fused away or left to a fallback: stays at eight bits
        if name in found:
            raise InputError(
                "two layers have this name, so that no plan can tell them apart",
                where=f"node {name!r}", hint="export the model with a name for every node",
            )  # fmt: skip
        found[name] = PtqLayer(
            name=name,
            key=site.key,
            op=op,
            site=site,
            weights=int(site.weight.size),
            depthwise=site.kind == "conv" and site.groups > 1 and site.weight.shape[1] == 1,
            order=places[site.key],
        )
    return found


def _places(graph: ir.Graph, sites: qdq_sites.Sites) -> dict[str, npt.NDArray[np.int64]]:
    """Where the importer puts each weight: it is asked with weights that are their own index."""
    keys = {site.key for site in sites.layers}
    constants = dict(graph.constants)
    nodes: list[ir.Node] = []
    for node in graph.nodes:
        if node.outputs[0] in keys:
            shape = graph.constants[node.inputs[1]].shape
            index = np.arange(int(np.prod(shape))).astype(np.float32)
            transposed = node.op != "Conv" and not node.attrs.get("transB", 0)
            if transposed:  # a site's weights are [O, I]
                index = np.ascontiguousarray(index.reshape(shape[::-1]).T).reshape(-1)
            name = f"{node.inputs[1]}__places_{len(nodes)}"
            # Exact in float32 up to 2^24 weights a layer.
            constants[name] = index.reshape(shape)
            node = replace(node, inputs=(node.inputs[0], name, *node.inputs[2:]))
            if node.op == "Gemm":
                node = replace(node, attrs={**node.attrs, "alpha": 1.0})
        nodes.append(node)
    asked = replace(graph, nodes=tuple(nodes), constants=constants)
    network = import_model(ir.to_model(qdq_build.expanded(asked)), isolated=False).network
    found = {}
    for op in network.ops:
        if op.output in keys and op.kind in ("conv2d", "linear"):
            order = np.asarray(op.constants["w"], np.float32).astype(np.int64)
            every = np.arange(order.size)
            if order.size < 2**24 and np.array_equal(np.sort(order.reshape(-1)), every):
                found[op.output] = order
    return found

"""Calibration: which scale and zero point every activation gets, from a few hundred images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.network import Quant
from edgeopt.core.precision import ACTIVATION_BITS
from edgeopt.graph import qdq_build, qdq_sites
from edgeopt.quant import ranges
from edgeopt.quant.observe import observe

if TYPE_CHECKING:
    from edgeopt.graph.qdq_build import Model

DEFAULT_METHOD = "mse"


@dataclass(frozen=True)
class Calibration(Mapping[str, Quant]):
    """Tensor name -> scale and zero point; and what else quantizing the weights needs."""

    quants: Mapping[str, Quant]
    means: Mapping[str, npt.NDArray[np.float32]]  # input tensor of a layer -> mean by channel
    method: str
    images: int  # how many were used
    bits: Mapping[str, int] = field(default_factory=dict)  # of tensors with fewer than eight

    def __getitem__(self, name: str) -> Quant:
        return self.quants[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.quants)

    def __len__(self) -> int:
        return len(self.quants)


def calibrate(
    model: Model,
    images: npt.NDArray[np.float32],
    *,
    method: str = DEFAULT_METHOD,
    percentile: float = 99.99,
    activation_bits: int | Mapping[str, int] = 8,
) -> Calibration:
    """Choose activation ranges by running the float network over images.

    Args:
        model: a float ONNX model.
        images: float32 [N, ...] in the layout of the model's input, preprocessed as in training.
        method: ``mse``, ``percentile`` or ``minmax`` (see `edgeopt.quant.ranges`).
        percentile: share of values, in percent, that ``percentile`` keeps below the upper bound.
        activation_bits: of every tensor, or of some by name; fewer than eight can be simulated
            (`edgeopt.quant.torchnet`) and not exported.

    Raises:
        InputError: the model is quantized already, the images do not fit it, or a tensor is not
            finite.
        ToolError: onnxruntime refuses the model.
    """
    ranges.check_method(method)
    if not 50.0 < percentile <= 100.0:
        raise InputError(
            f"percentile {percentile} is not above 50 and at most 100", hint="try 99.99"
        )
    graph = qdq_build.float_graph(model)
    sites = qdq_sites.find_sites(graph)
    if not sites.tensors:
        raise InputError(
            "the network has no operator with an integer form",
            where=graph.name,
            hint="keep it in fp32",
        )
    bits = _bits(activation_bits, sites, graph.name)
    seen = observe(graph, sites.tensors, images)
    chosen = {
        name: ranges.choose(
            seen[name].spread, method, percentile=percentile, reader=sites.readers.get(name),
            bits=bits.get(name, 8),
        )
        for name in sites.tensors
    }  # fmt: skip
    for group in sites.groups:
        low, high = min(chosen[n][0] for n in group), max(chosen[n][1] for n in group)
        chosen.update(dict.fromkeys(group, (low, high)))
    return Calibration(
        quants={
            name: ranges.quant_of(low, high, bits.get(name, 8))
            for name, (low, high) in chosen.items()
        },
        means={
            layer.input: seen[layer.input].mean for layer in sites.layers if layer.input in seen
        },
        method=method,
        images=len(images),
        bits=bits,
    )


def _bits(wanted: int | Mapping[str, int], sites: qdq_sites.Sites, where: str) -> dict[str, int]:
    """Bits of tensors that have fewer than eight; who shares a scale shares the bits."""
    found = dict.fromkeys(sites.tensors, wanted) if isinstance(wanted, int) else dict(wanted)
    for name, bits in found.items():
        if bits not in ACTIVATION_BITS:
            raise InputError(
                f"activations of {bits} bits", where=where,
                hint=f"choose one of {', '.join(str(b) for b in ACTIVATION_BITS)}",
            )  # fmt: skip
        if name not in sites.tensors:
            raise InputError(
                f"there is no quantized tensor {name!r}", where=where,
                hint=suggest(name, sites.tensors, noun="tensor"),
            )  # fmt: skip
    for group in sites.groups:
        found.update(dict.fromkeys(group, min(found.get(name, 8) for name in group)))
    return {name: bits for name, bits in found.items() if bits < 8}

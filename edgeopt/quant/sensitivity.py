"""How much the network suffers when one layer's weights get fewer bits.

Two answers, both layer by layer with all others in float:

* `measured`: run the network with that layer rounded, and take how far its output moves: the
  Kullback-Leibler divergence from the float network's classes, the rise of the cross-entropy
  where there are labels, or for other outputs the noise relative to the signal;
* `hessian`: the mean of the second derivatives of the loss by that layer's weights (the trace,
  estimated with random signs: Hutchinson), times the squared rounding error (HAWQ-V2: Dong et
  al. 2020). A few backward passes serve all layers and widths, but it takes the loss for a
  parabola, which two bits leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.precision import LayerPrecision
from edgeopt.quant import scales

if TYPE_CHECKING:
    from torch import Tensor

    from edgeopt.quant.ptq import Prepared, PtqLayer

Labels = npt.NDArray[np.integer]
#: layer -> bits -> rise of the loss
Sensitivity = dict[str, dict[int, float]]

METHODS = ("loss", "hessian")
#: Images that either looks at: layers differ by orders of magnitude, more images change little.
IMAGES = 128
#: Random vectors of the trace.
PROBES = 8


def kind_of_loss(prepared: Prepared, labels: Labels | None) -> str:
    """What `measured` takes for the loss of this network."""
    name = prepared.network.outputs[0]
    shape = prepared.network.tensors[name].shape
    classes = len(shape) == 2 and shape[1] > 1
    if not classes:
        return "noise"
    return "divergence" if labels is None else "cross-entropy"


def measured(
    prepared: Prepared,
    widths: Mapping[str, tuple[int, ...]],
    *,
    labels: Labels | None = None,
    images: int = IMAGES,
    say: Callable[[str], None] = lambda _: None,
) -> Sensitivity:
    """The rise of the loss for each layer alone at each width.

    Args:
        prepared: the network and its calibration images.
        widths: bits to try, by layer.
        labels: classes of the calibration images; None compares with the float network.
        images: how many to look at.
        say: told how far it is.
    """
    import torch

    net = prepared.torch
    loss = _losses(kind_of_loss(prepared, labels), _is_softmax(prepared))
    few = prepared.images[:images]
    found: Sensitivity = {name: dict.fromkeys(bits, 0.0) for name, bits in widths.items()}
    rounded = {
        (name, bits): _rounded(prepared, prepared.layers[name], bits)
        for name, choices in widths.items()
        for bits in choices
    }
    seen = 0
    with torch.no_grad():
        for x in net.batches(few):
            values = net.values(x)
            exact = values[net.network.outputs[0]]
            truth = None
            if labels is not None:
                truth = torch.from_numpy(np.asarray(labels[seen : seen + len(x)], np.int64))
            before = loss(exact, exact, truth)
            for (name, bits), weight in rounded.items():
                layer = prepared.layers[name]
                bias = net.weights[layer.key][1]
                off = net.again(values, layer.key, (weight, bias))
                found[name][bits] += float(loss(exact, off, truth) - before)
            seen += len(x)
            say(f"sensitivity: {seen} of {len(few)} images")
    return {name: {bits: v / seen for bits, v in row.items()} for name, row in found.items()}


def hessian(
    prepared: Prepared,
    widths: Mapping[str, tuple[int, ...]],
    *,
    labels: Labels | None = None,
    images: int = IMAGES,
    probes: int = PROBES,
    seed: int = 0,
) -> Sensitivity:
    """Half the mean second derivative times the squared rounding error, for each layer and width.

    Args:
        prepared: the network and its calibration images.
        widths: bits, by layer.
        labels: classes of the calibration images; None takes the float network's own classes.
        images: how many to look at.
        probes: random vectors.
        seed: of these.

    Raises:
        InputError: an operator has no second derivative here, or the network gives no classes.
    """
    found = traces(prepared, labels=labels, images=images, probes=probes, seed=seed)
    result: Sensitivity = {}
    for name, choices in widths.items():
        layer = prepared.layers[name]
        exact = prepared.torch.weights[layer.key][0].numpy().astype(np.float64)
        mean = max(found[name], 0.0) / layer.weights
        result[name] = {
            bits: 0.5 * mean
            * float(((_rounded(prepared, layer, bits).numpy() - exact) ** 2).sum())
            for bits in choices
        }  # fmt: skip
    return result


def traces(
    prepared: Prepared,
    *,
    labels: Labels | None = None,
    images: int = IMAGES,
    probes: int = PROBES,
    seed: int = 0,
) -> dict[str, float]:
    """The trace of each layer's block of the Hessian of the mean cross-entropy."""
    import torch
    import torch.nn.functional as F

    net = prepared.torch
    net.check_gradient()
    if kind_of_loss(prepared, None) != "divergence":
        raise InputError(
            "its output is no row of class scores, so that it has no cross-entropy",
            where=prepared.network.name,
            hint="take the measured loss as sensitivity: --sensitivity loss",
        )
    few = prepared.images[:images]
    source = torch.Generator().manual_seed(seed)
    names = list(prepared.layers)
    total = dict.fromkeys(names, 0.0)
    softmax = _is_softmax(prepared)
    seen = 0
    for x in net.batches(few):
        weights = {
            name: net.weights[prepared.layers[name].key][0].clone().requires_grad_()
            for name in names
        }
        given = {
            prepared.layers[name].key: (w, net.weights[prepared.layers[name].key][1])
            for name, w in weights.items()
        }
        scores = _logarithm(net.output(x, given), softmax)
        if labels is None:
            # With the network's own classes as truth the Hessian is Fisher's information.
            aim = scores.detach().exp()
            loss = -(aim * scores).sum()
        else:
            truth = torch.from_numpy(np.asarray(labels[seen : seen + len(x)], np.int64))
            loss = F.nll_loss(scores, truth, reduction="sum")
        params = list(weights.values())
        slopes = torch.autograd.grad(loss, params, create_graph=True)
        for probe in range(probes):
            signs = [
                torch.randint(0, 2, p.shape, generator=source).float().mul_(2).sub_(1)
                for p in params
            ]
            products = torch.autograd.grad(
                slopes, params, signs, retain_graph=probe + 1 < probes, allow_unused=True
            )
            for name, sign, product in zip(names, signs, products, strict=True):
                if product is not None:
                    total[name] += float((sign * product).sum())
        seen += len(x)
    return {name: value / (probes * seen) for name, value in total.items()}


def _rounded(prepared: Prepared, layer: PtqLayer, bits: int) -> Tensor:
    import torch

    weight = scales.rounded(layer.site.weight, LayerPrecision(bits), "mse", where=layer.name)
    ordered = np.ascontiguousarray(layer.to_network(weight), np.float32)
    return torch.from_numpy(ordered)


def _is_softmax(prepared: Prepared) -> str:
    """``softmax`` or ``log`` where the network ends so, else nothing."""
    last = next(op for op in prepared.network.ops if op.output == prepared.network.outputs[0])
    if last.kind != "softmax":
        return ""
    return "log" if last.attrs.get("log") else "softmax"


def _logarithm(y: Tensor, softmax: str) -> Tensor:
    """Logarithms of the class probabilities."""
    if softmax == "log":
        return y
    if softmax:
        return y.clamp_min(1e-12).log()
    return y.log_softmax(1)


def _losses(kind: str, softmax: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The summed loss of a batch: float output, changed output, labels."""
    import torch.nn.functional as F

    def divergence(exact: Tensor, off: Tensor, _: Tensor | None) -> Tensor:
        sure, now = _logarithm(exact, softmax).double(), _logarithm(off, softmax).double()
        return (sure.exp() * (sure - now)).sum()

    def entropy(exact: Tensor, off: Tensor, truth: Tensor | None) -> Tensor:
        assert truth is not None
        return F.nll_loss(_logarithm(off, softmax).double(), truth, reduction="sum")

    def noise(exact: Tensor, off: Tensor, _: Tensor | None) -> Tensor:
        axes = tuple(range(1, exact.ndim))
        power = (exact.double() ** 2).sum(axes).clamp_min(1e-12)
        return (((off - exact).double() ** 2).sum(axes) / power).sum()

    return {"divergence": divergence, "cross-entropy": entropy, "noise": noise}[kind]

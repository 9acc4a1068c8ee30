"""Which layer's weights have how many bits: the precision plan, a value and a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.lowbits import WEIGHT_BITS

SCHEMA = 1
GRANULARITIES = ("tensor", "channel", "group")
#: Widths of activations that can be simulated; eight are deployed.
ACTIVATION_BITS = (4, 5, 6, 7, 8)


@dataclass(frozen=True, slots=True, order=True)
class LayerPrecision:
    """How one layer is quantized.

    Attributes:
        weight_bits: of `edgeopt.core.lowbits.WEIGHT_BITS`.
        activation_bits: of the layer's input; below eight only in simulation.
        granularity: one scale for all weights, for each output channel, or for each group of
            ``group`` inputs of one.
        group: inputs that share a scale, where the granularity is ``group``.
        symmetric: weights have no zero point.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    granularity: str = "channel"
    group: int = 0
    symmetric: bool = True

    def __post_init__(self) -> None:
        checks = (
            (self.weight_bits in WEIGHT_BITS, "weight_bits", self.weight_bits, WEIGHT_BITS),
            (self.activation_bits in ACTIVATION_BITS, "activation_bits", self.activation_bits,
             ACTIVATION_BITS),
            (self.granularity in GRANULARITIES, "granularity", self.granularity, GRANULARITIES),
        )  # fmt: skip
        for good, name, value, allowed in checks:
            if not good:
                raise InputError(
                    f"{name} is {value!r}", where="precision plan",
                    hint=f"choose one of {', '.join(str(a) for a in allowed)}",
                )  # fmt: skip
        if (self.granularity == "group") != (self.group > 0):
            raise InputError(
                f"granularity {self.granularity!r} with groups of {self.group}",
                where="precision plan", hint="'group' has a size where it is used, and only there",
            )  # fmt: skip

    @property
    def obstacle(self) -> str:
        """Why no kernel computes this, or nothing."""
        if self.activation_bits != 8:
            return f"activations of {self.activation_bits} bits exist in simulation only"
        if self.weight_bits == 3:
            return "weights of 3 bits are not packed: they would take the room of 4"
        if self.weight_bits < 8 and self.granularity == "group":
            return "one accumulator has one scale a channel, so groups are not deployed"
        if not self.symmetric:
            return "kernels take weights without a zero point"
        return ""


#: Eight bits as kernels have them: one scale a channel, no zero points.
DEPLOYED = LayerPrecision()


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """A precision for every layer; those not named have ``default``.

    Layers are named as the nodes of the ONNX model are; a subnet's as `edgeopt.ofa.describe` does.
    """

    default: LayerPrecision = LayerPrecision()
    layers: Mapping[str, LayerPrecision] = field(default_factory=dict)

    def of(self, layer: str) -> LayerPrecision:
        """The precision of a layer."""
        return self.layers.get(layer, self.default)

    def check(self, known: Iterable[str], *, where: str = "precision plan") -> None:
        """Refuse names that are no layer's.

        Raises:
            InputError: names the first such layer, and what it may have been meant to be.
        """
        names = list(known)
        for layer in self.layers:
            if layer not in names:
                raise InputError(
                    f"there is no layer {layer!r}", where=where,
                    hint=suggest(layer, names, noun="layer"),
                )  # fmt: skip

    def obstacles(self, known: Iterable[str]) -> dict[str, str]:
        """Layers that no kernel computes, and why."""
        return {name: why for name in known if (why := self.of(name).obstacle)}

    def average_bits(self, weights: Mapping[str, int]) -> float:
        """Bits of a weight on average; ``weights`` says how many each layer has."""
        total = sum(weights.values())
        if not total:
            raise ValueError("there are no weights")
        return sum(self.of(name).weight_bits * count for name, count in weights.items()) / total


_FIELDS = {
    "weight_bits": int, "activation_bits": int, "granularity": str, "group": int, "symmetric": bool,
}  # fmt: skip


def _written(precision: LayerPrecision) -> dict[str, object]:
    usual = LayerPrecision()
    found = {name: getattr(precision, name) for name in _FIELDS}
    return {
        name: value
        for name, value in found.items()
        if name == "weight_bits" or value != getattr(usual, name)
    }


def write_plan(plan: PrecisionPlan) -> str:
    """The plan as JSON text, byte for byte the same for equal plans."""
    document = {
        "schema": SCHEMA,
        "default": _written(plan.default),
        "layers": {name: _written(plan.layers[name]) for name in sorted(plan.layers)},
    }
    return json.dumps(document, indent=1) + "\n"


def read_plan(text: str, *, where: str = "precision plan") -> PrecisionPlan:
    """What `write_plan` wrote.

    Raises:
        InputError: not a plan, of another schema, or with a field or value that has no meaning.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("not JSON", where=where, hint="write one with edgeopt quantize") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(
            f"not a precision plan of schema {SCHEMA}", where=where,
            hint="write one with edgeopt quantize",
        )  # fmt: skip
    layers = document.get("layers", {})
    if not isinstance(layers, dict):
        raise InputError("'layers' is not an object", where=where)
    _only(document, ("schema", "default", "layers"), where)
    return PrecisionPlan(
        _read(document.get("default", {}), f"{where}: default"),
        {name: _read(value, f"{where}: layer {name!r}") for name, value in layers.items()},
    )


def _read(value: object, where: str) -> LayerPrecision:
    if not isinstance(value, dict):
        raise InputError("not an object", where=where)
    _only(value, tuple(_FIELDS), where)
    for name, given in value.items():
        kind = _FIELDS[name]
        if not isinstance(given, kind) or (kind is int and isinstance(given, bool)):
            raise InputError(f"{name} is {given!r}", where=where, hint=f"needs a {kind.__name__}")
    try:
        return LayerPrecision(**value)
    except InputError as error:
        raise InputError(error.what, where=where, hint=error.hint) from error


def _only(value: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for name in value:
        if name not in known:
            raise InputError(
                f"unknown field {name!r}", where=where, hint=suggest(name, known, noun="field")
            )

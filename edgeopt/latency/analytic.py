"""Latency from what a kernel does: for devices without a measured table.

A kernel of one class costs

    per_call + per_mac * macs + per_activation_byte * bytes + per_weight_byte * bytes
             + per_spilled_byte * max(0, weight bytes - spill_bytes) + per_output * outputs

in nanoseconds or in cycles of the device's clock, and never less than its multiply-accumulates
take at the sustained rate of the arithmetic units. The numbers are data: a board's
``latency.toml`` holds them with their sources and with the error they were found to have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeopt.core.device import DeviceProfile, Provenance
from edgeopt.core.documents import Section, read_toml
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Estimate, Source
from edgeopt.core.files import digest
from edgeopt.core.kernels import OpKey

SCHEMA = 1
FILE_NAME = "latency.toml"

#: Kernel operator -> class that shares its costs.
CLASS_OF: Mapping[str, str] = {
    "pointwise": "pointwise", "depthwise": "depthwise", "conv2d": "conv2d", "linear": "linear",
    "maxpool": "pooling", "avgpool": "pooling", "global_avgpool": "pooling",
    "add": "elementwise", "mul": "elementwise", "scale": "elementwise",
    "activation": "elementwise", "quantize": "elementwise", "dequantize": "elementwise",
    "concat": "movement", "copy": "movement", "transpose": "movement", "resize": "movement",
    "softmax": "softmax", "fallback": "fallback", "slice": "movement", "gather": "movement",
    "pad": "movement", "reduce": "pooling", "sub": "elementwise", "div": "elementwise",
    "max": "elementwise", "min": "elementwise", "prelu": "elementwise",
    "irb": "pointwise",
}  # fmt: skip
CLASSES = tuple(sorted(set(CLASS_OF.values())))

#: Names of the terms, in the order of `features`.
TERMS = (
    "per_call", "per_mac", "per_activation_byte", "per_weight_byte", "per_spilled_byte",
    "per_output",
)  # fmt: skip


def features(key: OpKey, spill_bytes: int) -> tuple[float, ...]:
    """What each term of `TERMS` is multiplied with."""
    weight_bytes = key.weight_bytes
    return (
        1.0,
        float(key.macs),
        float(key.activation_bytes),
        float(weight_bytes),
        float(max(0, weight_bytes - spill_bytes)),
        float(math.prod(key.out_shape)),
    )


@dataclass(frozen=True, slots=True)
class Precision:
    """The costs of all classes in one precision."""

    costs: Mapping[str, tuple[float, ...]]  # class -> factors in the order of TERMS
    provenance: Mapping[str, Provenance]
    low: float  # the 90 % interval, as factors of the value
    high: float
    floor_per_mac: float  # no kernel is faster; same unit as the costs


@dataclass(frozen=True, slots=True)
class AnalyticModel:
    """A `core.estimates.LatencyModel` computed from a board's cost figures."""

    device: str
    runtime: str
    threads: int
    ns_per_unit: float
    spill_bytes: int
    precisions: Mapping[str, Precision]
    how: str
    held_out: Mapping[str, float] = field(default_factory=dict)
    _cache: dict[OpKey, Estimate] = field(default_factory=dict, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Changes whenever a prediction could."""
        return digest(repr((self.ns_per_unit, self.spill_bytes, self.precisions)).encode())

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        """The sum over the kernels; their errors are taken as fully correlated."""
        parts = self.predict_each(keys)
        return Estimate(
            value=sum(part.value for part in parts),
            low=sum(part.low for part in parts),
            high=sum(part.high for part in parts),
            source=Source.ESTIMATED,
            coverage=0.0,
            how=self.how,
        )

    def predict_each(self, keys: Sequence[OpKey]) -> list[Estimate]:
        """Kernel by kernel, in nanoseconds.

        Raises:
            InputError: a kernel's precision has no figures for this device.
        """
        return [self._cache.get(key) or self._predict_one(key) for key in keys]

    def _predict_one(self, key: OpKey) -> Estimate:
        precision = self.precisions.get(key.precision)
        if precision is None:
            raise InputError(
                f"no latency figures for {key.precision} kernels", where=f"device {self.device}",
                hint=f"figures exist for {', '.join(sorted(self.precisions))}; "
                "or measure a table with `edgeopt profile`",
            )  # fmt: skip
        # A block costs at most what its parts do: what it saves no figure says.
        units = sum(
            f * t
            for part in key.parts or (key,)
            for f, t in zip(
                precision.costs[CLASS_OF[part.op]], features(part, self.spill_bytes), strict=True
            )
        )
        value = max(units, precision.floor_per_mac * key.macs) * self.ns_per_unit
        estimate = Estimate(
            value=value,
            low=value * precision.low,
            high=value * precision.high,
            source=Source.ESTIMATED,
            coverage=0.0,
            how=self.how,
        )
        self._cache[key] = estimate
        return estimate


def load_analytic(profile: DeviceProfile, path: Path | None = None) -> AnalyticModel:
    """The analytic model of a device, from ``latency.toml`` beside its profile.

    Raises:
        InputError: there is none, or it has a mistake (file and line named).
    """
    if path is None:
        if profile.folder is None or not (profile.folder / FILE_NAME).is_file():
            raise InputError(
                "neither a measured table nor latency figures are known",
                where=f"device {profile.name}", hint="measure one with `edgeopt profile`",
            )  # fmt: skip
        path = profile.folder / FILE_NAME
    root = read_toml(path, noun="latency figures", max_bytes=128 * 1024)
    schema = root.integer("schema", 0, 1 << 31)
    if schema != SCHEMA:
        root.refuse("schema", f"{schema} is not known", f"this edgeopt reads schema {SCHEMA}")
    unit = root.choice("unit", frozenset({"ns", "cycles"}))
    if unit == "cycles" and not profile.clock_hz:
        root.refuse("unit", "the device's clock is unknown", "give clock_hz in its profile")
    model = AnalyticModel(
        device=profile.name,
        runtime=root.text("runtime"),
        threads=root.integer("threads", 1, 1024),
        ns_per_unit=1.0 if unit == "ns" else 1e9 / float(profile.clock_hz or 1),
        spill_bytes=root.integer("spill_bytes", 0, 1 << 40),
        precisions={
            name: _precision(root.section(name))
            for name in ("f32", "i8")
            if root.has(name)
        },
        how=root.text("how", max_length=1000),
        held_out=_held_out(root.section("held_out", required=False)),
    )  # fmt: skip
    if not model.precisions:
        root.refuse("schema", "no precision has figures", "add [f32.pointwise] and so on")
    root.done()
    return model


def _precision(section: Section) -> Precision:
    interval = section.section("interval")
    low = interval.number("low", 0.0, 1.0)
    high = interval.number("high", 1.0, 1000.0)
    interval.text("reference")
    floor = section.section("floor")
    floor_per_mac = floor.number("per_mac", 0.0, 1e6)
    costs, provenance = {}, {}
    provenance["floor"] = _source(floor)
    for name in CLASSES:
        entry = section.section(name)
        costs[name] = tuple(entry.number(term, 0.0, 1e9, 0.0) for term in TERMS)
        provenance[name] = _source(entry)
        if not any(costs[name]):
            section.refuse(name, "costs nothing at all", "give at least one of its terms")
    return Precision(costs, provenance, low, high, floor_per_mac)


def _source(section: Section) -> Provenance:
    kinds = frozenset({"measured", "simulated", "estimated", "datasheet"})
    return Provenance(Source(section.choice("source", kinds)), section.text("reference"))


def _held_out(section: Section) -> dict[str, float]:
    names = ("mape", "median_error", "worst_error", "spearman", "rows", "mape_other_rows")
    found = {name: section.number(name, -1.0, 1e6) for name in names if section.has(name)}
    if section.has("reference"):
        section.text("reference")
    return found

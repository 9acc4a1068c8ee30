"""Latency of a processor nobody measured, from its clock, vector width and general experience.

The last resort, for ``local`` before `edgeopt profile` ran: a guess of the right order, with the
interval that such a guess deserves.
"""

from __future__ import annotations

from edgeopt.core.device import DeviceProfile, Provenance
from edgeopt.core.estimates import Source
from edgeopt.latency.analytic import CLASSES, AnalyticModel, Precision

ASSUMED_CLOCK_HZ = 2_000_000_000
_LOW, _HIGH = 0.3, 3.0

#: Precision -> class -> (share of the peak rate of multiply-accumulates that is sustained,
#: cycles a vector of activations): what edgeopt's kernels reach on an x86-64 server core.
_SHARES = {
    "f32": {
        "pointwise": (0.8, 0.25), "conv2d": (0.6, 0.5), "depthwise": (0.6, 0.4),
        "linear": (0.5, 0.25), "pooling": (1.0, 0.6), "elementwise": (1.0, 0.4),
        "movement": (1.0, 2.0), "softmax": (1.0, 60.0), "fallback": (0.05, 60.0),
    },
    "i8": {
        "pointwise": (0.8, 0.7), "conv2d": (0.6, 0.7), "depthwise": (0.35, 1.0),
        "linear": (0.5, 0.7), "pooling": (1.0, 1.5), "elementwise": (1.0, 3.0),
        "movement": (1.0, 3.0), "softmax": (1.0, 60.0), "fallback": (0.05, 60.0),
    },
}  # fmt: skip
_CALL_CYCLES = 60.0


def generic_model(profile: DeviceProfile) -> AnalyticModel:
    """Estimates for ``profile`` from nothing but what it says of the processor."""
    clock_hz = profile.clock_hz or ASSUMED_CLOCK_HZ
    vector_bytes = profile.vector_bits // 8
    fast_int8 = bool({"avx512vnni", "avxvnni", "dotprod", "mve"} & profile.features)
    # Two multiply-add pipes on wide cores; integers gain only with dot-product instructions.
    lanes = {"f32": 2 * vector_bytes // 4, "i8": 2 * vector_bytes // (1 if fast_int8 else 2)}
    why = Provenance(
        Source.ESTIMATED, "assumed shares of the peak that clock and vector width allow"
    )
    precisions = {}
    for name in profile.precisions:
        costs = {}
        for kind in CLASSES:
            share, vector_cycles = _SHARES[name][kind]
            costs[kind] = (
                _CALL_CYCLES, 1 / (lanes[name] * share), vector_cycles / vector_bytes,
                1 / vector_bytes, 0.0, 0.0,
            )  # fmt: skip
        precisions[name] = Precision(
            costs, dict.fromkeys((*CLASSES, "floor"), why), _LOW, _HIGH, 1 / lanes[name]
        )
    return AnalyticModel(
        device=profile.name,
        runtime="edgeopt",
        threads=1,
        ns_per_unit=1e9 / clock_hz,
        spill_bytes=0,
        precisions=precisions,
        how="estimated from clock and vector width alone; `edgeopt profile` measures this machine",
    )

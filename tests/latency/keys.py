"""Kernels and synthetic tables that the tests of this folder share."""

from __future__ import annotations

import random

from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import features
from edgeopt.latency.table import LatencyTable, Measurement


def pointwise(h: int, c_in: int, c_out: int, dtype: str = "f32") -> OpKey:
    return OpKey("pointwise", (h, h, c_in), (h, h, c_out), dtype=dtype, out_dtype=dtype)


def depthwise(h: int, c: int, k: int, dtype: str = "f32") -> OpKey:
    pad = k // 2
    return OpKey(
        "depthwise", (h, h, c), (h, h, c), kernel=(k, k), pads=(pad, pad, pad, pad), groups=c,
        dtype=dtype, out_dtype=dtype,
    )  # fmt: skip


def many(count: int, seed: int = 0) -> list[OpKey]:
    """Distinct kernels of two classes and two precisions."""
    source = random.Random(seed)
    found: dict[OpKey, None] = {}
    while len(found) < count:
        h, c = source.choice([4, 8, 16]), 8 * source.randint(1, 24)
        dtype = source.choice(["f32", "i8"])
        if source.random() < 0.6:
            found[pointwise(h, c, 8 * source.randint(1, 24), dtype)] = None
        else:
            found[depthwise(h, c, source.choice([3, 5, 7]), dtype)] = None
    return list(found)


def truth_ns(key: OpKey) -> float:
    """A machine with costs of its own, including a tail effect that plain costs do not have."""
    factors = (150.0, 0.05 if key.op == "pointwise" else 0.3, 0.1, 0.02, 0.0, 0.0)
    base = sum(f * t for f, t in zip(factors, features(key, 0), strict=True))
    return base * (1.2 if key.out_shape[-1] % 16 else 1.0)


def table_of(keys: list[OpKey], **changes: object) -> LatencyTable:
    entries = {key: Measurement(truth_ns(key), truth_ns(key) * 0.01, 15, 0, 3) for key in keys}
    values: dict[str, object] = {
        "device": "board", "fingerprint": "f" * 16, "runtime": "edgeopt",
        "runtime_version": "1", "threads": 1, "entries": entries,
        "conditions": {"governor": "performance"},
    }  # fmt: skip
    return LatencyTable(**(values | changes))  # type: ignore[arg-type]

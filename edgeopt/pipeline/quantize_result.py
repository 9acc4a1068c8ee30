"""What ``edgeopt quantize`` found, as one document."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeopt.pipeline.manifest import Figure, Record


class LayerRow(Record, frozen=True):
    """One layer of the plan."""

    name: str
    operator: str
    weights: int
    bits: int
    weight_bytes: int
    sensitivity: dict[str, float]  # bits -> rise of the loss, where it was looked at


class CurvePoint(Record, frozen=True):
    """One plan that was measured on the way to the smallest."""

    weight_bytes: int
    average_bits: float
    drop: float


class Quantization(Record, frozen=True):
    """The answer of ``edgeopt quantize``.

    Attributes:
        status: ``kept`` where the model was quantized already.
        unit: what ``drop`` is told in.
        float_accuracy: top-1 in percent of the float model; None without labels.
        standard_error: of the drop, from the number of images.
        weight_bytes: weights, scales and biases; ``int8_bytes`` and ``float_bytes`` likewise.
        optimal: the plan was proven to be the best within its budget; None where none was sought.
        before: the board's figures of the network in int8; ``after`` of the plan.
    """

    schema: int
    model: str
    status: Literal["quantized", "kept"]
    precision: str
    device: str = ""
    images: int = 0
    calibration_images: int = 0
    data_sha256: str = ""
    unit: str = ""
    float_accuracy: float | None = None
    drop: float | None = None
    standard_error: float | None = None
    average_bits: float | None = None
    float_bytes: int = 0
    int8_bytes: int = 0
    weight_bytes: int = 0
    optimal: bool | None = None
    sensitivity_method: str = ""
    layers: tuple[LayerRow, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    before: tuple[Figure, ...] = ()
    after: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """JSON, byte for byte the same for equal results."""
        document = msgspec.json.encode(self, order="deterministic")
        return bytes(msgspec.json.format(document)) + b"\n"

"""The model card of a zoo entry: what was measured, how, and of which files."""

from __future__ import annotations

import msgspec

SCHEMA = 1


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Top-1 accuracies (0..1) in fp32, batch norms calibrated on the shipped images."""

    subnets: int
    images: int  # test images each was run on
    minimum: float
    median: float
    maximum: float
    largest: float  # of the largest subnet
    smallest: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What calibrating on the shipped images costs against real training images."""

    images: int  # shipped
    real_images: int
    subnets: int  # fresh random ones both were measured on
    real_mean: float
    shipped_mean: float
    mean_loss: float
    worst_loss: float
    largest_real: float  # the largest subnet, calibrated on real images
    smallest_real: float


class Int8Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One subnet quantized and run by onnxruntime."""

    subnet: str
    fp32: float
    int8: float


class Int8(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What int8 costs, weights per channel, activations calibrated on the shipped images."""

    images: int
    mean_loss: float
    worst_loss: float
    rows: tuple[Int8Row, ...]


class Prediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The accuracy predictor on subnets it was not fitted to."""

    family: str
    measured: int
    held_out: int
    kendall_tau: float
    mean_absolute_error: float
    interval: tuple[float, float]  # 90 %
    coverage: float


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A zoo entry in figures; shares are 0..1."""

    schema: int
    name: str
    summary: str
    space: str
    macs_largest: int
    macs_smallest: int
    accuracy: Accuracy
    calibration: Calibration
    int8: Int8 | None
    prediction: Prediction
    training: dict[str, str | int | float]
    licences: dict[str, str]
    digests: dict[str, str]  # file -> SHA-256

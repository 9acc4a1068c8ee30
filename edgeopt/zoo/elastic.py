"""Supernets of the zoo whose weights come in every bit-width, and what was measured of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeopt.core.space import SearchSpace
from edgeopt.zoo.card import Prediction
from edgeopt.zoo.reading import FOLDER, U8, Kind

SCHEMA = 1
CARD = "elastic.json"
#: Files of an entry beside its card, and the most bytes each may have.
FILES = {
    "space.toml": 1 << 20,
    "weights.npz": 256 << 20,
    "quantizers.npz": 64 << 20,
    "calibration.npz": 64 << 20,
    "evaluations.csv": 16 << 20,
    "predictor.json": 64 << 20,
}


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One subnet under one plan, computed in integers alone, as deployed."""

    subnet: str
    plan: str
    kind: str  # w8, w4, w3, w2 or mixed
    average_bits: float  # of a weight, all layers counted
    weight_bytes: int  # packed, without scales and biases
    fp32: float  # of the same subnet of the supernet that was quantized
    fp32_after: float  # of the fine-tuned supernet's float weights
    accuracy: float
    images: int
    weights_only: float | None = None  # accuracy with activations in float


class CalibrationRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One subnet and plan, calibrated on shipped and on real images."""

    subnet: str
    plan: str
    shipped: float
    real: float
    images: int


class ElasticCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An elastic entry in figures; shares are 0..1."""

    schema: int
    name: str
    base: str  # the fp32 entry that was fine-tuned
    space: str
    trained: bool  # false: quantizers were fitted to the base's weights, nothing more
    rows: tuple[Row, ...]
    calibration_images: int
    real_images: int
    calibration: tuple[CalibrationRow, ...]
    pairs: int  # in evaluations.csv
    pair_images: int
    prediction: Prediction | None = None  # the shipped predictor, on pairs it was not fitted to
    training: dict[str, str | int | float]
    licences: dict[str, str]
    digests: dict[str, str]  # file -> SHA-256

    @property
    def activation_loss(self) -> float | None:
        """Mean accuracy (0..1) that activations of eight bits cost the rows; never negative.

        None where it was not measured.
        """
        known = [r.weights_only - r.accuracy for r in self.rows if r.weights_only is not None]
        return max(0.0, statistics.fmean(known)) if known else None


_KIND = Kind(
    "elastic supernet", CARD, ElasticCard, SCHEMA, FILES, optional=frozenset({"predictor.json"})
)


@dataclass(frozen=True, slots=True, eq=False)
class ElasticEntry:
    """An elastic supernet; weights and quantizers are read by `edgeopt.pipeline.elastic_files`."""

    name: str
    folder: Path
    space: SearchSpace
    weights: Path
    quantizers: Path
    calibration: U8  # [N,H,W,C]
    evaluations: bytes  # see `edgeopt.ofa.plans.read_evaluations`
    predictor: bytes | None
    card: ElasticCard
    digest: str  # of the card, which has the digests of all else


def names(folder: Path = FOLDER) -> tuple[str, ...]:
    """The elastic entries there are."""
    return _KIND.names(folder)


def load(name: str, folder: Path = FOLDER) -> ElasticEntry:
    """Load an elastic entry by name.

    Raises:
        InputError: no such entry, or a file of it is missing, changed or malformed.
    """
    return load_folder(_KIND.find(name, folder))


def load_folder(folder: Path) -> ElasticEntry:
    """Load an elastic entry from its folder.

    Raises:
        InputError: a file is missing, changed or malformed.
    """
    found = _KIND.read(folder)
    return ElasticEntry(
        found.card.name, folder, found.space, folder / "weights.npz", folder / "quantizers.npz",
        found.calibration, found.files["evaluations.csv"], found.files.get("predictor.json"),
        found.card, found.digest,
    )  # fmt: skip

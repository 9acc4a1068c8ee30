"""Supernets of the zoo whose weights come in every bit-width, and what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.files import digest, read_bytes
from edgeopt.core.space import SearchSpace, parse_space
from edgeopt.zoo import entries
from edgeopt.zoo.card import Prediction
from edgeopt.zoo.entries import FOLDER, REINSTALL, U8

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
#: Those that an entry may lack.
OPTIONAL = frozenset({"predictor.json"})


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
    return tuple(sorted(path.parent.name for path in folder.glob(f"*/{CARD}")))


def load(name: str, folder: Path = FOLDER) -> ElasticEntry:
    """Load an elastic entry by name.

    Raises:
        InputError: no such entry, or a file of it is missing, changed or malformed.
    """
    known = names(folder)
    if name not in known:
        raise InputError(
            f"no elastic supernet {name!r} in the zoo", where="zoo",
            hint=suggest(name, known, noun="supernet"),
        )  # fmt: skip
    return load_folder(folder / name)


def load_folder(folder: Path) -> ElasticEntry:
    """Load an elastic entry from its folder.

    Raises:
        InputError: a file is missing, changed or malformed.
    """
    text = read_bytes(folder / CARD, max_bytes=4 << 20, noun="card")
    where = str(folder / CARD)
    try:
        card = msgspec.json.decode(text, type=ElasticCard)
    except msgspec.DecodeError as error:
        raise InputError(
            f"not the card of an elastic supernet: {error}", where=where, hint=REINSTALL
        ) from error
    if card.schema != SCHEMA:
        raise InputError(f"schema {card.schema} is not supported, only {SCHEMA}", where=where)
    if card.name != folder.name:
        raise InputError(f"is the card of {card.name!r}, not {folder.name!r}", where=where)
    odd = set(card.digests) ^ set(FILES)
    if odd - OPTIONAL:
        raise InputError(
            f"digests do not cover the entry's files: {', '.join(sorted(odd))}", where=where
        )
    data = {
        name: entries.checked(folder / name, card.digests[name], FILES[name])
        for name in card.digests
    }
    space = parse_space(entries.text_of(data["space.toml"], folder), str(folder / "space.toml"))
    if card.space != space.name:
        raise InputError(f"space is {space.name!r}, the card says {card.space!r}", where=where)
    images = entries.images_of(data["calibration.npz"], space, str(folder / "calibration.npz"))
    return ElasticEntry(
        card.name, folder, space, folder / "weights.npz", folder / "quantizers.npz", images,
        data["evaluations.csv"], data.get("predictor.json"), card, digest(text),
    )  # fmt: skip

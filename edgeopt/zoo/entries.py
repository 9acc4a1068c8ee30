"""Loading zoo entries; nothing in one is trusted before its digest and its shape are checked."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.files import digest, read_bytes
from edgeopt.core.space import SearchSpace, parse_space
from edgeopt.zoo.card import SCHEMA, Card

U8 = npt.NDArray[np.uint8]

FOLDER = Path(__file__).parent
#: Files of an entry beside its card, and the most bytes each may have.
FILES = {
    "space.toml": 1 << 20,
    "weights.npz": 256 << 20,
    "calibration.npz": 64 << 20,
    "predictor.json": 64 << 20,
    "evaluations.csv": 16 << 20,
}
CARD = "card.json"
REINSTALL = "reinstall the package, or build the entry again"


@dataclass(frozen=True, slots=True, eq=False)
class ZooEntry:
    """A supernet ready for search: everything but the weights is in memory."""

    name: str
    folder: Path
    space: SearchSpace
    weights: Path  # see `edgeopt.ofa.checkpoint.load_weights`
    calibration: U8  # [N,H,W,C]
    predictor: bytes  # see `edgeopt.ofa.predictor.load_predictor`
    card: Card
    digest: str  # of the card, which has the digests of all else

    @property
    def int8_loss(self) -> float:
        """Mean accuracy (0..1) lost to int8 on the measured subnets; never negative."""
        return max(0.0, self.card.int8.mean_loss) if self.card.int8 is not None else 0.0


def names(folder: Path = FOLDER) -> tuple[str, ...]:
    """The entries there are."""
    return tuple(sorted(path.parent.name for path in folder.glob(f"*/{CARD}")))


def load(name: str, folder: Path = FOLDER) -> ZooEntry:
    """Load an entry by name.

    Args:
        name: one of `names`.
        folder: where the entries are; the package's own by default.

    Raises:
        InputError: no such entry, or a file of it is missing, changed or malformed.
    """
    known = names(folder)
    if name not in known:
        raise InputError(
            f"no supernet {name!r} in the zoo", where="zoo",
            hint=suggest(name, known, noun="supernet"),
        )  # fmt: skip
    return load_folder(folder / name)


def load_folder(folder: Path) -> ZooEntry:
    """Load an entry from its folder.

    Raises:
        InputError: a file is missing, changed or malformed.
    """
    text = read_bytes(folder / CARD, max_bytes=4 << 20, noun="model card")
    where = str(folder / CARD)
    try:
        card = msgspec.json.decode(text, type=Card)
    except msgspec.DecodeError as error:
        raise InputError(f"not a model card: {error}", where=where, hint=REINSTALL) from error
    if card.schema != SCHEMA:
        raise InputError(f"schema {card.schema} is not supported, only {SCHEMA}", where=where)
    if card.name != folder.name:
        raise InputError(f"is the card of {card.name!r}, not {folder.name!r}", where=where)
    if set(card.digests) != set(FILES):
        odd = ", ".join(sorted(set(card.digests) ^ set(FILES)))
        raise InputError(f"digests do not cover the entry's files: {odd}", where=where)
    data = {name: checked(folder / name, card.digests[name], FILES[name]) for name in FILES}
    space = parse_space(text_of(data["space.toml"], folder), str(folder / "space.toml"))
    if card.space != space.name:
        raise InputError(f"space is {space.name!r}, the card says {card.space!r}", where=where)
    calibration = images_of(data["calibration.npz"], space, str(folder / "calibration.npz"))
    return ZooEntry(
        card.name, folder, space, folder / "weights.npz", calibration, data["predictor.json"],
        card, digest(text),
    )  # fmt: skip


def checked(path: Path, expected: str, max_bytes: int) -> bytes:
    """A file of an entry whose digest its card states."""
    data = read_bytes(path, max_bytes=max_bytes, noun="file of the zoo entry")
    if digest(data) != expected:
        raise InputError("is not the file its model card describes", where=str(path),
                         hint=REINSTALL)  # fmt: skip
    return data


def text_of(data: bytes, folder: Path) -> str:
    """The search space of an entry as text."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", where=str(folder / "space.toml")) from error


def images_of(data: bytes, space: SearchSpace, where: str) -> U8:
    """Calibration images [N,H,W,C] of an entry."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            images = np.asarray(archive["images"])
    except Exception as error:  # zip, zlib and numpy raise many kinds
        raise InputError(f"not readable: {error}", where=where, hint=REINSTALL) from error
    edge = max(space.resolutions)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (
        edge, edge, space.in_channels,
    ) or not len(images):  # fmt: skip
        raise InputError(
            f"images are {images.dtype} {list(images.shape)}, "
            f"not uint8 [N, {edge}, {edge}, {space.in_channels}]",
            where=where, hint=REINSTALL,
        )  # fmt: skip
    return images

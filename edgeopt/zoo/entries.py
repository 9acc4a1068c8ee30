"""The supernets that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeopt.core.space import SearchSpace
from edgeopt.zoo.card import SCHEMA, Card
from edgeopt.zoo.reading import FOLDER, U8, Kind

#: Files of an entry beside its card, and the most bytes each may have.
FILES = {
    "space.toml": 1 << 20,
    "weights.npz": 256 << 20,
    "calibration.npz": 64 << 20,
    "predictor.json": 64 << 20,
    "evaluations.csv": 16 << 20,
}
CARD = "card.json"
_KIND = Kind("supernet", CARD, Card, SCHEMA, FILES)


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
    return _KIND.names(folder)


def load(name: str, folder: Path = FOLDER) -> ZooEntry:
    """Load an entry by name.

    Args:
        name: one of `names`.
        folder: where the entries are; the package's own by default.

    Raises:
        InputError: no such entry, or a file of it is missing, changed or malformed.
    """
    return load_folder(_KIND.find(name, folder))


def load_folder(folder: Path) -> ZooEntry:
    """Load an entry from its folder.

    Raises:
        InputError: a file is missing, changed or malformed.
    """
    found = _KIND.read(folder)
    return ZooEntry(
        found.card.name, folder, found.space, folder / "weights.npz", found.calibration,
        found.files["predictor.json"], found.card, found.digest,
    )  # fmt: skip

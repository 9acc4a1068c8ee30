"""Reading a folder of the zoo; nothing in it is trusted before its digest and shape are checked."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.files import digest, read_bytes
from edgeopt.core.space import SearchSpace, parse_space

U8 = npt.NDArray[np.uint8]

FOLDER = Path(__file__).parent
REINSTALL = "reinstall the package, or build the entry again"
SPACE, CALIBRATION = "space.toml", "calibration.npz"


class Described(Protocol):
    """What the cards of all kinds of entries have."""

    @property
    def schema(self) -> int:
        """Version of the card's format."""

    @property
    def name(self) -> str:
        """Of the entry, and of its folder."""

    @property
    def space(self) -> str:
        """Name of its search space."""

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 by file."""


C = TypeVar("C", bound=Described)


@dataclass(frozen=True, slots=True, eq=False)
class Parts(Generic[C]):
    """An entry as read: its card and files, checked against each other."""

    card: C
    files: Mapping[str, bytes]
    space: SearchSpace
    calibration: U8  # [N,H,W,C]
    digest: str  # of the card, which has the digests of all else


@dataclass(frozen=True, slots=True)
class Kind(Generic[C]):
    """A kind of entry.

    Attributes:
        noun: what an entry is called in errors.
        card_file: the file that tells it from other kinds.
        card: what is in it.
        schema: version of the card that is read.
        files: files beside the card, and the most bytes each may have.
        optional: those that an entry may lack.
    """

    noun: str
    card_file: str
    card: type[C]
    schema: int
    files: Mapping[str, int]
    optional: frozenset[str] = frozenset()

    def names(self, folder: Path) -> tuple[str, ...]:
        """The entries of this kind there are."""
        return tuple(sorted(path.parent.name for path in folder.glob(f"*/{self.card_file}")))

    def find(self, name: str, folder: Path) -> Path:
        """The folder of an entry.

        Raises:
            InputError: no such entry; near misses are suggested.
        """
        known = self.names(folder)
        if name not in known:
            raise InputError(
                f"no {self.noun} {name!r} in the zoo", where="zoo",
                hint=suggest(name, known, noun="supernet"),
            )  # fmt: skip
        return folder / name

    def read(self, folder: Path) -> Parts[C]:
        """Read an entry from its folder.

        Raises:
            InputError: a file is missing, changed or malformed.
        """
        text = read_bytes(folder / self.card_file, max_bytes=4 << 20, noun="model card")
        card = self._card(text, folder)
        files = {
            name: _checked(folder / name, expected, self.files[name])
            for name, expected in card.digests.items()
        }
        space = parse_space(_text(files[SPACE], folder / SPACE), str(folder / SPACE))
        if card.space != space.name:
            raise InputError(
                f"space is {space.name!r}, the card says {card.space!r}",
                where=str(folder / self.card_file),
            )
        images = _images(files[CALIBRATION], space, str(folder / CALIBRATION))
        return Parts(card, files, space, images, digest(text))

    def _card(self, text: bytes, folder: Path) -> C:
        where = str(folder / self.card_file)
        try:
            card = msgspec.json.decode(text, type=self.card)
        except msgspec.DecodeError as error:
            raise InputError(
                f"not a model card ({self.noun}): {error}", where=where, hint=REINSTALL
            ) from error
        if card.schema != self.schema:
            raise InputError(
                f"schema {card.schema} is not supported, only {self.schema}", where=where
            )
        if card.name != folder.name:
            raise InputError(f"is the card of {card.name!r}, not {folder.name!r}", where=where)
        odd = (set(card.digests) ^ set(self.files)) - self.optional
        if odd:
            raise InputError(
                f"digests do not cover the entry's files: {', '.join(sorted(odd))}", where=where
            )
        return card


def _checked(path: Path, expected: str, max_bytes: int) -> bytes:
    """A file of an entry whose digest its card states."""
    data = read_bytes(path, max_bytes=max_bytes, noun="file of the zoo entry")
    if digest(data) != expected:
        raise InputError(
            "is not the file its model card describes", where=str(path), hint=REINSTALL
        )
    return data


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", where=str(path)) from error


def _images(data: bytes, space: SearchSpace, where: str) -> U8:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            images = np.asarray(archive["images"])
    except Exception as error:  # zip, zlib and numpy raise many kinds
        raise InputError(f"not readable: {error}", where=where, hint=REINSTALL) from error
    edge = max(space.resolutions)
    shape = (edge, edge, space.in_channels)
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise InputError(
            f"images are {images.dtype} {list(images.shape)}, not uint8 [N, {edge}, {edge}, "
            f"{space.in_channels}]", where=where, hint=REINSTALL,
        )  # fmt: skip
    return images

"""How a kernel is tiled, where its template leaves that open.

A choice changes a kernel's code, its packed constants and its scratch, never what it computes
(but for the order of float sums). It is no part of the `OpKey`: one kernel, several ways to run it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeopt.core.errors import InputError

#: Ways to compute a convolution that a choice may name.
FORMS = ("", "d", "w2", "w4")
_TEXT = re.compile(r"(?:(\d{1,3})x(\d{1,3}))?([pr]?)(?:s(\d{1,3}))?(?:b(\d{1,5}))?(d|w2|w4)?")


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """A tiling; what is 0 or empty is left to the template's own model.

    `str` gives compact text (``6x2``, ``6x2p``, ``2x1s4``, ``4x2b7``; ``model`` where all is left
    to the model) and `Choice.parse` reads it back.

    Attributes:
        pixels: neighbouring output pixels of a tile.
        vectors: vectors of output channels of a tile.
        order: ``p`` walks all rows for each panel of weights, ``r`` all panels for each row.
        split: independent partial sums along the reduction.
        band: output rows (in Winograd's domain rows of tiles) computed from one staged copy.
        form: ``d`` computes a convolution directly, ``w2`` and ``w4`` in Winograd's domain with
            tiles of 2x2 or 4x4 outputs.
    """

    pixels: int = 0
    vectors: int = 0
    order: str = ""
    split: int = 0
    band: int = 0
    form: str = ""

    def __post_init__(self) -> None:
        counts = (self.pixels, self.vectors, self.split, self.band)
        good = all(0 <= count < 100_000 for count in counts) and self.order in ("", "p", "r")
        good = good and self.form in FORMS
        if not good or (self.pixels == 0) != (self.vectors == 0):
            raise InputError(f"a tile cannot be {counts} {self.order!r}", where="tile choice")

    def __str__(self) -> str:
        tile = f"{self.pixels}x{self.vectors}" if self.pixels else ""
        split = f"s{self.split}" if self.split else ""
        band = f"b{self.band}" if self.band else ""
        return tile + self.order + split + band + self.form or "model"

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Read compact text.

        Raises:
            InputError: text of another form.
        """
        if text == "model":
            return MODEL
        found = _TEXT.fullmatch(text)
        if not text or found is None:
            raise InputError(
                f"{text[:40]!r} is not a tile choice", hint="one is written like 6x2, 6x2p or 4x1b7"
            )
        pixels, vectors, order, split, band, form = found.groups()
        counts = [int(count or 0) for count in (pixels, vectors, split, band)]
        return cls(counts[0], counts[1], order, counts[2], counts[3], form or "")


#: Leaves everything to the template's model.
MODEL = Choice()

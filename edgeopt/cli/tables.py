"""The tables that several commands print: a bundle's figures, and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from edgeopt.cli.console import table

if TYPE_CHECKING:
    from edgeopt.pipeline.manifest import Check, Figure


def figures_table(figures: Sequence[Figure]) -> Table:
    """One row a figure, with how it is known."""
    from edgeopt.pipeline.report import show_figure

    return table(["figure", "value", "how it is known"], [show_figure(f) for f in figures])


def checks_table(checks: Sequence[Check]) -> Table:
    """One row a check: what was compared where, and how it came out."""
    rows = [(c.what, c.where, c.result, c.detail) for c in checks]
    return table(["checked", "where", "result", "detail"], rows)

"""The page of operators says what the importer does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeopt.graph.handlers import HANDLERS
from edgeopt.graph.supported import FALLBACK, OWN, SUPPORTED

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operators.md").read_text()


def listed(mark: str) -> set[str]:
    """Operators between a mark and its end."""
    text = PAGE.split(f"<!-- {mark} -->")[1].split("<!-- end -->")[0]
    if mark == "templates":
        text = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    return set(re.findall(r"\b[A-Z][A-Za-z0-9]+\b", text)) - {"Operators"}


def test_every_supported_operator_is_on_the_page_once() -> None:
    templates, free, fallback = listed("templates"), listed("free"), listed("fallback")
    assert not templates & fallback and not templates & free and not free & fallback
    assert templates | free | fallback == FALLBACK | OWN


def test_templates_are_what_the_importer_writes() -> None:
    written = {op for domain, op in HANDLERS if not domain}
    # Folded or rewritten before the importer sees them.
    rewritten = {"BatchNormalization", "Clip", "Split", "QLinearConv", "QLinearMatMul", "Constant"}
    assert listed("templates") | listed("free") == written | rewritten
    assert not listed("fallback") & written


@pytest.mark.parametrize("mark", ["templates", "free", "fallback"])
def test_names_are_operators(mark: str) -> None:
    assert listed(mark) <= SUPPORTED

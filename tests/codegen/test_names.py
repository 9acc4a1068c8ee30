"""Names of models in C: legal, and never two for one."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from edgeopt.codegen import names

# Text made of what mangling itself writes finds collisions that random text would not.
PIECES = st.lists(
    st.sampled_from(
        ["_x", "_", "x", "2f", "_x2f_", "m_x_", "h", "a", "A", "/", "0", "-", "é", "class", "_X41_",
         "M_X_", "abcdefghijklmnopqrstuvwxyz"]
    ),
    max_size=8,
).map("".join)  # fmt: skip
TEXT = st.one_of(PIECES, st.text(max_size=60))
LEGAL = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@given(TEXT, TEXT)
@example("a/b", "a_x2f_b")
@example("1", "m_x_1")
@example("", "m_x_")
@example("Net", "net")
@example("a" * 30 + "/" + "b" * 30, "a" * 30 + "_x2f_" + "b" * 30)
def test_identifiers_are_legal_and_injective(left: str, right: str) -> None:
    for text in (left, right):
        assert LEGAL.fullmatch(names.identifier(text))
        assert len(names.identifier(text)) <= names.MAX_IDENTIFIER
        assert LEGAL.fullmatch(names.macro(text)) and names.macro(text).upper().isascii()
    if left != right:
        assert names.identifier(left) != names.identifier(right)
        assert names.macro(left) != names.macro(right)


@given(st.text("abcxyz0123456789_", min_size=1, max_size=40))
def test_plain_names_stay(text: str) -> None:
    kept = names.identifier(text)
    if text[0].isalpha() and "_x" not in text and text not in names._RESERVED:
        assert kept == text
        assert names.macro(text) == text.upper()


def test_a_long_name_cannot_spell_another_names_digest() -> None:
    long = "layer/" * 20
    assert names.identifier(names.identifier(long)) != names.identifier(long)


def test_keywords_are_escaped() -> None:
    for word in ("int", "class", "in", "while", "restrict", "sem", "string", "math"):
        expected = word if word == "in" else f"m_x_{word}"
        assert names.identifier(word) == expected


@given(TEXT)
def test_comments_stay_on_one_line_and_cannot_end(text: str) -> None:
    shown = names.comment(text)
    assert shown.isascii() and shown.isprintable()
    assert not any(bad in shown for bad in ("*/", "/*", "\\", "`", "??"))


@given(TEXT)
def test_string_literals_hold_the_text(text: str) -> None:
    literal = names.string(text)
    assert literal[0] == literal[-1] == '"'
    body = re.sub(r'\\([0-7]{3}|["\\?])', "", literal[1:-1])
    assert body.isascii() and not set(body) & {'"', "\\", "?"}
    decoded = re.sub(
        r'\\([0-7]{3}|["\\?])',
        lambda m: chr(int(m[1], 8)) if len(m[1]) == 3 else m[1],
        literal[1:-1],
    )
    assert decoded.encode("latin-1") == text.encode("utf-8", "replace")

"""Reading TOML strictly: positions, types, leftovers."""

from __future__ import annotations

import pytest

from edgeopt.core.documents import parse_toml
from edgeopt.core.errors import InputError

TEXT = '''\
name = "a"
text = """
fake = 1
[fake]
"""
"quoted key" = 1

[one.two]
deep = 2   # comment = 3
dotted.key = 4

[[item]]
size = 1
[[item]]
size = "two"
[item.inner]
x = 5
'''


def spot(text: str, *path: str) -> str:
    section = parse_toml(text.encode(), where="f")
    for name in path[:-1]:
        if name.isdecimal():
            continue
        section = (
            section.sections(name)[int(path[path.index(name) + 1])]
            if isinstance(section.values[name], list)
            else section.section(name)
        )
    return section.spot(path[-1])


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 1),
        (("text",), 2),
        (("quoted key",), 6),
        (("one", "two", "deep"), 9),
        (("one", "two", "dotted"), 10),
        (("item", "0", "size"), 13),
        (("item", "1", "size"), 15),
        (("absent",), None),
        (("one", "two", "absent"), 8),
    ],
)
def test_positions(path: tuple[str, ...], line: int | None) -> None:
    assert spot(TEXT, *path) == ("f" if line is None else f"f:{line}")


def test_leftovers_are_found_at_every_depth() -> None:
    root = parse_toml(b"[a]\nx = 1\n[a.b]\nyy = 2\n", where="f")
    section = root.section("a")
    assert section.integer("x", 0, 9) == 1
    with pytest.raises(InputError, match=r"unknown key 'a.b'") as caught:
        root.done()
    assert caught.value.where == "f:3"
    inner = section.section("b")
    inner.integer("y", 0, 9, 5)
    with pytest.raises(InputError, match=r"unknown key 'a.b.yy'") as caught:
        root.done()
    assert caught.value.hint == "did you mean y?"
    assert caught.value.where == "f:4"


def test_missing_keys_name_a_misspelling() -> None:
    root = parse_toml(b"[a]\nlenght = 3\n", where="f")
    with pytest.raises(InputError, match=r"length is missing from \[a\]") as caught:
        root.section("a").integer("length", 0, 9)
    assert caught.value.hint == "is 'lenght' a misspelling of it?"
    assert caught.value.where == "f:2"
    with pytest.raises(InputError, match="name is missing") as caught:
        root.text("name")
    assert caught.value.hint == "add `name = ...`"


def test_types() -> None:
    root = parse_toml(b'n = 1\nf = 1.5\nt = "x"\nl = [1, 2]\nb = true\ni = [1, "a"]', where="f")
    assert root.number("n", 0, 2) == 1.0 and root.number("f", 0, 2) == 1.5
    assert root.integers("l", 0, 5) == (1, 2) and root.flag("b") is True
    assert root.texts("absent", ()) == () and root.section("none", required=False).values == {}
    for name, call, message in (
        ("b", lambda: root.number("b", 0, 2), "b: must be a number, not True"),
        ("t", lambda: root.flag("t"), "t: must be true or false, not 'x'"),
        ("n", lambda: root.text("n"), "n: must be a string in quotes, not 1"),
        ("i", lambda: root.integers("i", 0, 5), "i: 'a' is not an integer between 0 and 5"),
        ("l", lambda: root.section("l"), r"l: must be a table \[l\], not a list"),
        ("n", lambda: root.sections("n"), "n: must be an array of tables"),
        ("l", lambda: root.sections("l"), "l: every entry must be a table"),
        ("t", lambda: root.text("t", max_length=0), "t: is longer than 0 characters"),
        ("n", lambda: root.integer("n", 2, 3), "n: 1 is not between 2 and 3"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert caught.value.where == root.spot(name)

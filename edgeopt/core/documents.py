"""Reading TOML that people write: strictly, and saying the line when something is wrong.

`read_toml` refuses what `tomllib` lets through (non-finite numbers, control characters, deep
nesting, huge integers). `Section` hands out typed values and, at `done`, refuses what nobody
asked for.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.files import read_bytes

MAX_BYTES = 1 << 20
MAX_DEPTH = 8
MAX_INTEGER = 1 << 63

_HEADER = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(?:#.*)?")
_KEY = r"(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')"
_ASSIGNMENT = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=")
_PART = re.compile(_KEY)
_POSITION = re.compile(r" \(at line (\d+), column \d+\)$")


def read_toml(path: Path, *, noun: str, max_bytes: int = MAX_BYTES) -> Section:
    """The document's root section.

    Raises:
        InputError: unreadable, not TOML, or with values no setting here can have.
    """
    data = read_bytes(path, max_bytes=max_bytes, noun=noun)
    return parse_toml(data, where=str(path))


def parse_toml(data: bytes, *, where: str) -> Section:
    """`read_toml` for bytes at hand; ``where`` is the file named in errors."""
    try:
        text = data.decode("utf-8")
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 text (byte {error.start})", where=where, hint="save the file as UTF-8"
        ) from error
    except RecursionError as error:
        raise InputError(
            "nested too deeply", where=where, hint=f"at most {MAX_DEPTH} levels are allowed"
        ) from error
    except ValueError as error:  # TOMLDecodeError, and integers of thousands of digits
        message = str(error)
        position = _POSITION.search(message)
        spot = f"{where}:{position[1]}" if position else where
        if "integer string conversion" in message:
            message = "an integer has too many digits"
        raise InputError(
            f"not valid TOML: {_POSITION.sub('', message)}", where=spot, hint="see https://toml.io"
        ) from error
    lines = _lines(text)
    _check_values(values, (), where, lines, depth=0)
    return Section(values, where=where, lines=lines)


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Path of every key to the first line it is written on (array entries by position)."""
    found: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], int] = {}
    prefix: tuple[str, ...] = ()
    fence = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if fence:  # inside a multi-line string
            fence = "" if fence in line else fence
            continue
        header = _HEADER.fullmatch(line)
        if header and not _ASSIGNMENT.match(line):
            prefix = tuple(part.strip("\"'") for part in _PART.findall(header[2]))
            if header[1] == "[[":
                counts[prefix] = counts.get(prefix, -1) + 1
                found.setdefault(prefix, number)
                prefix = (*prefix, str(counts[prefix]))
            found.setdefault(prefix, number)
            continue
        assignment = _ASSIGNMENT.match(line)
        if not assignment:
            continue
        key = tuple(part.strip("\"'") for part in _PART.findall(assignment[1]))
        for end in range(1, len(key) + 1):
            found.setdefault(prefix + key[:end], number)
        rest = line[assignment.end() :]
        for mark in ('"""', "'''"):
            if rest.count(mark) == 1:
                fence = mark
    return found


def _line_of(path: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> int | None:
    """The line of ``path``, or of the nearest enclosing key that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def _spot(where: str, path: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> str:
    line = _line_of(path, lines)
    return where if line is None else f"{where}:{line}"


def _check_values(
    value: object,
    path: tuple[str, ...],
    where: str,
    lines: Mapping[tuple[str, ...], int],
    *,
    depth: int,
) -> None:
    def refuse(what: str, hint: str) -> NoReturn:
        name = ".".join(path)
        raise InputError(f"{name}: {what}", where=_spot(where, path, lines), hint=hint)

    if depth > MAX_DEPTH:
        refuse("nested too deeply", f"at most {MAX_DEPTH} levels are allowed")
    if isinstance(value, dict):
        for key, item in value.items():
            path = (*path, key)
            if not key.isprintable():
                refuse("a key has characters that cannot be printed", "use plain letters")
            _check_values(item, path, where, lines, depth=depth + 1)
            path = path[:-1]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_values(item, (*path, str(index)), where, lines, depth=depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        refuse(f"{value} is not a finite number", "write an ordinary number")
    elif isinstance(value, int) and not -MAX_INTEGER <= value < MAX_INTEGER:
        refuse("the integer does not fit 64 bits", "write a smaller number")
    elif isinstance(value, str):
        bad = [c for c in value if not c.isprintable() and c != "\n"]
        if bad:
            refuse(f"has the control character {bad[0]!r}", "remove it")


@dataclass(slots=True)
class Section:
    """One table of a document. Values are asked for by name; `done` refuses the rest."""

    values: Mapping[str, object]
    where: str
    lines: Mapping[tuple[str, ...], int]
    path: tuple[str, ...] = ()
    _asked: set[str] = field(default_factory=set)
    _children: list[Section] = field(default_factory=list)

    def spot(self, name: str = "") -> str:
        """``file:line`` of a key of this section (of the section itself without a name)."""
        return _spot(self.where, (*self.path, name) if name else self.path, self.lines)

    def refuse(self, name: str, what: str, hint: str) -> NoReturn:
        """Raise the error of a wrong value."""
        full = ".".join((*self.path, name))
        raise InputError(f"{full}: {what}", where=self.spot(name), hint=hint)

    def has(self, name: str) -> bool:
        """Whether the key is there (it then has to be asked for)."""
        self._asked.add(name)
        return name in self.values

    def _take(self, name: str, kind: type, noun: str, default: object) -> object:
        self._asked.add(name)
        if name not in self.values:
            if default is not None:
                return default
            section = ".".join(self.path)
            unasked = [key for key in self.values if key not in self._asked]
            near = difflib.get_close_matches(name, unasked, n=1)
            raise InputError(
                f"{name} is missing" + (f" from [{section}]" if section else ""),
                where=self.spot(near[0]) if near else self.spot(),
                hint=f"is {near[0]!r} a misspelling of it?" if near else f"add `{name} = ...`",
            )
        value = self.values[name]
        right = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
        if not right:
            self.refuse(name, f"must be {noun}, not {_show(value)}", f"write {noun}")
        return value

    def text(self, name: str, default: str | None = None, *, max_length: int = 400) -> str:
        """A string."""
        value = str(self._take(name, str, "a string in quotes", default))
        if len(value) > max_length:
            self.refuse(name, f"is longer than {max_length} characters", "shorten it")
        return value

    def choice(self, name: str, options: frozenset[str], default: str | None = None) -> str:
        """A string out of a fixed set."""
        value = self.text(name, default)
        if value not in options:
            self.refuse(name, f"unknown value {value!r}", suggest(value, options, noun="value"))
        return value

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """An integer with ``low <= value <= high``."""
        value = self._take(name, int, "an integer", default)
        assert isinstance(value, int)
        if not low <= value <= high:
            self.refuse(name, f"{value} is not between {low} and {high}", "correct the number")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number with ``low <= value <= high``."""
        raw = self.values.get(name)
        integral = isinstance(raw, int) and not isinstance(raw, bool)
        value = self._take(name, int if integral else float, "a number", default)
        assert isinstance(value, int | float)
        if not low <= value <= high:
            self.refuse(name, f"{value} is not between {low:g} and {high:g}", "correct the number")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """``true`` or ``false``."""
        return bool(self._take(name, bool, "true or false", default))

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of strings."""
        value = self._take(name, list, "a list of strings", default)
        assert isinstance(value, list | tuple)
        if not all(isinstance(item, str) for item in value):
            self.refuse(name, "every entry must be a string", "put quotes around the entries")
        return tuple(str(item) for item in value)

    def integers(
        self, name: str, low: int, high: int, default: tuple[int, ...] | None = None
    ) -> tuple[int, ...]:
        """A list of integers, each with ``low <= value <= high``."""
        value = self._take(name, list, "a list of integers", default)
        assert isinstance(value, list | tuple)
        for item in value:
            if not isinstance(item, int) or isinstance(item, bool) or not low <= item <= high:
                self.refuse(
                    name, f"{_show(item)} is not an integer between {low} and {high}", "correct it"
                )
        return tuple(value)

    def section(self, name: str, *, required: bool = True) -> Section:
        """A sub-table; an empty one if it may be missing and is."""
        value = self._take(name, dict, f"a table [{name}]", None if required else {})
        assert isinstance(value, dict)
        child = Section(value, where=self.where, lines=self.lines, path=(*self.path, name))
        self._children.append(child)
        return child

    def sections(self, name: str) -> list[Section]:
        """The entries of an array of tables ``[[name]]``; none if it is missing."""
        value = self._take(name, list, f"an array of tables [[{name}]]", ())
        assert isinstance(value, list | tuple)
        found = []
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                self.refuse(name, "every entry must be a table", f"write [[{name}]]")
            path = (*self.path, name, str(index))
            found.append(Section(item, where=self.where, lines=self.lines, path=path))
        self._children.extend(found)
        return found

    def done(self) -> None:
        """Refuse every key that nobody asked for, here and below.

        Raises:
            InputError: naming file, line and the near misses.
        """
        for name in self.values:
            if name not in self._asked:
                unused = self._asked - set(self.values)
                hint = suggest(name, unused or self._asked, noun="key")
                raise InputError(
                    f"unknown key {'.'.join((*self.path, name))!r}", where=self.spot(name),
                    hint=hint,
                )  # fmt: skip
        for child in self._children:
            child.done()


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

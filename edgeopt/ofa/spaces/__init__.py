"""The search spaces that ship with edgeopt, one TOML file each, and how to read others."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.files import read_bytes
from edgeopt.core.space import SearchSpace, parse_space

_MAX_BYTES = 1 << 20


def space_names() -> tuple[str, ...]:
    """Names that `load_space` knows, sorted."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(f.name[:-5] for f in files if f.name.endswith(".toml")))


def load_space(name_or_path: str | Path) -> SearchSpace:
    """A shipped space by name, or any space by the path of its TOML file.

    Raises:
        InputError: no such space, or its file cannot be used.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text:
        path = Path(name_or_path)
        data = read_bytes(path, max_bytes=_MAX_BYTES, noun="search space")
        return parse_space(_decode(data, str(path)), str(path))
    names = space_names()
    if text not in names:
        raise InputError(
            f"unknown search space {text!r}",
            where="space",
            hint=suggest(text, names, noun="space") + "; or give the path of a .toml file",
        )
    return _shipped(text)


@lru_cache
def _shipped(name: str) -> SearchSpace:
    file = resources.files(__package__) / f"{name}.toml"
    return parse_space(file.read_text(encoding="utf-8"), f"{name}.toml")


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: {error.reason}", where=where) from error

"""Stage results on disk, found by everything that went into them.

An entry is a folder of files plus an index with their digests. It is written beside its place and
renamed into it, so a killed compile leaves no half entry, and two compiles at once agree. Entries
whose files do not match their index are dropped and made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import edgeopt
from edgeopt.core.files import digest

Files = dict[str, bytes]


def default_cache_dir() -> Path:
    """``$EDGEOPT_CACHE_DIR``, else ``edgeopt`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.environ.get("EDGEOPT_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgeopt"


@dataclass(frozen=True, slots=True)
class StageCache:
    """Content-addressed results of stages. ``root`` None keeps nothing."""

    root: Path | None

    def get_or_make(
        self,
        stage: str,
        inputs: Mapping[str, str],
        make: Callable[[], Files],
        *,
        code: str | None = None,
    ) -> tuple[Files, bool]:
        """The stage's files, and whether they came from the cache.

        Args:
            stage: the stage's name.
            inputs: everything that can change the result, as text (digests of large things).
                edgeopt's own code is always part of it.
            make: computes the files where the cache has none.
            code: what stands for edgeopt's code; all of its files unless given.
        """
        found = self.get(stage, inputs, code=code)
        if found is not None:
            return found, True
        files = make()
        self.put(stage, inputs, files, code=code)
        return files, False

    def get(
        self, stage: str, inputs: Mapping[str, str], *, code: str | None = None
    ) -> Files | None:
        """The stage's files, or None where the cache has none."""
        folder = self._folder(stage, inputs, code)
        return None if folder is None else _read_entry(folder)

    def put(
        self, stage: str, inputs: Mapping[str, str], files: Files, *, code: str | None = None
    ) -> None:
        """Keep the stage's files."""
        folder = self._folder(stage, inputs, code)
        if folder is not None:
            with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
                _write_entry(folder, files)

    def _folder(self, stage: str, inputs: Mapping[str, str], code: str | None) -> Path | None:
        if self.root is None:
            return None
        text = json.dumps([stage, code or source_digest(), sorted(inputs.items())])
        return self.root / "stages" / f"{stage}-{digest(text.encode())[:32]}"


def _read_entry(folder: Path) -> Files | None:
    if not folder.is_dir():
        return None
    try:
        index = json.loads((folder / "index.json").read_bytes())
        files = {name: (folder / f"{i}.bin").read_bytes() for i, name in enumerate(index)}
        if all(digest(data) == index[name] for name, data in files.items()):
            return files
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    # Broken: out of the way, or it could never be written again.
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _write_entry(folder: Path, files: Files) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        for i, data in enumerate(files.values()):
            (temporary / f"{i}.bin").write_bytes(data)
        index = {name: digest(data) for name, data in files.items()}
        (temporary / "index.json").write_text(json.dumps(index))
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


_source_digest: list[str] = []


def source_digest() -> str:
    """Digest of edgeopt's own files: a changed line of code or template makes stages new."""
    if not _source_digest:
        root = Path(edgeopt.__file__).parent
        parts = []
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".j2", ".c", ".h", ".toml", ".json", ".cmake"):
                parts.append(f"{path.relative_to(root)} {digest(path.read_bytes())}")
        _source_digest.append(digest("\n".join(parts).encode()))
    return _source_digest[0]

"""A PlatformIO library: ``library.json``, ``include/`` and ``src/``."""

from __future__ import annotations

import json
import re

from edgeopt.codegen.packagings.library import Library

_MAINTAINER = re.compile(r"(?P<name>[^<]+?)(?: <(?P<email>[^<>]+)>)?")


def tree(library: Library) -> dict[str, bytes]:
    """The files of the library."""
    match = _MAINTAINER.fullmatch(library.maintainer)
    author = {"name": library.maintainer} if match is None else {
        key: value for key, value in match.groupdict().items() if value
    }  # fmt: skip
    manifest = {
        "$schema": "https://raw.githubusercontent.com/platformio/platformio-core/develop/"
        "platformio/assets/schema/library.json",
        "name": library.package,
        "version": library.version,
        "description": library.sentence,
        "keywords": ["neural network", "machine learning", "inference"],
        "authors": [{**author, "maintainer": True}],
        "homepage": library.url,
        "license": library.licence,
        "frameworks": "*",
        "platforms": "*",
        "headers": [path.rpartition("/")[2] for path in library.headers],
        "build": {"srcDir": "src", "includeDir": "include", "flags": ["-O2"]},
    }
    use = (
        "Copy this folder to your project's `lib/`, or name it in `platformio.ini`:\n\n"
        f"```ini\nlib_deps = file://path/to/{library.package}\n```\n"
    )
    files = {
        path.replace("src/", "include/", 1) if f"include/{path[4:]}" in library.files else path:
        content for path, content in library.flat().items()
    }  # fmt: skip
    return {
        **files,
        **library.common(use),
        "library.json": (json.dumps(manifest, indent=2) + "\n").encode(),
    }

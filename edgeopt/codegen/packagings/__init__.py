"""Forms a network can be handed to a firmware build in, in explicit tables.

A bundle itself has one of `PACKAGINGS`: a function from generated code and what it is built for to
more files of the bundle. `FORMATS` are packages of their own, made from a bundle's C for the build
systems and package managers of firmware: each a function from a `Library` to all files of the
package. None of them decides anything about the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgeopt.codegen.emit import Code
from edgeopt.codegen.packagings import (
    arduino,
    cmake,
    cmsis_pack,
    esp_idf,
    platformio,
    zephyr,
)
from edgeopt.codegen.packagings.library import Library, library_files
from edgeopt.codegen.packagings.package import Package
from edgeopt.core.errors import InputError, suggest

__all__ = ["FORMATS", "PACKAGINGS", "Library", "Package", "library_files", "package", "tree"]

#: name -> function
PACKAGINGS: Mapping[str, Callable[[Code, Package], dict[str, bytes]]] = MappingProxyType(
    {"none": lambda _code, _package: {}, "cmake": cmake.files}
)

#: name -> function
FORMATS: Mapping[str, Callable[[Library], dict[str, bytes]]] = MappingProxyType(
    {
        "arduino": arduino.tree,
        "cmsis-pack": cmsis_pack.tree,
        "esp-idf": esp_idf.tree,
        "platformio": platformio.tree,
        "zephyr": zephyr.tree,
    }
)


def package(name: str, code: Code, package: Package) -> dict[str, bytes]:
    """All files of a bundle in a packaging: the generated code and its build files.

    Raises:
        InputError: no packaging of that name.
    """
    function = PACKAGINGS.get(name)
    if function is None:
        raise InputError(
            f"unknown packaging {name!r}", where="--packaging",
            hint=suggest(name, PACKAGINGS, noun="packaging"),
        )  # fmt: skip
    return dict(sorted({**code.files, **function(code, package)}.items()))


def tree(name: str, library: Library) -> dict[str, bytes]:
    """All files of a package for firmware, by their paths in its folder.

    Raises:
        InputError: no format of that name, or one that does not suit the kernels' processor.
    """
    function = FORMATS.get(name)
    if function is None:
        raise InputError(
            f"unknown package format {name!r}", where="--format",
            hint="the bundle itself is a CMake package" if name == "cmake"
            else suggest(name, FORMATS, noun="format"),
        )  # fmt: skip
    return dict(sorted(function(library).items()))

"""Forms a bundle's build files can take, in one explicit table.

A packaging is a function from generated code and what it is built for to more files of the
bundle. It decides nothing about the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgeopt.codegen.emit import Code
from edgeopt.codegen.packagings import cmake
from edgeopt.codegen.packagings.package import Package
from edgeopt.core.errors import InputError, suggest

__all__ = ["PACKAGINGS", "Package", "package"]

#: name -> function
PACKAGINGS: Mapping[str, Callable[[Code, Package], dict[str, bytes]]] = MappingProxyType(
    {"none": lambda _code, _package: {}, "cmake": cmake.files}
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

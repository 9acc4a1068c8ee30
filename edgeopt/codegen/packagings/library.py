"""A generated network as a library of C sources: what every packaging for firmware starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgeopt.codegen import names
from edgeopt.codegen.emit import runtime_file
from edgeopt.core.errors import InputError

#: Architectures whose kernels are plain C99: they build for any processor.
PORTABLE_ARCHES = frozenset({"armv6m", "riscv32"})
ARM_ARCHES = frozenset({"armv6m", "armv7em", "armv8m"})

_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})(\.(0|[1-9][0-9]{0,5})){2}")
_VENDOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*)*")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]{1,200}")


@dataclass(frozen=True, slots=True)
class Library:
    """One network's sources, and what package managers want to know of it.

    Attributes:
        name: of the network, as given.
        device: the board it was generated for, for people.
        arch: of its kernels, as `TargetSpec.arch`.
        features: ISA features that the kernels use, as `TargetSpec.features`.
        files: path -> content: ``include/``, ``src/`` and ``kernels/`` of a bundle.
        facts: lines for the README: what, value.
        version: ``1.2.3``.
        vendor: who gives it out: letters, digits, ``-`` and ``_``.
        maintainer: ``Name <mail>``, or a name.
        url: where it can be found.
        licence: SPDX expression of the whole.
    """

    name: str
    device: str
    arch: str
    features: frozenset[str]
    files: Mapping[str, bytes]
    facts: tuple[tuple[str, str], ...] = ()
    version: str = "1.0.0"
    vendor: str = "edgeopt"
    maintainer: str = "edgeopt"
    url: str = "https://example.org/"
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        for value, pattern, option, hint in (
            (self.version, _VERSION, "--package-version", "three numbers, such as 1.0.0"),
            (self.vendor, _VENDOR, "--vendor", "letters, digits, - and _"),
            (self.licence, _LICENCE, "--license", "an SPDX expression, such as Apache-2.0"),
            (self.url, _URL, "--url", "an address that starts with https://"),
        ):
            if not pattern.fullmatch(value):
                raise InputError(f"{value[:80]!r} has the wrong form", where=option, hint=hint)
        plain = names.comment(self.maintainer, 120)
        if plain != self.maintainer or not plain.strip() or set(plain) & set('"\\:='):
            raise InputError(
                f"{self.maintainer[:80]!r} has the wrong form", where="--maintainer",
                hint="write a name, or Name <mail@example.org>",
            )  # fmt: skip

    @property
    def net(self) -> str:
        """Prefix of the C names."""
        return names.identifier(self.name)

    @property
    def macro(self) -> str:
        """Prefix of the macros."""
        return names.macro(self.name)

    @property
    def package(self) -> str:
        """A name that says what it is where libraries of all kinds lie side by side."""
        return f"edgeopt_{self.net}"

    @property
    def headers(self) -> tuple[str, ...]:
        """What users include."""
        return tuple(sorted(path for path in self.files if path.startswith("include/")))

    @property
    def sources(self) -> tuple[str, ...]:
        """What is compiled."""
        return tuple(sorted(path for path in self.files if path.endswith(".c")))

    @property
    def portable(self) -> bool:
        """Whether the kernels build for every processor."""
        return self.arch in PORTABLE_ARCHES

    @property
    def has_self_test(self) -> bool:
        """Whether test vectors are embedded."""
        return f"src/{self.net}_self_test.c" in self.files

    @property
    def sentence(self) -> str:
        """One line on what this is."""
        return f"The neural network {self.net} as C99, without heap or dependencies"

    def common(self, use: str) -> dict[str, bytes]:
        """README.md and LICENSE.

        Args:
            use: the README's section on how to add the package to a build, in Markdown.
        """
        title = names.comment(self.name, 80)
        lines = [
            f"# {title}",
            "",
            f"{self.sentence}, generated for {names.comment(self.device, 80)}.",
            "",
            *(f"- {names.comment(what)}: {names.comment(value)}" for what, value in self.facts),
            "",
            "## Add it to a build",
            "",
            use.strip(),
            "",
            "## Use it",
            "",
            f"`{self.net}.h` is the whole interface: `{self.net}_init` once, `{self.net}_run` as",
            f"often as you like, with an arena of `{self.macro}_ARENA_BYTES` that you place.",
        ]
        if self.has_self_test:
            lines.append(f"`{self.net}_self_test` compares embedded vectors with the reference.")
        licence = (
            f"SPDX-License-Identifier: {self.licence}\n\n"
            "The constants of the network come under the licence of the model that it was made\n"
            "from. edgeopt generated the code around them; that and its fixed parts may be used\n"
            "under the Apache License 2.0, whose text follows.\n\n"
        )
        return {
            "README.md": ("\n".join(lines) + "\n").encode(),
            "LICENSE": licence.encode() + runtime_file("LICENSE.txt"),
        }

    def flat(self) -> dict[str, bytes]:
        """All sources and headers in ``src/``, as Arduino wants them."""
        found: dict[str, bytes] = {}
        for path, content in self.files.items():
            folder, _, name = path.rpartition("/")
            if folder == "kernels" and not name.startswith(self.net):
                name = f"{self.net}_{name}"
            found[f"src/{name}"] = content
        return found

    def require_portable(self, packaging: str, builds_for: str) -> None:
        """Refuse kernels for a processor that a packaging's users do not have.

        Raises:
            InputError: the kernels are for another family of processors.
        """
        if not self.portable:
            raise InputError(
                f"{packaging} builds for {builds_for}, the kernels of {self.net} are for "
                f"{self.arch}", where="--format",
                hint="compile the network for a device of that family, such as esp32c3",
            )  # fmt: skip


def library_files(files: Mapping[str, bytes], where: str) -> dict[str, bytes]:
    """The part of a bundle's files that firmware compiles.

    Raises:
        InputError: the kernels are objects, which these packagings cannot hold.
    """
    found = {
        path: content
        for path, content in files.items()
        if path.startswith(("include/", "src/", "kernels/"))
    }
    objects = sorted(path for path in found if path.endswith((".o", ".a", ".obj")))
    if objects:
        raise InputError(
            f"its kernels are compiled already: {objects[0]}", where=where,
            hint="firmware packages hold C: compile the network for a microcontroller; the bundle "
            "itself is a CMake package",
        )  # fmt: skip
    return found

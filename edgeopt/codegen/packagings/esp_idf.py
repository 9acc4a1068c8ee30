"""An ESP-IDF component: CMakeLists.txt with ``idf_component_register``, and its manifest."""

from __future__ import annotations

import json

from edgeopt.codegen.packagings.library import Library


def tree(library: Library) -> dict[str, bytes]:
    """The files of the component.

    Raises:
        InputError: the kernels are for Arm processors.
    """
    library.require_portable("ESP-IDF", "RISC-V and Xtensa")
    lines = [
        f"# {library.package} {library.version}: an ESP-IDF component.",
        "# SPDX-License-Identifier: " + library.licence,
        "idf_component_register(",
        "  SRCS",
        *(f'    "{path}"' for path in library.sources),
        '  INCLUDE_DIRS "include"',
        '  PRIV_INCLUDE_DIRS "src")',
        "# ESP-IDF's default is -Og: kernels are worth more.",
        "target_compile_options(${COMPONENT_LIB} PRIVATE -O2)",
        "",
    ]
    manifest = [
        f'version: "{library.version}"',
        f"description: {json.dumps(library.sentence)}",
        f"url: {json.dumps(library.url)}",
        f"license: {json.dumps(library.licence)}",
        "maintainers:",
        f"  - {json.dumps(library.maintainer)}",
        "dependencies:",
        '  idf: ">=5.0"',
        "",
    ]
    use = (
        "Copy this folder to your project's `components/`, or name it in `idf_component.yml`:\n\n"
        f"```yaml\ndependencies:\n  {library.package}:\n    path: path/to/{library.package}\n```\n"
    )
    return {
        **library.files,
        **library.common(use),
        "CMakeLists.txt": "\n".join(lines).encode(),
        "idf_component.yml": "\n".join(manifest).encode(),
    }

"""CMake: a library target, host programs, tests, and an installable package."""

from __future__ import annotations

from edgeopt.codegen import names
from edgeopt.codegen.emit import Code, render_template
from edgeopt.codegen.packagings.package import Package

#: What CMake calls an architecture (CMAKE_SYSTEM_PROCESSOR), as a regular expression.
_PROCESSORS = {"x86_64": "x86_64|AMD64|amd64", "aarch64": "aarch64|arm64|ARM64"}


def files(code: Code, package: Package) -> dict[str, bytes]:
    """CMakeLists.txt, package configuration, a toolchain file for cross builds, README.md."""
    if package.firmware is not None:
        from edgeopt.codegen.packagings import firmware

        return firmware.files(code, package)
    net = code.model.id
    values = {
        "net": code.model,
        "banner": code.banner,
        "package": package,
        "title": names.comment(package.title, 80),
        "sources": code.library_sources,
        "processors": _PROCESSORS.get(package.arch, package.arch),
        "c_flags": " ".join(package.c_flags),
        "facts": [(names.comment(a), names.comment(b)) for a, b in package.facts],
    }
    rendered = {
        "CMakeLists.txt": render_template("CMakeLists.txt.j2", **values),
        f"cmake/{net}Config.cmake": render_template("config.cmake.j2", **values),
        "README.md": render_template("README.md.j2", **values),
    }
    if package.compiler:
        rendered[f"cmake/{package.arch}-linux.cmake"] = render_template(
            "toolchain.cmake.j2", **values
        )
    return rendered

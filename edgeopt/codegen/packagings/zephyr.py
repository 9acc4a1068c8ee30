"""A Zephyr module: ``zephyr/module.yml``, its CMakeLists.txt and Kconfig."""

from __future__ import annotations

from edgeopt.codegen.packagings.library import Library


def tree(library: Library) -> dict[str, bytes]:
    """The files of the module."""
    net, option = library.net, f"EDGEOPT_{library.macro}"
    tested = f"src/{net}_self_test.c"
    module = (
        f"name: {library.package}\n"
        "build:\n"
        "  cmake: zephyr\n"
        "  kconfig: zephyr/Kconfig\n"
    )  # fmt: skip
    always = [path for path in library.sources if path != tested]
    lines = [
        f"# {library.package} {library.version}: a Zephyr module.",
        "# SPDX-License-Identifier: " + library.licence,
        f"if(CONFIG_{option})",
        "  zephyr_include_directories(${CMAKE_CURRENT_LIST_DIR}/../include)",
        f"  zephyr_library_named({library.package})",
        "  zephyr_library_include_directories(${CMAKE_CURRENT_LIST_DIR}/../src)",
        "  zephyr_library_sources(",
        *(f"    ${{CMAKE_CURRENT_LIST_DIR}}/../{path}" for path in always),
        "  )",
    ]
    if library.has_self_test:
        lines.append(
            f"  zephyr_library_sources_ifdef(CONFIG_{option}_SELF_TEST\n"
            f"    ${{CMAKE_CURRENT_LIST_DIR}}/../{tested})"
        )
    # Zephyr's default is -Os: kernels are worth the bytes.
    lines += ["  zephyr_library_compile_options(-O2)", "endif()", ""]
    kconfig = [
        f"# {library.package} {library.version}",
        "# SPDX-License-Identifier: " + library.licence,
        f"menuconfig {option}",
        f'\tbool "Neural network {net}"',
        "\thelp",
        f"\t  {library.sentence}.",
        "",
    ]
    if library.has_self_test:
        kconfig += [
            f"if {option}",
            "",
            f"config {option}_SELF_TEST",
            '\tbool "Self-test with embedded test vectors"',
            "\thelp",
            f"\t  Adds {net}_self_test and its vectors, which take flash.",
            "",
            "endif",
            "",
        ]
    use = (
        "List this folder in your `west.yml`, or name it in `EXTRA_ZEPHYR_MODULES`, and enable it "
        f"in `prj.conf`:\n\n```\nCONFIG_{option}=y\n"
        + (f"CONFIG_{option}_SELF_TEST=y\n" if library.has_self_test else "")
        + "```\n"
    )
    return {
        **library.files,
        **library.common(use),
        "zephyr/module.yml": module.encode(),
        "zephyr/CMakeLists.txt": "\n".join(lines).encode(),
        "zephyr/Kconfig": "\n".join(kconfig).encode(),
    }

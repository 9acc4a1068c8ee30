"""Packages for firmware in the hands of the tools they are for.

Arduino: built by arduino-builder, run by simavr. PlatformIO, ESP-IDF and CMSIS-Pack: checked and
packed by their package managers. Zephyr's Kconfig is read by the library that Zephyr reads it with.
The builds of Zephyr and ESP-IDF themselves cannot be had from package registries: their commands
are given the meaning that their documentation states, and the result is built and run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from firmware_library import library, main_program

from edgeopt.codegen.packagings import Library, tree

BIN = Path(sys.executable).parent


def write(made: Mapping[str, bytes], folder: Path) -> Path:
    for path, content in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def run(*command: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False,
        env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(cwd), **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_an_arduino_sketch_builds_and_passes_its_self_test(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """On an 8-bit AVR, whose int has 16 bits: the strictest processor there is."""
    builder, simavr = needs_tool("arduino-builder"), needs_tool("simavr")
    source = library(maintainer="Jane Doe <jane@example.org>")
    place = write(tree("arduino", source), tmp_path / "libraries" / source.package)
    (tmp_path / "build").mkdir()
    run(
        builder, "-compile", "-hardware", "/usr/share/arduino/hardware", "-hardware",
        "/usr/share/arduino-builder", "-tools", "/usr/share/arduino-builder", "-libraries",
        tmp_path / "libraries", "-fqbn", "arduino:avr:mega:cpu=atmega2560", "-build-path",
        tmp_path / "build", "-warnings", "all",
        # The core of Debian's package needs what its avr-gcc lacks.
        "-prefs=compiler.cpp.extra_flags=-DDECIMAL_DIG=10",
        place / "examples" / "self_test" / "self_test.ino", cwd=tmp_path,
    )  # fmt: skip
    command = [simavr, "-m", "atmega2560", "-f", "16000000", tmp_path / "build/self_test.ino.elf"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as board:
        try:
            assert board.stdout is not None
            said = next(line for line in board.stdout if ".." in line)
        finally:
            board.kill()
    assert "success" in said


def test_arduinos_properties_follow_the_specification() -> None:
    source = library(maintainer="Jane Doe <jane@example.org>")
    text = tree("arduino", source)["library.properties"].decode()
    found = dict(line.split("=", 1) for line in text.splitlines())
    assert {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url",
            "architectures"} <= found.keys()  # fmt: skip
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}", found["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["version"])
    assert found["category"] == "Data Processing"
    assert found["architectures"] == "*"
    properties = tree("arduino", library("nucleo-l4r5zi"))["library.properties"].decode()
    assert "architectures=stm32," in properties


def test_platformio_packs_the_library(tmp_path: Path) -> None:
    source = library(maintainer="Jane Doe <jane@example.org>")
    made = tree("platformio", source)
    # Licences are looked up on the network: the manifest is checked without.
    manifest = json.loads(made["library.json"])
    assert manifest.pop("license") == "Apache-2.0"
    made["library.json"] = json.dumps(manifest).encode()
    write(made, tmp_path / "lib")
    run(BIN / "pio", "pkg", "pack", "lib", cwd=tmp_path, PLATFORMIO_CORE_DIR=str(tmp_path / "pio"))
    with tarfile.open(tmp_path / f"{source.package}-1.0.0.tar.gz") as archive:
        assert {"include/net.h", "src/net.c", "library.json", "LICENSE"} <= set(archive.getnames())


def test_espressifs_manager_packs_the_component(tmp_path: Path) -> None:
    source = library("esp32c3", maintainer="Jane Doe <jane@example.org>")
    write(tree("esp-idf", source), tmp_path / source.package)
    run(
        BIN / "compote", "--warnings-as-errors", "component", "pack", "--name", source.package,
        cwd=tmp_path / source.package, IDF_COMPONENT_CHECK_NEW_VERSION="0",
    )  # fmt: skip
    packed = tmp_path / source.package / "dist" / f"{source.package}_1.0.0.tgz"
    with tarfile.open(packed) as archive:
        assert {"include/net.h", "src/net.c", "CMakeLists.txt"} <= {
            name.removeprefix("./") for name in archive.getnames()
        }


#: What ESP-IDF's documentation says of the command: a library of these sources and folders.
IDF = """cmake_minimum_required(VERSION 3.16)
project(app C)
function(idf_component_register)
  cmake_parse_arguments(arg "" "" "SRCS;INCLUDE_DIRS;PRIV_INCLUDE_DIRS;REQUIRES" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  get_filename_component(name ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  add_library(${name} STATIC ${arg_SRCS})
  target_include_directories(${name} PUBLIC ${arg_INCLUDE_DIRS} PRIVATE ${arg_PRIV_INCLUDE_DIRS})
  set(COMPONENT_LIB ${name} PARENT_SCOPE)
endfunction()
add_subdirectory(COMPONENT)
add_executable(app main.c)
target_link_libraries(app COMPONENT m)
"""


def test_an_esp_idf_build_finds_everything(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    cmake = needs_tool("cmake")
    source = library("esp32c3")
    write(tree("esp-idf", source), tmp_path / source.package)
    (tmp_path / "CMakeLists.txt").write_text(
        IDF.replace("COMPONENT)", f"{source.package})").replace(
            "app COMPONENT", f"app {source.package}"
        )
    )
    (tmp_path / "main.c").write_text(main_program())
    run(cmake, "-B", "build", cwd=tmp_path)
    run(cmake, "--build", "build", cwd=tmp_path)
    run(tmp_path / "build" / "app", cwd=tmp_path)


#: What Zephyr's documentation says of its commands.
ZEPHYR = """cmake_minimum_required(VERSION 3.16)
project(app C)
add_library(zephyr_interface INTERFACE)
function(zephyr_include_directories)
  target_include_directories(zephyr_interface INTERFACE ${ARGN})
endfunction()
macro(zephyr_library_named name)
  set(ZEPHYR_CURRENT_LIBRARY ${name})
  add_library(${name} STATIC "")
  target_link_libraries(${name} PUBLIC zephyr_interface)
  target_link_libraries(app PRIVATE ${name})
endmacro()
function(zephyr_library_sources)
  target_sources(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endfunction()
function(zephyr_library_sources_ifdef option)
  if(${${option}})
    zephyr_library_sources(${ARGN})
  endif()
endfunction()
function(zephyr_library_include_directories)
  target_include_directories(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endfunction()
function(zephyr_library_compile_options)
  target_compile_options(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endfunction()
add_executable(app main.c)
add_subdirectory(MODULE/zephyr)
target_link_libraries(app PRIVATE zephyr_interface m)
"""


def test_a_zephyr_build_finds_everything(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    cmake = needs_tool("cmake")
    source = library()
    module = write(tree("zephyr", source), tmp_path / source.package)
    (tmp_path / "CMakeLists.txt").write_text(ZEPHYR.replace("MODULE", source.package))
    (tmp_path / "main.c").write_text(main_program())
    described = yaml.safe_load((module / "zephyr" / "module.yml").read_text())
    assert described == {
        "name": source.package, "build": {"cmake": "zephyr", "kconfig": "zephyr/Kconfig"},
    }  # fmt: skip
    assert (module / described["build"]["cmake"] / "CMakeLists.txt").is_file()
    assert (module / described["build"]["kconfig"]).is_file()
    run(
        cmake, "-B", "build", "-DCONFIG_EDGEOPT_NET=y", "-DCONFIG_EDGEOPT_NET_SELF_TEST=y",
        cwd=tmp_path,
    )  # fmt: skip
    run(cmake, "--build", "build", cwd=tmp_path)
    run(tmp_path / "build" / "app", cwd=tmp_path)


def test_kconfig_reads_the_options(tmp_path: Path) -> None:
    pytest.importorskip("kconfiglib")
    write(tree("zephyr", library()), tmp_path)
    said = run(
        sys.executable, "-c",
        "import kconfiglib, sys\n"
        "found = kconfiglib.Kconfig('zephyr/Kconfig')\n"
        "assert not found.warnings, found.warnings\n"
        "found.syms['EDGEOPT_NET_SELF_TEST'].set_value(2)\n"
        "print(found.syms['EDGEOPT_NET_SELF_TEST'].str_value)\n"
        "found.syms['EDGEOPT_NET'].set_value(2)\n"
        "print(found.syms['EDGEOPT_NET_SELF_TEST'].str_value)\n",
        cwd=tmp_path,
    )  # fmt: skip
    assert said.split() == ["n", "y"]


def description(source: Library, folder: Path) -> ET.Element:
    made = write(tree("cmsis-pack", source), folder)
    return ET.parse(made / f"edgeopt.{source.package}.pdsc").getroot()


def test_arms_manager_reads_the_pack(tmp_path: Path) -> None:
    source = library()
    write(tree("cmsis-pack", source), tmp_path)
    pack = tmp_path / f"edgeopt.{source.package}.1.0.0.pack"
    said = run(
        sys.executable, "-c",
        "import cmsis_pack_manager, sys\n"
        "cache = cmsis_pack_manager.Cache(True, True, json_path='c', data_path='c')\n"
        "print('read', cache.add_pack_from_path(sys.argv[1]) is not None)",
        pack, cwd=tmp_path,
    )  # fmt: skip
    assert "read True" in said


@pytest.mark.parametrize("board", ["rpi-pico", "nucleo-l4r5zi", "mps3-an547"])
def test_the_packs_description_follows_the_schema(board: str, tmp_path: Path) -> None:
    """The rules of PACK.xsd 1.7 for what is in it."""
    source = library(board, vendor="acme-1")
    made = tree("cmsis-pack", source)
    root = ET.fromstring(made[f"acme-1.{source.package}.pdsc"])
    assert root.tag == "package"
    assert re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", root.attrib["schemaVersion"])
    known = {"name", "vendor", "description", "url", "supportContact", "license", "releases",
             "keywords", "conditions", "components"}  # fmt: skip
    tags = [child.tag for child in root]
    assert len(tags) == len(set(tags))
    assert {"name", "vendor", "description", "url", "releases"} <= set(tags) <= known
    for tag in ("name", "vendor"):
        assert re.fullmatch(r"[\-_A-Za-z0-9]+", root.findtext(tag) or "")
    releases = root.findall("releases/release")
    assert [set(release.attrib) for release in releases] == [{"version"}]
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", releases[0].attrib["version"])
    conditions = {item.attrib["id"] for item in root.findall("conditions/condition")}
    cores = [item.attrib["Dcore"] for item in root.findall("conditions/condition/accept")]
    wanted = {"rpi-pico": "Cortex-M0+", "nucleo-l4r5zi": "Cortex-M4", "mps3-an547": "Cortex-M55"}
    assert wanted[board] in cores
    assert board == "rpi-pico" or "Cortex-M0" not in cores
    categories = {"doc", "header", "include", "sourceC"}
    for component in root.findall("components/component"):
        assert {"Cclass", "Cgroup", "Csub", "Cversion", "condition"} == set(component.attrib)
        assert component.attrib["condition"] in conditions
        assert {child.tag for child in component} == {"description", "files"}
        for file in component.findall("files/file"):
            assert file.attrib["category"] in categories
            path = file.attrib["name"]
            everything = {**source.files, "README.md": b""}
            assert path in everything or any(known.startswith(path) for known in everything)

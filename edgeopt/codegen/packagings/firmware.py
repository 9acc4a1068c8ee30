"""CMake for microcontrollers: a library, demo and bench firmware, a toolchain file."""

from __future__ import annotations

from dataclasses import replace

from edgeopt.codegen import machines, names
from edgeopt.codegen.emit import Code, render_template, runtime_file
from edgeopt.codegen.firmware import FLAGS
from edgeopt.codegen.machines.image import STACK_BYTES, board_file, linker_script
from edgeopt.codegen.machines.table import Machine, Region
from edgeopt.codegen.packagings.package import Package
from edgeopt.codegen.toolchain import install_hint
from edgeopt.core.device import DeviceProfile

#: What demo firmware reserves for the stack: twice what any network here was seen to take.
BOARD_STACK_BYTES = min(STACK_BYTES, 4096)
_EMULATOR_PACKAGES = {"qemu-system-riscv32": "qemu-system-misc"}
_FIXED = ("board.h", "board.c")
_LINE = ("edgeopt_line.h", "edgeopt_line.c", "edgeopt_counter.h", "edgeopt_counter.c")


def board_machine(profile: DeviceProfile) -> Machine:
    """The board's own memory map, with the core of the machine that stands for it."""
    ram, flash = profile.memory()
    return replace(
        machines.machine_for(profile),
        core=names.comment(profile.title, 80),
        code=Region(names.identifier(flash.name), flash.address, flash.size_bytes),
        ram=Region(names.identifier(ram.name), ram.address, ram.size_bytes),
        bulk=None,
    )


def files(code: Code, package: Package) -> dict[str, bytes]:
    """CMakeLists.txt, README.md, a toolchain file, and the firmware beside the library."""
    profile = package.firmware
    assert profile is not None
    machine = machines.machine_for(profile)
    start = "start_riscv.c" if machine.is_riscv else "start_arm.c"
    values = {
        "net": code.model,
        "banner": code.banner,
        "package": package,
        "device": profile.name,
        "title": names.comment(package.title, 80),
        "arch": package.arch,
        "sources": code.library_sources,
        "flags": " ".join((*package.c_flags, *FLAGS)),
        "c_flags": " ".join(package.c_flags),
        "compilers": profile.toolchain.compilers,
        "install": install_hint(profile.arch),
        "specs": machine.is_riscv,
        "start": start,
        "emulator": machine.qemu,
        "emulator_package": _EMULATOR_PACKAGES.get(machine.qemu[0], machine.qemu[0]),
        "emulated_uart": f"{machine.uart[0]}={machine.uart[1]:#x}U",
        "notes": names.comment(profile.notes, 400),
        "facts": [(names.comment(a), names.comment(b)) for a, b in package.facts],
    }
    found = {
        "CMakeLists.txt": render_template("firmware_cmake.txt.j2", **values),
        f"cmake/{code.model.id}Config.cmake": render_template("config.cmake.j2", **values),
        "README.md": render_template("README.md.j2", **values),
        f"cmake/{profile.name}.cmake": render_template("firmware_toolchain.cmake.j2", **values),
        "firmware/demo.c": render_template("firmware_demo.c.j2", **values),
        "firmware/bench.c": render_template("firmware_bench.c.j2", **values),
        "firmware/board.ld": linker_script(board_machine(profile), BOARD_STACK_BYTES).encode(),
        "firmware/emulated.ld": linker_script(machine).encode(),
    }
    found |= {f"firmware/{name}": board_file(name) for name in (*_FIXED, start)}
    found |= {f"firmware/{name}": runtime_file(name) for name in _LINE}
    return found

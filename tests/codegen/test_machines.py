"""Programs on every microcontroller core that QEMU has: built, run, counted, and failing well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from micro import need_machine

from edgeopt import devices
from edgeopt.codegen import machines
from edgeopt.codegen.machines import MACHINES, Image, Machine
from edgeopt.codegen.toolchain import STRICT_FLAGS
from edgeopt.core.errors import InputError, ToolError

HELLO = r"""
#include "board.h"
static uint32_t initialised = 0x1234u;
static volatile uint32_t cleared;
static volatile float half = 0.5f;
static volatile uint8_t deep[64];
__attribute__((section(".bulk.numbers"))) const volatile uint32_t numbers[2] = {7u, 11u};
int main(void);
int main(void) {
    board_stack_paint();
    board_print("hello\n");
    board_print_number(initialised + cleared);
    board_print(half * 3.0f == 1.5f ? "\nfloat\n" : "\nno float\n");
    board_count_begin();
    board_count_end();
    board_count_begin();
    __asm__ volatile(".rept 200\n\tnop\n\t.endr");
    board_count_end();
    deep[0] = 1u;
    if (numbers[1] != 11u) {
        return 1;
    }
    board_print_number(board_stack_used());
    board_print("\n");
    return 42;
}
"""


def program(folder: Path, machine: Machine, text: str, **more: object) -> Image:
    source = folder / "main.c"
    source.write_text(text)
    return machines.build(machine, [source], folder, flags=("-O2", *STRICT_FLAGS), **more)  # type: ignore[arg-type]


@pytest.fixture(params=MACHINES.values(), ids=str)
def machine(request: pytest.FixtureRequest, needs_tool: Callable[[str], str]) -> Machine:
    return need_machine(request.param, needs_tool)


@pytest.fixture
def m4(needs_tool: Callable[[str], str]) -> Machine:
    return need_machine(MACHINES["m4"], needs_tool)


def test_a_program_runs_and_is_counted_exactly(machine: Machine, tmp_path: Path) -> None:
    image = program(tmp_path, machine, HELLO)
    said = machines.run(image, count=True, functions=True)
    assert said.lines[:3] == ("hello", str(0x1234), "float")
    assert said.status == 42
    assert said.regions == (1, 201)
    assert 0 < int(said.lines[3]) < 1000
    assert said.functions["main"] > 200
    assert sum(said.functions.values()) == said.instructions
    again = machines.run(image, count=True)
    assert (again.instructions, again.regions) == (said.instructions, said.regions)
    assert 0 < image.data_bytes < 64 < image.text_bytes < 8000


def test_a_fault_names_the_function(machine: Machine, tmp_path: Path) -> None:
    image = program(tmp_path, machine, """
        int main(void);
        void stray(void);
        #if defined(__riscv)
        __attribute__((noinline)) void stray(void) { __asm__ volatile("unimp"); }
        #else
        __attribute__((noinline)) void stray(void) { __asm__ volatile("udf #1"); }
        #endif
        int main(void) { stray(); return 0; }
    """)  # fmt: skip
    with pytest.raises(ToolError, match=r"the program faulted in stray at 0x[0-9a-f]+ \(exc"):
        machines.run(image)


def test_a_program_that_hangs_is_ended(m4: Machine, tmp_path: Path) -> None:
    image = program(tmp_path, m4, "int main(void);\nint main(void) { for (;;) { } }\n")
    with pytest.raises(ToolError, match=r"did not end within 0\.5 s"):
        machines.run(image, timeout_s=0.5)


def test_a_region_without_an_end_is_refused(m4: Machine, tmp_path: Path) -> None:
    image = program(tmp_path, m4, """
        #include "board.h"
        int main(void);
        int main(void) { board_count_begin(); return 0; }
    """)  # fmt: skip
    with pytest.raises(ToolError, match="board_count_begin was called without board_count_end"):
        machines.run(image, count=True)


def test_a_program_that_does_not_fit_is_refused(m4: Machine, tmp_path: Path) -> None:
    large = "char large[8 << 20];\nint main(void);\nint main(void) { large[1] = 1; return 0; }\n"
    with pytest.raises(ToolError, match="region `ram' overflowed by"):
        program(tmp_path, m4, large)


def test_an_image_names_the_symbol_it_lacks(m4: Machine, tmp_path: Path) -> None:
    image = program(tmp_path, m4, "int main(void);\nint main(void) { return 0; }\n")
    assert image.address("main") > 0
    with pytest.raises(InputError, match="the image has no symbol 'nosuch'"):
        image.address("nosuch")


def test_without_the_emulator_the_message_names_what_to_install(
    m4: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = program(tmp_path, m4, "int main(void);\nint main(void) { return 0; }\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"qemu-system-arm is missing\n.*apt-get install qemu"):
        machines.run(image)


def test_a_profile_names_its_machine() -> None:
    assert machines.machine_for(devices.load("nucleo-l4r5zi")).name == "m4"
    assert machines.machine_for(devices.load("mps3-an547")).name == "m55"
    with pytest.raises(InputError, match="no machine of QEMU is known for device rpi4"):
        machines.machine_for(devices.load("rpi4"))
    nearly = devices.load("nucleo-l4r5zi")
    nearly = replace(nearly, runner=replace(nearly.runner, machine="mps2-an3866"))
    with pytest.raises(InputError, match="did you mean mps2-an386"):
        machines.machine_for(nearly)


def test_the_machines_are_those_of_the_profiles() -> None:
    """What kernels are written for does not depend on whether a profile or the table is asked."""
    firmware = [devices.load(name) for name in devices.available() if name != "local"]
    firmware = [profile for profile in firmware if profile.kind == "firmware"]
    known = {machines.machine_for(profile).name: profile for profile in firmware}
    assert known.keys() == MACHINES.keys()
    for name, profile in known.items():
        assert MACHINES[name].target == replace(profile.target, cores=1)
        assert MACHINES[name].c_flags == profile.toolchain.c_flags

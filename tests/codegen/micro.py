"""Machines without an operating system, for tests that skip where a tool is missing."""

from __future__ import annotations

from collections.abc import Callable

from edgeopt.codegen.machines import Machine


def need_machine(machine: Machine, needs_tool: Callable[[str], str]) -> Machine:
    """The machine, if what builds and runs its programs is installed; else the test skips."""
    needs_tool("riscv64-unknown-elf-gcc" if machine.is_riscv else "arm-none-eabi-gcc")
    needs_tool(machine.qemu[0])
    needs_tool("gcc")
    return machine

"""The machines: one a core, each the one that QEMU's documentation names for it.

Addresses are those of QEMU's machines (docs/system/arm/mps2.rst and the application notes it
names; docs/system/riscv/virt.rst), not of the boards that profiles describe.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError, suggest
from edgeopt.core.target import TargetSpec

_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Region:
    """A range of addresses."""

    name: str
    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A core as a machine of QEMU.

    Attributes:
        name: short, for tests and tables: ``m4``.
        core: its full name.
        target: what kernels are written for.
        qemu: the emulator and what selects the machine.
        c_flags: the core's flags for gcc.
        code: where code and constants lie; execution begins there.
        ram: where variables and the stack lie.
        uart: macro that names the kind of the first UART, and its address.
        bulk: memory for more constants than ``code`` holds, such as test vectors.
        exact: int8 is requantized in float32, as `core.affine` says; else in fixed point.
    """

    name: str
    core: str
    target: TargetSpec
    qemu: tuple[str, ...]
    c_flags: tuple[str, ...]
    code: Region
    ram: Region
    uart: tuple[str, int]
    bulk: Region | None = None
    exact: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def is_riscv(self) -> bool:
        """RISC-V rather than Arm."""
        return self.target.arch == "riscv32"

    @property
    def board(self) -> str:
        """QEMU's name of the machine."""
        return self.qemu[self.qemu.index("-M") + 1]


def _target(
    arch: str, triple: str, mcpu: str, features: str, registers: int = 13, *,
    bits: int = 32, l1d_bytes: int = 0,
) -> TargetSpec:  # fmt: skip
    return TargetSpec(
        arch=arch, triple=triple, mcpu=mcpu, features=frozenset(features.split()),
        vector_bits=bits, vector_registers=registers, l1d_bytes=l1d_bytes, l2_bytes=0, cores=1,
    )  # fmt: skip


def _mps2(image: str) -> tuple[str, ...]:
    return ("qemu-system-arm", "-M", f"mps2-{image}")


_ZBT = (Region("code", 0, 4 * _MB), Region("ram", 0x2000_0000, 4 * _MB))
_PSRAM = Region("bulk", 0x2100_0000, 16 * _MB)
_CMSDK = ("BOARD_UART_CMSDK", 0x4000_4000)

MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        # The micro:bit's chip with more memory than the real one's 16 KiB of RAM.
        Machine(
            "m0", "Cortex-M0+",
            _target("armv6m", "thumbv6m-none-eabi", "cortex-m0plus", "mclass", 8),
            ("qemu-system-arm", "-M", "microbit", "-global", "nrf51-soc.flash-size=4194304",
             "-global", "nrf51-soc.sram-size=1048576"),
            ("-mcpu=cortex-m0plus", "-mthumb", "-mfloat-abi=soft"),
            Region("code", 0, 4 * _MB), Region("ram", 0x2000_0000, _MB),
            ("BOARD_UART_NRF", 0x4000_2000), exact=False,
        ),
        Machine(
            "m4", "Cortex-M4F",
            _target("armv7em", "thumbv7em-none-eabihf", "cortex-m4",
                    "dsp vfp4d16sp thumb2 mclass"),
            _mps2("an386"), ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
            *_ZBT, _CMSDK, _PSRAM,
        ),
        Machine(
            "m7", "Cortex-M7",
            _target("armv7em", "thumbv7em-none-eabihf", "cortex-m7",
                    "dsp fp-armv8d16 thumb2 mclass", l1d_bytes=16 << 10),
            _mps2("an500"), ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"),
            *_ZBT, _CMSDK, Region("bulk", 0x6000_0000, 16 * _MB),
        ),
        # It starts in the secure world, whose addresses have bit 28 set.
        Machine(
            "m33", "Cortex-M33",
            _target("armv8m", "thumbv8m.main-none-eabihf", "cortex-m33",
                    "dsp fp-armv8d16sp thumb2 mclass"),
            _mps2("an505"),
            ("-mcpu=cortex-m33", "-mthumb", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
            Region("code", 0x1000_0000, 4 * _MB), Region("ram", 0x3800_0000, 4 * _MB),
            ("BOARD_UART_CMSDK", 0x5020_0000), Region("bulk", 0x8000_0000, 16 * _MB),
        ),
        Machine(
            "m55", "Cortex-M55",
            _target("armv8m", "thumbv8.1m.main-none-eabihf", "cortex-m55",
                    "dsp mve mve.fp fp-armv8d16 thumb2 mclass", 8, bits=128),
            ("qemu-system-arm", "-M", "mps3-an547"),
            ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"),
            Region("code", 0, 512 << 10), Region("ram", 0x2000_0000, 512 << 10),
            ("BOARD_UART_CMSDK", 0x5930_3000), Region("bulk", 0x7000_0000, 16 * _MB),
        ),
        Machine(
            "rv32", "RV32IMC",
            _target("riscv32", "riscv32-none-elf", "generic-rv32", "m c", 31),
            ("qemu-system-riscv32", "-M", "virt", "-cpu", "rv32,f=false,d=false,a=false",
             "-bios", "none"),
            ("-march=rv32imc", "-mabi=ilp32"),
            Region("code", 0x8000_0000, 4 * _MB), Region("ram", 0x8040_0000, 4 * _MB),
            ("BOARD_UART_16550", 0x1000_0000), Region("bulk", 0x8100_0000, 16 * _MB), exact=False,
        ),
    )
}  # fmt: skip


def machine_for(profile: DeviceProfile) -> Machine:
    """The machine on which a device's programs can be tried.

    Raises:
        InputError: the profile names none that is known.
    """
    for machine in MACHINES.values():
        if machine.board == profile.runner.machine:
            return machine
    boards = [machine.board for machine in MACHINES.values()]
    raise InputError(
        f"no machine of QEMU is known for device {profile.name} "
        f"(its runner names {profile.runner.machine or 'none'!r})",
        where=f"device {profile.name}",
        hint=suggest(profile.runner.machine, boards, noun="machine"),
    )  # fmt: skip

"""A board as edgeopt sees it: what it is, what it can do, and how each number is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.core.files import digest
from edgeopt.core.target import TargetSpec


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a number is known: its kind of source, and the document, probe or reasoning."""

    source: Source
    reference: str

    def __post_init__(self) -> None:
        if not self.reference.strip():
            raise InputError("a source needs a reference", hint="name the document or the probe")


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A range of a microcontroller's address space."""

    name: str
    kind: str  # "ram" or "flash"
    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CyclesPerInstruction:
    """What turns counted instructions into cycles: the mean, and how far networks spread."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Toolchain:
    """C compilers that can build for the device, preferred first, and the flags they need."""

    compilers: tuple[str, ...]
    c_flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Runner:
    """How a program gets to run: a transport's name and what it needs to know."""

    transport: str  # a name of `edgeopt.devices.transports.TRANSPORTS`
    program: str = ""  # the emulator, e.g. "qemu-aarch64"
    cpu: str = ""  # the emulator's name of the processor
    machine: str = ""  # the emulator's name of the board
    host: str = ""  # of a networked board: "pi@192.0.2.7:22", an adb serial; never a secret
    port: str = ""  # of a board on a serial line: "/dev/ttyACM0"
    baud: int = 0  # of the serial line; 0 for the usual 115200
    python: str = ""  # the board's interpreter that has onnxruntime; "python3" where empty


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device; None means unknown or not applicable, never zero.

    Every field in `NUMBERS` that is not None has an entry in ``provenance``; memory regions have
    theirs under ``region.<name>``.

    Attributes:
        name: what a user types, ``[a-z0-9-]``.
        kind: ``linux`` or ``firmware``.
        features: ISA features in LLVM's spelling.
        l2_bytes: second-level cache that one core can use.
        ram_bytes: memory that a deployment may use in all.
        flash_bytes: read-only memory for code and weights; None where storage is no concern.
        precisions: what kernels may compute in: ``f32``, ``i8``.
        regions: of a microcontroller's memory, the one that variables go into first.
        cycles_per_instruction: of a microcontroller whose time is found by counting instructions.
        threads: how many threads networks are to use; a deployment's choice, no figure of the
            device, and 1 unless `with_threads` says otherwise.
        compact: whether networks are to take little flash, at some cost in time: see `compacted`.
        folder: where the profile was read from; tables lie beside it. None for a probed device.
        vector_issue: vector multiply-accumulate instructions that a core starts a cycle.
    """

    name: str
    title: str
    chip: str
    core: str
    kind: str
    arch: str
    triple: str
    mcpu: str
    features: frozenset[str]
    cores: int
    vector_bits: int
    vector_registers: int
    clock_hz: int | None
    l1d_bytes: int | None
    l1i_bytes: int | None
    l2_bytes: int | None
    l3_bytes: int | None
    ram_bytes: int | None
    flash_bytes: int | None
    precisions: tuple[str, ...]
    toolchain: Toolchain
    runner: Runner
    provenance: Mapping[str, Provenance]
    regions: tuple[MemoryRegion, ...] = ()
    cycles_per_instruction: CyclesPerInstruction | None = None
    notes: str = ""
    threads: int = 1
    compact: bool = False
    folder: Path | None = field(default=None, compare=False)
    vector_issue: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        for name in NUMBERS:
            value = getattr(self, name)
            if value is not None and name not in self.provenance:
                raise InputError(f"{name} has no source", where=f"device {self.name}")
        if self.cycles_per_instruction and "cycles_per_instruction" not in self.provenance:
            raise InputError("cycles_per_instruction has no source", where=f"device {self.name}")
        for region in self.regions:
            if f"region.{region.name}" not in self.provenance:
                raise InputError(
                    f"memory region {region.name} has no source", where=f"device {self.name}"
                )

    @property
    def target(self) -> TargetSpec:
        """What kernel templates need to know of the device."""
        return TargetSpec(
            arch=self.arch,
            triple=self.triple,
            mcpu=self.mcpu,
            features=self.features,
            vector_bits=self.vector_bits,
            vector_registers=self.vector_registers,
            l1d_bytes=self.l1d_bytes or 0,
            l2_bytes=self.l2_bytes or 0,
            cores=self.cores,
            threads=self.threads,
            compact=self.compact,
            narrow=self.compact,
        )

    def memory(self) -> tuple[MemoryRegion, MemoryRegion]:
        """Where firmware lies: the first region of RAM, and the first of flash.

        Raises:
            InputError: the profile does not say where the device's RAM or flash is.
        """
        found = []
        for kind in ("ram", "flash"):
            of_kind = [region for region in self.regions if region.kind == kind]
            if not of_kind:
                raise InputError(
                    f"the memory map of device {self.name} is incomplete: no region of kind "
                    f"{kind!r} says where its {kind} is",
                    where=str(self.folder or self.name),
                    hint="add [[memory.region]] with name, kind, address, size_bytes and source",
                )
            found.append(of_kind[0])
        return found[0], found[1]

    def with_threads(self, threads: int) -> DeviceProfile:
        """The same device, for networks that use so many threads.

        Raises:
            InputError: the device has fewer cores.
        """
        if not 1 <= threads <= self.cores:
            raise InputError(
                f"device {self.name} cannot run {threads} threads at once", where="--threads",
                hint=f"it has {self.cores} core{'s' if self.cores > 1 else ''}",
            )  # fmt: skip
        return replace(self, threads=threads)

    def compacted(self, compact: bool = True) -> DeviceProfile:
        """The same device, for networks whose flash is limited."""
        return replace(self, compact=compact)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over what decides generated code and its timing.

        The clock and the processors in use are left out: they vary from run to run on a probed
        machine, and a table records them with its measurements.
        """
        parts = (
            self.name, self.chip, self.core, self.triple, self.mcpu, sorted(self.features),
            self.vector_bits, self.vector_registers,
            self.l1d_bytes, self.l1i_bytes, self.l2_bytes, self.l3_bytes,
        )  # fmt: skip
        return digest(repr(parts).encode())[:16]


#: The fields of a profile that are figures and so carry a source.
NUMBERS: tuple[str, ...] = tuple(
    item.name
    for item in fields(DeviceProfile)
    if item.name.endswith(("_bytes", "_hz", "_bits"))
    or item.name in ("cores", "vector_registers", "vector_issue")
)

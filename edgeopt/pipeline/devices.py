"""The list of boards, as ``edgeopt devices`` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeopt import devices
from edgeopt.core.units import show_size


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One board in short."""

    name: str
    title: str
    core: str
    cores: int
    clock_hz: int | None
    ram_bytes: int | None
    flash_bytes: int | None
    precisions: tuple[str, ...]
    latency: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """For a table; what is unknown or does not apply is a dash."""
        clock = "-" if self.clock_hz is None else f"{self.clock_hz / 1e6:.0f} MHz"
        ram = "-" if self.ram_bytes is None else show_size(self.ram_bytes)
        flash = "-" if self.flash_bytes is None else show_size(self.flash_bytes)
        names = {"f32": "fp32", "i8": "int8"}
        precisions = ", ".join(names.get(p, p) for p in self.precisions)
        return (self.name, f"{self.cores} x {self.core}", clock, ram, flash, precisions,
                self.latency)  # fmt: skip


def describe_devices(profile_dirs: Sequence[Path] = ()) -> list[DeviceRow]:
    """Every known board, ``local`` first.

    Raises:
        InputError: a profile with a mistake.
    """
    from edgeopt.latency import latency_source

    rows = []
    for name in devices.available(profile_dirs):
        profile = devices.load(name, profile_dirs)
        rows.append(
            DeviceRow(
                name=profile.name,
                title=profile.title,
                core=profile.core,
                cores=profile.cores,
                clock_hz=profile.clock_hz,
                ram_bytes=profile.ram_bytes,
                flash_bytes=profile.flash_bytes,
                precisions=profile.precisions,
                latency=latency_source(profile),
            )
        )
    return rows

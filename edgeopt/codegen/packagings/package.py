"""What a packaging is told of the device that code was generated for."""

from __future__ import annotations

from dataclasses import dataclass

from edgeopt.core.device import DeviceProfile


@dataclass(frozen=True, slots=True)
class Package:
    """The device's side of a bundle's build files.

    Attributes:
        title: the device's name for people.
        arch: of the objects, as `TargetSpec.arch`.
        c_flags: compiler flags of the device.
        compiler: the cross compiler's program name.
        emulator: program and arguments that run an executable of the device on another machine;
            empty where there is none.
        facts: lines for the README: what, value.
        firmware: the device, where it is a microcontroller.
    """

    title: str
    arch: str
    c_flags: tuple[str, ...] = ()
    compiler: str = ""
    emulator: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    firmware: DeviceProfile | None = None

    @classmethod
    def of(cls, profile: DeviceProfile, facts: tuple[tuple[str, str], ...] = ()) -> Package:
        """For a device profile.

        ``local`` is probed, so its flags could differ between machines that make and build a
        bundle; they are left out, the kernels are compiled already.
        """
        runner = profile.runner
        emulator: tuple[str, ...] = ()
        if runner.transport == "qemu_user":
            emulator = (runner.program, *(("-cpu", runner.cpu) if runner.cpu else ()))
        crossing = [c for c in profile.toolchain.compilers if c.startswith(profile.arch)]
        return cls(
            title=profile.title,
            arch=profile.arch,
            c_flags=() if profile.folder is None else profile.toolchain.c_flags,
            compiler=crossing[0] if crossing else "",
            emulator=emulator,
            facts=facts,
            firmware=profile if profile.kind == "firmware" else None,
        )

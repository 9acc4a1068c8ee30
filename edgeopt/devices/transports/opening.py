"""From what a user typed and a profile says to an open link."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError, suggest
from edgeopt.devices.transports.address import GROUP, PORT, TRANSPORTS, Address
from edgeopt.devices.transports.link import BuildShared, Endpoint, FirmwareLink, Link

#: Those that reach firmware: `open_firmware_link` opens them.
FIRMWARE = frozenset({"qemu_system", "serial"})
#: Those that go to ``--host``, the first by default.
NETWORKED = ("ssh", "adb", "tvm_rpc")


def choose(
    profile: DeviceProfile, *, host: str | None = None, port: str | None = None,
    transport: str | None = None,
) -> str:  # fmt: skip
    """The name of the transport that a command line and a profile ask for.

    What was typed wins: ``--transport``, then ``--host`` (the profile's transport where it is a
    networked one, else ssh), then ``--port`` (serial); then the profile.

    Raises:
        InputError: an unknown transport (near misses suggested), or options that exclude each
            other.
    """
    if host is not None and port is not None:
        raise InputError(
            "--host and --port are two ways to reach a board", where="--port",
            hint="give one; a port of ssh is written --host user@board:2222",
        )  # fmt: skip
    known = names()
    if transport is not None:
        if transport not in known:
            raise InputError(
                f"unknown transport {transport[:60]!r}", where="--transport",
                hint=suggest(transport[:60], known, noun="transport"),
            )  # fmt: skip
        return transport
    if host is not None:
        return profile.runner.transport if profile.runner.transport in NETWORKED else NETWORKED[0]
    return "serial" if port is not None else profile.runner.transport


def names() -> tuple[str, ...]:
    """All transports, edgeopt's own first."""
    others = {point.name for point in entry_points(group=GROUP)} - set(TRANSPORTS)
    return (*TRANSPORTS, *sorted(others))


def open_link(
    profile: DeviceProfile, *, host: str | None = None, port: str | None = None,
    transport: str | None = None, build_shared: BuildShared | None = None,
) -> Link:  # fmt: skip
    """Connect to a board that has an operating system.

    Args:
        profile: the device.
        host: ``user@board[:port]``, a device's adb serial, or ``host:port[/key]`` of a TVM server
            or tracker; None for the profile's.
        port: a serial port; None for the profile's.
        transport: its name; None to choose by the others.
        build_shared: compiles the helper that ``tvm_rpc`` needs on the board.

    Raises:
        InputError: options that are wrong, or do not fit the device.
        BoardUnreachable: no connection.
        ToolError: a program or a package is missing.
    """
    endpoint = _endpoint(profile, host, port, build_shared)
    name = choose(profile, host=host, port=port, transport=transport)
    if name in FIRMWARE:
        raise InputError(
            f"transport {name!r} reaches firmware, which runs no programs", where="--transport",
            hint=f"choose from {', '.join(n for n in names() if n not in FIRMWARE)}",
        )  # fmt: skip
    return cast(Link, _load(name).open(endpoint))


def open_firmware_link(
    profile: DeviceProfile, *, host: str | None = None, port: str | None = None,
    transport: str | None = None,
) -> FirmwareLink:  # fmt: skip
    """Connect to a microcontroller; its firmware is started with `FirmwareLink.start`.

    Args:
        profile: the device.
        host: not for firmware.
        port: a serial port; None for the profile's.
        transport: its name; None to choose by the others.

    Raises:
        InputError: options that are wrong, or do not fit the device.
        BoardUnreachable: the port cannot be opened.
        ToolError: a program or a package is missing.
    """
    endpoint = _endpoint(profile, host, port, None)
    name = choose(profile, host=host, port=port, transport=transport)
    if name in TRANSPORTS and name not in FIRMWARE:
        raise InputError(
            f"transport {name!r} runs programs; {profile.name} has firmware only",
            where="--transport", hint=f"choose from {', '.join(sorted(FIRMWARE))}",
        )  # fmt: skip
    return cast(FirmwareLink, _load(name).open(endpoint))


def _endpoint(
    profile: DeviceProfile, host: str | None, port: str | None, build_shared: BuildShared | None
) -> Endpoint:
    if host is not None:
        Address.parse(host)
    if port is not None and (port.startswith("-") or not PORT.fullmatch(port)):
        raise InputError(
            f"{port[:60]!r} is not a serial port", where="--port", hint="write /dev/ttyACM0"
        )
    runner = profile.runner
    return Endpoint(
        profile, runner.host if host is None else host, runner.port if port is None else port,
        build_shared,
    )  # fmt: skip


def _load(name: str) -> Any:
    """The class of a transport.

    Raises:
        InputError: another package's transport that cannot be imported; says which and why.
    """
    if name in TRANSPORTS:
        module, _, attribute = TRANSPORTS[name].partition(":")
        return getattr(import_module(module), attribute)
    point = next(iter(entry_points(group=GROUP, name=name)))
    try:
        return point.load()
    except Exception as error:  # whatever another package's import raises
        owner = point.dist.name if point.dist is not None else "another package"
        raise InputError(
            f"transport {name!r} of {owner} cannot be loaded: {error}", where=point.value,
            hint=f"update or remove {owner}",
        ) from error  # fmt: skip

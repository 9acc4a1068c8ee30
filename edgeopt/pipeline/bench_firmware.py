"""`edgeopt bench` for microcontrollers: the bundle's bench firmware, on the board or emulated.

On a board, reached over a serial port, the firmware that the user flashed says how many cycles it
took: measured. Under emulation cycles mean nothing; the emulator's clock is tied to its count of
instructions, a loop of known length says what a tick is, and time is simulated from that.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from edgeopt import devices
from edgeopt.codegen import firmware as built
from edgeopt.codegen import testvectors
from edgeopt.codegen.machines import Machine
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import BoardError, InputError, ToolError
from edgeopt.core.estimates import Source
from edgeopt.devices.transports import FirmwareLink, open_firmware_link
from edgeopt.devices.transports.conversation import json_object
from edgeopt.devices.transports.opening import choose
from edgeopt.devices.transports.qemu_system import QemuSystemLink
from edgeopt.pipeline import bundle, firmware
from edgeopt.pipeline.manifest import Manifest

#: An instruction is 2^4 ns of the emulator's time: fine enough to count them with its timers, and
#: slow enough for 40 million in the 24 bits of SysTick.
CLOCK = ("-icount", "shift=4,align=off,sleep=off")
MAX_SAMPLES = 32


@dataclass(frozen=True, slots=True)
class KernelCount:
    """One kernel in its place in the network."""

    name: str
    count: float
    time_ns: float
    share: float


@dataclass(frozen=True, slots=True)
class FirmwareBench:
    """What bench firmware said.

    Attributes:
        where: the board's port, or the emulator.
        unit: of the counts: ``cycles``, or ``instructions`` under emulation.
        counter: what counted: ``dwt``, ``systick`` or ``cycle``.
        source: of the times.
        runs: inferences that were counted.
        count: of one inference, the median.
        time_ns: of one inference; equal to its bounds where it was measured.
        self_test: whether the embedded vectors came out right; None without any.
    """

    where: str
    unit: str
    counter: str
    source: Source
    runs: int
    count: float
    time_ns: float
    low_ns: float
    high_ns: float
    self_test: bool | None
    kernels: tuple[KernelCount, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"schema": 1, **asdict(self)}


def bench_firmware(
    folder: Path,
    *,
    runs: int = 3,
    kernels: bool = False,
    port: str | None = None,
    transport: str | None = None,
) -> FirmwareBench:
    """Ask bench firmware what a bundle's network takes.

    Args:
        folder: of the bundle, made for a microcontroller.
        runs: counted inferences, at most `MAX_SAMPLES` a request.
        kernels: count every kernel as well.
        port: of a board that runs the bundle's ``bench`` firmware.
        transport: ``qemu_system`` or ``serial``, if not as the port and the profile say.

    Raises:
        InputError: no bundle, or it is not for a microcontroller.
        ToolError: toolchain or emulator is missing or fails.
        BoardError: the board does not answer, or runs another firmware.
    """
    manifest, files = bundle.read_files(folder)
    profile = devices.load(manifest.device)
    if profile.kind != "firmware":
        raise InputError(
            f"the bundle is for {profile.title}, which runs programs, not firmware",
            where=str(folder), hint="leave --port and --transport out",
        )  # fmt: skip
    name = choose(profile, port=port, transport=transport)
    if name == "serial":
        with open_firmware_link(profile, port=port, transport=transport) as link:
            info = _first(link.start(), manifest, link.name)
            return _ask(link, info, manifest, profile, runs, kernels, emulated=False)
    board = firmware.board_of(profile)
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as work:
        vectors = testvectors.load(files, str(folder))
        net = built.of_bundle(manifest.name, files, vectors, len(manifest.kernels))
        image = built.build_bench(files, net, board.machine, board.compiler, Path(work))
        with emulated(board.machine, profile) as link:
            info = _first(link.start(image), manifest, link.name)
            return _ask(link, info, manifest, profile, runs, kernels, emulated=True)


def emulated(machine: Machine, profile: DeviceProfile) -> FirmwareLink:
    """A link to firmware on an emulated machine whose clock counts instructions.

    Raises:
        ToolError: the emulator is missing.
    """
    path = shutil.which(machine.qemu[0])
    if path is None:
        raise ToolError(
            f"{machine.qemu[0]} is not installed", where=f"device {profile.name}",
            hint="apt-get install qemu-system-arm qemu-system-misc",
        )  # fmt: skip
    at = machine.qemu.index("-M")
    rest = (*machine.qemu[1:at], *machine.qemu[at + 2 :])
    return cast(FirmwareLink, QemuSystemLink(path, machine.board, options=(*rest, *CLOCK)))


def _first(line: str, manifest: Manifest, where: str) -> dict[str, Any]:
    """What the firmware says of itself, if it is this bundle's."""
    info = json_object(line, where)
    title = manifest.name[:80]
    if info.get("kernels") != len(manifest.kernels) or info.get("name") != title:
        raise BoardError(
            f"runs firmware of {str(info.get('name'))[:80]!r} with {info.get('kernels')} kernels, "
            f"not of {title!r} with {len(manifest.kernels)}",
            where=where, hint="flash the bench firmware of this bundle",
        )  # fmt: skip
    return info


def _ask(
    link: FirmwareLink,
    info: dict[str, Any],
    manifest: Manifest,
    profile: DeviceProfile,
    runs: int,
    kernels: bool,
    *,
    emulated: bool,
) -> FirmwareBench:
    scale = 1.0
    if emulated:
        scale = _positive(info, "loop_instructions", link) / _positive(info, "loop_cycles", link)
    counts: list[float] = []
    while len(counts) < runs:
        some = min(runs - len(counts), MAX_SAMPLES)
        (answer,) = _answers(link, f"run --samples {some}", "cycles")
        counts += [scale * value for value in answer]
    count = statistics.median(counts)
    each: list[float] = []
    if kernels:
        each = [scale * values[0] for values in _answers(link, "visit", "cycles")]
        if len(each) != len(manifest.kernels):
            raise BoardError(
                f"counted {len(each)} of {len(manifest.kernels)} kernels", where=link.name,
                hint="flash the bench firmware of this bundle",
            )  # fmt: skip
    verdict: bool | None = None
    if manifest.figure("stack_bytes") is not None:
        (status,) = [json_object(line, link.name) for line in _lines(link, "selftest")]
        verdict = status.get("selftest") == 0
    value, low, high = _time(profile, count, emulated=emulated)
    total = sum(each) or 1.0
    return FirmwareBench(
        where=link.name,
        unit="instructions" if emulated else "cycles",
        counter=str(info.get("counter"))[:20],
        source=Source.SIMULATED if emulated else Source.MEASURED,
        runs=len(counts),
        count=count,
        time_ns=value,
        low_ns=low,
        high_ns=high,
        self_test=verdict,
        kernels=tuple(
            KernelCount(kernel.name, n, _time(profile, n, emulated=emulated)[0], n / total)
            for kernel, n in zip(manifest.kernels, each, strict=False)
        ),
    )


def _time(profile: DeviceProfile, count: float, *, emulated: bool) -> tuple[float, float, float]:
    """Time (ns) of a count: value, low, high."""
    if emulated:
        return firmware.cycles_to_ns(profile, count)
    assert profile.clock_hz is not None
    value = 1e9 * count / profile.clock_hz
    return value, value, value


def _lines(link: FirmwareLink, request: str) -> Iterator[str]:
    """The lines of an answer, but its end."""
    for line in link.request(request):
        if json_object(line, link.name).get("done") is not True:
            yield line


def _answers(link: FirmwareLink, request: str, name: str) -> list[list[float]]:
    """The numbers in each line of an answer."""
    found = []
    for line in _lines(link, request):
        values = json_object(line, link.name).get(name)
        good = isinstance(values, list) and values and all(
            isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values
        )  # fmt: skip
        if not good or not isinstance(values, list):
            raise BoardError(
                f"counted {str(values)[:40]} in answer to {request!r}", where=link.name,
                hint="does the counter run? See edgeopt_counter.c",
            )  # fmt: skip
        found.append([float(v) for v in values])
    return found


def _positive(info: dict[str, Any], name: str, link: FirmwareLink) -> float:
    value = info.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise BoardError(
            f"says {name} is {str(value)[:40]}", where=link.name,
            hint="is this the bundle's bench firmware?",
        )  # fmt: skip
    return float(value)

"""`edgeopt profile` of a microcontroller: kernels counted under emulation, or timed on the board.

Under emulation instructions are counted, exactly, and become time by the profile's cycles an
instruction: the table's source is ``simulated``. On a board the same kernels, in bench firmware
that the user flashes, are timed in cycles over a serial port: ``measured``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.codegen import bench_firmware
from edgeopt.codegen.packagings.firmware import BOARD_STACK_BYTES, board_machine
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.estimates import Source
from edgeopt.core.files import write_atomic
from edgeopt.core.kernels import OpKey
from edgeopt.devices.transports import FirmwareLink, open_firmware_link
from edgeopt.devices.transports.conversation import json_object
from edgeopt.latency.meters.counting import CountingMeter
from edgeopt.latency.table import LatencyTable, Measurement, load_table
from edgeopt.pipeline import enumerate as kernels
from edgeopt.pipeline import firmware, firmware_meter
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.compile import Progress
from edgeopt.pipeline.firmware import Board

if TYPE_CHECKING:
    from edgeopt.core.space import SearchSpace
    from edgeopt.pipeline.profile import ProfileReport, ProfileRequest

#: Kernels in the bench firmware of a board: all lie in its flash at once.
BOARD_KERNELS = 48
SAMPLES = 5
#: Keys in a request: a line has 505 characters, a key 12.
KEYS_A_REQUEST = 16


def profile_firmware(
    request: ProfileRequest, device: DeviceProfile, progress: Progress
) -> ProfileReport:
    """Count or time a microcontroller's kernels and write its table.

    Raises:
        InputError: an option that firmware has no use for, or nothing to measure.
        ToolError: toolchain or emulator is missing or fails.
        BoardError: the board does not answer, or runs another firmware.
    """
    from edgeopt.devices.transports.opening import choose
    from edgeopt.pipeline.profile import ProfileReport

    began = time.monotonic()
    if request.runtime != "edgeopt":
        raise InputError(
            f"{request.runtime} does not run on {device.name}", where="--meter",
            hint="leave it out, or write --meter tvm: edgeopt's own kernels are counted",
        )  # fmt: skip
    name = choose(
        device, host=request.reach.host, port=request.reach.port, transport=request.reach.transport
    )
    board = firmware.board_of(device)
    progress("end", {"stage": "device", "text": f"{device.title}, {board.compiler.name}"})

    progress("start", {"stage": "enumerate"})
    keys = _keys(request, device)
    path = _path(request, device)
    store = StageCache(default_cache_dir() if request.cache else None)
    on_board = name == "serial"
    if on_board:
        keys = kernels.spread(keys, BOARD_KERNELS)
    progress("end", {"stage": "enumerate", "text": f"{len(keys)} kernels"})

    def counted(done: int, total: int) -> None:
        progress("detail", {"stage": "measure", "text": f"{done} of {total} kernels"})

    progress("start", {"stage": "measure"})
    skipped: dict[OpKey, str]
    if on_board:
        table, skipped = _measured(request, board, keys, path)
    else:
        used = None if request.force else store
        table, skipped = simulated_table(board, keys, used, counted)
    measured = len(table.entries)
    known = _known(path, table, force=request.force)
    if known is not None:
        table = known.merged(table)
    progress("end", {"stage": "measure", "text": f"{measured} kernels, {table.source}"})

    progress("start", {"stage": "networks"})
    progress("end", {"stage": "networks", "text": "none: `edgeopt compile` counts each it builds"})
    progress("start", {"stage": "table"})
    table.save(path)
    progress("end", {"stage": "table", "text": str(path)})
    return ProfileReport(
        path=path, table=table, measured=measured, skipped=skipped, unfinished=(), disturbed=0,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _keys(request: ProfileRequest, device: DeviceProfile) -> tuple[OpKey, ...]:
    precisions = tuple(p for p in request.precisions if p in kernels.available(device))
    if not precisions:
        raise InputError(
            f"device {device.name} has no {request.precisions[0]} kernels", where="--precision",
            hint=f"it has: {', '.join(kernels.available(device))}",
        )  # fmt: skip
    found: dict[OpKey, None] = {}
    if request.space:
        found.update(dict.fromkeys(_space_keys(request.space, device, precisions)))
    if request.models:
        models = kernels.kernels_of_models(request.models, precisions, device.target)
        found.update(dict.fromkeys(models))
    if not found:
        raise InputError(
            "there is nothing to measure", where="edgeopt profile",
            hint="name a search space with --space, or ONNX networks",
        )  # fmt: skip
    return tuple(found)


def _space_keys(name: str, device: DeviceProfile, precisions: Sequence[str]) -> tuple[OpKey, ...]:
    from edgeopt.ofa.spaces import load_space

    return kernels.kernels_of_space(load_space(name), precisions, target=device.target)


def _path(request: ProfileRequest, device: DeviceProfile) -> Path:
    from edgeopt.latency.select import made_table_dir, table_path

    if request.out is not None:
        return request.out
    return table_path(made_table_dir(), device)


def _known(path: Path, table: LatencyTable, *, force: bool) -> LatencyTable | None:
    """An earlier table of the same code and kind, to add to."""
    if force or not path.exists():
        return None
    known = load_table(path)
    same = known.identity == table.identity and known.source == table.source
    return known if same else None


def simulated_table(
    board: Board,
    keys: Sequence[OpKey],
    store: StageCache | None = None,
    progress: firmware_meter.Progress | None = None,
) -> tuple[LatencyTable, dict[OpKey, str]]:
    """Kernels counted under emulation, as a table; those without a count, with the reason.

    Raises:
        InputError: nothing could be counted.
        ToolError: toolchain or emulator fails.
    """
    meter = firmware_meter.emulated_meter(board, store, progress)
    skipped = meter.prepare(keys)
    entries = {
        window.key: Measurement(window.samples_ns[0], 0.0, 1)
        for window in meter.visit([key for key in dict.fromkeys(keys) if key not in skipped])
    }
    conditions = firmware_meter.conditions_of(board)
    return _table(board, meter, entries, conditions, Source.SIMULATED, skipped), skipped


def _table(
    board: Board,
    meter: CountingMeter,
    entries: Mapping[OpKey, Measurement],
    conditions: Mapping[str, str],
    source: Source,
    skipped: Mapping[OpKey, str],
) -> LatencyTable:
    if not entries:
        key, why = next(iter(skipped.items()))
        raise InputError(
            f"none of the {len(skipped)} kernels can be counted; the first: {why}", where=str(key),
            hint="is the network int8?",
        )  # fmt: skip
    return LatencyTable(
        device=board.profile.name,
        fingerprint=board.profile.fingerprint,
        runtime=meter.runtime,
        runtime_version=meter.runtime_version,
        threads=meter.threads,
        entries=entries,
        conditions=conditions,
        source=source,
    )


# On the board -----------------------------------------------------------------------------------


def _measured(
    request: ProfileRequest, board: Board, keys: Sequence[OpKey], path: Path
) -> tuple[LatencyTable, dict[OpKey, str]]:
    """Kernels timed by the board itself, by a protocol that journals every visit."""
    from edgeopt.latency.protocol import Protocol, profile_device

    jobs, failed = firmware_meter.jobs_of(keys, board)
    image_path = path.with_name(f"{path.name}.elf")
    with open_firmware_link(
        board.profile, port=request.reach.port, transport="serial"
    ) as link:  # fmt: skip
        counter = SerialCounter(board, link, tuple(job.key for job in jobs), image_path)
        counter.open()
        meter = CountingMeter(
            counter, firmware_meter.ckernels_version(), ns_per_count=counter.ns_per_cycle,
            batch=KEYS_A_REQUEST,
        )  # fmt: skip
        result = profile_device(
            board.profile, counter.keys, meter, path.with_name(path.name + ".journal"),
            resume=request.resume, budget_s=request.budget_s,
            protocol=Protocol(chunk=KEYS_A_REQUEST),
        )  # fmt: skip
    conditions = {
        "board": link.name, "counter": counter.counter, "compiler": board.compiler.version,
        "clock_hz": str(board.profile.clock_hz),
    }  # fmt: skip
    table = replace(result.table, conditions=conditions)
    return table, {**failed, **counter.refused, **result.skipped}


@dataclass(slots=True)
class SerialCounter:
    """Cycles of kernels as bench firmware on the board counts them.

    Args:
        board: what its image is built for.
        link: to the board; opened, but not started.
        keys: that the image has.
        image: where it is written for the user to flash.
    """

    board: Board
    link: FirmwareLink
    keys: tuple[OpKey, ...]
    image: Path
    counter: str = ""
    refused: dict[OpKey, str] = field(default_factory=dict)

    @property
    def ns_per_cycle(self) -> float:
        """At the clock that the profile states."""
        assert self.board.profile.clock_hz is not None
        return 1e9 / self.board.profile.clock_hz

    def open(self) -> None:
        """Build the image and see that the board runs it.

        Raises:
            BoardError: it runs something else; the image to flash is named.
        """
        jobs, _ = firmware_meter.jobs_of(self.keys, self.board)
        machine = board_machine(self.board.profile)
        with tempfile.TemporaryDirectory(prefix="edgeopt-") as work:
            built, self.refused = bench_firmware.build_kernels(
                jobs, machine, self.board.compiler, Path(work), line=True,
                stack_bytes=BOARD_STACK_BYTES,
            )  # fmt: skip
            if built is not None:
                write_atomic(self.image, built.path.read_bytes())
        self.keys = tuple(key for key in self.keys if key not in self.refused)
        info = json_object(self.link.start(), self.link.name)
        wanted = bench_firmware.mark_of(self.keys)
        if info.get("set") != wanted:
            raise BoardError(
                f"does not run the bench firmware of these {len(self.keys)} kernels (set {wanted})",
                where=self.link.name,
                hint=f"flash {self.image} (with your debugger's tool), and run this again",
            )
        self.counter = str(info.get("counter"))[:20]

    def __call__(
        self, keys: Sequence[OpKey]
    ) -> tuple[Mapping[OpKey, Sequence[int]], Mapping[OpKey, str]]:
        """The cycles of some kernels."""
        return dict(self._visit(keys)), {}

    def _visit(self, keys: Sequence[OpKey]) -> Iterator[tuple[OpKey, list[int]]]:
        by_digest = {key.digest: key for key in keys}
        asked = f"visit {' '.join(by_digest)} --samples {SAMPLES}"
        for line in self.link.request(asked):
            message = json_object(line, self.link.name)
            if message.get("done") is True:
                break
            key = by_digest.pop(str(message.get("key")), None)
            cycles = message.get("cycles")
            if key is None or not _counts(cycles):
                raise BoardError(
                    f"counted {str(cycles)[:40]} for {str(message.get('key'))[:20]!r}",
                    where=self.link.name, hint="does the counter run? See edgeopt_counter.c",
                )  # fmt: skip
            assert isinstance(cycles, list)
            yield key, [int(value) for value in cycles]
        if by_digest:
            raise BoardError(
                f"left out {len(by_digest)} of {len(keys)} kernels", where=self.link.name,
                hint=f"flash {self.image} again",
            )  # fmt: skip


def _counts(values: object) -> bool:
    return (
        isinstance(values, list)
        and 0 < len(values) <= 64
        and all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values)
    )


# For a search -----------------------------------------------------------------------------------


def ensure_table(
    profile: DeviceProfile, space: SearchSpace, store: StageCache, *, packed: bool = False
) -> None:
    """Count a space's kernels for a search, unless a table of this code has them already.

    A table that was measured on the board is left as it is, packed kernels or not.

    Args:
        profile: the microcontroller.
        space: what will be searched.
        store: of counts.
        packed: those of packed weights too.

    Raises:
        ToolError: toolchain or emulator is missing or fails.
    """
    from edgeopt.latency.select import find_table, made_table_dir, table_path

    version = firmware_meter.ckernels_version()
    found = find_table(profile, runtime_version=version)
    if found is not None and (
        not packed
        or found.source is not Source.SIMULATED
        or any(key.weight_bits for key in found.entries)
    ):
        return
    precisions = kernels.available(profile) if packed else profile.precisions
    keys = kernels.kernels_of_space(space, precisions, target=profile.target)
    table, _ = simulated_table(firmware.board_of(profile), keys, store)
    if found is not None:  # it may have kernels of other networks
        table = found.merged(table)
    table.save(table_path(made_table_dir(), profile))

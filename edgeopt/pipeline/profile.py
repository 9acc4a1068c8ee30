"""Measuring a device's latency table: from a search space or networks to a calibrated table.

Kernels are enumerated, built, and visited by the protocol of `edgeopt.latency.protocol`; then
whole networks are timed, and the step from summed kernels to networks is fitted and its error
found. What is already in the table is not measured again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import devices
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError, suggest
from edgeopt.core.estimates import Source
from edgeopt.core.kernels import Kernel, OpKey
from edgeopt.latency.combine import METHODS
from edgeopt.latency.select import estimates
from edgeopt.pipeline import enumerate as kernels
from edgeopt.pipeline.active import measure_actively, usage_of
from edgeopt.pipeline.boards import HERE, Board, Reach, open_board, recorded, settle, unique
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.compile import Progress, no_progress
from edgeopt.pipeline.kernel_store import codegen_version
from edgeopt.pipeline.local_table import QUICK
from edgeopt.pipeline.profile_networks import Times, network_times, with_networks

if TYPE_CHECKING:
    from edgeopt.core.space import SearchSpace
    from edgeopt.latency.journal import AnchorVisit
    from edgeopt.latency.meters import Meter
    from edgeopt.latency.protocol import Progress as Standing
    from edgeopt.latency.protocol import Result
    from edgeopt.latency.table import LatencyTable
    from edgeopt.pipeline.kernel_programs import KernelPrograms

#: Of a budget, what goes to kernels; the rest is for whole networks.
KERNEL_SHARE = 0.6
_IDENTITY = ("device", "fingerprint", "runtime", "runtime_version", "threads")
STAGES = ("device", "enumerate", "build", "measure", "networks", "table")
RUNTIMES = ("edgeopt", "onnxruntime")
#: What a user calls a meter -> the runtime that it times.
METER_RUNTIMES = {"tvm": "edgeopt", "ort": "onnxruntime"}


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """Everything a profile depends on.

    Attributes:
        device: name or path of a device profile.
        space: the search space whose kernels are measured; empty for none.
        models: ONNX networks whose kernels are measured as well.
        runtime: ``edgeopt`` (its own kernels) or ``onnxruntime``.
        replay: a recorded table that stands for the device.
        reach: how to get to the board.
        precisions: ``f32``, ``i8``, and ``w4``, ``w2``: int8 with packed weights.
        out: the table's file; the user's table folder by default.
        resume: continue a measurement that was cut off.
        force: measure again what the table already has.
        budget_s: building and measuring may take so many seconds; the most telling kernels are
            measured first.
        networks: subnets to fit the step to whole networks to; 0 leaves the table uncalibrated.
        held_out: subnets beyond them, never fitted to: they say what a prediction is worth.
        decompose: measure whole networks alone, and split their times onto kernels.
        tiles: measure the tilings of each kernel first, and time it with the best.
    """

    device: str = "local"
    space: str = "cifar"
    models: tuple[Path, ...] = ()
    runtime: str = "edgeopt"
    replay: Path | None = None
    reach: Reach = HERE
    precisions: tuple[str, ...] = ("f32", "i8")
    out: Path | None = None
    resume: bool = False
    force: bool = False
    budget_s: float | None = None
    networks: int = 16
    held_out: int = 20
    decompose: bool = False
    tiles: bool = True
    seed: int = 0
    cache: bool = True
    profile_dirs: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """What came of it.

    Attributes:
        path: where the table was written.
        table: what it holds.
        measured: kernels measured now.
        skipped: kernels that cannot be timed, with the reason.
        unfinished: kernels the time did not suffice for.
        disturbed: visits repeated because the machine was disturbed.
        seconds: the whole took.
        throttled: those of them that were repeated because the board was throttled.
        drift: how much slower than at its best the anchor was, at worst.
        anchors: the visits to the anchor, in order.
        events: what went wrong and was got over.
        dropped: lines of the journal that could not be read.
        hints: what could be done to measure better.
        networks: whole networks that were timed: name -> (kernels, nanoseconds).
    """

    path: Path
    table: LatencyTable
    measured: int
    skipped: dict[OpKey, str]
    unfinished: tuple[OpKey, ...]
    disturbed: int
    seconds: float
    throttled: int = 0
    drift: float = 0.0
    anchors: tuple[AnchorVisit, ...] = ()
    events: tuple[str, ...] = ()
    dropped: int = 0
    hints: tuple[str, ...] = ()
    networks: Mapping[str, tuple[tuple[OpKey, ...], float]] = field(default_factory=dict)


def parse_meters(text: str) -> tuple[str, ...]:
    """``tvm``, ``ort`` or both, as the runtimes they time.

    >>> parse_meters("tvm,ort")
    ('edgeopt', 'onnxruntime')

    Raises:
        InputError: anything else.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in METER_RUNTIMES:
            raise InputError(
                f"unknown meter {name[:40]!r}", where="--meter",
                hint=suggest(name[:40], METER_RUNTIMES, noun="meter"),
            )  # fmt: skip
    return tuple(METER_RUNTIMES[name] for name in dict.fromkeys(names))


def parse_precisions(text: str) -> tuple[str, ...]:
    """``auto``, ``fp32``, ``int8`` or ``mixed`` as the precisions of kernels.

    Raises:
        InputError: anything else.
    """
    known = {
        "auto": ("f32", "i8"), "fp32": ("f32",), "int8": ("i8",), "mixed": ("i8", "w4", "w2"),
    }  # fmt: skip
    if text not in known:
        raise InputError(
            f"unknown precision {text!r}", where="--precision",
            hint=suggest(text, known, noun="precision"),
        )  # fmt: skip
    return known[text]


def profile(request: ProfileRequest, progress: Progress = no_progress) -> ProfileReport:
    """Measure a device and write its table.

    Raises:
        InputError: a bad option, or a device that cannot be timed from here.
        ToolError: a compiler is missing or fails.
        BoardError: the device does not answer as it should.
    """
    from edgeopt.latency.protocol import profile_device

    began = time.monotonic()
    if request.runtime not in RUNTIMES:
        raise InputError(
            f"unknown runtime {request.runtime!r}", where="--runtime",
            hint=suggest(request.runtime, RUNTIMES, noun="runtime"),
        )  # fmt: skip

    progress("start", {"stage": "device"})
    device = devices.load(request.device, request.profile_dirs)
    if device.kind == "firmware" and request.replay is None:
        from edgeopt.pipeline.profile_firmware import profile_firmware

        return profile_firmware(request, device, progress)
    with (
        tempfile.TemporaryDirectory(prefix="edgeopt-") as folder,
        _board(request, device, progress) as board,
    ):
        programs = None if _needs_no_programs(request) else _programs(request, board, folder)
        progress("end", {"stage": "device", "text": _reached(device, board)})

        progress("start", {"stage": "enumerate"})
        space = _space(request)
        keys = _keys(request, device, space)
        if request.decompose and (space is None or request.replay is not None):
            raise InputError(
                "only subnets of a search space can be decomposed", where="--decompose",
                hint="name a search space with --space",
            )  # fmt: skip
        path = _path(request, device, board)
        meter = _meter(request, board, programs, Path(folder), progress)
        known = _known(request, device, meter, path)
        todo = tuple(key for key in keys if known is None or key not in known.entries)
        todo = () if request.decompose else todo
        notes = path.with_name(path.name + ".tiles")
        journal = path.with_name(path.name + ".journal")
        if programs is not None:
            programs.fallbacks = {key: kernel for key, kernel in keys.items() if kernel is not None}
            _remember(programs, request, known, notes)
        progress(
            "end",
            {"stage": "enumerate", "text": f"{len(keys)} kernels, {len(todo)} to measure"},
        )

        result = None
        if todo:
            progress("start", {"stage": "measure"})
            telling = _telling(board, progress)
            if request.budget_s is None or space is None:
                result = profile_device(
                    device, todo, meter, journal, resume=request.resume,
                    budget_s=request.budget_s, monitor=board.monitor, progress=telling,
                    keep=True,
                )  # fmt: skip
            else:
                share = KERNEL_SHARE if request.networks else 1.0
                result = measure_actively(
                    device, _usage(request, device, space, todo), meter, journal,
                    estimates(device), resume=request.resume,
                    budget_s=share * request.budget_s - (time.monotonic() - began),
                    monitor=board.monitor, progress=telling,
                )  # fmt: skip
            told = {**result.table.conditions, **settle(board, meter)}
            source = Source.SIMULATED if "emulated" in told else result.table.source
            result.table = replace(result.table, conditions=told, source=source)
            if programs is not None:
                result.table = _with_choices(result.table, programs.choices)
            progress("end", {"stage": "measure", "text": _measured(result)})
        table = _joined(known, result, device, meter)
        table.save(path)  # before its journal goes, and whatever becomes of whole networks
        if result is None or not result.unfinished:
            journal.unlink(missing_ok=True)
            notes.unlink(missing_ok=True)

        progress("start", {"stage": "networks"})
        times: Times = {}
        if space is not None and request.networks and request.replay is None:
            visits = path.with_name(path.name + ".networks")
            if not request.resume:
                visits.unlink(missing_ok=True)
            spent = time.monotonic() - began
            times = network_times(
                space, request.precisions, device, programs, request.networks + request.held_out,
                seed=request.seed, progress=progress, board=board, journal=visits,
                identity=dict(zip(_IDENTITY, table.identity, strict=True)),
                budget_s=None if request.budget_s is None else max(request.budget_s - spent, 10.0),
            )  # fmt: skip
            methods = ("decomposition",) if request.decompose else METHODS
            table = with_networks(table, times, request.networks, methods)
        progress("end", {"stage": "networks", "text": _calibrated(table)})

        progress("start", {"stage": "table"})
        table.save(path)
        if times:
            path.with_name(path.name + ".networks").unlink(missing_ok=True)
        progress("end", {"stage": "table", "text": str(path)})
    return ProfileReport(
        path=path,
        table=table,
        measured=0 if result is None else len(result.table.entries),
        skipped={} if result is None else dict(result.skipped),
        unfinished=() if result is None else result.unfinished,
        disturbed=0 if result is None else result.disturbed,
        seconds=time.monotonic() - began,
        throttled=0 if result is None else result.throttled,
        drift=0.0 if result is None else result.drift,
        anchors=() if result is None else result.anchors,
        events=() if result is None else result.events,
        dropped=0 if result is None else result.dropped,
        hints=tuple(unique(board.hints)),
        networks=times,
    )


def _board(
    request: ProfileRequest, device: DeviceProfile, progress: Progress
) -> AbstractContextManager[Board]:
    """The board to measure on."""
    from edgeopt.latency.select import user_table_dir

    if request.replay is not None:
        return nullcontext(recorded(device))
    locks = user_table_dir().parent / "locks"
    return open_board(
        device, request.reach, locks,
        lambda text: progress("detail", {"stage": "measure", "text": text}),
    )  # fmt: skip


def _reached(device: DeviceProfile, board: Board) -> str:
    """What was reached, and what its user could do now to measure better."""
    reached = device.title
    if board.session is not None and board.remote:
        reached += f", over {board.session.name}"
    return "; ".join([reached, *board.hints])


def _telling(board: Board, progress: Progress) -> Callable[[Standing], None]:
    """Shows where the measurement stands, and keeps the board ours."""

    def tell(standing: Standing) -> None:
        board.renew()
        text = standing.note or f"{standing.done} of {standing.total} kernels"
        progress("detail", {"stage": "measure", "text": text, "standing": standing})

    return tell


def _needs_no_programs(request: ProfileRequest) -> bool:
    return request.replay is not None or request.runtime != "edgeopt"


def _programs(request: ProfileRequest, board: Board, folder: str) -> KernelPrograms:
    store = StageCache(default_cache_dir() if request.cache else None)
    return board.programs(Path(folder), store)


def _space(request: ProfileRequest) -> SearchSpace | None:
    from edgeopt.ofa.spaces import load_space

    return load_space(request.space) if request.space else None


def _keys(
    request: ProfileRequest, device: DeviceProfile, space: SearchSpace | None
) -> dict[OpKey, Kernel | None]:
    """What is measured; with the kernel where its code depends on more than its key."""
    for precision in request.precisions:
        if precision not in kernels.available(device):
            raise InputError(
                f"device {device.name} has no {precision} kernels", where="--precision",
                hint=f"it has: {', '.join(kernels.available(device))}",
            )  # fmt: skip
        if precision in kernels.PACKED and request.runtime != RUNTIMES[0]:
            raise InputError(
                f"{request.runtime} has no kernels of packed weights", where="--precision",
                hint="measure edgeopt's own with --meter tvm",
            )  # fmt: skip
    found: dict[OpKey, Kernel | None] = {}
    if space is not None:
        keys = kernels.kernels_of_space(space, request.precisions, target=device.target)
        found.update(dict.fromkeys(keys))
    if request.models:
        known = kernels.kernels_of_models(request.models, request.precisions, device.target)
        for key, kernel in known.items():
            found[key] = kernel if kernel.payload else None
    if not found:
        raise InputError(
            "there is nothing to measure", where="edgeopt profile",
            hint="name a search space with --space, or ONNX networks",
        )  # fmt: skip
    return found


def _path(request: ProfileRequest, device: DeviceProfile, board: Board) -> Path:
    from edgeopt.latency.select import made_table_dir, table_path

    if request.out is not None:
        return request.out
    if "emulated" in board.conditions:
        raise InputError(
            "times under an emulator say nothing about the board", where=f"device {device.name}",
            hint="name a file of its own with --out; no prediction will use it unasked",
        )  # fmt: skip
    return table_path(made_table_dir(), device, request.runtime)


def _meter(
    request: ProfileRequest,
    board: Board,
    programs: KernelPrograms | None,
    work: Path,
    progress: Progress,
) -> Meter:
    if request.replay is not None:
        from edgeopt.latency.meters.replay import ReplayMeter
        from edgeopt.latency.table import load_table

        return ReplayMeter(load_table(request.replay))

    def built(done: int, total: int) -> None:
        progress("detail", {"stage": "measure", "text": f"built {done} of {total} kernels"})

    return board.meter(request.runtime, programs, work, built)


def _known(
    request: ProfileRequest, device: DeviceProfile, meter: Meter, path: Path
) -> LatencyTable | None:
    """The table to add to; None starts a new one (also when the code or device changed)."""
    from edgeopt.latency.table import load_table

    if request.force or not path.exists():
        return None
    table = load_table(path)
    if (table.device, table.runtime) != (device.name, meter.runtime):
        raise InputError(
            f"the table there is of {table.device} with {table.runtime}", where=str(path),
            hint="name another file with --out",
        )  # fmt: skip
    if table.conditions.get("kind") == QUICK:  # measured in a hurry, for one compile
        return None
    now = (device.name, device.fingerprint, meter.runtime, meter.runtime_version, meter.threads)
    return table if table.identity == now else None


def _remember(
    programs: KernelPrograms, request: ProfileRequest, known: LatencyTable | None, notes: Path
) -> None:
    """Tell the programs which tilings are known, and where to keep those they measure."""
    from edgeopt.pipeline.tiles import load_notes, save_notes

    version = codegen_version()
    programs.tune = request.tiles
    programs.tuned = lambda choices: save_notes(notes, version, choices)
    if known is not None:
        programs.choices.update((key, entry.choice) for key, entry in known.entries.items())
    if request.resume:
        programs.choices.update(load_notes(notes, version))


def _with_choices(table: LatencyTable, choices: Mapping[OpKey, Choice]) -> LatencyTable:
    entries = {
        key: replace(entry, choice=choices.get(key, MODEL)) for key, entry in table.entries.items()
    }
    return replace(table, entries=entries)


def _joined(
    known: LatencyTable | None, result: Result | None, device: DeviceProfile, meter: Meter
) -> LatencyTable:
    from edgeopt.latency.table import LatencyTable

    if result is None:
        identity = (device.name, device.fingerprint, meter.runtime, meter.runtime_version)
        return known or LatencyTable(*identity, meter.threads, {})
    return result.table if known is None else known.merged(result.table)


def _usage(
    request: ProfileRequest, device: DeviceProfile, space: SearchSpace, todo: Sequence[OpKey]
) -> dict[OpKey, float]:
    """How often networks run the kernels to measure; those of models named are run once."""
    usage = usage_of(space, request.precisions, device)
    return {key: usage.get(key, 1.0) for key in todo}


def _measured(result: Result) -> str:
    text = f"{len(result.table.entries)} kernels"
    if result.skipped:
        text += f", {len(result.skipped)} cannot be timed"
    tiled = len(result.table.choices)
    if tiled:
        text += f", {tiled} faster with another tiling than the model's"
    if result.unfinished:
        text += f", {len(result.unfinished)} not finished in time"
    if result.disturbed:
        text += f", {result.disturbed} visits repeated after disturbances"
    return text


def _calibrated(table: LatencyTable) -> str:
    calibration, truth = table.calibration, table.truth
    if calibration is None:
        return "not timed: the error on whole networks is unknown"
    text = f"{calibration.networks} networks fitted ({calibration.method})"
    if truth is None:
        return (
            f"{text}: error {calibration.mape:.1%} on those left out, "
            f"{calibration.within_10:.0%} within 10 %, Spearman {calibration.spearman:.3f}"
        )
    return (
        f"{text}, {truth.networks} held out: error {truth.mape:.1%}, {truth.within_10:.0%} within "
        f"10 %, Spearman {truth.spearman:.3f}"
    )

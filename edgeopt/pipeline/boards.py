"""The board that a profile measures on: this machine, one that a link reaches, or a recorded one.

While a `Board` is open nobody else profiles on it: it is locked here and on the board itself.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import devices
from edgeopt.codegen import toolchain
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.devices.local import probe_files
from edgeopt.latency.conditions import (
    Monitor,
    allowed_cpus,
    choose_cpu,
    governor_hint,
    local_reader,
)
from edgeopt.latency.lock import BoardLock, host_lock
from edgeopt.latency.meters.session import BoardProgram, Session
from edgeopt.latency.meters.steady import Recovery, SteadyMeter
from edgeopt.pipeline.kernel_programs import KernelPrograms
from edgeopt.pipeline.kernel_store import codegen_version
from edgeopt.pipeline.local_table import not_here, runs_here

if TYPE_CHECKING:
    from edgeopt.devices.transports import Link
    from edgeopt.latency.meters import Meter
    from edgeopt.pipeline.cache import StageCache

#: Transports that emulate a processor: times under them say nothing about a board.
EMULATED = frozenset({"qemu_user", "qemu_system"})
ORT_BATCH = 32
#: Kernels that run in turn, about as many as a network has; single calls a visit.
CHAIN, SAMPLES = 27, 25
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Reach:
    """How a user says to get to a board; None leaves it to the profile.

    Attributes:
        host: ``user@board`` or what the transport takes for it.
        port: a serial port.
        transport: its name.
        cpu: the processor to measure on: a number, ``auto`` or ``none``.
    """

    host: str | None = None
    port: str | None = None
    transport: str | None = None
    cpu: str = "auto"

    @property
    def named(self) -> bool:
        """Whether anything was said."""
        return any(value is not None for value in (self.host, self.port, self.transport))


#: Wherever the profile says, on a processor that is chosen.
HERE = Reach()


@dataclass(slots=True)
class Board:
    """A board that is ours for as long as it is measured.

    Attributes:
        session: its link; None for a recorded table.
        remote: programs are pushed to it; else they are run where they were built.
        cpu: the processor programs bind themselves to; None for any.
        conditions: what is known of it, for its table.
        hints: what its user could do to measure better.
    """

    device: DeviceProfile
    session: Session | None
    remote: bool
    monitor: Monitor
    recovery: Recovery
    cpu: int | None = None
    conditions: dict[str, str] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)
    lock: BoardLock | None = None

    def renew(self) -> None:
        """Say to others that the board is still in use."""
        if self.lock is not None:
            self.lock.renew()

    def programs(self, work: Path, cache: StageCache) -> KernelPrograms:
        """What builds programs that run on the board."""
        found = KernelPrograms(self.device, (), work, cache)
        if self.remote:
            assert self.session is not None
            found.runs = partial(BoardProgram, self.session)
            found.static = True
        return found

    def meter(
        self,
        runtime: str,
        programs: KernelPrograms | None,
        work: Path,
        progress: Callable[[int, int], None],
    ) -> Meter:
        """What times kernels on the board with a runtime.

        Raises:
            ToolError: the board has no onnxruntime.
            BoardError: it does not answer.
        """
        from edgeopt.latency.meters.ort import OrtMeter
        from edgeopt.latency.meters.program import ProgramMeter, fastest_ns

        def built(done: int, total: int) -> None:
            self.renew()
            progress(done, total)

        believed = partial(fastest_ns, self.device)
        if programs is not None:
            return SteadyMeter(
                ProgramMeter(
                    programs.bench, codegen_version(), cpu=self.cpu, progress=built,
                    together=True, fastest_ns=believed, samples=SAMPLES, chain=CHAIN,
                ),
                self.recovery,
            )  # fmt: skip
        if not self.remote:
            return OrtMeter()
        from edgeopt.latency.meters.board_ort import OrtPrograms, interpreter

        assert self.session is not None
        _, version = interpreter(self.session)
        return SteadyMeter(
            ProgramMeter(
                OrtPrograms(self.session, work).build, version, runtime=runtime, cpu=self.cpu,
                progress=built, together=True, batch=ORT_BATCH, fastest_ns=believed,
            ),
            self.recovery,
        )  # fmt: skip


@contextlib.contextmanager
def open_board(
    device: DeviceProfile, reach: Reach, locks: Path, note: Note = lambda text: None
) -> Iterator[Board]:
    """Reach a board and lock it.

    Args:
        device: what the board is said to be.
        reach: how to get there.
        locks: the folder of this machine's locks.
        note: told what is being waited for.

    Raises:
        InputError: the device cannot be timed this way, or the board is another device.
        BoardError: the board does not answer, or another profiler measures on it.
        ToolError: a program or a package of the transport is missing.
    """
    from edgeopt.devices.transports.opening import choose

    here = not reach.named and runs_here(device)
    name = choose(device, host=reach.host, port=reach.port, transport=reach.transport)
    if not reach.named and not here and (device.kind != "linux" or name in {"local", *EMULATED}):
        raise not_here(device)
    session = Session(_connector(device, reach, here=here))
    with contextlib.ExitStack() as stack:
        stack.callback(session.close)
        stack.enter_context(host_lock(locks, session.name))
        lock = BoardLock(session)
        unlocked = lock.take()
        stack.callback(lock.release)
        monitor = Monitor(local_reader() if here else session.read_text)
        conditions = {"board": session.name}
        if unlocked:
            conditions["board_lock"] = unlocked
        if not here and name in EMULATED:
            conditions["emulated"] = session.name
        elif not here:
            conditions.update(_facts(session, device))
        monitor.cpu, cpu = _cpu(reach.cpu, monitor, here=here)
        board = Board(
            device, session, not here, monitor, Recovery(session.recover, note=note), cpu,
            conditions, lock=lock,
        )  # fmt: skip
        hint = governor_hint(monitor.facts())
        if hint:
            board.hints.append(hint)
        yield board


def _connector(device: DeviceProfile, reach: Reach, *, here: bool) -> Callable[[], Link]:
    from edgeopt.devices.transports import open_link

    def build_shared(source: Path, output: Path) -> None:
        toolchain.shared_library(toolchain.find(device), source, output)

    if here:
        return partial(open_link, devices.load("local"))
    return partial(
        open_link, device, host=reach.host, port=reach.port, transport=reach.transport,
        build_shared=build_shared,
    )  # fmt: skip


def _facts(session: Session, device: DeviceProfile) -> dict[str, str]:
    """What the board is, checked against the profile.

    Raises:
        InputError: it is another architecture, or lacks instructions the profile names.
    """
    facts = session.facts()
    try:
        found = probe_files(session.read_text, facts.machine, cores=(facts.cores or 1, "uname"))
    except InputError:
        found = None
    arch = facts.machine if found is None else found.arch
    if arch != device.arch:
        raise InputError(
            f"the board is {facts.machine}, the profile {device.name} is {device.arch}",
            where=session.name, hint="choose its profile with --device, or write one with "
            "`edgeopt profile --new`",
        )  # fmt: skip
    missing = sorted(device.features - found.features) if found is not None else []
    if missing and found is not None and found.features:
        raise InputError(
            f"the board has no {', '.join(missing)}, which the profile {device.name} names",
            where=session.name, hint="programs built for the profile would crash there: correct "
            "its features, or write a profile with `edgeopt profile --new`",
        )  # fmt: skip
    told = {
        "board_cpu": facts.cpu,
        "board_core": found.mcpu if found is not None else None,
        "board_cores": None if facts.cores is None else str(facts.cores),
        "board_libc": facts.libc,
        "system": f"Linux {facts.kernel} {facts.machine}" if facts.kernel else None,
    }
    return {name: value for name, value in told.items() if value}


def _cpu(text: str, monitor: Monitor, *, here: bool) -> tuple[int, int | None]:
    """The processor to watch, and the one to bind programs to.

    Raises:
        InputError: not a processor.
    """
    if text not in ("auto", "none") and not re.fullmatch(r"\d{1,4}", text):
        raise InputError(
            f"{text[:40]!r} is no processor", where="--cpu", hint="give a number, auto or none"
        )
    chosen = (
        choose_cpu(monitor.read, allowed_cpus() if here else None)
        if text in ("auto", "none")
        else int(text)
    )
    return chosen or 0, None if text == "none" else chosen


def recorded(device: DeviceProfile) -> Board:
    """The board that a recorded table stands for."""
    return Board(device, None, False, Monitor(lambda path: None), Recovery(lambda: ""))


def settle(board: Board, meter: Meter) -> dict[str, str]:
    """What is known of a board after measuring; where it permitted no processor, it has none."""
    if board.session is None:
        return {}
    inner = meter.meter if isinstance(meter, SteadyMeter) else meter
    pinned = "none"
    if board.cpu is not None and getattr(inner, "pinned", None):
        pinned = str(board.cpu)
    elif board.cpu is not None:
        pinned = f"none: the board did not permit processor {board.cpu}"
        board.cpu = None
    return {**board.conditions, "pinned_cpu": pinned}


def unique(texts: Sequence[str]) -> list[str]:
    """The different texts, in order."""
    return list(dict.fromkeys(texts))

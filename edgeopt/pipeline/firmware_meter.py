"""Counting kernels on a microcontroller's core under emulation, and what a table makes of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import __version__
from edgeopt.codegen import bench_firmware, ckernels
from edgeopt.codegen.bench_firmware import KernelJob
from edgeopt.codegen.ckernels import sizes
from edgeopt.codegen.firmware import FLAGS
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Estimate, LatencyModel, Source
from edgeopt.core.files import digest
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters.counting import CountingMeter
from edgeopt.pipeline.firmware import Board, cycles_to_ns
from edgeopt.pipeline.kernel_constants import constants_of, input_bytes_of

if TYPE_CHECKING:
    from edgeopt.pipeline.cache import StageCache

Progress = Callable[[int, int], None]


@cache
def ckernels_version() -> str:
    """Names the code of C kernels: the same for equal kernels from equal keys.

    What is estimated of their sizes is no part of it.
    """
    root = Path(ckernels.__file__).parent
    modules = {*root.glob("*.py")} - {Path(sizes.__file__)}
    files = sorted([*modules, *(root / "c").glob("*.h")])
    mark = digest(b"".join(path.read_bytes() for path in files) + repr(FLAGS).encode())[:12]
    return f"edgeopt {__version__} C {mark}"


def jobs_of(keys: Sequence[OpKey], board: Board) -> tuple[list[KernelJob], dict[OpKey, str]]:
    """The kernels that the core has, with made-up constants; the others with the reason."""
    target = board.profile.target
    jobs, failed = [], {}
    for key in keys:
        try:
            template = ckernels.select(key, target)
        except InputError as error:
            failed[key] = error.what
            continue
        packed = template.pack(key, target, constants_of(key))
        jobs.append(KernelJob(template.function(key, target), packed, input_bytes_of(key)))
    return jobs, failed


@dataclass(slots=True)
class EmulatedCounter:
    """Instructions of kernels under emulation: exact, and so kept for every later table.

    Args:
        board: what is built for, and run on.
        store: of counts; None keeps nothing.
    """

    board: Board
    store: StageCache | None = None
    version: str = field(default_factory=lambda: ckernels_version())

    def __call__(
        self, keys: Sequence[OpKey]
    ) -> tuple[Mapping[OpKey, Sequence[int]], Mapping[OpKey, str]]:
        """The counts of some kernels, and why others have none."""
        found = {key: [n] for key in keys if (n := self._known(key)) is not None}
        jobs, failed = jobs_of([key for key in keys if key not in found], self.board)
        if not jobs:
            return found, failed
        with tempfile.TemporaryDirectory(prefix="edgeopt-") as work:
            image, refused = bench_firmware.build_kernels(
                jobs, self.board.machine, self.board.compiler, Path(work)
            )
            failed |= refused
            if image is not None:
                built = [job.key for job in jobs if job.key not in refused]
                counted, silent = bench_firmware.count(image, built)
                failed |= silent
                for key, instructions in counted.items():
                    self._keep(key, instructions)
                    found[key] = [instructions]
        return found, failed

    def _inputs(self, key: OpKey) -> dict[str, str]:
        return {
            "key": str(key), "target": self.board.profile.target.digest_text,
            "machine": self.board.machine.board,
            "compiler": " ".join((self.board.compiler.version, *self.board.compiler.c_flags)),
        }  # fmt: skip

    def _known(self, key: OpKey) -> int | None:
        if self.store is None:
            return None
        files = self.store.get("count", self._inputs(key), code=self.version)
        return None if files is None else int(json.loads(files["count.json"]))

    def _keep(self, key: OpKey, instructions: int) -> None:
        if self.store is not None:
            files = {"count.json": json.dumps(instructions).encode()}
            self.store.put("count", self._inputs(key), files, code=self.version)


def emulated_meter(
    board: Board, store: StageCache | None = None, progress: Progress | None = None
) -> CountingMeter:
    """Time by counted instructions, at the profile's mean of cycles an instruction."""
    return CountingMeter(
        EmulatedCounter(board, store),
        ckernels_version(),
        ns_per_count=cycles_to_ns(board.profile, 1)[0],
        workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        progress=progress,
    )


def conditions_of(board: Board) -> dict[str, str]:
    """What a table of simulated times was made with."""
    cycles, clock_hz = board.profile.cycles_per_instruction, board.profile.clock_hz
    assert cycles is not None and clock_hz is not None
    return {
        "emulated": f"{board.machine.qemu[0]} ({board.machine.board})",
        "compiler": board.compiler.version,
        "cycles_per_instruction": f"{cycles.mean:g} ({cycles.low:g} to {cycles.high:g})",
        "clock_hz": str(clock_hz),
    }


@dataclass(frozen=True, slots=True)
class Simulated:
    """A model from counted instructions: what is uncertain is the cycles that each takes."""

    model: LatencyModel
    profile: DeviceProfile

    @property
    def digest(self) -> str:
        """Changes whenever a prediction could."""
        from edgeopt import latency

        known = (latency.model_digest(self.model), self.profile.cycles_per_instruction)
        return digest(repr(known).encode())

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        """The network: its kernels' instructions add up."""
        return self._said(self.model.predict(keys))

    def predict_each(self, keys: Sequence[OpKey]) -> list[Estimate]:
        """The kernels."""
        return [self._said(found) for found in self.model.predict_each(keys)]

    def _said(self, found: Estimate) -> Estimate:
        cycles = self.profile.cycles_per_instruction
        assert cycles is not None
        low, high = cycles.low / cycles.mean, cycles.high / cycles.mean
        if found.source is not Source.SIMULATED:  # estimated from other kernels
            low, high = found.low / found.value * low, found.high / found.value * high
        return replace(
            found, low=found.value * low, high=found.value * high,
            how=f"{found.source}: counted instructions times {cycles.mean:g} cycles "
            f"({cycles.low:g} to {cycles.high:g})",
        )  # fmt: skip

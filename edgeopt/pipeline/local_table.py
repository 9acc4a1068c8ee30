"""The latency model of a device, as the pipeline uses it; this machine's is measured if need be.

The first search on a machine nobody profiled measures a spread of the space's kernels, once, so
that the rest is estimated from this machine's own times. `edgeopt profile` replaces that table by
a full, calibrated one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import devices, latency
from edgeopt.codegen import ckernels, schedules
from edgeopt.codegen.ckernels import sizes
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import BoardError, EdgeoptError, InputError
from edgeopt.core.estimates import Estimate, LatencyModel, Source
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.latency.select import RUNTIME, find_fits
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.kernel_store import codegen_version

if TYPE_CHECKING:
    from edgeopt.core.space import SearchSpace
    from edgeopt.latency.table import LatencyTable
    from edgeopt.pipeline.kernel_programs import KernelPrograms

QUICK = "quick"
QUICK_KERNELS = 32
#: Times of compact int8 kernels by those of usual ones: the least, the mean and the most that
#: benchmarks/kernel_versions.py found in a subnet, with AVX2 and with AVX-512, for kernels of over
#: half a microsecond. Of rows of one width the mean is decision 0022's, the most that of any width;
#: products of two maps are taken for sums.
_SLOWER = {
    "depthwise": (1.34, 1.46, 1.66),
    "depthwise of one width": (1.0, 1.03, 1.66),
    "pointwise": (0.9, 1.06, 1.38),
    "scale": (1.15, 1.32, 1.47),
    "add": (1.0, 1.12, 1.24),
    "mul": (1.0, 1.12, 1.24),
}
_AS_USUAL = (1.0, 1.0, 1.0)
#: Instructions of C kernels that share what they do by those of usual ones, on cores in the order
#: of `sizes.column`: the mean of networks (benchmarks/shared_kernels.py), the least and the most of
#: kernels.
_SLOWER_IN_C = ((1.0, 1.005, 1.01), (1.0, 1.11, 1.25), (0.99, 1.02, 1.11), (1.0, 1.04, 1.18))


def model_for(
    profile: DeviceProfile,
    *,
    strict: bool = False,
    space: SearchSpace | None = None,
    detail: Callable[[str], None] | None = None,
    any_table: bool = False,
    packed: bool = False,
) -> LatencyModel:
    """The device's latency model: a table of the code as it is now, else estimates.

    Args:
        profile: the device.
        strict: refuse to estimate.
        space: what will be searched; with it, a probed device without a table is measured
            briefly, and the table kept.
        detail: told what takes time.
        any_table: take a table of other code, of another governor or number of threads too.
        packed: weights of fewer than eight bits will be searched: kernels that can be counted are
            counted with them as well. Elsewhere they follow from int8 kernels where no table that
            `edgeopt profile` made has them.

    Raises:
        InputError: ``strict`` and nothing was measured, or a table is broken.
    """
    usual = profile.compacted(False)  # tables are of usual kernels, whoever asks first
    if profile.kind == "firmware":
        found = _of_firmware(usual, strict=strict, space=space, detail=detail, packed=packed)
    else:
        found = _of_linux(usual, strict=strict, space=space, detail=detail, any_table=any_table)
    return Compacted(found, profile.target) if profile.compact else found


def _of_linux(
    profile: DeviceProfile,
    *,
    strict: bool,
    space: SearchSpace | None,
    detail: Callable[[str], None] | None,
    any_table: bool,
) -> LatencyModel:
    """A table of the code as it is now, else estimates."""
    version = codegen_version()
    if any_table:
        return latency.load_model(
            profile, strict=strict, runtime_version=version, threads=profile.threads,
            any_table=True,
        )  # fmt: skip
    measurable = space is not None and profile.folder is None and not strict
    if measurable and latency.find_table(profile, runtime_version=version) is None:
        assert space is not None
        _measure_quickly(profile, space, detail or (lambda text: None))
    threads = profile.threads
    if threads > 1:
        table = latency.find_table(profile, runtime_version=version, threads=threads)
        if table is not None:
            return latency.load_model(
                profile, strict=strict, runtime_version=version, threads=threads
            )
        if strict:
            raise InputError(
                f"no latency table of {threads} threads exists", where=f"device {profile.name}",
                hint="leave out --strict: the times of one thread are then stated instead",
            )  # fmt: skip
        if (RUNTIME, threads) in find_fits(profile):
            return latency.load_model(profile, threads=threads)
    found = latency.load_model(profile, strict=strict, runtime_version=version)
    return found if threads == 1 else OneThread(found, threads)


def _of_firmware(
    profile: DeviceProfile,
    *,
    strict: bool,
    space: SearchSpace | None,
    detail: Callable[[str], None] | None,
    packed: bool,
) -> LatencyModel:
    """A microcontroller's model: counted instructions where a space's kernels can be counted."""
    from edgeopt.pipeline.firmware_meter import Simulated, ckernels_version
    from edgeopt.pipeline.profile_firmware import ensure_table

    version = ckernels_version()
    if space is not None:
        store = StageCache(default_cache_dir())
        try:
            if latency.find_table(profile, runtime_version=version) is None and detail:
                detail(f"counting kernels on an emulated {profile.core}, once")
            ensure_table(profile, space, store, packed=packed)
        except (EdgeoptError, OSError) as error:
            if detail:
                detail(f"could not count kernels: {error}")
    found = latency.load_model(profile, strict=strict, runtime_version=version)
    table = latency.find_table(profile, runtime_version=version)
    simulated = table is not None and table.source is Source.SIMULATED
    return Simulated(found, profile) if simulated else found


@dataclass(frozen=True, slots=True)
class OneThread:
    """A model of one thread for networks that will use several: it says so.

    Dividing the work can at best divide the time, so that is how far the intervals go down.
    """

    model: LatencyModel
    threads: int

    @property
    def digest(self) -> str:
        """Changes whenever a prediction could."""
        return f"{latency.model_digest(self.model)} of {self.threads}"

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        """The network on one thread."""
        return self._said(self.model.predict(keys))

    def predict_each(self, keys: Sequence[OpKey]) -> list[Estimate]:
        """The kernels on one thread."""
        return [self._said(found) for found in self.model.predict_each(keys)]

    def _said(self, found: Estimate) -> Estimate:
        how = f"on one thread, {self.threads} were not measured: {found.how}"
        low = found.low / self.threads
        return replace(found, low=low, source=Source.ESTIMATED, how=how)


@dataclass(frozen=True, slots=True)
class Compacted:
    """A model of usual kernels, for networks whose kernels are compact and slower.

    How much slower is the mean that benchmarks/kernel_versions.py found on x86-64, and
    benchmarks/shared_kernels.py on microcontrollers; intervals take in what single kernels were.
    """

    model: LatencyModel
    target: TargetSpec

    @property
    def digest(self) -> str:
        """Changes whenever a prediction could."""
        return f"{latency.model_digest(self.model)} compact {_SLOWER} {_SLOWER_IN_C}"

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        """The network, each kernel by its share of the time."""
        found = self.model.predict(keys)
        each = [estimate.value for estimate in self.model.predict_each(keys)]
        times = zip(*(self._times(key) for key in keys), strict=True)
        return _slowed(found, *(sum(map(mul, each, column)) / sum(each) for column in times))

    def predict_each(self, keys: Sequence[OpKey]) -> list[Estimate]:
        """The kernels."""
        each = self.model.predict_each(keys)
        return [_slowed(e, *self._times(key)) for key, e in zip(keys, each, strict=True)]

    def _times(self, key: OpKey) -> tuple[float, float, float]:
        """The least, the mean and the most that a kernel takes of what its usual form does."""
        if ckernels.applies(self.target):
            return _SLOWER_IN_C[sizes.column(self.target)]
        if not schedules.is_compact(key, self.target):
            return _AS_USUAL
        kinds = [shared.kind for shared in schedules.shared_by(key, self.target)]
        one_width = key.op == "depthwise" and not any("any" in kind for kind in kinds)
        return _SLOWER.get(f"{key.op} of one width" if one_width else key.op, _AS_USUAL)


def _slowed(found: Estimate, low: float, mean: float, high: float) -> Estimate:
    """An estimate of what takes so many times as long."""
    if mean == 1.0:
        return found
    return replace(
        found, value=found.value * mean, low=found.low * low, high=found.high * high,
        source=Source.ESTIMATED, how=f"{found.how}; compact kernels taken for {mean:.2f} of it",
    )  # fmt: skip


def _measure_quickly(
    profile: DeviceProfile, space: SearchSpace, detail: Callable[[str], None]
) -> None:
    """Write a quick table; where that fails, estimates remain."""
    from edgeopt.latency.select import made_table_dir, table_path
    from edgeopt.pipeline.enumerate import kernels_of_space

    detail("measuring this machine, once")
    try:
        table = quick_table(
            profile, kernels_of_space(space, profile.precisions, target=profile.target)
        )
        table.save(table_path(made_table_dir(), profile))
    except (EdgeoptError, OSError) as error:
        detail(f"could not measure this machine: {error}")


def quick_table(
    device: DeviceProfile,
    keys: Sequence[OpKey],
    *,
    budget_s: float = 20.0,
    at_most: int = QUICK_KERNELS,
    cache: bool = True,
) -> LatencyTable:
    """A small table measured in seconds: a spread of ``keys``, from which the rest is estimated.

    Raises:
        InputError: programs for the device cannot be timed on this machine.
        ToolError: a compiler is missing or fails.
        BoardError: a program fails.
    """
    from edgeopt.latency.meters.program import ProgramMeter
    from edgeopt.latency.protocol import Protocol, profile_device
    from edgeopt.pipeline.enumerate import spread

    store = StageCache(default_cache_dir() if cache else None)
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        programs = local_programs(device, Path(folder), store)
        meter = ProgramMeter(programs.bench, codegen_version(), batch=at_most, min_us=100)
        result = profile_device(
            device, spread(keys, at_most), meter, Path(folder) / "journal", budget_s=budget_s,
            protocol=Protocol(spread=0.05, max_windows=6, chunk=at_most, repeats=1),
        )  # fmt: skip
    table = result.table
    if not table.entries:
        raise BoardError(
            f"no kernel was measured within {budget_s:g} s", where=f"device {device.name}",
            hint="measure with `edgeopt profile` when the machine is less loaded",
        )  # fmt: skip
    return replace(table, conditions={**table.conditions, "kind": QUICK})


def local_programs(device: DeviceProfile, work: Path, cache: StageCache) -> KernelPrograms:
    """What builds programs that run on this machine.

    Raises:
        InputError: the device is not this machine.
    """
    from edgeopt.pipeline.kernel_programs import KernelPrograms

    if not runs_here(device):
        raise not_here(device)
    return KernelPrograms(device, (), work, cache)


def not_here(device: DeviceProfile) -> InputError:
    """The error of a device that nothing leads to."""
    return InputError(
        "programs for it cannot be timed on this machine", where=f"device {device.name}",
        hint="name the board with --host user@board, run `edgeopt profile --device local` on the "
        "board itself, or replay a recorded table with --replay",
    )  # fmt: skip


def runs_here(device: DeviceProfile) -> bool:
    """Whether this machine is the device: probed, or of the same processor."""
    if device.folder is None:
        return True
    try:
        here = devices.load("local")
    except InputError:
        return False
    return device.kind == "linux" and (device.arch, device.mcpu) == (here.arch, here.mcpu)

"""Whole networks at the end of a profile: some to fit the step from kernels to, others for truth.

The held-out ones are measured as they are deployed, in turns with the rest, and nothing is ever
fitted to them: their errors become the interval of every later prediction.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.core.device import DeviceProfile
from edgeopt.core.kernels import KernelGraph, OpKey
from edgeopt.pipeline import enumerate as kernels
from edgeopt.pipeline.compile import Progress, no_progress

if TYPE_CHECKING:
    from edgeopt.core.space import SearchSpace
    from edgeopt.latency.table import LatencyTable
    from edgeopt.pipeline.boards import Board
    from edgeopt.pipeline.kernel_programs import KernelPrograms
    from edgeopt.pipeline.network_times import NetworkTime, Program, Visiting

#: name ("f32 r32-d1...") -> kernels, measured nanoseconds
Times = dict[str, tuple[tuple[OpKey, ...], float]]

#: Fewer networks are of no use to fit to, or to hold out.
MIN_FITTED, MIN_HELD_OUT = 8, 10
#: Subnets that are built side by side.
CHUNK = 3
#: Seconds that measuring a network takes about, beside building it.
MEASURE_S = 0.3


def network_times(
    space: SearchSpace,
    precisions: Sequence[str],
    device: DeviceProfile,
    programs: KernelPrograms | None,
    count: int,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
    board: Board | None = None,
    journal: Path | None = None,
    identity: Mapping[str, object] | None = None,
    budget_s: float | None = None,
) -> Times:
    """Random subnets, measured in every precision asked for.

    Subnets of a smaller count come first in those of a larger one; all of a subnet's precisions
    are measured, or none.

    Args:
        space: what they are of.
        precisions: ``f32``, ``i8``.
        device: the device.
        programs: builds their programs; None measures them under onnxruntime.
        count: subnets at most.
        seed: of the choice.
        progress: told what is done.
        board: that the programs run on.
        journal: where visits are recorded; an earlier one is continued.
        identity: what a journal must be of.
        budget_s: build no more than can be measured in this time, but enough to be of use.

    Raises:
        ToolError: the compiler fails.
        BoardError: a program fails.
    """
    from edgeopt.pipeline.network_times import NetworkLog, ProgramNetworks, measure
    from edgeopt.pipeline.ort_networks import BoardOrtNetworks, OrtNetworks

    began = time.monotonic()
    graphs: dict[str, KernelGraph] = {}
    built: dict[str, Program] = {}
    under_ort: OrtNetworks | BoardOrtNetworks | None = None
    if programs is None and board is not None and board.remote:
        under_ort = BoardOrtNetworks(graphs, board, threads=device.threads)
    elif programs is None:
        under_ort = OrtNetworks(graphs, threads=device.threads)
    configs = kernels.subnets(space, count, seed + 1)
    for start in range(0, len(configs), CHUNK):
        spent = time.monotonic() - began
        pace = spent / max(start, 1) + MEASURE_S * len(precisions)
        needed_s = spent + MEASURE_S * len(graphs) + CHUNK * pace
        enough = start * len(precisions) >= MIN_FITTED + MIN_HELD_OUT
        if enough and budget_s is not None and needed_s > budget_s:
            break
        fresh = {
            f"{precision} {config}": kernels.lowered(space, config, precision, device.target)
            for config in configs[start : start + CHUNK]
            for precision in precisions
        }
        graphs.update(fresh)
        if programs is None:
            assert under_ort is not None
            for name in fresh:
                under_ort.prepare(name)
        else:
            programs.ready([key for graph in fresh.values() for key in graph.keys])
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                made = list(threads.map(programs.network, fresh.values()))
            built.update(
                (name, _steady(program, board)) for name, program in zip(fresh, made, strict=True)
            )
        text = f"built {len(graphs)} of {len(configs) * len(precisions)} networks"
        progress("detail", {"stage": "networks", "text": text})
        if board is not None:
            board.renew()
    visit: Visiting = under_ort or ProgramNetworks(built, cpu=None if board is None else board.cpu)
    log = NetworkLog(journal, identity or {})
    log.open()
    try:
        times: dict[str, NetworkTime] = measure(
            tuple(graphs), visit, log,
            tick=lambda done, total: progress(
                "detail", {"stage": "networks", "text": f"measured {done} of {total} networks"}
            ),
        )  # fmt: skip
    finally:
        log.close()
        if isinstance(under_ort, BoardOrtNetworks):
            under_ort.close()
    return {name: (graphs[name].keys, times[name].median_ns) for name in graphs}


def _steady(program: Program, board: Board | None) -> Program:
    from edgeopt.latency.meters.steady import SteadyProgram

    return program if board is None else SteadyProgram(program, board.recovery)


def with_networks(
    table: LatencyTable, times: Times, fitted: int, methods: Sequence[str]
) -> LatencyTable:
    """The table with the step to whole networks fitted on some, and its error on the others.

    Args:
        table: of kernels.
        times: measured networks, subnets in order.
        fitted: subnets to fit to; the others are held out.
        methods: ways to try (`edgeopt.latency.combine.METHODS`).
    """
    from edgeopt.latency.combine import MIN_NETWORKS, combine
    from edgeopt.latency.model import TableModel
    from edgeopt.latency.truth import MIN_NETWORKS as MIN_JUDGED
    from edgeopt.latency.truth import HeldOut, judge

    inside, outside = split(times, fitted)
    if len(inside) < MIN_NETWORKS:
        return table
    found = combine(table, inside, methods)
    if len(outside) < MIN_JUDGED:
        return found
    model = TableModel(found)
    rows = [
        HeldOut(name, value, model.predict(keys).value, model.own_uncertainty(keys))
        for name, (keys, value) in outside.items()
    ]
    return replace(found, truth=judge(rows))


def split(times: Times, fitted: int) -> tuple[Times, Times]:
    """The networks of the first ``fitted`` subnets, and those of the rest.

    Where time allowed for fewer subnets than planned, both parts give way.
    """
    subnets = list(dict.fromkeys(name.partition(" ")[2] for name in times))
    each = len(times) // max(len(subnets), 1) or 1  # precisions
    if len(subnets) < fitted + math.ceil(MIN_HELD_OUT / each):
        fitted = max(math.ceil(MIN_FITTED / each), min(fitted, len(subnets) // 2))
    chosen = set(subnets[:fitted])
    inside = {name: v for name, v in times.items() if name.partition(" ")[2] in chosen}
    return inside, {name: v for name, v in times.items() if name not in inside}

"""Estimated against published block latencies of three boards, on rows that were never fitted.

EDGEOPT_DATA=... python benchmarks/board_estimates.py
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from board_data import SOURCES, Row, Source, read

from edgeopt import devices
from edgeopt.latency.coremodel import CoreModel, core_model, learn_core
from edgeopt.latency.fit import Matrix, compare
from edgeopt.latency.update import Z90, spread_of
from edgeopt.latency.work import unit_work

HEAD = f"{'board':8}{'fitted on':34}{'tested on':26}{'rows':>5} {'MAPE':>7} {'median':>7} " \
    f"{'±10 %':>7} {'Spearman':>9} {'in 90 %':>8}"  # fmt: skip


def predictions(model: CoreModel, rows: Sequence[Row]) -> tuple[Matrix, Matrix]:
    """Nanoseconds, and the factor of the 90 % interval."""
    work = np.array([unit_work(row.unit, model.peaks) for row in rows])
    costs = model.belief.costs(model.base)
    spread = spread_of(work, costs, model.belief) * model.widen
    return work @ costs, np.exp(Z90 * spread)


def times_of(rows: Sequence[Row]) -> Matrix:
    return np.array([row.latency_ns for row in rows])


def fitted(source: Source, rows: Sequence[Row]) -> CoreModel:
    profile = devices.load(source.device)
    fit, _ = learn_core(
        profile,
        [row.unit for row in rows],
        [row.latency_ns for row in rows],
        runtime=source.runtime,
        threads=0,
        origin=source.origin,
        alike=[row.group for row in rows],
    )
    return core_model(profile, runtime=source.runtime, threads=0, fit=fit)


def show(board: str, on: str, against: str, rows: Sequence[Row], value: Matrix, by: Matrix) -> None:
    times = times_of(rows)
    found = compare(value, times)
    inside = float((np.abs(np.log(np.maximum(value, 1.0) / times)) <= np.log(by)).mean())
    print(
        f"{board:8}{on:34}{against:26}{len(rows):5} {found.mape:7.1%} {found.median_error:7.1%} "
        f"{found.within_10:7.0%} {found.spearman:9.4f} {inside:8.0%}"
    )


def left_out(
    source: Source, rows: Sequence[Row], groups: Sequence[Hashable]
) -> tuple[Matrix, Matrix]:
    """Predictions of each group from all others."""
    value, by = np.zeros(len(rows)), np.zeros(len(rows))
    for group in sorted(set(groups), key=str):
        held = np.array([g == group for g in groups])
        model = fitted(source, [row for row, out in zip(rows, held, strict=True) if not out])
        value[held], by[held] = predictions(
            model, [row for row, out in zip(rows, held, strict=True) if out]
        )
    return value, by


def fifths(items: Sequence[Hashable]) -> list[int]:
    """A fifth of the distinct items each, at random."""
    distinct = sorted(set(items), key=str)
    order = np.random.default_rng(0).permutation(len(distinct))
    place = {distinct[item]: int(rank) % 5 for rank, item in enumerate(order)}
    return [place[item] for item in items]


def main() -> None:
    folder = Path(os.environ["EDGEOPT_DATA"]) / "latency"
    print(HEAD)
    boards = {source.device: (source, read(source, folder)) for source in SOURCES}
    for name, (source, rows) in boards.items():
        facts = core_model(devices.load(name), runtime=source.runtime, threads=0)
        show(name, "nothing: the profile's facts", "all rows", rows, *predictions(facts, rows))
        what = "layer classes left out"
        kinds = [("5 folds of rows", list(range(len(rows))))]
        if name == "note10":
            what = "block keys left out"
            kinds = [("resolutions left out", [row.resolution for row in rows])]
        kinds.append((what, [row.group for row in rows]))
        for what, items in kinds:
            value, by = left_out(source, rows, fifths(items))
            show(name, "the other four fifths", what, rows, value, by)
    # What the fast boards share with the slow one: scale is not to be expected, order is.
    pi, rows = fitted(*boards["rpi4"]), boards["pixel3"][1]
    show("pixel3", "rpi4: only the order counts", "all rows", rows, *predictions(pi, rows))


if __name__ == "__main__":
    main()

"""Progress of a measurement: what is done and left, how long it takes, how the board is doing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from edgeopt.cli.console import Stages

if TYPE_CHECKING:
    from edgeopt.latency.protocol import Progress as Standing

#: Where nobody watches (a file, a pipe), a line so often.
LINE_EVERY_S = 60.0


class LiveStages(Stages):
    """As `Stages`, with a bar while kernels are measured."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        super().__init__(total, quiet=quiet)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        """Take an event of `pipeline.profile`."""
        standing = fields.get("standing")
        if event == "detail" and standing is not None and not self._quiet:
            self._show(standing)  # type: ignore[arg-type]
            return
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if event == "start":
            self._said = time.monotonic()
        super().__call__(event, fields)

    def _show(self, standing: Standing) -> None:
        if not self._console.is_terminal:
            if time.monotonic() - self._said >= LINE_EVERY_S:
                self._said = time.monotonic()
                done = f"{standing.done} of {standing.total} kernels"
                self._console.print(self._line("measure", f"{done}; {describe(standing)}"))
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("      measure   "), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[told]}"), console=self._console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("measure", total=standing.total, told="")
            self._bar.start()
        assert self._task is not None
        self._bar.update(
            self._task, completed=standing.done, total=standing.total, told=describe(standing)
        )


def describe(standing: Standing) -> str:
    """The state of a measurement in a line; what is unknown is left out.

    >>> from edgeopt.latency.protocol import Progress
    >>> describe(Progress(5, 9, 20, 0, left_s=95.0, spread=0.012, temperature_c=61.5))
    '1 min 35 s left · spread 1.2 % · 61.5 °C'
    """
    parts = [] if standing.left_s is None else [f"{show_time(standing.left_s)} left"]
    if standing.spread is not None:
        parts.append(f"spread {100 * standing.spread:.1f} %")
    if standing.temperature_c is not None:
        parts.append(f"{standing.temperature_c:.1f} °C")
    if standing.clock_hz is not None:
        parts.append(f"{standing.clock_hz / 1e6:.0f} MHz")
    if standing.drift is not None:
        parts.append(f"anchor {100 * max(standing.drift, 0.0):+.1f} %")
    for count, noun in (
        (standing.disturbed, "repeated"), (standing.skipped, "skipped"), (standing.faults, "faults")
    ):  # fmt: skip
        if count:
            parts.append(f"{count} {noun}")
    if standing.note:
        parts.append(standing.note)
    return " · ".join(parts)


def show_time(seconds: float) -> str:
    """A waiting time as people say it.

    >>> show_time(3725)
    '1 h 2 min'
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"

"""The report of a profiling run: one offline HTML file of what was measured, and how well."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import Environment, PackageLoader, StrictUndefined

from edgeopt.core.kernels import OpKey
from edgeopt.core.units import show_duration
from edgeopt.latency.analytic import CLASS_OF
from edgeopt.latency.table import LatencyTable
from edgeopt.pipeline.charts import (
    BLUE,
    GREEN,
    GREY,
    LAYOUT,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    div,
)

if TYPE_CHECKING:
    from edgeopt.pipeline.profile import ProfileReport

_COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, YELLOW, GREY)
_MARKERS = {"f32": "circle", "i8": "diamond"}
_LAYOUT = LAYOUT | {
    "margin": {"l": 70, "r": 20, "t": 60, "b": 60},
    "height": 400,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
}
MIN_NETWORKS = 10
MAX_ROWS = 200


@dataclass(frozen=True, slots=True)
class Residual:
    """A whole network as it was measured, and as it was predicted without having been seen."""

    name: str
    measured_ns: float
    predicted_ns: float

    @property
    def share(self) -> float:
        """How far the prediction was off: positive where it was too high."""
        return self.predicted_ns / self.measured_ns - 1


def residuals(
    table: LatencyTable, networks: Mapping[str, tuple[Sequence[OpKey], float]], folds: int = 5
) -> list[Residual]:
    """Every network, predicted by a table that was calibrated on the others."""
    from edgeopt.latency.model import TableModel, calibrate

    if len(networks) < MIN_NETWORKS:
        return []
    names = sorted(networks)
    found = []
    for fold in range(folds):
        held = names[fold::folds]
        others = {name: networks[name] for name in names if name not in set(held)}
        model = TableModel(replace(table, calibration=calibrate(table, others)))
        for name in held:
            keys, measured_ns = networks[name]
            found.append(Residual(name, measured_ns, model.predict(keys).value))
    return found


def render_profile_report(report: ProfileReport) -> str:
    """The HTML page; plotly's script is inlined once, so it opens without a network."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("edgeopt.pipeline", "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    table = report.table
    charts = [
        (title, caption, div(f"chart{number}", figure))
        for number, (title, caption, figure) in enumerate(_charts(report))
    ]
    try:
        return environment.get_template("profile.html.j2").render(
            table=table,
            path=report.path.name,
            figures=_figures(report),
            charts=charts,
            skipped=Counter(report.skipped.values()).most_common(MAX_ROWS),
            events=Counter(report.events).most_common(MAX_ROWS),
            hints=report.hints,
            conditions=sorted(table.conditions.items()),
            plotly_js=get_plotlyjs(),
        )
    except jinja2.UndefinedError as error:
        raise RuntimeError(f"report template: {error}") from error


def _figures(report: ProfileReport) -> list[tuple[str, str]]:
    table = report.table
    entries = table.entries.values()
    rows = [
        ("kernels", f"{len(table.entries)} in the table, {report.measured} measured in this run"),
        ("cannot be timed", str(len(report.skipped))),
        ("not finished in time", str(len(report.unfinished))),
    ]
    if entries:
        spread = sorted(entry.spread_ns / entry.median_ns for entry in entries)
        rows += [
            ("visits", f"{sum(e.windows for e in entries):,}"),
            ("samples", f"{sum(e.samples for e in entries):,}, of them "
                        f"{sum(e.outliers for e in entries):,} above three times the median"),
            ("half the 95 % interval", f"{spread[len(spread) // 2]:.1%} of the median for the "
                                       f"middle kernel, {spread[-1]:.1%} at most"),
        ]  # fmt: skip
    repeated = f"{report.disturbed} visits repeated"
    if report.throttled:
        repeated += f", {report.throttled} of them because the board was throttled"
    rows.append(
        ("drift", f"anchor at most {max(report.drift, 0.0):.1%} above its best; {repeated}")
    )
    found, truth = table.calibration, table.truth
    if truth is not None:
        rows.append((
            "networks held out",
            f"{truth.networks}: error {truth.mape:.1%} on average, {truth.worst_error:.1%} at "
            f"worst, {truth.within_5:.0%} within 5 %, {truth.within_10:.0%} within 10 %, Spearman "
            f"{truth.spearman:.3f}; 90 % interval ±{math.expm1(truth.interval):.1%}, which holds "
            f"{truth.covered:.0%} of them when made from the others",
        ))  # fmt: skip
    if found is None:
        rows.append(("whole networks", "not timed: the table's error is unknown"))
    else:
        rows.append((
            "whole networks",
            f"error {found.mape:.1%} on average, {found.worst_error:.1%} at worst, "
            f"{found.within_5:.0%} within 5 %, {found.within_10:.0%} within 10 %, "
            f"Spearman {found.spearman:.3f}, on {found.networks} left out in turn",
        ))  # fmt: skip
    if report.dropped:
        rows.append(("journal", f"{report.dropped} lines could not be read and were dropped"))
    return rows


def _charts(report: ProfileReport) -> list[tuple[str, str, Any]]:
    charts = []
    entries = report.table.entries
    working = [key for key in entries if key.macs]
    moving = [key for key in entries if not key.macs]
    if working:
        charts.append((
            "Latency against work",
            "Kernels that multiply and add, by class; circles are float32, diamonds int8. A kernel "
            "that lies above its class costs more than its work explains.",
            _sizes(report.table, working, lambda key: key.macs, "multiply-accumulates"),
        ))  # fmt: skip
    if moving:
        charts.append((
            "Latency against bytes",
            "Kernels that only read and write, by class.",
            _sizes(report.table, moving, lambda key: key.activation_bytes, "bytes of activations"),
        ))  # fmt: skip
    truth = report.table.truth
    if truth is not None:
        rows = [Residual(row.name, row.measured_ns, row.predicted_ns) for row in truth.rows]
        charts.append((
            "Networks held out",
            "Whole networks that nothing was fitted to; above the line the prediction was too "
            "high. The bands are 5 % and 10 %; the 90 % interval of later predictions is "
            f"±{math.expm1(truth.interval):.1%}.",
            _residuals(rows),
        ))  # fmt: skip
    elif found := residuals(report.table, report.networks):
        charts.append((
            "Networks left out",
            "Every network was predicted by a table that was calibrated on the others; above the "
            "line the prediction was too high. The bands are 5 % and 10 %.",
            _residuals(found),
        ))  # fmt: skip
    if report.anchors:
        charts.append((
            "Drift",
            "The anchor kernel, visited all along: how much slower than at its best. Visits that "
            "were followed by a disturbed anchor were made again.",
            _drift(report),
        ))  # fmt: skip
    return charts


def _sizes(table: LatencyTable, keys: Sequence[OpKey], size: Any, title: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    classes = sorted({CLASS_OF.get(key.op, key.op) for key in keys})
    for number, name in enumerate(classes):
        for precision, marker in _MARKERS.items():
            mine = [
                key
                for key in keys
                if CLASS_OF.get(key.op, key.op) == name and key.precision == precision
            ]
            if not mine:
                continue
            figure.add_scatter(
                x=[size(key) for key in mine],
                y=[table.entries[key].median_ns / 1e3 for key in mine],
                mode="markers",
                marker={
                    "color": _COLOURS[number % len(_COLOURS)], "symbol": marker, "size": 7,
                    "opacity": 0.7,
                },
                name=f"{name} {'int8' if precision == 'i8' else 'float32'}",
                text=[f"{key}<br>{_said(table, key)}" for key in mine],
                hoverinfo="text",
            )  # fmt: skip
    figure.update_layout(
        **_LAYOUT, xaxis_title=title, yaxis_title="median latency (µs)", showlegend=True
    )
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(type="log", dtick=1)
    return figure


def _said(table: LatencyTable, key: OpKey) -> str:
    entry = table.entries[key]
    return (
        f"{show_duration(entry.median_ns)} ± {entry.spread_ns / entry.median_ns:.1%}, "
        f"{entry.windows} visits"
    )


def _residuals(found: Sequence[Residual]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for limit, opacity in ((10, 0.10), (5, 0.16)):
        figure.add_hrect(y0=-limit, y1=limit, fillcolor=BLUE, opacity=opacity, line_width=0)
    figure.add_hline(y=0, line_color=GREY, line_width=1)
    for precision, marker in _MARKERS.items():
        mine = [item for item in found if item.name.startswith(precision)]
        if mine:
            figure.add_scatter(
                x=[item.measured_ns / 1e6 for item in mine],
                y=[100 * item.share for item in mine],
                mode="markers",
                marker={"color": BLUE if precision == "f32" else ORANGE, "symbol": marker,
                        "size": 8},
                name="int8" if precision == "i8" else "float32",
                text=[
                    f"{item.name}<br>measured {show_duration(item.measured_ns)}, predicted "
                    f"{show_duration(item.predicted_ns)} ({item.share:+.1%})"
                    for item in mine
                ],
                hoverinfo="text",
            )  # fmt: skip
    figure.update_layout(
        **_LAYOUT, xaxis_title="measured latency (ms)", yaxis_title="prediction too high by (%)",
        showlegend=True,
    )  # fmt: skip
    return figure


def _drift(report: ProfileReport) -> Any:
    import plotly.graph_objects as go

    best = min(visit.best_ns for visit in report.anchors)
    figure = go.Figure()
    for kept, colour, marker, name in (
        (True, BLUE, "circle", "kept"), (False, ORANGE, "x", "made again")
    ):  # fmt: skip
        mine = [visit for visit in report.anchors if visit.kept is kept]
        if mine:
            figure.add_scatter(
                x=[visit.at_s / 60 for visit in mine],
                y=[100 * (visit.best_ns / best - 1) for visit in mine],
                mode="markers", name=name,
                marker={"color": colour, "symbol": marker, "size": 7},
                text=[
                    f"visit {number}, {show_duration(visit.best_ns)}"
                    for number, visit in enumerate(report.anchors)
                    if visit.kept is kept
                ],
                hoverinfo="text",
            )  # fmt: skip
    layout: dict[str, Any] = {
        "xaxis_title": "minutes of measuring",
        "yaxis_title": "anchor above its best (%)",
        "showlegend": True,
    }
    told = [visit for visit in report.anchors if visit.temperature_c is not None]
    if told:
        figure.add_scatter(
            x=[visit.at_s / 60 for visit in told], y=[visit.temperature_c for visit in told],
            mode="lines", name="temperature (°C)", yaxis="y2", line={"color": "#D55E00"},
        )  # fmt: skip
        layout["yaxis2"] = {"title": "°C", "overlaying": "y", "side": "right", "showgrid": False}
    figure.update_layout(**_LAYOUT, **layout)
    return figure

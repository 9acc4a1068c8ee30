"""The report of a bundle: one offline HTML file with the figures and the pictures behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
from jinja2 import Environment, PackageLoader, StrictUndefined

from edgeopt.codegen.plan_picture import peak
from edgeopt.core.kernels import Buffer, OpKey
from edgeopt.core.units import show_duration, show_size
from edgeopt.pipeline.charts import BLUE, GREEN, GREY, LAYOUT, ORANGE, PINK, RED, SKY, YELLOW, div
from edgeopt.pipeline.manifest import Figure, KernelInfo, Manifest, PointInfo

# Colour-blind safe (Okabe and Ito 2008), so series differ in print as well.
#: name -> (what a user calls it, how its value is shown)
FIGURES: dict[str, tuple[str, str]] = {
    "accuracy": ("accuracy", "share"),
    "latency_ns": ("latency", "duration"),
    "arena_bytes": ("arena RAM", "size"),
    "arena_lower_bound_bytes": ("arena lower bound", "size"),
    "weight_bytes": ("weights", "size"),
    "ram_bytes": ("RAM in all", "size"),
    "io_bytes": ("inputs and outputs", "size"),
    "stack_bytes": ("stack", "size"),
    "static_bytes": ("variables", "size"),
    "instructions": ("instructions", "count"),
    "init_instructions": ("instructions of init", "count"),
    "code_bytes": ("code", "size"),
    "flash_bytes": ("flash", "size"),
    "macs": ("multiply-accumulates", "count"),
    "weight_bits": ("bits of a weight", "bits"),
}


def show_value(name: str, value: float) -> str:
    """A figure's value in the unit a person reads."""
    style = FIGURES.get(name, (name, "count"))[1]
    if style == "share":
        return f"{100 * value:.2f} %"
    if style == "duration":
        return show_duration(value)
    if style == "size":
        return show_size(value)
    return f"{value:.2f}" if style == "bits" else f"{value:,.0f}"


def show_figure(figure: Figure) -> tuple[str, str, str]:
    """Title, value with its interval, and source of a figure."""
    title = FIGURES.get(figure.name, (figure.name, ""))[0]
    text = show_value(figure.name, figure.value)
    if figure.low is not None and figure.high is not None and figure.low < figure.high:
        low, high = (show_value(figure.name, v) for v in (figure.low, figure.high))
        text += f" ({low} to {high})"
    how = figure.how if figure.how.startswith(figure.source) else f"{figure.source}: {figure.how}"
    return title, text, how if figure.how else figure.source


def render_report(manifest: Manifest, points: Sequence[PointInfo]) -> str:
    """The HTML page; plotly's script is inlined once, so it opens without a network."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("edgeopt.pipeline", "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = [
        (title, caption, div(f"chart{i}", figure))
        for i, (title, caption, figure) in enumerate(_charts(manifest, points))
    ]
    fallbacks = [k for k in manifest.kernels if k.template == "fallback"]
    rows = sorted(manifest.kernels, key=lambda k: -k.latency_ns)
    try:
        return environment.get_template("report.html.j2").render(
            manifest=manifest,
            figures=[show_figure(f) for f in manifest.figures],
            charts=charts,
            kernels=[
                (k.name, k.key, k.template, show_duration(k.latency_ns), k.latency_source,
                 f"{show_size(k.weight_bytes)} {k.weights}".strip())
                for k in rows
            ],
            fallbacks=fallbacks,
            fallback_share=_share(fallbacks, manifest.kernels),
            plotly_js=get_plotlyjs(),
        )  # fmt: skip
    except jinja2.UndefinedError as error:
        raise RuntimeError(f"report template: {error}") from error


def _share(some: Sequence[KernelInfo], kernels: Sequence[KernelInfo]) -> str:
    """Their part of the time, and how it is known."""
    total_ns = sum(k.latency_ns for k in kernels)
    if not some or not total_ns:
        return "none"
    how = " and ".join(sorted({k.latency_source for k in some}))
    return f"{100 * sum(k.latency_ns for k in some) / total_ns:.1f} % ({how})"


#: Of plans that were searched within a latency or flash (`edgeopt.pipeline.replan`).
_SETTLED = (
    " Of the first few, that is chosen whose narrow weights are measured to move its outputs least "
    "for what is predicted: it may lie below the line."
)


def _charts(manifest: Manifest, points: Sequence[PointInfo]) -> list[tuple[str, str, Any]]:
    charts = []
    if points:
        charts.append(
            (
                "Search",
                f"{len(points)} candidates by predicted accuracy and latency; the line joins those "
                "that no other candidate within the budget beats in both."
                + (
                    _SETTLED
                    if manifest.plan and {"latency_ns", "flash_bytes"} & manifest.budget.keys()
                    else ""
                ),
                _search_chart(manifest, points),
            )
        )
    charts.append(
        (
            "Latency by kernel",
            "One bar a kernel, in execution order; hover for its key.",
            _latency_chart(manifest),
        )
    )
    charts.append(
        (
            "Memory over time",
            "Each rectangle is a buffer: which bytes of the arena it holds, and while which "
            "kernels run; the kernel of the peak is marked. A rectangle over the end of another is "
            "an output written over its kernel's input.",
            _memory_chart(manifest),
        )
    )
    charts.append(
        (
            "Precision and weights",
            "Bytes of weights each kernel keeps in flash, coloured by the precision it runs in; "
            "packed weights of int8 arithmetic have colours of their own.",
            _precision_chart(manifest),
        )
    )
    return charts


def _search_chart(manifest: Manifest, points: Sequence[PointInfo]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    groups = (
        ("over budget", [p for p in points if not p.feasible], GREY),
        ("within budget", [p for p in points if p.feasible], BLUE),
    )
    for title, group, colour in groups:
        figure.add_scatter(
            x=[p.latency_ns / 1e6 for p in group],
            y=[100 * p.accuracy for p in group],
            mode="markers",
            name=title,
            marker={"size": 5, "color": colour, "opacity": 0.45},
            text=[
                f"{p.subnet}<br>{p.precision}, RAM {show_size(p.ram_bytes)}, "
                f"flash {show_size(p.flash_bytes)}"
                for p in group
            ],
        )
    front = sorted((p for p in points if p.pareto), key=lambda p: p.latency_ns)
    best: list[PointInfo] = []
    for point in front:
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    figure.add_scatter(
        x=[p.latency_ns / 1e6 for p in best],
        y=[100 * p.accuracy for p in best],
        mode="lines",
        name="Pareto front",
        line={"color": GREEN, "width": 2, "shape": "hv"},
    )
    precision = manifest.plan or manifest.precision
    chosen = next(
        (p for p in points if p.subnet == manifest.subnet and p.precision == precision), None
    )
    if chosen is not None:
        figure.add_scatter(
            x=[chosen.latency_ns / 1e6],
            y=[100 * chosen.accuracy],
            mode="markers",
            name="chosen",
            marker={"size": 14, "color": ORANGE, "symbol": "star",
                    "line": {"width": 1, "color": "black"}},
        )  # fmt: skip
    if "latency_ns" in manifest.budget:
        figure.add_vline(
            x=manifest.budget["latency_ns"] / 1e6, line={"color": RED, "dash": "dash"},
            annotation_text="budget",
        )  # fmt: skip
    figure.update_layout(
        **LAYOUT,
        xaxis_title="predicted latency (ms)",
        yaxis_title="predicted accuracy (%)",
        legend={"orientation": "h", "y": 1.12},
    )
    return figure


def _latency_chart(manifest: Manifest) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    operators = sorted({OpKey.parse(k.key).op for k in manifest.kernels})
    longest_ns = max((k.latency_ns for k in manifest.kernels), default=0.0)
    unit, unit_ns = ("ms", 1e6) if longest_ns >= 2e6 else ("µs", 1e3)
    colours = (BLUE, ORANGE, GREEN, RED, SKY, PINK, YELLOW, GREY, "#000000")
    for i, operator in enumerate(operators):
        mine = [(n, k) for n, k in enumerate(manifest.kernels) if OpKey.parse(k.key).op == operator]
        figure.add_bar(
            x=[n for n, _ in mine],
            y=[k.latency_ns / unit_ns for _, k in mine],
            name=operator,
            marker_color=colours[i % len(colours)],
            text=[f"{k.name}<br>{k.key}<br>{k.latency_source}" for _, k in mine],
            textposition="none",
            hoverinfo="text+y",
        )
    figure.update_layout(
        **LAYOUT,
        xaxis_title="kernel, in execution order",
        yaxis_title=f"latency ({unit})",
        bargap=0.1,
        legend={"orientation": "h", "y": 1.12},
    )
    return figure


def _memory_chart(manifest: Manifest) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    last = max(len(manifest.kernels) - 1, 0)
    palette = (BLUE, ORANGE, GREEN, SKY, PINK)
    for i, buffer in enumerate(manifest.buffers):
        start, end = max(buffer.first, 0) - 0.5, min(buffer.last, last) + 0.5
        low, high = buffer.offset_bytes / 1e3, (buffer.offset_bytes + buffer.size_bytes) / 1e3
        figure.add_scatter(
            x=[start, end, end, start, start],
            y=[low, low, high, high, low],
            fill="toself",
            mode="lines",
            line={"width": 1, "color": "white"},
            fillcolor=palette[i % len(palette)],
            opacity=0.8,
            name=buffer.name,
            text=f"{buffer.name}: {show_size(buffer.size_bytes)} at {buffer.offset_bytes}",
            hoverinfo="text",
            showlegend=False,
        )
    if manifest.buffers:
        at = peak(
            [
                Buffer(b.name, b.offset_bytes, b.size_bytes, b.first, b.last)
                for b in manifest.buffers
            ],
            len(manifest.kernels),
        )
        figure.add_vrect(
            x0=at - 0.5, x1=at + 0.5, fillcolor=RED, opacity=0.15, line_width=0,
            annotation_text=f"peak: kernel {at}",
        )  # fmt: skip
    bound = manifest.figure("arena_lower_bound_bytes")
    if bound is not None and bound.value:
        figure.add_hline(
            y=bound.value / 1e3, line={"color": RED, "dash": "dash"},
            annotation_text="lower bound",
        )  # fmt: skip
    figure.update_layout(
        **LAYOUT, xaxis_title="kernel, in execution order", yaxis_title="arena (kB)"
    )
    return figure


def _precision_chart(manifest: Manifest) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    kinds = (
        ("f32", "float32", BLUE), ("i8", "int8", GREEN), ("w4", "packed 4 bits", ORANGE),
        ("w2", "packed 2 bits", PINK),
    )  # fmt: skip
    for kind, title, colour in kinds:
        mine = [
            (n, k) for n, k in enumerate(manifest.kernels) if OpKey.parse(k.key).weight_type == kind
        ]
        if not mine and kind.startswith("w"):
            continue
        figure.add_bar(
            x=[n for n, _ in mine],
            y=[k.weight_bytes / 1e3 for _, k in mine],
            name=title,
            marker_color=colour,
            text=[f"{k.name}<br>{k.key}" for _, k in mine],
            textposition="none",
            hoverinfo="text+y",
        )
    figure.update_layout(
        **LAYOUT,
        xaxis_title="kernel, in execution order",
        yaxis_title="weights (kB)",
        legend={"orientation": "h", "y": 1.12},
        showlegend=True,
    )
    return figure

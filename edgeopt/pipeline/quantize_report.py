"""The report of a quantization: one offline HTML file with the plan and what it rests on."""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2 import Environment, PackageLoader, StrictUndefined

from edgeopt.core.units import show_size
from edgeopt.pipeline.charts import BLUE, GREEN, GREY, LAYOUT, ORANGE, PINK, RED, SKY, div
from edgeopt.pipeline.quantize_result import Quantization
from edgeopt.pipeline.report import show_figure

_COLOURS = {2: ORANGE, 3: PINK, 4: GREEN, 8: BLUE}
MAX_ROWS = 1000


def render_quantize_report(result: Quantization) -> str:
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
        (title, caption, div(f"chart{number}", figure))
        for number, (title, caption, figure) in enumerate(_charts(result))
    ]
    after = {figure.name: show_figure(figure) for figure in result.after}
    try:
        return environment.get_template("quantize.html.j2").render(
            result=result,
            summary=summary(result),
            layers=layer_rows(result)[:MAX_ROWS],
            widths=_widths(result),
            board=[
                (*show_figure(figure)[:2], after[figure.name][1], after[figure.name][2])
                for figure in result.before
                if figure.name in after
            ],
            charts=charts,
            plotly_js=get_plotlyjs(),
        )
    except jinja2.UndefinedError as error:
        raise RuntimeError(f"report template: {error}") from error


def summary(result: Quantization) -> list[tuple[str, str]]:
    """What was made and what it costs, as rows of name and value."""
    assert result.drop is not None and result.average_bits is not None
    drop = f"{result.drop:.2f} {result.unit}"
    if result.standard_error is not None:
        drop += f" ± {result.standard_error:.2f} (one standard error, {result.images} images)"
    rows = [("drop", f"{drop}, measured")]
    if result.float_accuracy is not None:
        after = result.float_accuracy - result.drop
        rows.insert(0, ("top-1", f"{after:.2f} % after {result.float_accuracy:.2f} % in float"))
    share = result.weight_bytes / result.int8_bytes
    rows += [
        ("bits of a weight", f"{result.average_bits:.2f} on average"),
        ("weights", f"{show_size(result.weight_bytes)} with scales and biases, "
                    f"{share:.2f} of int8's {show_size(result.int8_bytes)}; "
                    f"float's are {show_size(result.float_bytes)}"),
    ]  # fmt: skip
    if result.optimal is not None:
        how = "the least summed sensitivity within the budget"
        rows.append(("plan", f"{how}, {'proven' if result.optimal else 'as far as was searched'}"))
    return rows


def _widths(result: Quantization) -> list[int]:
    found = {int(bits) for row in result.layers for bits in row.sensitivity}
    return sorted(found, reverse=True)


def layer_rows(result: Quantization) -> list[tuple[str, ...]]:
    """One row a layer: name, operator, weights, bits, bytes, and the sensitivity at each width."""
    return [
        (
            row.name, row.operator, f"{row.weights:,}", str(row.bits), show_size(row.weight_bytes),
            *(f"{row.sensitivity[str(b)]:.2g}" if str(b) in row.sensitivity else ""
              for b in _widths(result)),
        )
        for row in result.layers
    ]  # fmt: skip


def _charts(result: Quantization) -> list[tuple[str, str, Any]]:
    charts = [
        (
            "Bits and bytes by layer",
            "One bar a layer, in graph order, as high as what its weights take in flash; the grey "
            "outline is what int8 takes.",
            _bytes_chart(result),
        )
    ]
    if _widths(result):
        how = {
            "loss": "each layer alone rounded, all others in float: how far the output moves",
            "hessian": "mean second derivative of the loss times the squared rounding error",
        }[result.sensitivity_method]
        charts.append(("Sensitivity", f"{how[0].upper()}{how[1:]}.", _sensitivity_chart(result)))
    if len(result.curve) > 1:
        charts.append(
            (
                "Drop over flash",
                "Every plan that was measured on the way; the star is the one that was kept.",
                _curve_chart(result),
            )
        )
    return charts


def _bytes_chart(result: Quantization) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_bar(
        x=list(range(len(result.layers))), y=[row.weights / 1e3 for row in result.layers],
        name="int8", marker={"color": "rgba(0,0,0,0)", "line": {"color": GREY, "width": 1}},
        hoverinfo="skip",
    )  # fmt: skip
    for bits in sorted({row.bits for row in result.layers}, reverse=True):
        mine = [(n, row) for n, row in enumerate(result.layers) if row.bits == bits]
        figure.add_bar(
            x=[n for n, _ in mine],
            y=[row.weight_bytes / 1e3 for _, row in mine],
            name=f"{bits} bits",
            marker_color=_COLOURS.get(bits, SKY),
            text=[f"{row.name}<br>{row.operator}, {row.weights:,} weights" for _, row in mine],
            textposition="none",
            hoverinfo="text+y",
        )
    figure.update_layout(
        **LAYOUT, barmode="overlay", xaxis_title="layer, in graph order",
        yaxis_title="weights (kB)", legend={"orientation": "h", "y": 1.12},
    )  # fmt: skip
    return figure


def _sensitivity_chart(result: Quantization) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for bits in _widths(result):
        known = [(n, row) for n, row in enumerate(result.layers) if str(bits) in row.sensitivity]
        figure.add_scatter(
            x=[n for n, _ in known],
            y=[max(row.sensitivity[str(bits)], 1e-9) for _, row in known],
            mode="lines+markers",
            name=f"{bits} bits",
            line={"color": _COLOURS.get(bits, SKY), "width": 1},
            text=[row.name for _, row in known],
            hoverinfo="text+y",
        )
    figure.update_layout(
        **LAYOUT, xaxis_title="layer, in graph order", yaxis_title="rise of the loss",
        yaxis_type="log", legend={"orientation": "h", "y": 1.12},
    )  # fmt: skip
    return figure


def _curve_chart(result: Quantization) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_scatter(
        x=[point.weight_bytes / 1e3 for point in result.curve],
        y=[point.drop for point in result.curve],
        mode="lines+markers", name="measured", line={"color": BLUE},
        text=[f"{point.average_bits:.2f} bits" for point in result.curve], hoverinfo="text+x+y",
    )  # fmt: skip
    figure.add_scatter(
        x=[result.weight_bytes / 1e3], y=[result.drop], mode="markers", name="kept",
        marker={"size": 14, "color": RED, "symbol": "star"},
    )  # fmt: skip
    figure.update_layout(
        **LAYOUT, xaxis_title="weights in flash (kB)", yaxis_title=f"drop ({result.unit})",
        legend={"orientation": "h", "y": 1.12},
    )  # fmt: skip
    return figure

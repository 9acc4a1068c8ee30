"""What the charts of all reports share: colours, layout, and how one gets into a page."""

from __future__ import annotations

from typing import Any

# Colour-blind safe (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, YELLOW, GREY = "#CC79A7", "#56B4E9", "#F0E442", "#999999"

LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
    "height": 380,
}


def div(name: str, figure: Any) -> str:
    """A plotly figure as an element of a page that holds the library once."""
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displaylogo": False, "displayModeBar": False},
    )
    return html

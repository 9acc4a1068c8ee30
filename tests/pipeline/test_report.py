"""The report: one offline file that a real browser draws, with hostile names kept as text."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeopt.core.estimates import Source
from edgeopt.pipeline.manifest import BufferInfo, Figure, KernelInfo, Manifest, PointInfo
from edgeopt.pipeline.report import render_report, show_figure
from tests.pipeline.test_manifest import make

HOSTILE = "<script>document.title='owned'</script>"


def example() -> tuple[Manifest, list[PointInfo]]:
    kernels = tuple(
        KernelInfo(HOSTILE if i == 0 else f"k{i}",
                   f"pointwise in_shape=4x4x{8 * i + 8} out_shape=4x4x8", "gemm", (), f"t{i}",
                   1000.0 * (i + 1), "estimated", 64 * (i + 1), 0)
        for i in range(4)
    )  # fmt: skip
    points = [
        PointInfo(f"r32-d1-k3-e{i}", "fp32", 0.7 + 0.02 * i, 1e6 * (i + 1), 1000, 2000, i < 3,
                  i < 3)
        for i in range(5)
    ]  # fmt: skip
    manifest = msgspec.structs.replace(
        make({}),
        kernels=kernels,
        buffers=(BufferInfo("a", 0, 512, -1, 1), BufferInfo("b", 512, 256, 1, 4)),
        figures=(
            Figure("latency_ns", 2e6, Source.ESTIMATED, "x", 1e6, 3e6),
            Figure("arena_lower_bound_bytes", 768, Source.COMPUTED, "y"),
        ),
        budget={"latency_ns": 3.5e6},
        subnet="r32-d1-k3-e2",
        notes=(HOSTILE,),
    )
    return manifest, points


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = render_report(*example())
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", html)
    for title in ("Search", "Latency by kernel", "Memory over time", "Precision and weights"):
        assert f"<h2>{title}</h2>" in html


def test_names_from_a_model_stay_text() -> None:
    html = render_report(*example())
    assert "<script>document.title" not in html
    assert "&lt;script&gt;document.title" in html


def test_figures_show_interval_and_source() -> None:
    manifest, _ = example()
    assert show_figure(manifest.figures[0]) == ("latency", "2 ms (1 ms to 3 ms)", "estimated: x")


def test_a_browser_draws_the_charts(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    browser = needs_tool("chromium")
    page = tmp_path / "report.html"
    page.write_text(render_report(*example()))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000",
               "--dump-dom", page.as_uri()]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count('class="main-svg"') >= 4
    assert len(re.findall(r'<g class="points">', dom)) >= 4
    assert "<title>owned" not in dom

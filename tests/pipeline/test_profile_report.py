"""The report of a profiling run, and how its progress is shown."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgeopt.cli.live import LiveStages
from edgeopt.core.kernels import OpKey
from edgeopt.latency.journal import AnchorVisit
from edgeopt.latency.protocol import Progress
from edgeopt.latency.table import LatencyTable, Measurement
from edgeopt.pipeline.profile import ProfileReport
from edgeopt.pipeline.profile_report import render_profile_report, residuals


def pointwise(size: int, channels: int, dtype: str = "f32") -> OpKey:
    shape = (size, size, channels)
    return OpKey("pointwise", shape, shape, dtype=dtype, out_dtype=dtype)


KEYS = [pointwise(s, c, d) for s in (4, 8) for c in (8, 16, 24) for d in ("f32", "i8")]
KEYS.append(OpKey("add", (8, 8, 8), (8, 8, 8), inputs=2))
TABLE = LatencyTable(
    "board", "f" * 16, "edgeopt", "edgeopt 1 <b>", 1,
    {key: Measurement(100.0 + key.macs / 8, 1.0, 15, 2, 3) for key in KEYS},
    {"governor": "<script>alert(1)</script>"},
)  # fmt: skip


def networks(count: int) -> dict[str, tuple[tuple[OpKey, ...], float]]:
    found = {}
    for number in range(count):
        keys = tuple(KEYS[(number + step) % len(KEYS)] for step in range(2 + number % 5))
        time = 500 + 1.1 * sum(TABLE.entries[key].median_ns for key in keys)
        found[f"{'f32' if number % 2 else 'i8'} net{number}"] = (keys, time)
    return found


REPORT = ProfileReport(
    Path("board.latency.jsonl"), TABLE, len(KEYS), {pointwise(2, 8): "it <crashes>"}, (), 24, 9.0,
    throttled=12, drift=0.07, dropped=2, hints=("set the governor",),
    anchors=(
        AnchorVisit(1.0, 100.0, True, None, 60.0), AnchorVisit(5.0, 140.0, False, None, 81.0)
    ),
    events=("the board was restarted",) * 3, networks=networks(24),
)  # fmt: skip


def test_the_page_is_whole_and_alone() -> None:
    page = render_profile_report(REPORT)
    for text in (
        "13 in the table, 13 measured", "26 above three times the median",
        "anchor at most 7.0% above its best; 24 visits repeated, 12 of them because",
        "2 lines could not be read", "it &lt;crashes&gt;", "the board was restarted",
        "Latency against work", "Latency against bytes", "Networks left out", "Drift",
        "Hint: set the governor", "temperature",
    ):  # fmt: skip
        assert text in page, text
    assert "<script>alert" not in page and "edgeopt 1 &lt;b&gt;" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)


def test_a_page_of_little() -> None:
    bare = replace(REPORT, networks={}, anchors=(), table=replace(TABLE, entries={}))
    page = render_profile_report(bare)
    assert "Networks left out" not in page and "not timed: the table" in page
    assert "Latency against" not in page


def test_residuals_are_of_networks_left_out() -> None:
    clean = residuals(TABLE, networks(24))
    assert len(clean) == 24 and max(abs(item.share) for item in clean) < 0.02
    spoiled = networks(24)
    name = "i8 net4"
    spoiled[name] = (spoiled[name][0], spoiled[name][1] * 3)
    found = {item.name: item for item in residuals(TABLE, spoiled)}
    # Whatever the others say, the one that was left out was not seen.
    assert found[name].share == pytest.approx(1 / 3 - 1, abs=0.05)
    assert residuals(TABLE, networks(9)) == []


def stages(terminal: bool) -> tuple[LiveStages, io.StringIO]:
    found = LiveStages(2)
    stream = io.StringIO()
    found._console = Console(file=stream, force_terminal=terminal, width=200, color_system=None)
    return found, stream


def test_progress_shows_what_is_left_and_how_the_board_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standing = Progress(
        3, 10, 40, 6, skipped=1, left_s=200.0, spread=0.014, drift=0.03, clock_hz=1_500_000_000,
        temperature_c=61.5, faults=2, note="cooling for 5 s",
    )  # fmt: skip
    told = (
        "3 min 20 s left · spread 1.4 % · 61.5 °C · 1500 MHz · anchor +3.0 % · 6 repeated · "
        "1 skipped · 2 faults · cooling for 5 s"
    )
    live, stream = stages(terminal=True)
    live("start", {"stage": "measure"})
    live("detail", {"stage": "measure", "text": "x", "standing": standing})
    live("end", {"stage": "measure", "text": "10 kernels"})
    assert "3/10" in stream.getvalue() and told in stream.getvalue()
    assert "10 kernels" in stream.getvalue()
    live, stream = stages(terminal=False)
    live("start", {"stage": "measure"})
    live("detail", {"stage": "measure", "text": "x", "standing": standing})
    assert stream.getvalue() == ""  # a line a minute is enough for a file
    monkeypatch.setattr("edgeopt.cli.live.LINE_EVERY_S", 0.0)
    live("detail", {"stage": "measure", "text": "x", "standing": standing})
    assert f"3 of 10 kernels; {told}" in stream.getvalue()

"""``edgeopt table show|diff|merge|check``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Cli

from edgeopt import devices
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.combine import combine
from edgeopt.latency.table import LatencyTable, load_table
from edgeopt.latency.truth import HeldOut, judge
from edgeopt.pipeline.kernel_store import codegen_version
from edgeopt.pipeline.tables import check, difference, merge, profile_of

RECORDED = Path(__file__).parents[1] / "latency" / "recorded" / "zen3.latency.jsonl"
FILE = "t.latency.jsonl"


@pytest.fixture
def table() -> LatencyTable:
    """As if it were of a Raspberry Pi 4 and the present code, a tenth as fast."""
    found = load_table(RECORDED)
    entries = {
        key: replace(e, median_ns=10 * e.median_ns, spread_ns=0.1 * e.median_ns)
        for key, e in found.entries.items()
    }
    pi = devices.load("rpi4")
    return replace(
        found, device="rpi4", fingerprint=pi.fingerprint, runtime_version=codegen_version(),
        entries=entries,
    )  # fmt: skip


def full(table: LatencyTable) -> LatencyTable:
    keys = sorted(table.entries)
    networks = {
        f"n{i:02}": (keys[i::9], sum(table.entries[k].median_ns for k in keys[i::9]) + 50.0 * i)
        for i in range(9)
    }
    rows = [HeldOut(f"net {i}", 1e6 * (1 + i / 500), 1e6) for i in range(12)]
    return replace(combine(table, networks), truth=judge(rows))


def test_show(cli: Cli, table: LatencyTable, tmp_path: Path) -> None:
    full(table).save(tmp_path / FILE)
    shown = cli("table", "show", tmp_path / FILE, "--kernels", 2)
    assert shown.code == 0
    for text in ("rpi4", "261 kernels", "depthwise", "12 networks", "net 11", "90 % interval"):
        assert text in shown.out
    document = json.loads(cli("table", "show", tmp_path / FILE, "--json", "--kernels", 3).out)
    assert document["truth"]["networks"] == 12 and len(document["slowest"]) == 3
    assert sum(row["kernels"] for row in document["classes"]) == document["kernels"] == 261


def test_diff(cli: Cli, table: LatencyTable, tmp_path: Path) -> None:
    keys = sorted(table.entries)
    slower = {
        key: replace(e, median_ns=e.median_ns * (1.5 if key.op == "depthwise" else 1.0))
        for key, e in table.entries.items()
        if key != keys[0]
    }
    slower[keys[7]] = replace(slower[keys[7]], median_ns=9 * table.entries[keys[7]].median_ns)
    other = replace(table, entries=slower, threads=2)
    found = difference(table, other, worst=3)
    assert found.rows[0][0] == keys[7] and len(found.rows) == 3
    assert (found.only_first, found.only_second) == (1, 0)
    assert dict(found.identity) == {"threads": ("1", "2")}
    ratios = {(row.name, row.precision): row.ratio for row in found.classes}
    assert ratios["depthwise", "f32"] == pytest.approx(1.5)
    assert ratios["pointwise", "i8"] == pytest.approx(1.0)
    table.save(tmp_path / "a")
    other.save(tmp_path / "b")
    shown = cli("table", "diff", tmp_path / "a", tmp_path / "b")
    assert shown.code == 0 and "threads: 1, then 2" in shown.out
    assert "260 kernels are in both" in shown.out
    document = json.loads(cli("table", "diff", tmp_path / "a", tmp_path / "b", "--json").out)
    assert document["kernels"][0]["ratio"] == pytest.approx(9, rel=0.01)


def test_merge_keeps_where_rows_are_from(cli: Cli, table: LatencyTable, tmp_path: Path) -> None:
    keys = sorted(table.entries)
    parts = {"a": keys[:150], "b": keys[100:]}
    for name, chosen in parts.items():
        entries = {key: table.entries[key] for key in chosen}
        part = replace(table, entries=entries, conditions={"measured_at": f"on day {name}"})
        part.save(tmp_path / name)
    done = cli("table", "merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "ab", "--json")
    assert done.code == 0
    origins = {"a, on day a": 100, "b, on day b": 161}
    assert json.loads(done.out)["origins"] == origins
    merged = load_table(tmp_path / "ab")
    assert merged.entries[keys[0]].origin == "a, on day a"
    # What was merged before keeps its origin.
    again = merge([tmp_path / "ab", tmp_path / "a"])
    assert again.entries[keys[-1]].origin == "b, on day b"
    replace(table, threads=4).save(tmp_path / "c")
    with pytest.raises(InputError, match="different threads cannot be merged") as caught:
        merge([tmp_path / "a", tmp_path / "c"])
    assert caught.value.where == str(tmp_path / "c")
    with pytest.raises(InputError, match="one table needs no merging"):
        merge([tmp_path / "a"])


def levels(table: LatencyTable) -> list[tuple[str, str]]:
    found = check(table, profile_of(table), codegen_version())
    return [(item.level, item.what) for item in found]


def test_a_good_table_has_nothing_odd(table: LatencyTable) -> None:
    odd = [what for level, what in levels(full(table)) if "smaller one" not in what]
    assert odd == []


def test_oddities_are_found(table: LatencyTable) -> None:
    good = full(table)
    key = OpKey("pointwise", (8, 8, 48), (8, 8, 192), activation="hardswish")
    assert key in good.entries
    fast = {**good.entries, key: replace(good.entries[key], median_ns=100.0, spread_ns=90.0)}
    found = {item.what: item for item in check(replace(good, entries=fast), profile_of(good), None)}
    assert found["times that the core's arithmetic cannot reach"].kernels == (key,)
    assert found["a spread above 20% of the median"].kernels == (key,)
    assert key in found["kernels that take less than 70% of the time of a smaller one"].kernels
    assert ("error", "it holds no kernels") in levels(replace(table, entries={}))
    for changed, expected in (
        ({"fingerprint": "x"}, "another version of device rpi4"),
        ({"runtime_version": "old"}, "it timed edgeopt old, now"),
        ({"device": "toaster"}, "device toaster is not known here"),
    ):
        assert any(expected in what for _, what in levels(replace(good, **changed)))  # type: ignore[arg-type]
    assert ("warning", "it was never checked against whole networks") in levels(table)
    assert ("warning", "no networks were held out to check it with") in levels(
        replace(good, truth=None)
    )
    bad = judge([HeldOut(f"n{i}", 1e6, 1.5e6) for i in range(12)])
    assert any("50.0% error" in what for _, what in levels(replace(good, truth=bad)))


def test_check_says_what_cannot_be_used(cli: Cli, table: LatencyTable, tmp_path: Path) -> None:
    full(table).save(tmp_path / "good")
    replace(table, runtime_version="old").save(tmp_path / "bad")
    assert cli("table", "check", tmp_path / "good").code == 0
    both = cli("table", "check", tmp_path / "good", tmp_path / "bad")
    assert both.code == 2 and "1 of 2 tables cannot be used as they are" in both.err
    assert "error: it timed edgeopt old" in both.out
    document = json.loads(cli("table", "check", tmp_path / "bad", "--json").out)
    (items,) = document["tables"].values()
    assert {item["level"] for item in items} == {"error", "warning"}
    (tmp_path / "broken").write_text("{")
    broken = cli("table", "check", tmp_path / "broken")
    assert broken.code == 2 and "not a line of JSON" in broken.err

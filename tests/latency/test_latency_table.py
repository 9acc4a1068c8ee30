"""Tables on disk: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from keys import many, table_of

from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.latency.table import Calibration, LatencyTable, Measurement, load_table
from edgeopt.latency.truth import HeldOut, judge

CALIBRATION = Calibration(1.1, 20.0, 0.01, 500.0, 30, 0.03, 0.09, 0.8, 1.0, 0.99, 0.95, 1.05)


CANDIDATES = {**asdict(CALIBRATION), "candidates": ["both"]}


@pytest.fixture
def table() -> LatencyTable:
    return table_of(many(12), calibration=CALIBRATION)


def test_round_trip(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "t.latency.jsonl"
    table.save(path)
    assert load_table(path) == table
    first = path.read_bytes()
    load_table(path).save(path)
    assert path.read_bytes() == first


def test_choices_survive_and_tables_without_them_load(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "t.latency.jsonl"
    table.save(path)
    assert b"choice" not in path.read_bytes()
    first, second = list(table.entries)[:2]
    chosen = {first: Choice(6, 2, "p"), second: Choice(2, 1, split=4)}
    entries = {
        key: replace(entry, choice=chosen.get(key, MODEL)) for key, entry in table.entries.items()
    }
    replace(table, entries=entries).save(path)
    again = load_table(path)
    assert again.choices == chosen and dict(again.entries) == entries
    assert table.merged(again).choices == chosen


def test_what_was_added_later_is_kept_and_tables_without_it_stay_as_they_were(
    table: LatencyTable, tmp_path: Path
) -> None:
    path = tmp_path / "t.latency.jsonl"
    table.save(path)
    assert json.loads(path.read_text().splitlines()[0])["schema"] == 1
    keys = list(table.entries)
    rows = [HeldOut(f"n{i}", 100.0 + i, 101.0, 0.01) for i in range(12)]
    full = replace(
        table,
        entries={**table.entries, keys[0]: replace(table.entries[keys[0]], origin="pi at 12:00")},
        calibration=replace(CALIBRATION, method="both", candidates=(("both", 0.02),)),
        in_network={keys[1]: 12.5},
        truth=judge(rows),
        source=Source.SIMULATED,
    )
    full.save(path)
    assert json.loads(path.read_text().splitlines()[0])["schema"] == 2
    assert load_table(path) == full
    with pytest.raises(InputError, match="simulated times cannot be merged with measured"):
        full.merged(table)


Change = Callable[[list[str]], None]


def header(**changes: object) -> Change:
    def change(lines: list[str]) -> None:
        lines[0] = json.dumps(json.loads(lines[0]) | changes)

    return change


def entry(drop: str = "", **changes: object) -> Change:
    def change(lines: list[str]) -> None:
        values = json.loads(lines[3]) | changes
        values.pop(drop, None)
        lines[3] = json.dumps(values)

    return change


def raw(number: int, text: str) -> Change:
    def change(lines: list[str]) -> None:
        lines[number] = text

    return change


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (header(schema=3), 1, "schema 3 is not known; this edgeopt reads 1 and 2"),
        (header(source="guessed"), 1, "source 'guessed' is not known"),
        (header(in_network={"linear in_shape=4 out_shape=4": 0.0}), 1, "0.0 ns in networks"),
        (header(in_network={"linear in_shape=4": 1.0}), 1, "are required"),
        (header(truth={"networks": 3}), 1, "mape is missing"),
        (header(calibration=CANDIDATES), 1, "candidates must be pairs"),
        (entry(origin=3), 4, "origin must be a text"),
        (header(format="csv"), 1, "format is 'csv'"),
        (header(thread=1), 1, "unknown key 'thread'; did you mean threads?"),
        (header(threads="1"), 1, "threads must be an integer"),
        (header(threads=0), 1, "0 threads"),
        (header(conditions={"a": 1}), 1, "conditions must be texts"),
        (header(calibration={"scale": 1.0}), 1, "per_kernel_ns is missing"),
        (entry(median=3), 4, "unknown key 'median'; did you mean median_ns?"),
        (entry(drop="samples"), 4, "samples is missing"),
        (entry(median_ns="3"), 4, "median_ns must be a number"),
        (entry(median_ns=True), 4, "median_ns must be a number"),
        (entry(median_ns=0), 4, "a measurement cannot be"),
        (entry(median_ns=float("nan")), 4, "not a finite number"),
        (entry(median_ns=10**400), 4, "not a finite number"),
        (entry(samples=1.5), 4, "samples must be an integer"),
        (entry(outliers=99), 4, "a measurement cannot be"),
        (entry(key="conv9 in_shape=1 out_shape=1"), 4, "unknown kernel operator 'conv9'"),
        (entry(key="linear in_shape=1"), 4, "are required"),
        (entry(choice="6 by 2"), 4, "'6 by 2' is not a tile choice"),
        (entry(choice=6), 4, "choice must be a text"),
        (raw(3, '{"key": "lin'), 4, "not a line of JSON"),
        (raw(3, "[" * 100_000), 4, "not a line of JSON"),
        (raw(3, "[]"), 4, "must be an object"),
        (raw(3, ""), 4, "not a line of JSON"),
    ],
)
def test_mistakes_are_named_with_their_line(
    table: LatencyTable, tmp_path: Path, change: Change, line: int, message: str
) -> None:
    path = tmp_path / "t.latency.jsonl"
    table.save(path)
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as caught:
        load_table(path)
    assert message in caught.value.what
    assert caught.value.where == f"{path}:{line}"


def test_a_kernel_twice(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "t.latency.jsonl"
    table.save(path)
    with path.open("a") as stream:
        stream.write(path.read_text().splitlines()[2] + "\n")
    with pytest.raises(InputError, match="appears twice") as caught:
        load_table(path)
    assert caught.value.where == f"{path}:14"


def test_empty_and_missing(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("")
    with pytest.raises(InputError, match="the table is empty"):
        load_table(tmp_path / "t")
    with pytest.raises(InputError, match="no such latency table"):
        load_table(tmp_path / "absent")


def test_merge_takes_the_newer(table: LatencyTable) -> None:
    keys = list(table.entries)
    newer = replace(table, entries={keys[0]: Measurement(1.0, 0.0, 3)}, calibration=None)
    merged = table.merged(newer)
    assert len(merged.entries) == len(keys)
    assert merged.entries[keys[0]].median_ns == 1.0
    assert merged.calibration == CALIBRATION
    assert table.ratios(merged)[keys[1]] == 1.0


@pytest.mark.parametrize("name", ["device", "fingerprint", "runtime", "runtime_version"])
def test_unlike_tables_do_not_merge(table: LatencyTable, name: str) -> None:
    with pytest.raises(InputError, match="cannot be merged: "):
        table.merged(replace(table, **{name: "other"}))  # type: ignore[arg-type]


def test_calibration_must_make_sense() -> None:
    with pytest.raises(InputError, match="a calibration cannot be"):
        replace(CALIBRATION, low=1.2)

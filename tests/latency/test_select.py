"""Which table a device is predicted with; those that hold no more are refused unless asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from keys import many, table_of

from edgeopt import devices, latency
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.latency import select
from edgeopt.latency.select import find_table, refused_tables, table_path
from edgeopt.latency.table import LatencyTable, load_table

KEYS = many(40)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path / "cache"))


def saved(folder: Path, profile: DeviceProfile, **changes: object) -> LatencyTable:
    values = {"device": profile.name, "fingerprint": profile.fingerprint} | changes
    table = table_of(KEYS, **values)
    table.save(table_path(folder, profile, table.runtime, table.threads))
    return table


def test_a_table_of_other_code_is_refused_unless_asked_for(tmp_path: Path) -> None:
    pi = devices.load("rpi4")
    table = saved(tmp_path, pi)
    assert find_table(pi, [tmp_path], runtime_version="1") == table
    assert find_table(pi, [tmp_path], runtime_version="2") is None
    ((path, why),) = refused_tables(pi, [tmp_path], runtime_version="2")
    assert path == table_path(tmp_path, pi) and why == "it timed edgeopt 1, now it is 2"
    with pytest.raises(InputError, match="does not hold any more: it timed edgeopt 1") as caught:
        latency.load_model(pi, [tmp_path], strict=True, runtime_version="2")
    assert "--any-table" in caught.value.hint
    asked = latency.load_model(pi, [tmp_path], strict=True, runtime_version="2", any_table=True)
    assert "asked for although it timed edgeopt 1, now it is 2" in asked.predict(KEYS[:4]).how
    assert refused_tables(pi, [tmp_path], runtime_version="1") == []


def test_a_table_of_another_governor_is_refused_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = devices.load("local")
    table = saved(tmp_path, local)
    for now, taken in (("performance", True), ("unknown", True), ("powersave", False)):
        monkeypatch.setattr(select, "local_governor", lambda now=now: now)
        assert (find_table(local, [tmp_path]) == table) is taken
    ((_, why),) = refused_tables(local, [tmp_path])
    assert why == "it was measured under the governor performance, now it is powersave"
    asked = find_table(local, [tmp_path], any_table=True)
    assert asked is not None and asked.conditions["accepted_although"] == why
    # Of a board that is not at hand the governor is not known now.
    pi = devices.load("rpi4")
    assert saved(tmp_path, pi) == find_table(pi, [tmp_path])


def test_a_table_of_other_threads_is_refused_unless_asked_for(tmp_path: Path) -> None:
    pi = devices.load("rpi4")
    saved(tmp_path, pi, threads=2)
    assert find_table(pi, [tmp_path], threads=1) is None
    asked = find_table(pi, [tmp_path], threads=1, any_table=True)
    assert asked is not None and asked.threads == 2
    assert asked.conditions["accepted_although"] == "it is of 2 threads, not 1"
    assert find_table(pi, [tmp_path], threads=2) is not None


def test_a_better_table_is_taken_first(tmp_path: Path) -> None:
    pi = devices.load("rpi4")
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    saved(old, pi, runtime_version="0")
    table = saved(new, pi)
    assert find_table(pi, [old, new], runtime_version="1", any_table=True) == table


def test_tables_of_other_formats_say_what_to_do(tmp_path: Path) -> None:
    pi = devices.load("rpi4")
    saved(tmp_path, pi)
    path = table_path(tmp_path, pi)
    text = path.read_text()
    schema = load_schema(text)
    for wrong, message in (
        (text.replace(f'"schema": {schema}', '"schema": 99', 1), "schema 99"),
        (text.replace("edgeopt-latency-table", "something-else", 1), "format is 'something-else'"),
    ):
        path.write_text(wrong)
        with pytest.raises(InputError, match=message) as caught:
            load_table(path)
        assert caught.value.hint and f"{path}:1" == caught.value.where


def load_schema(text: str) -> int:
    import json

    return int(json.loads(text.splitlines()[0])["schema"])


def test_the_first_format_still_loads(tmp_path: Path) -> None:
    """As tables were written by edgeopt 0.1.0 on its first day."""
    key = str(KEYS[0])
    path = tmp_path / "old.latency.jsonl"
    path.write_text(
        '{"format": "edgeopt-latency-table", "schema": 1, "device": "rpi4", "fingerprint": '
        '"ffffffffffffffff", "runtime": "edgeopt", "runtime_version": "1", "threads": 1, '
        '"conditions": {"governor": "performance"}, "calibration": null}\n'
        f'{{"key": "{key}", "median_ns": 10.0, "spread_ns": 1.0, "samples": 15, "outliers": 0, '
        '"windows": 3, "disturbed": 0}\n'
    )
    table = load_table(path)
    assert table.entries[KEYS[0]].median_ns == 10.0
    again = tmp_path / "new.latency.jsonl"
    replace(table).save(again)
    assert load_table(again) == table


def test_a_folder_of_tables_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot make the folder of tables") as caught:
        select.made_table_dir()
    assert caught.value.where == str(tmp_path / "file" / "tables")
    assert "EDGEOPT_CACHE_DIR" in caught.value.hint and "--out" in caught.value.hint


def test_simulated_tables_are_not_called_measured() -> None:
    folder = select.made_table_dir()
    board = devices.load("nucleo-l4r5zi")
    saved(folder, board, source=Source.SIMULATED)
    assert latency.latency_source(board) == "simulated (40 kernels)"
    saved(folder, board)
    assert latency.latency_source(board) == "measured (40 kernels)"

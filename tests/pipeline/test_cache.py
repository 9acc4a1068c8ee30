from __future__ import annotations

from pathlib import Path

from edgeopt.pipeline.cache import Files, StageCache


def test_a_stage_runs_once_for_the_same_inputs(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> Files:
        calls.append(1)
        return {"a/b": b"x" * len(calls)}

    cache = StageCache(tmp_path)
    assert cache.get_or_make("s", {"k": "1"}, make) == ({"a/b": b"x"}, False)
    assert cache.get_or_make("s", {"k": "1"}, make) == ({"a/b": b"x"}, True)
    assert cache.get_or_make("s", {"k": "2"}, make) == ({"a/b": b"xx"}, False)
    assert cache.get_or_make("t", {"k": "1"}, make) == ({"a/b": b"xxx"}, False)
    assert len(calls) == 3


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    cache = StageCache(None)
    assert cache.get_or_make("s", {}, lambda: {"a": b"1"}) == ({"a": b"1"}, False)
    assert cache.get_or_make("s", {}, lambda: {"a": b"2"}) == ({"a": b"2"}, False)


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    cache.get_or_make("s", {}, lambda: {"a": b"good"})
    (blob,) = tmp_path.rglob("0.bin")
    blob.write_bytes(b"evil")
    assert cache.get_or_make("s", {}, lambda: {"a": b"good"}) == ({"a": b"good"}, False)
    assert cache.get_or_make("s", {}, lambda: {"a": b"other"}) == ({"a": b"good"}, True)


def test_an_unwritable_cache_only_costs_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = StageCache(blocked)
    assert cache.get_or_make("s", {}, lambda: {"a": b"1"}) == ({"a": b"1"}, False)

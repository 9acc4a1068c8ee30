"""The journal: what is kept of a file that was cut off, or that a dying disk changed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from full_disk import file_size_limit
from keys import many

from edgeopt.core.errors import InputError
from edgeopt.latency.journal import AnchorVisit, Journal
from edgeopt.latency.meters import Window

IDENTITY = {"device": "board", "runtime": "edgeopt", "threads": 1}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on disk after a power cut cannot be tested here; what is read back can."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def journal(path: Path) -> Journal:
    return Journal(path, IDENTITY)


def opened(path: Path) -> Journal:
    """What is in a journal, closed again."""
    found = journal(path)
    found.open(resume=True)
    found.close(remove=False)
    return found


def written(path: Path, count: int = 12) -> list[Window]:
    windows = [Window(key, (100.0 + n, 101.5)) for n, key in enumerate(many(count))]
    with_all = journal(path)
    with_all.open(resume=False)
    with_all.add(windows[:5])
    with_all.anchor(AnchorVisit(1.5, 99.0, True, 1_500_000_000, 61.5))
    with_all.skip(many(count + 1)[-1], "it crashes")
    with_all.event("the board was lost")
    with_all.add(windows[5:])
    with_all.close(remove=False)
    return windows


def test_everything_comes_back(tmp_path: Path) -> None:
    windows = written(tmp_path / "j")
    again = journal(tmp_path / "j")
    again.open(resume=True)
    assert again.windows == {window.key: [window] for window in windows}
    assert again.anchors == [AnchorVisit(1.5, 99.0, True, 1_500_000_000, 61.5)]
    assert again.skipped == {many(13)[-1]: "it crashes"} and not again.dropped
    assert again.events == ["the board was lost"]
    again.add(windows[:1])
    again.close(remove=False)
    third = opened(tmp_path / "j")
    assert len(third.windows[windows[0].key]) == 2


def test_every_cut_keeps_what_was_whole(tmp_path: Path) -> None:
    path = tmp_path / "j"
    written(path)
    data = path.read_bytes()
    source = random.Random(5)
    for size in sorted(source.sample(range(len(data)), 40)):
        path.write_bytes(data[:size])
        whole = max(0, data[:size].count(b"\n") - 1)
        found = journal(path)
        found.open(resume=True)
        kept = len(found.windows) + len(found.anchors) + len(found.skipped) + len(found.events)
        assert kept == whole
        cut = data[:size].rpartition(b"\n")[2]
        assert len(found.dropped) == (1 if cut and whole else 0)
        found.add([Window(many(1)[0], (7.0,))])  # and it can be gone on with
        found.close(remove=False)
        last = opened(path)
        assert not last.dropped and last.windows[many(1)[0]][-1].samples_ns == (7.0,)


def test_changed_lines_are_dropped_and_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "j"
    windows = written(path)
    lines = path.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b"101.5", b"104.5")  # still JSON, but not what was written
    lines[10] = b"\x00" * 40
    path.write_bytes(b"\n".join(lines))
    found = opened(path)
    assert found.dropped == [4, 11]
    assert len(found.windows) == len(windows) - 2
    again = opened(path)
    assert not again.dropped and again.windows == found.windows


def test_random_damage_never_changes_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j"
    truth = {window.key: [window] for window in written(path)}
    data = path.read_bytes()
    start = data.index(b"\n") + 1
    source = random.Random(9)
    for _ in range(80):
        broken = bytearray(data)
        for _ in range(source.randint(1, 4)):
            broken[source.randrange(start, len(data))] = source.randrange(256)
        path.write_bytes(bytes(broken))
        found = opened(path)
        assert all(found.windows[key] == truth[key] for key in found.windows)


def test_journals_of_the_first_format_are_continued(tmp_path: Path) -> None:
    path = tmp_path / "j"
    keys = many(3)
    lines = [json.dumps({"journal": 1, **IDENTITY}, sort_keys=True)]
    lines += [json.dumps({"key": str(key), "ns": [5.0, 6.0]}) for key in keys]
    path.write_text("\n".join([*lines, '{"key": "pointw']))
    found = journal(path)
    found.open(resume=True)
    assert set(found.windows) == set(keys) and found.dropped == [5]
    found.add([Window(keys[0], (4.0,))])
    found.close(remove=False)
    again = opened(path)
    assert len(again.windows[keys[0]]) == 2 and not again.dropped


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"journal": 3, **IDENTITY}, "schema 3, this edgeopt reads 2"),
        ({"journal": 1, **IDENTITY, "threads": 2}, "threads 2, now 1"),
        ({"diary": 1}, "no journal of a measurement"),
    ],
)
def test_other_files_are_not_touched(
    tmp_path: Path, header: dict[str, object], message: str
) -> None:
    path = tmp_path / "j"
    path.write_text(json.dumps(header) + "\n{}\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        journal(path).open(resume=True)
    assert path.read_bytes() == before


def test_a_journal_without_a_measurement_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for text in (b"", b'{"journ', b'{"journal": 1}\n'):
        path.write_bytes(text)
        begun = journal(path)
        begun.open(resume=False)
        begun.close(remove=False)
        assert b'"device": "board"' in path.read_bytes()


def test_a_visit_that_does_not_fit_is_said_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "j"
    windows = written(path)
    full = journal(path)
    full.open(resume=True)
    before = path.read_bytes()
    with (
        file_size_limit(len(before) + 30),
        pytest.raises(InputError, match=r"cannot write the journal: File too large"),
    ):
        full.add(windows[:2])
    full.close(remove=False)
    assert path.read_bytes() == before
    found = opened(path)
    assert not found.dropped and sum(map(len, found.windows.values())) == len(windows)

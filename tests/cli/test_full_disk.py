"""`edgeopt profile` on a disk that fills up: it says so, loses nothing, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Cli
from full_disk import SmallDisk, small_disk

from benchmarks.profile_kills import recorded
from edgeopt.latency.table import LatencyTable, load_table


def test_a_full_disk_is_named_and_the_measurement_goes_on_afterwards(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "4k") as disk:
        _measure_on(disk, cli, tiny_model)


def _measure_on(disk: SmallDisk, cli: Cli, model: Path) -> None:
    table = disk.folder / "t.latency.jsonl"
    journal = disk.folder / "t.latency.jsonl.journal"
    command = (
        "profile", model, "--space", "", "--precision", "fp32", "--meter", "ort", "--no-report",
        "-q", "--out", table,
    )  # fmt: skip
    full = cli(*command)
    said = " ".join(full.err.split())
    assert full.code == 2, said
    assert "cannot write the journal: No space left on device" in said
    assert "free some space and continue with --resume" in said
    visits, torn = recorded(journal)
    assert sum(visits.values()) > 3 and not torn and not table.exists()

    still = cli(*command, "--resume")  # there is no more room than before
    assert still.code == 2 and "No space left on device" in " ".join(still.err.split())
    assert recorded(journal) == (visits, 0)

    disk.grow("1m")
    done = cli(*command, "--resume")
    assert done.code == 0, done.err
    entries = {str(key): entry for key, entry in load_table(table).entries.items()}
    assert all(entries[key].windows >= count for key, count in visits.items())
    assert not journal.exists()


def test_a_table_that_does_not_fit_leaves_its_journal(
    cli: Cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        table = disk.folder / "t.latency.jsonl"
        command = (
            "profile", tiny_model, "--space", "", "--precision", "fp32", "--meter", "ort",
            "--no-report", "-q", "--out", table,
        )  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(LatencyTable, "save", _without_room(disk, LatencyTable.save))
            full = cli(*command)
        assert full.code == 2
        assert "cannot write: No space left on device" in " ".join(full.err.split())
        visits, torn = recorded(disk.folder / "t.latency.jsonl.journal")
        assert visits and not torn and not table.exists()
        disk.grow("1m")
        done = cli(*command, "--resume")
        assert done.code == 0, done.err
        entries = {str(key): entry.windows for key, entry in load_table(table).entries.items()}
        assert entries == visits  # all of it was there


def _without_room(disk: SmallDisk, save: Callable[..., None]) -> Callable[..., None]:
    """Saving, after somebody else took what room there was."""

    def save_late(self: LatencyTable, path: Path) -> None:
        with (disk.folder / "filler").open("wb", buffering=0) as other, suppress(OSError):
            while other.write(bytes(4096)):
                pass
        save(self, path)

    return save_late

from __future__ import annotations

from pathlib import Path

import pytest
from full_disk import file_size_limit

from edgeopt.core.errors import InputError
from edgeopt.core.files import Appender, read_bytes, write_atomic


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_atomic(target, "one")
    write_atomic(target, b"two")
    assert target.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*cannot write"):
        write_atomic(tmp_path / "nowhere" / "a", "x")


def test_a_file_used_as_a_folder_is_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot write"):
        write_atomic(Path("/dev/full/x"), "x")


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, max_bytes=5) == b"12345"
    with pytest.raises(InputError, match="5 bytes, more than the 4 allowed"):
        read_bytes(path, max_bytes=4)
    with pytest.raises(InputError, match="no such file"):
        read_bytes(tmp_path / "b", max_bytes=4)
    with pytest.raises(InputError, match="not a regular"):
        read_bytes(tmp_path, max_bytes=4)


def test_a_piece_that_does_not_fit_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Appender(path)
    log.append(b"first\n")
    with file_size_limit(10), pytest.raises(OSError):
        log.append(b"second and long\n")
    assert path.read_bytes() == b"first\n"
    log.append(b"third\n")  # once there is room again
    log.close()
    again = Appender(path)
    again.append(b"fourth\n")
    again.close()
    assert path.read_bytes() == b"first\nthird\nfourth\n"
    fresh = Appender(path, fresh=True)
    fresh.append(b"1\n")
    with file_size_limit(4), pytest.raises(OSError):
        fresh.append(b"22222\n")
    fresh.append(b"3\n")
    fresh.close()
    assert path.read_bytes() == b"1\n3\n"

"""What holds for every way to reach a board with an operating system."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rigs
from rigs import Rig

from edgeopt.core.errors import (
    BoardCommandFailed,
    BoardError,
    BoardLost,
    BoardTimeout,
    InputError,
)
from edgeopt.devices.transports import Link, stream


@pytest.fixture(scope="module", params=list(rigs.RIGS))
def rig(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    needs_tool: Callable[[str], str],
) -> Iterator[Rig]:
    rigs.host_only()
    with rigs.RIGS[request.param](tmp_path_factory.mktemp(request.param), needs_tool) as rig:
        yield rig


@pytest.fixture(scope="module")
def shared(rig: Rig) -> Iterator[tuple[Link, str]]:
    with rig.open() as link:
        yield link, link.push(rig.program, "program", executable=True)


@pytest.fixture
def link(shared: tuple[Link, str]) -> Link:
    return shared[0]


@pytest.fixture
def program(shared: tuple[Link, str]) -> str:
    return shared[1]


LITERAL = ["a b", "it's", '"', "$(id)", "`id`", "${HOME}", "*", "~", "a;b", "a|b>c&", "\\n\\", "!!",
           "", "-n", "--", "%s", "é☃", "#", "a\tb", "=x"]  # fmt: skip


def test_arguments_arrive_literally(link: Link, program: str) -> None:
    shown = [stream.printable(text) for text in LITERAL]
    assert list(link.run([program, "args", *LITERAL])) == shown


def test_an_argument_may_hold_a_line_end(link: Link, program: str) -> None:
    assert list(link.run([program, "args", "a\nb", "c"])) == ["a", "b", "c"]


def test_commands_that_cannot_be(link: Link, program: str) -> None:
    for command in ([], [""], [program, "a\0b"]):
        with pytest.raises(InputError, match="a command needs a program, and no argument can"):
            list(link.run(command))


def test_lines_come_as_they_are_printed(link: Link, program: str, tmp_path: Path) -> None:
    lines = link.run([program, "gate", str(tmp_path / "gate")], idle_s=60)
    assert next(lines) == "waiting"
    (tmp_path / "gate").touch()
    assert list(lines) == ["through"]


def test_many_lines(link: Link, program: str) -> None:
    lines = link.run([program, "lines", "5000", "0"])
    assert list(lines) == [f"line {i}" for i in range(5000)]


def test_many_commands_over_one_link(link: Link, program: str) -> None:
    for number in range(12):
        assert list(link.run([program, "args", str(number)])) == [str(number)]


def test_failure_after_the_lines(link: Link, program: str) -> None:
    lines = link.run([program, "fail", "3"])
    assert next(lines) == "before"
    with pytest.raises(BoardCommandFailed, match="ended with status 3") as caught:
        next(lines)
    assert caught.value.status == 3
    assert caught.value.stderr == "first\nthe \ufffd[31mreason"
    assert "program" in caught.value.where


def test_crash(rig: Rig, link: Link, program: str) -> None:
    lines = link.run([program, "crash"])
    assert next(lines) == "before"
    with pytest.raises(BoardCommandFailed) as caught:
        next(lines)
    assert caught.value.status in ((-11,) if rig.signals else (-11, 139))
    assert "crashed" in caught.value.hint


def test_a_program_that_is_not_there(link: Link) -> None:
    with pytest.raises(BoardCommandFailed) as caught:
        list(link.run(["/nowhere/program"]))
    assert "No such file" in str(caught.value) or "not found" in str(caught.value)


def test_only_the_end_of_standard_error_is_kept(link: Link, program: str) -> None:
    with pytest.raises(BoardCommandFailed) as caught:
        list(link.run([program, "stderr"]))
    assert caught.value.status == 4
    assert caught.value.stderr.endswith("19999 complaints")
    assert len(caught.value.stderr) <= stream.MAX_STDERR_BYTES


def test_silence(link: Link, program: str) -> None:
    lines = link.run([program, "silent"], idle_s=0.5)
    assert next(lines) == "before"
    with pytest.raises(BoardTimeout, match=r"was silent for 0\.5 s") as caught:
        next(lines)
    assert "hangs" in caught.value.hint


def test_too_long_in_all(link: Link, program: str) -> None:
    with pytest.raises(BoardTimeout, match=r"did not finish within 0\.7 s"):
        list(link.run([program, "lines", "100000", "1000"], timeout_s=0.7))


def test_after_a_timeout_the_link_still_works(link: Link, program: str) -> None:
    with pytest.raises(BoardTimeout):
        list(link.run([program, "silent"], idle_s=0.2))
    assert list(link.run([program, "args", "x"])) == ["x"]


def test_endless_output(link: Link, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_OUTPUT_BYTES", 1 << 20)
    with pytest.raises(BoardError, match="prints endlessly"):
        for _ in link.run([program, "endless"]):
            pass


def test_a_line_without_end(link: Link, program: str) -> None:
    with pytest.raises(BoardError, match="prints a line without end"):
        list(link.run([program, "overlong"]))


def test_noise_is_made_harmless(link: Link, program: str) -> None:
    lines = list(link.run([program, "noise"]))
    assert lines[-1] == "end"
    assert all(c.isprintable() or c in "\t\ufffd" for line in lines for c in line)


def test_escapes_are_made_harmless(link: Link, program: str) -> None:
    lines = list(link.run([program, "escapes"]))
    assert lines == ["\ufffd]0;title\ufffd\ufffd[2Jtext", "no end"]


def test_closing_the_iterator_ends_the_program(rig: Rig, link: Link, program: str) -> None:
    lines = link.run([program, "pid"])
    pid = int(next(lines))
    lines.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 20
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    """Boards of the suite are on this machine: their processes are ours."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_pushing_again_replaces(rig: Rig, link: Link, program: str, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_text("one, and longer")
    link.push(source, "twice.txt")
    source.write_text("two")
    assert rig.work(link.push(source, "twice.txt")).read_text() == "two"
    assert link.push(rig.program, "program", executable=True) == program


def test_pushing_an_empty_file(rig: Rig, link: Link, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert rig.work(link.push(tmp_path / "empty", "empty.txt")).read_bytes() == b""


@pytest.mark.parametrize(
    "name", ["", "../x", "/etc/passwd", "a b", "-rf", "a\nb", ".", "..", "x" * 200]
)
def test_names_that_are_not_plain(link: Link, tmp_path: Path, name: str) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(InputError, match="is not a plain file name"):
        link.push(tmp_path / "data", name)


def test_a_file_that_cannot_be_pushed(link: Link, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the file to push: No such file"):
        link.push(tmp_path / "missing", "data")


def test_read_text(rig: Rig, link: Link, tmp_path: Path) -> None:
    (tmp_path / "temperature").write_text("48312\n\x1b[2J\n")
    text = link.read_text(str(tmp_path / "temperature"))
    assert text == ("48312\n\ufffd[2J\n" if rig.shell else None)
    for absent in ("/nowhere/at all", "/proc", "-n", "$(id)", ""):
        assert link.read_text(absent) is None


def test_facts(rig: Rig, link: Link) -> None:
    facts = link.facts()
    assert facts.machine in ("x86_64", "aarch64")
    if rig.shell:
        assert facts.cores is not None and facts.cores >= 1
        assert facts.kernel and facts.memory_bytes and facts.memory_bytes > 1 << 26
        assert facts.libc


def test_the_work_folder_is_private_and_goes(
    rig: Rig, shared: tuple[Link, str], tmp_path: Path
) -> None:
    source = tmp_path / "data"
    source.write_bytes(os.urandom(100_000) + b"\r\n\0\xff")
    if rig.single:
        shared[0].close()
    with rig.open() as link:
        path = rig.work(link.push(source, "data.bin"))
        folder = path.parent
        assert path.read_bytes() == source.read_bytes()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not path.stat().st_mode & 0o111
        link.push(source, "run.me", executable=True)
        assert (folder / "run.me").stat().st_mode & 0o100
        if rig.shell:
            assert list(link.run(["/bin/pwd"])) == [str(folder)]
        if not rig.single:
            with rig.open() as other:
                assert rig.work(other.push(source, "data.bin")).parent != folder
    assert not folder.exists()
    link.close()  # a second time does nothing


def test_lines_may_be_given_up_after_the_link_is_closed(rig: Rig) -> None:
    """As a collector does with a generator that nobody holds any more."""
    with contextlib.closing(rig.open()) as link:
        program = link.push(rig.program, "program", executable=True)
        lines = link.run([program, "silent"])
        assert next(lines) == "before"
    lines.close()  # type: ignore[attr-defined]


def test_the_board_vanishes(rig: Rig) -> None:
    if rig.vanish is None:
        pytest.skip("this machine cannot vanish")
    with contextlib.closing(rig.open()) as link:
        program = link.push(rig.program, "program", executable=True)
        lines = link.run([program, "silent"])
        assert next(lines) == "before"
        rig.vanish()
        with pytest.raises(BoardLost) as caught:
            next(lines)
        assert caught.value.hint
        with pytest.raises(BoardError):
            list(link.run([program, "args", "x"]))

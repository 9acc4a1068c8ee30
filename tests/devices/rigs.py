"""Boards for the conformance suite: for each transport a link to one, and ways to break it."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.devices.transports import Link, open_link

PROGRAM = Path(__file__).parent / "board_program.c"
NeedsTool = Callable[[str], str]


@dataclass
class Rig:
    """A board that tests may do anything to.

    Attributes:
        open: connects; every call is a new link.
        program: the test program, built for the board.
        vanish: takes the board away; None where it cannot vanish (this machine).
        shell: commands of the board's own can be run (an emulated processor has none).
        signals: the transport tells a crash from an exit status.
        work: a work folder as this machine sees it.
    """

    open: Callable[[], Link]
    program: Path
    vanish: Callable[[], None] | None = None
    shell: bool = True
    signals: bool = True
    work: Callable[[str], Path] = field(default=Path)


def build(compiler: str, output: Path) -> Path:
    subprocess.run([compiler, "-O1", "-static", "-o", str(output), str(PROGRAM)], check=True)
    return output


@contextlib.contextmanager
def local(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[Rig]:
    program = build(needs_tool("gcc"), tmp_path / "program")
    yield Rig(lambda: open_link(devices.load("local")), program)


@contextlib.contextmanager
def qemu_user(tmp_path: Path, needs_tool: NeedsTool) -> Iterator[Rig]:
    needs_tool("qemu-aarch64")
    program = build(needs_tool("aarch64-linux-gnu-gcc"), tmp_path / "program")
    yield Rig(lambda: open_link(devices.load("rpi4")), program, shell=False)


RIGS = {"local": local, "qemu_user": qemu_user}


def host_only() -> None:
    if platform.system() != "Linux":
        pytest.skip("boards of the conformance suite need Linux")

"""Running an image under QEMU, with a limit on its time, and counting what it executes."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from edgeopt.codegen.machines.image import Image
from edgeopt.core.errors import ToolError
from edgeopt.core.files import digest, write_atomic

TIMEOUT_S = 300
_INSTALL = {
    "qemu-system-arm": "apt-get install qemu-system-arm",
    "qemu-system-riscv32": "apt-get install qemu-system-misc",
    "gcc": "apt-get install gcc",
}
_FAULT = re.compile(r"FAULT (\d+) pc=0x([0-9a-f]{8})(.*)")


@dataclass(frozen=True, slots=True)
class Output:
    """What a program did.

    Attributes:
        lines: what it printed.
        status: what its ``main`` returned.
        instructions: of the whole run, or None if they were not counted.
        regions: between each ``board_count_begin`` and the next ``board_count_end``, in turn.
        functions: executed inside each function, by symbol; empty unless asked for.
    """

    lines: tuple[str, ...]
    status: int
    instructions: int | None = None
    regions: tuple[int, ...] = ()
    functions: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


def run(
    image: Image,
    *,
    count: bool = False,
    functions: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Output:
    """Start an image on its machine and wait for its end.

    Args:
        image: from `build`.
        count: count instructions, in all and by region.
        functions: and by function.
        timeout_s: how long it may take.

    Raises:
        ToolError: the emulator is missing, the program faults (the message says where), or it
            does not end in time.
    """
    program = _need(image.machine.qemu[0])
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        counted = Path(folder) / "count"
        extra: list[str] = []
        if count or functions:
            begin, end = (_mark(image, name) for name in ("begin", "end"))
            blocks = ",blocks=on" if functions else ""
            extra = ["-plugin", f"{counting_plugin()},out={counted}{blocks}{begin}{end}"]
        command = [
            program, *image.machine.qemu[1:], "-display", "none", "-monitor", "none",
            "-serial", "stdio", "-semihosting-config", "enable=on,target=native", *extra,
            "-kernel", str(image.path),
        ]  # fmt: skip
        status, said, complaint = _run(command, timeout_s)
        lines = tuple(said.splitlines())
        _check(image, status, lines, complaint)
        if not extra:
            return Output(lines, status)
        return _counted(image, lines, status, counted.read_text().splitlines())


def _run(command: Sequence[str], timeout_s: float) -> tuple[int, str, str]:
    """Status, output and complaints of a command that is ended with all it started."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, complaint = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ToolError(
                f"the program did not end within {timeout_s:g} s", where=Path(command[0]).name,
                hint="it may hang, or the machine may be busy",
            ) from error  # fmt: skip
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said.decode("utf-8", "replace"), complaint.decode(errors="replace")


def _check(image: Image, status: int, lines: Sequence[str], complaint: str) -> None:
    for line in reversed(lines[-4:]):
        if fault := _FAULT.search(line):
            place = _function_at(image, int(fault[2], 16))
            raise ToolError(
                f"the program faulted in {place} (exception {fault[1]},{fault[3]})",
                where=f"{image.path.name} on {image.machine.core}",
                hint="disassemble the image around that address",
            )
    if status < 0 or (status == 1 and complaint and not lines):
        last = complaint.strip().splitlines()[-1:] or [f"signal {-status}"]
        raise ToolError(
            f"the emulator failed: {last[0][:300]}", where=image.machine.qemu[0],
            hint="is it recent enough? 7.2 is",
        )  # fmt: skip


def _function_at(image: Image, address: int) -> str:
    for symbol in image.symbols:
        if symbol.is_function and symbol.address <= address < symbol.address + symbol.size_bytes:
            return f"{symbol.name} at {address:#x}"
    return f"{address:#x}"


def _mark(image: Image, name: str) -> str:
    known = {symbol.name: symbol.address for symbol in image.symbols}
    address = known.get(f"board_count_{name}")
    return "" if address is None else f",{name}={address:#x}"


def _counted(image: Image, lines: tuple[str, ...], status: int, report: Sequence[str]) -> Output:
    marks = [int(line.split()[1]) for line in report if line.startswith("mark ")]
    total = next(int(line.split()[1]) for line in report if line.startswith("total "))
    if len(marks) % 2:
        raise ToolError(
            "board_count_begin was called without board_count_end", where=image.path.name
        )
    regions = tuple(b - a for a, b in zip(marks[::2], marks[1::2], strict=True))
    functions = [symbol for symbol in image.symbols if symbol.is_function]
    starts = [symbol.address for symbol in functions]
    found: dict[str, int] = {}
    for line in report:
        address, executed = line.split()
        if address in ("mark", "total"):
            continue
        index = bisect_right(starts, int(address, 16)) - 1
        name = functions[index].name if index >= 0 else ""
        found[name] = found.get(name, 0) + int(executed)
    return Output(lines, status, total, regions, MappingProxyType(found))


@functools.cache
def counting_plugin() -> Path:
    """The counting plugin, compiled for this machine and kept in the user's cache.

    Raises:
        ToolError: there is no C compiler.
    """
    source = resources.files("edgeopt.codegen.machines").joinpath("insncount.c").read_bytes()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeopt" / "qemu"
    library = base / f"insncount-{digest(source)[:16]}.so"
    if not library.exists():
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
            path = Path(folder) / "insncount.c"
            path.write_bytes(source)
            built = path.with_suffix(".so")
            flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
            _compile((_need("gcc"), *flags, "-o", str(built), str(path)))
            write_atomic(library, built.read_bytes())
    return library


def _compile(command: Sequence[str]) -> None:
    from edgeopt.codegen import toolchain

    toolchain.run(command)


def _need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ToolError(
            f"{program} is missing", hint=_INSTALL.get(program, f"install {program}")
        )  # fmt: skip
    return path

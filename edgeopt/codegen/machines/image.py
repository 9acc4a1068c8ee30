"""C files to an image for a machine: start-up code, linker script, sizes, symbols."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

from edgeopt.codegen import toolchain
from edgeopt.codegen.machines.table import Machine
from edgeopt.codegen.toolchain import Compiler
from edgeopt.core.errors import InputError
from edgeopt.core.files import write_atomic

#: What gives the linker something to leave out.
SECTION_FLAGS = ("-ffunction-sections", "-fdata-sections")
STACK_BYTES = 32 << 10
_BOARD_FILES = ("board.h", "board.c", "start_arm.c", "start_riscv.c")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function or variable of an image."""

    name: str
    address: int
    size_bytes: int
    is_function: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A linked program.

    Attributes:
        path: the ELF file.
        machine: what it runs on.
        text_bytes: code and constants, test vectors in bulk memory not among them.
        data_bytes: variables with an initial value: they take flash and RAM.
        bss_bytes: variables without; the stack is not counted.
        symbols: in order of addresses.
    """

    path: Path
    machine: Machine
    text_bytes: int
    data_bytes: int
    bss_bytes: int
    symbols: tuple[Symbol, ...]

    @property
    def flash_bytes(self) -> int:
        """What the image takes in flash."""
        return self.text_bytes + self.data_bytes

    def address(self, symbol: str) -> int:
        """Where a symbol lies.

        Raises:
            InputError: the image has none of this name.
        """
        for known in self.symbols:
            if known.name == symbol:
                return known.address
        raise InputError(f"the image has no symbol {symbol!r}", where=str(self.path))


@functools.cache
def compiler_for(machine: Machine, *candidates: str) -> Compiler:
    """The compiler of a machine's core.

    Raises:
        ToolError: none is installed; the message names what to install.
    """
    return toolchain.find_for(machine.target.arch, candidates=candidates, c_flags=machine.c_flags)


def board_file(name: str) -> bytes:
    """One of the files that programs for a machine are linked with."""
    return resources.files("edgeopt.codegen.machines").joinpath(name).read_bytes()


def linker_script(machine: Machine, stack_bytes: int = STACK_BYTES) -> str:
    """Where everything lies."""
    regions = [region for region in (machine.code, machine.ram, machine.bulk) if region is not None]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgeopt.codegen.machines", "."), autoescape=False,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("link.ld.j2").render(
        title=machine.core, regions=regions, code=machine.code.name, ram=machine.ram.name,
        bulk=machine.bulk and machine.bulk.name, stack_bytes=stack_bytes, riscv=machine.is_riscv,
    )  # fmt: skip


def board_defines(machine: Machine) -> dict[str, str]:
    """Macros that ``board.c`` asks for."""
    return {machine.uart[0]: f"{machine.uart[1]:#x}U"}


def build(
    machine: Machine,
    sources: Sequence[Path],
    work: Path,
    *,
    name: str = "image",
    includes: Sequence[Path] = (),
    defines: Mapping[str, str] | None = None,
    flags: Sequence[str] = ("-O2",),
    objects: Sequence[Path] = (),
    stack_bytes: int = STACK_BYTES,
    compiler: Compiler | None = None,
) -> Image:
    """Compile C files, one of which has ``main``, and link them with the start-up code.

    Args:
        machine: from `MACHINES`.
        sources: C files; they may include ``board.h``.
        work: an empty or reusable folder for everything that is made.
        name: of the image, ``<name>.elf`` in the folder.
        includes: folders of headers.
        defines: macros.
        flags: optimisation and warnings of the sources.
        objects: ready objects to link as well.
        stack_bytes: room for the stack.
        compiler: other than the usual one.

    Raises:
        ToolError: compiler or linker is missing or fails, or the program does not fit.
    """
    work = work.resolve()
    compiler = compiler or compiler_for(machine)
    board = work / "board"
    board.mkdir(parents=True, exist_ok=True)
    for file in _BOARD_FILES:
        (board / file).write_bytes(board_file(file))
    script = board / "link.ld"
    write_atomic(script, linker_script(machine, stack_bytes))
    start = board / ("start_riscv.c" if machine.is_riscv else "start_arm.c")
    compiled = []
    own = [(board / "board.c", ("-Os",)), (start, ("-Os",))]
    for index, (source, how) in enumerate([*own, *((path, flags) for path in sources)]):
        compiled.append(work / f"{name}.{index}.{source.stem}.o")
        toolchain.compile_object(
            compiler, source, compiled[-1], includes=(*includes, board), work=work,
            defines={**(defines or {}), **(board_defines(machine) if index == 0 else {})},
            flags=(*how, *SECTION_FLAGS),
        )  # fmt: skip
    path = work / f"{name}.elf"
    libraries = () if machine.is_riscv else ("--specs=nano.specs",)
    toolchain.run(
        (
            *compiler.argv, *compiler.c_flags, *flags, *libraries, "-nostartfiles",
            *map(str, (*compiled, *objects)), "-T", str(script), "-Wl,--gc-sections",
            "-Wl,--no-warn-rwx-segments", *compiler.link_flags, "-lm", "-o", str(path),
        ),
        compiler=compiler, cwd=work,
    )  # fmt: skip
    return load(path, machine)


def load(path: Path, machine: Machine) -> Image:
    """A linked program as an image."""
    elf = _Elf(path.read_bytes())
    sizes = {"text": 0, "data": 0, "bss": 0}
    for section in elf.sections:
        if section.name in (".bulk", ".stack") or not section.flags & 2:
            continue
        writable, stored = section.flags & 1, section.kind != 8
        sizes["bss" if not stored else "data" if writable else "text"] += section.size
    symbols = tuple(sorted(elf.symbols(), key=lambda symbol: (symbol.address, symbol.name)))
    return Image(path, machine, sizes["text"], sizes["data"], sizes["bss"], symbols)


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int


class _Elf:
    """Sections and symbols of a linked 32-bit file."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x01\x01":
            raise InputError("not a little-endian 32-bit ELF file")
        self.data = data
        (at,) = struct.unpack_from("<I", data, 0x20)
        size, count, names = struct.unpack_from("<HHH", data, 0x2E)
        raw = [struct.unpack_from("<10I", data, at + size * i) for i in range(count)]
        self.sections = [
            _Section(self._text(raw[names][4] + f[0]), f[1], f[2], f[4], f[5], f[6]) for f in raw
        ]

    def _text(self, at: int) -> str:
        return self.data[at : self.data.index(b"\0", at)].decode("ascii", "replace")

    def symbols(self) -> Iterator[Symbol]:
        for table in (s for s in self.sections if s.kind == 2):
            strings = self.sections[table.link].offset
            body = self.data[table.offset : table.offset + table.size]
            for name, value, size, info, _, section in struct.iter_unpack("<IIIBBH", body):
                text = self._text(strings + name)
                if text and section and info & 15 in (0, 1, 2) and not text.startswith("$"):
                    function = info & 15 == 2
                    yield Symbol(text, value & ~1 if function else value, size, function)

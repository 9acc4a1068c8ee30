"""Joining relocatable objects, one a kernel, into one: what ``ld -r`` does, for any target.

Kernels are compiled one by one and kept in a cache that networks share, under symbols that no
network's name is part of. Joining renames them, and keeps of each object only what the kernels
reach: debug sections and unused helpers of the compiler stay behind. Every kernel has a section of
its own (``.text.<symbol>``), so a linker can drop those that nothing calls; constants that several
kernels load are stored once, and so are the functions that kernels share, which become local.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgeopt.codegen.abi import SHARED

_SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB, _SHT_RELA, _SHT_NOBITS, _SHT_REL = 1, 2, 3, 4, 8, 9
_SHF_ALLOC, _SHF_EXEC, _SHF_MERGE, _SHF_STRINGS, _SHF_INFO = 0x2, 0x4, 0x10, 0x20, 0x40
_LOCAL, _GLOBAL, _WEAK, _SECTION = 0, 1, 2, 3
_RESERVED = 0xFF00
#: Say which variant of the processor and its calling convention an object is for.
_ATTRIBUTES = (".ARM.attributes", ".riscv.attributes")


@dataclass(slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    align: int
    entry: int
    #: (offset, type, symbol, addend or None where it lies in the data)
    relocations: list[tuple[int, int, int, int | None]] = field(default_factory=list)


@dataclass(slots=True)
class _Symbol:
    name: str
    value: int
    size: int
    info: int
    other: int
    section: int

    @property
    def binding(self) -> int:
        return self.info >> 4

    @property
    def kind(self) -> int:
        return self.info & 15


class _Object:
    """A parsed relocatable file."""

    def __init__(self, data: bytes) -> None:
        if data[:4] != b"\x7fELF" or data[5:6] != b"\x01" or data[4:5] not in (b"\x01", b"\x02"):
            raise ValueError("not a little-endian ELF object")
        self.wide = data[4] == 2
        try:
            self._read(data)
        except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
            raise ValueError("truncated ELF object") from error

    def _read(self, data: bytes) -> None:
        wide = self.wide
        kind, self.machine = struct.unpack_from("<HH", data, 16)
        if kind != 1:
            raise ValueError("not a relocatable ELF object")
        self.osabi = data[7:9]
        (at,) = struct.unpack_from("<Q" if wide else "<I", data, 0x28 if wide else 0x20)
        (self.flags,) = struct.unpack_from("<I", data, 0x30 if wide else 0x24)
        size, count, names = struct.unpack_from("<HHH", data, 0x3A if wide else 0x2E)
        form = "<IIQQQQIIQQ" if wide else "<IIIIIIIIII"
        raw = [struct.unpack_from(form, data, at + size * i) for i in range(count)]
        titles = raw[names][4]
        self.sections = []
        self.symbols: list[_Symbol] = []
        for name, kind, flags, _, offset, length, _, _, align, entry in raw:
            content = b"" if kind == _SHT_NOBITS else data[offset : offset + length]
            title = _text(data, titles + name)
            self.sections.append(_Section(title, kind, flags, content, length, align, entry))
        for section, fields in zip(self.sections, raw, strict=True):
            link, info = fields[6], fields[7]
            if section.kind == _SHT_SYMTAB:
                self.symbols = list(self._symbols(section, raw[link][4], data))
            elif section.kind in (_SHT_REL, _SHT_RELA):
                self.sections[info].relocations = list(self._relocations(section))

    def _symbols(self, table: _Section, strings: int, data: bytes) -> Iterator[_Symbol]:
        form = "<IBBHQQ" if self.wide else "<IIIBBH"
        for fields in struct.iter_unpack(form, table.data):
            if self.wide:
                name, info, other, section, value, size = fields
            else:
                name, value, size, info, other, section = fields
            yield _Symbol(_text(data, strings + name), value, size, info, other, section)

    def _relocations(self, table: _Section) -> Iterator[tuple[int, int, int, int | None]]:
        with_addend = table.kind == _SHT_RELA
        form = ("<QQq" if with_addend else "<QQ") if self.wide else "<IIi" if with_addend else "<II"
        for fields in struct.iter_unpack(form, table.data):
            shift = 32 if self.wide else 8
            kind, symbol = fields[1] & ((1 << shift) - 1), fields[1] >> shift
            yield fields[0], kind, symbol, fields[2] if with_addend else None


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at)
    if end < 0:
        raise IndexError("a name without an end")
    return data[at:end].decode("ascii")


def join(objects: Sequence[tuple[bytes, Mapping[str, str]]]) -> bytes:
    """One relocatable object of several.

    Args:
        objects: each with the functions wanted of it: their symbols there, and their new names.

            Functions that kernels share keep their names, and come before their callers; of
            several of one name the first is taken.

    Returns:
        An object that defines the new names, and what they reach.

    Raises:
        ValueError: an object is malformed, of another machine than the first, or lacks a symbol;
            two functions have the same new name, or a shared one comes too late.
    """
    if not objects:
        raise ValueError("nothing to join")
    joined: _Joined | None = None
    for data, wanted in objects:
        source = _Object(data)
        if joined is None:
            joined = _Joined(source)
        joined.add(source, wanted)
    assert joined is not None
    return joined.encode()


class _Joined:
    """The object under construction."""

    def __init__(self, first: _Object) -> None:
        self.wide, self.machine = first.wide, first.machine
        self.flags, self.osabi = first.flags, first.osabi
        # without the null section: a section's index is one more than its place
        self.sections = [s for s in first.sections if s.name in _ATTRIBUTES]
        self.locals: list[_Symbol] = []
        self.globals: list[_Symbol] = []
        self.named: dict[str, int] = {}  # global name -> index in globals
        self.shared: dict[str, int] = {}  # name of a shared function -> index in locals
        self.pools: dict[tuple[str, int, int], _Pool] = {}

    def add(self, source: _Object, wanted: Mapping[str, str]) -> None:
        if (source.wide, source.machine) != (self.wide, self.machine):
            raise ValueError("objects of different machines")
        placed: dict[int, int] = {}  # section there -> here, 1-based
        symbols: dict[int, tuple[bool, int]] = {}  # symbol there -> (global?, index here)
        found = {s.name: i for i, s in enumerate(source.symbols) if s.binding != _LOCAL}
        known = {i for i, s in enumerate(source.symbols) if s.name in self.shared}
        symbols |= {i: (False, self.shared[source.symbols[i].name]) for i in known}
        pending = []
        for old, new in wanted.items():
            if old in self.shared:
                continue
            index = found.get(old)
            if index is None or not 0 < source.symbols[index].section < _RESERVED:
                raise ValueError(f"the object does not define {old}")
            if new in self.named and self.globals[self.named[new]].section:
                raise ValueError(f"{new} is defined twice")
            pending.append(source.symbols[index].section)
        poolable = _poolable(source)
        new_sections = []
        while pending:
            index = pending.pop()
            if index in placed or index in poolable:
                continue
            section = source.sections[index]
            self.sections.append(section)
            placed[index] = len(self.sections)
            new_sections.append(index)
            for _, _, named, _ in section.relocations:
                at = source.symbols[named].section
                if 0 < at < _RESERVED and named not in known:
                    pending.append(at)
        for index, symbol in enumerate(source.symbols):
            place = placed.get(symbol.section, 0)
            if symbol.name.startswith(SHARED):
                if index not in known and place:
                    symbols[index] = self._local(symbol, place)
                    self.shared[symbol.name] = symbols[index][1]
            elif symbol.binding == _LOCAL:
                kept = place and (symbol.kind == _SECTION or symbol.name.startswith("$"))
                if kept:
                    symbols[index] = self._local(symbol, place)
            elif symbol.name in wanted:
                symbols[index] = self._global(symbol, wanted[symbol.name], place)
        for index in new_sections:
            section = source.sections[index]
            if section.flags & _SHF_EXEC:
                names = [
                    wanted[s.name]
                    for s in source.symbols
                    if s.section == index and s.name in wanted and s.binding != _LOCAL
                ]
                if names:
                    section.name = f".text.{names[0]}"
            section.relocations = [
                (offset, kind, self._token(source, named, symbols, placed, poolable), addend)
                for offset, kind, named, addend in section.relocations
            ]

    def _token(
        self,
        source: _Object,
        index: int,
        symbols: dict[int, tuple[bool, int]],
        placed: dict[int, int],
        poolable: set[int],
    ) -> int:
        """A symbol as relocations name it until indices are known: locals even, globals odd."""
        if index not in symbols:
            symbol = source.symbols[index]
            if symbol.name.startswith(SHARED):
                raise ValueError(f"{symbol.name} is called before it is defined")
            if symbol.section in poolable:
                symbols[index] = self._pooled(source, symbol)
            elif symbol.binding == _LOCAL:
                symbols[index] = self._local(symbol, placed.get(symbol.section, symbol.section))
            else:
                symbols[index] = self._global(symbol, symbol.name, placed.get(symbol.section, 0))
        is_global, at = symbols[index]
        return 2 * at + is_global

    def _local(self, symbol: _Symbol, place: int) -> tuple[bool, int]:
        name = "" if symbol.kind == _SECTION else symbol.name
        info = _LOCAL << 4 | symbol.kind
        self.locals.append(_Symbol(name, symbol.value, symbol.size, info, symbol.other, place))
        return False, len(self.locals) - 1

    def _global(self, symbol: _Symbol, name: str, place: int) -> tuple[bool, int]:
        known = self.named.get(name)
        if known is None:
            known = self.named[name] = len(self.globals)
            self.globals.append(_Symbol(name, 0, 0, symbol.info, symbol.other, 0))
        mine = self.globals[known]
        if place and not mine.section:
            mine.value, mine.size, mine.section = symbol.value, symbol.size, place
            mine.info, mine.other = symbol.info, symbol.other
        return True, known

    def _pooled(self, source: _Object, symbol: _Symbol) -> tuple[bool, int]:
        """The local symbol of an equal constant, whichever kernel brought it first."""
        section = source.sections[symbol.section]
        pool = self.pools.get((section.name, section.flags, section.entry))
        if pool is None:
            self.sections.append(
                _Section(section.name, section.kind, section.flags, b"", 0, section.align,
                         section.entry)
            )  # fmt: skip
            pool = _Pool(self.sections[-1], len(self.sections))
            self.pools[section.name, section.flags, section.entry] = pool
        pool.section.align = max(pool.section.align, section.align)
        value = section.data[symbol.value : symbol.value + section.entry]
        if value not in pool.symbols:
            at = len(pool.section.data)
            pool.section.data += value
            pool.section.size = len(pool.section.data)
            info = _LOCAL << 4 | symbol.kind
            pool.symbols[value] = len(self.locals)
            self.locals.append(_Symbol("", at, 0, info, symbol.other, pool.place))
        return False, pool.symbols[value]

    def encode(self) -> bytes:
        """The object file."""
        strings = _Strings()
        first_global = 1 + len(self.locals)
        symbols = [_Symbol("", 0, 0, 0, 0, 0), *self.locals, *self.globals]
        table = b"".join(self._symbol(symbol, strings) for symbol in symbols)
        out = list(self.sections)
        links: list[tuple[int, int]] = [(0, 0)] * len(out)
        end = len(out)  # relocation tables follow, then symbols and strings
        tables = [(i, s) for i, s in enumerate(self.sections, 1) if s.relocations]
        symtab = end + len(tables) + 1
        word = 8 if self.wide else 4
        for index, section in tables:
            with_addend = section.relocations[0][3] is not None
            data = b"".join(self._relocation(r, first_global) for r in section.relocations)
            name = (".rela" if with_addend else ".rel") + section.name
            kind = _SHT_RELA if with_addend else _SHT_REL
            entry = word * (3 if with_addend else 2)
            out.append(_Section(name, kind, _SHF_INFO, data, len(data), word, entry))
            links.append((symtab, index))
        entry = 24 if self.wide else 16
        out.append(_Section(".symtab", _SHT_SYMTAB, 0, table, len(table), word, entry))
        links.append((symtab + 1, first_global))
        stack = _Section(".note.GNU-stack", _SHT_PROGBITS, 0, b"", 0, 1, 0)
        out.append(_Section(".strtab", _SHT_STRTAB, 0, b"", 0, 1, 0))
        out.append(stack)
        links += [(0, 0), (0, 0)]
        names = [strings.add(section.name) for section in out]
        text = strings.data
        out[symtab].data, out[symtab].size = text, len(text)
        return self._file(out, links, names, symtab + 1)

    def _symbol(self, symbol: _Symbol, strings: _Strings) -> bytes:
        name = strings.add(symbol.name)
        if self.wide:
            return struct.pack(
                "<IBBHQQ", name, symbol.info, symbol.other, symbol.section, symbol.value,
                symbol.size,
            )  # fmt: skip
        return struct.pack(
            "<IIIBBH", name, symbol.value, symbol.size, symbol.info, symbol.other, symbol.section
        )

    def _relocation(self, relocation: tuple[int, int, int, int | None], first_global: int) -> bytes:
        offset, kind, token, addend = relocation
        index = token // 2 + (first_global if token % 2 else 1)
        info = index << (32 if self.wide else 8) | kind
        if addend is None:
            return struct.pack("<QQ" if self.wide else "<II", offset, info)
        return struct.pack("<QQq" if self.wide else "<IIi", offset, info, addend)

    def _file(
        self, out: list[_Section], links: list[tuple[int, int]], names: list[int], strtab: int
    ) -> bytes:
        head = 64 if self.wide else 52
        entry = 64 if self.wide else 40
        body = bytearray()
        headers = [bytes(entry)]
        form = "<IIQQQQIIQQ" if self.wide else "<IIIIIIIIII"
        for section, (link, info), name in zip(out, links, names, strict=True):
            align = max(section.align, 1)
            body += bytes(-(head + len(body)) % align)
            headers.append(
                struct.pack(
                    form, name, section.kind, section.flags, 0, head + len(body), section.size,
                    link, info, section.align, section.entry,
                )
            )  # fmt: skip
            body += section.data
        body += bytes(-(head + len(body)) % 8)
        ident = b"\x7fELF" + bytes([2 if self.wide else 1, 1, 1]) + self.osabi + bytes(7)
        address = "QQQ" if self.wide else "III"
        return (
            ident
            + struct.pack(
                f"<HHI{address}IHHHHHH", 1, self.machine, 1, 0, 0, head + len(body), self.flags,
                head, 0, 0, entry, len(headers), strtab,
            )
            + bytes(body)
            + b"".join(headers)
        )  # fmt: skip


@dataclass(slots=True)
class _Pool:
    """Constants of one size that all kernels share."""

    section: _Section
    place: int  # of the section, 1-based
    symbols: dict[bytes, int] = field(default_factory=dict)  # constant -> index in locals


class _Strings:
    """A string table."""

    def __init__(self) -> None:
        self.data = b"\0"
        self._known = {"": 0}

    def add(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.data)
            self.data += text.encode("ascii") + b"\0"
        return self._known[text]


def _poolable(source: _Object) -> set[int]:
    """Sections of single constants, each reached by a symbol of its own and nothing else."""
    found = {
        index
        for index, section in enumerate(source.sections)
        if section.kind == _SHT_PROGBITS
        and section.flags & (_SHF_MERGE | _SHF_STRINGS) == _SHF_MERGE
        and section.flags & _SHF_ALLOC
        and section.entry
        and not section.relocations
    }
    for section in source.sections:
        for _, _, index, _ in section.relocations:
            symbol = source.symbols[index]
            if symbol.section in found and section.flags & _SHF_ALLOC:
                entry = source.sections[symbol.section].entry
                if symbol.kind == _SECTION or symbol.binding != _LOCAL or symbol.value % entry:
                    found.discard(symbol.section)
    return found

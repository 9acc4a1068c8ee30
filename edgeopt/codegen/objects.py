"""What an ELF object takes in memory, from its section headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SHF_WRITE, _SHF_ALLOC, _SHT_NOBITS = 0x1, 0x2, 8


@dataclass(frozen=True, slots=True)
class ObjectSize:
    """Bytes of an object's loaded sections."""

    code_bytes: int  # .text and read-only data
    data_bytes: int  # writable, initialised
    bss_bytes: int  # writable, zero


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    size: int


def object_size(data: bytes) -> ObjectSize:
    """Sum the sections of a little-endian ELF32 or ELF64 object.

    Unwind tables are left out: deployments strip them or never load them.

    Raises:
        ValueError: not such an object, or truncated.
    """
    code = initialised = zero = 0
    for section in _sections(data):
        if not section.flags & _SHF_ALLOC or section.name.startswith((".eh_frame", ".ARM.ex")):
            continue
        if not section.flags & _SHF_WRITE:
            code += section.size
        elif section.kind == _SHT_NOBITS:
            zero += section.size
        else:
            initialised += section.size
    return ObjectSize(code, initialised, zero)


def function_sizes(data: bytes) -> dict[str, int]:
    """Bytes of each function of an object that gives each a section of its own.

    Raises:
        ValueError: not an object as `object_size` reads it.
    """
    text = ".text."
    found = [section for section in _sections(data) if section.name.startswith(text)]
    return {section.name.removeprefix(text): section.size for section in found}


def _sections(data: bytes) -> list[_Section]:
    if data[:4] != b"\x7fELF" or data[5:6] != b"\x01" or data[4:5] not in (b"\x01", b"\x02"):
        raise ValueError("not a little-endian ELF object")
    try:
        return _read(data, wide=data[4] == 2)
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError("truncated ELF object") from error


def _read(data: bytes, *, wide: bool) -> list[_Section]:
    table, entry_size, count, names_at = (
        struct.unpack_from("<Q", data, 0x28) + struct.unpack_from("<HHH", data, 0x3A)
        if wide
        else struct.unpack_from("<I", data, 0x20) + struct.unpack_from("<HHH", data, 0x2E)
    )
    headers = []
    for index in range(count):
        at = table + index * entry_size
        if wide:
            name, kind, flags, _, offset, size = struct.unpack_from("<IIQQQQ", data, at)
        else:
            name, kind, flags, _, offset, size = struct.unpack_from("<IIIIII", data, at)
        headers.append((name, kind, flags, offset, size))
    strings = headers[names_at][3]
    return [
        _Section(
            data[strings + name : data.index(b"\0", strings + name)].decode("latin-1"),
            kind, flags, size,
        )
        for name, kind, flags, _, size in headers
    ]  # fmt: skip

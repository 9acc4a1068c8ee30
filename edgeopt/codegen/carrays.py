"""Constants as C arrays: bit-exact, 64-byte aligned, each distinct array once.

Arrays are written as 32-bit hexadecimal words inside a union with the type the kernels read, which
keeps every bit (NaN payloads, minus zero) and compiles many times faster than one literal an int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.core.network import DTYPE_BYTES, Array

#: edgeopt dtype -> (C type, numpy dtype)
C_TYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "f32": ("float", np.dtype("<f4")),
    "i8": ("int8_t", np.dtype("<i1")),
    "u8": ("uint8_t", np.dtype("<u1")),
    "i16": ("int16_t", np.dtype("<i2")),
    "i32": ("int32_t", np.dtype("<i4")),
    "i64": ("int64_t", np.dtype("<i8")),
}
BYTES = {**DTYPE_BYTES, "i16": 2}
_DTYPES = {numpy_type: name for name, (_, numpy_type) in C_TYPES.items()}
_DTYPES[np.dtype(np.bool_)] = "u8"  # masks: 0 and 1


def c_type(dtype: str) -> str:
    """The C type of an edgeopt dtype.

    >>> c_type("i8")
    'int8_t'
    """
    return C_TYPES[dtype][0]


def dtype_of(array: Array) -> str:
    """The edgeopt dtype of a numpy array.

    Raises:
        ValueError: no kernel parameter can have that type.
    """
    name = _DTYPES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise ValueError(f"no C type for arrays of {array.dtype}")
    return name


def little_endian(array: Array, dtype: str) -> bytes:
    """An array's bytes as a little-endian target stores them.

    Raises:
        ValueError: the array holds another type than ``dtype``.
    """
    if dtype_of(array) != dtype:
        raise ValueError(f"array of {array.dtype} where {dtype} was declared")
    return np.ascontiguousarray(array).astype(C_TYPES[dtype][1], copy=False).tobytes()


def words(data: bytes) -> str:
    """Initialiser text of 32-bit words, the tail padded with zeros.

    >>> words(bytes([1, 2, 3, 4, 255])).strip()
    '0x4030201,0xff'
    """
    padded = data + b"\0" * (-len(data) % 4)
    values = np.frombuffer(padded, "<u4").tolist()
    lines = (
        "    " + ",".join([f"{value:#x}" for value in values[i : i + 12]])
        for i in range(0, len(values), 12)
    )
    return ",\n".join(lines)


@dataclass(frozen=True, slots=True)
class CArray:
    """One array of the weights file."""

    symbol: str
    dtype: str
    data: bytes

    @property
    def c_type(self) -> str:
        """Type of an element."""
        return c_type(self.dtype)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return len(self.data) // BYTES[self.dtype]

    @property
    def word_count(self) -> int:
        """Number of 32-bit words it is written as."""
        return -(-len(self.data) // 4)


class Pool:
    """Collects arrays and hands out the symbol each is reached by."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._known: dict[tuple[str, bytes], CArray] = {}

    def add(self, array: Array, dtype: str) -> CArray:
        """The C array of that content; the same one for the same content.

        Raises:
            ValueError: an empty array, or one of another type than ``dtype``.
        """
        data = little_endian(array, dtype)
        if not data:
            raise ValueError("a constant without elements")
        known = self._known.get((dtype, data))
        if known is None:
            known = CArray(f"{self._prefix}{len(self._known)}", dtype, data)
            self._known[dtype, data] = known
        return known

    @property
    def arrays(self) -> tuple[CArray, ...]:
        """Every distinct array, in the order they were added."""
        return tuple(self._known.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays, each padded to a whole word."""
        return sum(4 * array.word_count for array in self._known.values())

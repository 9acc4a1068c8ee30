"""Test vectors: inputs, the outputs a reference gave for them, and the files both travel in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.codegen.carrays import C_TYPES, dtype_of, little_endian
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import KernelGraph
from edgeopt.core.network import Array, Tensor

INPUT_FILE = "vectors/inputs.bin"
OUTPUT_FILE = "vectors/outputs.bin"
INDEX_FILE = "vectors/vectors.json"
SCHEMA = 1

#: Largest allowed difference of a float output, relative to the vector's largest magnitude.
F32_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class TestVectors:
    """Reference inputs and outputs of a network, one array [count, *shape] a tensor.

    Attributes:
        inputs: name -> array, in the network's order.
        outputs: name -> array, in the network's order.
        tolerance: of float outputs, relative to the largest magnitude of the vector's output;
            integer outputs must be equal.
    """

    __test__ = False  # not a test class, whatever its name says to pytest

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: float = F32_TOLERANCE

    def __post_init__(self) -> None:
        counts = {len(a) for a in (*self.inputs.values(), *self.outputs.values())}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"test vectors of different numbers: {sorted(counts)}")
        for name, array in self.outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(
                    "the reference output holds infinities or NaN", where=name,
                    hint="check the model: no deployment of it can be verified",
                )  # fmt: skip

    @property
    def count(self) -> int:
        """Number of vectors."""
        return len(next(iter(self.inputs.values())))

    def first(self, count: int) -> TestVectors:
        """The first ``count`` vectors."""
        return TestVectors(
            {name: a[:count] for name, a in self.inputs.items()},
            {name: a[:count] for name, a in self.outputs.items()},
            self.tolerance,
        )

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector, inputs and outputs together."""
        arrays = (*self.inputs.values(), *self.outputs.values())
        return sum(a.nbytes // len(a) for a in arrays)

    def check(self, graph: KernelGraph) -> None:
        """That names, order, shapes and types are those of the network.

        Raises:
            ValueError: something differs.
        """
        for names, arrays in ((graph.inputs, self.inputs), (graph.outputs, self.outputs)):
            if tuple(names) != tuple(arrays):
                raise ValueError(f"vectors for {tuple(arrays)}, network has {tuple(names)}")
            for name, array in arrays.items():
                tensor = graph.tensors[name]
                if array.shape[1:] != tensor.shape or dtype_of(array) != tensor.dtype:
                    raise ValueError(
                        f"vectors of {name!r} are {array.dtype}{array.shape[1:]}, the tensor is "
                        f"{tensor.dtype}{tensor.shape}"
                    )

    @property
    def input_bytes(self) -> bytes:
        """What the infer program reads: per vector, every input in order."""
        return pack(tuple(self.inputs.values()))

    @property
    def output_bytes(self) -> bytes:
        """What the infer program ought to write."""
        return pack(tuple(self.outputs.values()))

    def files(self) -> dict[str, bytes]:
        """The vectors as files of a bundle."""
        index = {
            "schema": SCHEMA,
            "count": self.count,
            "tolerance": self.tolerance,
            "inputs": [_describe(n, a) for n, a in self.inputs.items()],
            "outputs": [_describe(n, a) for n, a in self.outputs.items()],
        }
        return {
            INPUT_FILE: self.input_bytes,
            OUTPUT_FILE: self.output_bytes,
            INDEX_FILE: json.dumps(index, indent=2).encode() + b"\n",
        }


def _describe(name: str, array: Array) -> dict[str, object]:
    return {"name": name, "dtype": dtype_of(array), "shape": list(array.shape[1:])}


def pack(arrays: Sequence[Array]) -> bytes:
    """Arrays [count, ...] interleaved vector by vector, little-endian."""
    encoded = [[little_endian(row, dtype_of(a)) for row in a] for a in arrays]
    return b"".join(b"".join(rows) for rows in zip(*encoded, strict=True))


def unpack(data: bytes, tensors: Sequence[Tensor], count: int) -> list[Array]:
    """Inverse of `pack` for tensors in order.

    Raises:
        ValueError: ``data`` has another length.
    """
    size = sum(t.size_bytes for t in tensors)
    if len(data) != size * count:
        raise ValueError(f"{len(data)} bytes where {count} x {size} were expected")
    rows = np.frombuffer(data, np.uint8).reshape(count, size)
    arrays: list[Array] = []
    start = 0
    for t in tensors:
        part = rows[:, start : start + t.size_bytes]
        array = np.frombuffer(part.tobytes(), C_TYPES[t.dtype][1])
        arrays.append(array.reshape(count, *t.shape))
        start += t.size_bytes
    return arrays


def load(files: Mapping[str, bytes], where: str) -> TestVectors:
    """Read the vectors of a bundle from its files.

    Raises:
        InputError: a file is missing, malformed, or of another length than the index says.
    """
    try:
        index = json.loads(files[INDEX_FILE])
        if index["schema"] != SCHEMA:
            raise ValueError(f"schema {index['schema']!r}")
        count, tolerance = int(index["count"]), float(index["tolerance"])
        if not (0 < count <= 10_000 and math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError("count or tolerance out of range")
        sides = [
            [
                Tensor(str(t["name"]), tuple(int(d) for d in t["shape"]), str(t["dtype"]))
                for t in index[side]
            ]
            for side in ("inputs", "outputs")
        ]
        arrays = [
            dict(zip((t.name for t in side), unpack(files[name], side, count), strict=True))
            for side, name in zip(sides, (INPUT_FILE, OUTPUT_FILE), strict=True)
        ]
        return TestVectors(arrays[0], arrays[1], tolerance)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"test vectors cannot be read: {error}", where=where,
            hint="compile again, or restore the bundle",
        ) from error  # fmt: skip

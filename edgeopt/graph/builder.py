"""Writing a `Network`: named tensors, operators, and moving elements when an operator needs it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.core.network import Array, Network, Op, Quant, Tensor
from edgeopt.graph.layout import Layout, conversion

DTYPES: Mapping[str, str] = {
    "float32": "f32", "int8": "i8", "uint8": "u8", "int32": "i32", "int64": "i64",
}  # fmt: skip


def dtype_of(dtype: np.dtype[Any], where: str) -> str:
    """The network's name of an element type.

    Raises:
        InputError: a type that kernels do not have.
    """
    known = DTYPES.get(dtype.name)
    if known is None:
        raise InputError(
            f"values of type {dtype.name} are not supported",
            where=where,
            hint="export the network in float32, or quantized to int8 or uint8",
        )
    return known


@dataclass(frozen=True, slots=True)
class Value:
    """An ONNX value of ``shape``, held by a tensor of the network in some layout."""

    tensor: str
    layout: Layout
    shape: tuple[int, ...]


class Builder:
    """Tensors and operators written so far."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.inputs: list[str] = []
        self._op_names: set[str] = set()
        self._made: dict[tuple[str, str, object], str] = {}

    def tensor(
        self, stem: str, shape: Iterable[int], dtype: str = "f32", quant: Quant | None = None
    ) -> str:
        """Declare a tensor under ``stem``, or the like of it if that is taken."""
        name, count = stem, 1
        while name in self.tensors:
            name, count = f"{stem}.{count}", count + 1
        self.tensors[name] = Tensor(name, tuple(int(d) for d in shape), dtype, quant)
        return name

    def emit(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        output: str,
        attrs: Mapping[str, object] | None = None,
        constants: Mapping[str, Array] | None = None,
    ) -> str:
        """Append an operator that writes the declared tensor ``output``; returns that."""
        unique, count = name, 1
        while unique in self._op_names:
            unique, count = f"{name}.{count}", count + 1
        self._op_names.add(unique)
        kept = {key: np.ascontiguousarray(value) for key, value in (constants or {}).items()}
        self.ops.append(Op(unique, kind, inputs, output, dict(attrs or {}), kept))
        return output

    def like(self, tensor: str, stem: str, quant: Quant | None = None) -> str:
        """Declare a tensor of the same type and shape, with other quantization if given."""
        known = self.tensors[tensor]
        return self.tensor(stem, known.shape, known.dtype, quant or known.quant)

    def reshape(self, tensor: str, shape: tuple[int, ...]) -> str:
        """The same elements in memory under another shape."""
        known = self.tensors[tensor]
        if known.shape == shape:
            return tensor
        key = (tensor, "reshape", shape)
        if key not in self._made:
            stem = f"{tensor}.as{'x'.join(map(str, shape))}"
            made = self.tensor(stem, shape, known.dtype, known.quant)
            self._made[key] = self.emit("reshape", made, (tensor,), made)
        return self._made[key]

    def requoted(self, tensor: str, quant: Quant) -> str:
        """The same stored integers, read with another scale and zero point."""
        known = self.tensors[tensor]
        if known.quant == quant:
            return tensor
        key = (tensor, "requoted", quant)
        if key not in self._made:
            made = self.tensor(f"{tensor}.requoted", known.shape, known.dtype, quant)
            self._made[key] = self.emit("reshape", made, (tensor,), made)
        return self._made[key]

    def require(self, value: Value, layout: Layout, shape: tuple[int, ...] | None = None) -> str:
        """The tensor that holds ``value`` in ``layout``, shaped ``shape`` in memory.

        Elements are moved only if they have to be, and once for all who need it.
        """
        tensor = value.tensor
        for cut, perm in conversion(value.layout, layout):
            tensor = self.reshape(tensor, cut)
            key = (tensor, "transpose", perm)
            if key not in self._made:
                known = self.tensors[tensor]
                moved = tuple(cut[axis] for axis in perm)
                made = self.tensor(f"{value.tensor}.moved", moved, known.dtype, known.quant)
                self.emit("transpose", made, (tensor,), made, {"perm": perm})
                self._made[key] = made
            tensor = self._made[key]
        return self.reshape(tensor, shape if shape is not None else layout.physical)

    def finish(self, name: str, outputs: Mapping[str, str]) -> Network:
        """The network, with every output under its own name (``outputs``: name -> tensor)."""
        renamed: dict[str, str] = {}
        finals: list[str] = []
        for wanted, tensor in outputs.items():
            if tensor in self.inputs or tensor in renamed or tensor in finals:
                tensor = self.emit("reshape", wanted, (tensor,), self.like(tensor, wanted))
            if tensor != wanted:
                renamed[tensor] = wanted
            finals.append(wanted)
        taken = {old: self._free(old) for old in renamed.values() if old in self.tensors}
        taken = {old: new for old, new in taken.items() if old not in renamed}
        names = {**taken, **renamed}

        def rename(old: str) -> str:
            return names.get(old, old)

        tensors = {rename(n): replace(t, name=rename(n)) for n, t in self.tensors.items()}
        ops = tuple(
            replace(op, inputs=tuple(map(rename, op.inputs)), output=rename(op.output))
            for op in self.ops
        )
        return prune(Network(name, tensors, ops, tuple(map(rename, self.inputs)), tuple(finals)))

    def _free(self, stem: str) -> str:
        count = 1
        while f"{stem}.{count}" in self.tensors:
            count += 1
        return f"{stem}.{count}"


def prune(network: Network) -> Network:
    """Drop operators and tensors that no output needs."""
    wanted = set(network.outputs)
    kept: list[Op] = []
    for op in reversed(network.ops):
        if op.output in wanted:
            kept.append(op)
            wanted.update(op.inputs)
    tensors = {n: t for n, t in network.tensors.items() if n in wanted or n in network.inputs}
    return replace(network, tensors=tensors, ops=tuple(reversed(kept)))


def elements(shape: Iterable[int]) -> int:
    """Number of elements of a shape."""
    return math.prod(shape)

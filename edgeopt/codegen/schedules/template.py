"""What every kernel template is, and what they have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from edgeopt.codegen.abi import Arg, KernelFunction, symbol_of
from edgeopt.codegen.schedules.parts import UNDIVIDED, Division
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import DTYPE_BYTES, Array
from edgeopt.core.target import TargetSpec

if TYPE_CHECKING:
    from edgeopt.codegen.schedules.shared import Shared

NUMPY = {"f32": np.float32, "i8": np.int8, "u8": np.uint8, "i16": np.int16, "i32": np.int32}
#: Tilings of one kernel that are worth measuring, the model's own among them.
AT_MOST = 10
BYTES = {**DTYPE_BYTES, "i16": 2}


class Template(Protocol):
    """One way to implement some of the kernel keys, tiled as `choice` says."""

    name: str
    choice: Choice

    def with_choice(self, choice: Choice) -> Template:
        """The same template with another tiling."""

    def candidates(
        self, key: OpKey, target: TargetSpec, at_most: int = AT_MOST
    ) -> tuple[Choice, ...]:
        """Tilings worth measuring, the model's own first; one or none where nothing is open."""

    def function(self, key: OpKey, target: TargetSpec) -> KernelFunction:
        """Symbol, parameters and scratch of the kernel; cheap, imports no compiler."""

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The constants as the kernel reads them, by the names of its parameters."""

    def packed_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Bytes of all packed constants; cheap."""

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """The kernel as a raw-pointer TVM PrimFunc named `KernelFunction.symbol`."""

    def shared(self, key: OpKey, target: TargetSpec) -> tuple[Shared, ...]:
        """The functions that the kernel calls and others may call as well."""


@dataclass(frozen=True, slots=True)
class Const:
    """A packed constant parameter."""

    name: str
    dtype: str
    elements: int

    @property
    def size_bytes(self) -> int:
        """Bytes of storage."""
        return self.elements * BYTES[self.dtype]


class BaseTemplate:
    """The parts of a template that follow from its constants and scratch."""

    name = "base"

    def __init__(self, choice: Choice = MODEL) -> None:
        """A template with a tiling."""
        self.choice = choice

    def with_choice(self, choice: Choice) -> Self:
        """The same template with another tiling."""
        return type(self)(choice)

    def candidates(
        self, key: OpKey, target: TargetSpec, at_most: int = AT_MOST
    ) -> tuple[Choice, ...]:
        """Nothing is open unless a template says so."""
        return ()

    def consts(self, key: OpKey, target: TargetSpec) -> tuple[Const, ...]:
        """The packed constants, in parameter order."""
        return ()

    def scratch_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Working memory in the arena, of one part."""
        return 0

    def divide(self, key: OpKey, target: TargetSpec) -> Division:
        """Into how many parts the kernel is divided, at most ``target.threads``."""
        return UNDIVIDED

    def function(self, key: OpKey, target: TargetSpec) -> KernelFunction:
        """Symbol, parameters and scratch of the kernel."""
        division = self.divide(key, target) if target.threads > 1 else UNDIVIDED
        parts = division.parts
        args = [Arg("input", f"x{i}", key.dtype) for i in range(key.inputs)]
        if key.residual:
            args.append(Arg("residual", "residual", key.out_dtype))
        args += [Arg("const", const.name, const.dtype) for const in self.consts(key, target)]
        args.append(Arg("output", "y", key.out_dtype))
        scratch = round_up(self.scratch_bytes(key, target), 64) * parts
        if scratch:
            args.append(Arg("scratch", "scratch", "u8"))
        if parts > 1:
            args.append(Arg("part", "part", "i32"))
        symbol = symbol_of(key, self.choice)
        return KernelFunction(
            key, symbol, tuple(args), scratch, self.name, self.choice, parts, division.saved_cycles
        )

    def shared(self, key: OpKey, target: TargetSpec) -> tuple[Shared, ...]:
        """None unless a template says so."""
        return ()

    def packed_bytes(self, key: OpKey, target: TargetSpec) -> int:
        """Bytes of all packed constants."""
        return sum(const.size_bytes for const in self.consts(key, target))

    def pack(
        self, key: OpKey, target: TargetSpec, constants: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Constants that need no packing, checked against their declared type and size."""
        packed: dict[str, Array] = {}
        for const in self.consts(key, target):
            packed[const.name] = flat(constants[const.name], const)
        return packed


def flat(value: Array, const: Const) -> Array:
    """A constant as a contiguous vector of its declared type, zero-padded to its size."""
    array = np.ascontiguousarray(value, dtype=NUMPY[const.dtype]).reshape(-1)
    if array.size > const.elements:
        raise ValueError(f"constant {const.name!r} has {array.size} elements: {const.elements}")
    return np.pad(array, (0, const.elements - array.size))


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below ``value``."""
    return -(-value // multiple) * multiple


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape."""
    return math.prod(shape)


def is_table(activation: str) -> bool:
    """Whether an int8 kernel evaluates this activation by a table (else by its clamps)."""
    return activation.split("_")[0] not in ("none", "relu", "relu6", "clip")

"""A thin builder of raw-pointer PrimFuncs: loops, vector loads and stores, named registers.

Templates write their loops down directly instead of scheduling them: tiles are unrolled by the
Python that emits them, so every register has a constant index and LLVM keeps it in one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx as tirx  # re-exported: the templates write expressions with it
from tvm.ir import PointerType, PrimType

from edgeopt.codegen.abi import KernelFunction

#: TVM expressions and buffers carry no Python types.
Expr = Any
Buffer = Any

NAMES = {"f32": "float32", "i8": "int8", "u8": "uint8", "i16": "int16", "i32": "int32"}


def dtype_of(value: Expr) -> tuple[str, int]:
    """Scalar type and lanes of an expression."""
    name, _, lanes = str(value.ty.dtype).partition("x")
    return name, int(lanes or 1)


def vector_type(name: str, lanes: int) -> str:
    """TVM's name of a vector type."""
    return name if lanes == 1 else f"{name}x{lanes}"


def cast(value: Expr, name: str) -> Expr:
    """Convert element by element."""
    return tirx.Cast(vector_type(name, dtype_of(value)[1]), value)


def reinterpret(value: Expr, name: str, lanes: int) -> Expr:
    """The same bits as another type."""
    return tirx.reinterpret(vector_type(name, lanes), value)


def const(value: float, name: str = "float32", lanes: int = 1) -> Expr:
    """A constant, broadcast to ``lanes``."""
    return bcast(tirx.const(value, name), lanes)


def bcast(value: Expr, lanes: int) -> Expr:
    """One scalar in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def part(value: Expr, start: int, lanes: int) -> Expr:
    """Neighbouring lanes of a vector."""
    if lanes == dtype_of(value)[1]:
        return value
    return tirx.Shuffle([value], list(range(start, start + lanes)))


def join(values: Sequence[Expr]) -> Expr:
    """Vectors (or scalars) one after another."""
    if len(values) == 1:
        return values[0]
    total = sum(dtype_of(value)[1] for value in values)
    return tirx.Shuffle(list(values), list(range(total)))


def shuffle(values: Sequence[Expr], lanes: Sequence[int]) -> Expr:
    """Chosen lanes of the concatenation of ``values``."""
    return tirx.Shuffle(list(values), list(lanes))


def intrinsic(name: str, result: str, *args: Expr) -> Expr:
    """A pure LLVM intrinsic."""
    return tirx.call_llvm_pure_intrin(result, name, *args)


def powers(count: int) -> Iterator[tuple[int, int]]:
    """Split ``count`` lanes into runs of powers of two: (start, length)."""
    start, length = 0, 1 << max(count.bit_length() - 1, 0)
    while start < count:
        while length > count - start:
            length //= 2
        yield start, length
        start += length


def _sequence(statements: list[Any]) -> Any:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


class Builder:
    """Statements of one kernel under construction."""

    def __init__(self, function: KernelFunction, sizes: Mapping[str, int]) -> None:
        """Declare the parameters; ``sizes`` are their elements by name."""
        self.function = function
        self._stack: list[list[Any]] = [[]]
        self._params = []
        self._pointers: dict[str, Any] = {}
        self._buffers: dict[str, Buffer] = {}
        self._count = 0
        for arg in function.args:
            name = NAMES[arg.dtype]
            pointer = tirx.Var(arg.name, PointerType(PrimType(name)))
            self._params.append(pointer)
            self._pointers[arg.name] = pointer
            if arg.kind != "scratch":
                self._buffers[arg.name] = self._declare(pointer, name, sizes[arg.name], arg.name)

    def __getitem__(self, name: str) -> Buffer:
        return self._buffers[name]

    def _declare(self, pointer: Any, name: str, elements: int, label: str) -> Buffer:
        buffer = tirx.decl_buffer((elements,), name, name=f"{label}_")
        self.emit(tirx.DeclBuffer(buffer, data=pointer))
        return buffer

    def scratch_view(self, dtype: str, offset_bytes: int, elements: int) -> Buffer:
        """Part of the scratch parameter as a buffer of ``dtype``."""
        name = NAMES[dtype]
        pointer = self._pointers["scratch"]
        if offset_bytes:
            pointer = tirx.handle_add_byte_offset(pointer, offset_bytes)
        label = f"scratch{offset_bytes}"
        typed = tirx.Var(label, PointerType(PrimType(name)))
        self.emit(tirx.Bind(typed, tirx.reinterpret(PointerType(PrimType(name)), pointer)))
        return self._declare(typed, name, elements, label)

    def emit(self, statement: Any) -> None:
        """Append a statement."""
        self._stack[-1].append(statement)

    def fresh(self, name: str) -> str:
        """A unique variable name."""
        self._count += 1
        return f"{name}{self._count}"

    def load(self, buffer: Buffer, index: Expr, lanes: int = 1) -> Expr:
        """``lanes`` neighbouring elements."""
        at = index if lanes == 1 else tirx.Ramp(index, 1, lanes)
        return tirx.BufferLoad(buffer, [at])

    def load_some(self, buffer: Buffer, index: Expr, count: int, lanes: int) -> Expr:
        """The first ``count`` elements in a vector of ``lanes``; the others are zero."""
        if count >= lanes:
            return self.load(buffer, index, lanes)
        pieces = [self.load(buffer, index + at, length) for at, length in powers(count)]
        name = dtype_of(pieces[0])[0]
        pieces += [const(0, name, length) for _, length in powers(lanes - count)]
        return self.bind(join(pieces))

    def store(self, buffer: Buffer, index: Expr, value: Expr) -> None:
        """Store a scalar or vector at ``index``."""
        lanes = dtype_of(value)[1]
        at = index if lanes == 1 else tirx.Ramp(index, 1, lanes)
        self.emit(tirx.BufferStore(buffer, value, [at]))

    def store_some(self, buffer: Buffer, index: Expr, value: Expr, count: int) -> None:
        """Store the first ``count`` lanes."""
        if count >= dtype_of(value)[1]:
            self.store(buffer, index, value)
            return
        value = self.bind(value)
        for at, length in powers(count):
            self.store(buffer, index + at, part(value, at, length))

    def bind(self, value: Expr, name: str = "v") -> Expr:
        """Compute once, use by name."""
        if isinstance(value, int):
            return tirx.IntImm("int32", value)
        if isinstance(value, (tirx.Var, tirx.IntImm)):
            return value
        variable = tirx.Var(self.fresh(name), str(value.ty.dtype))
        self.emit(tirx.Bind(variable, value))
        return variable

    def registers(self, count: int, name: str, lanes: int) -> Registers:
        """Mutable vectors addressed by constants."""
        return Registers(self, count, name, lanes)

    @contextmanager
    def loop(self, extent: Expr, name: str = "i") -> Iterator[Expr]:
        """A serial loop; one of extent 1 is only its body."""
        if isinstance(extent, int) and extent == 1:
            yield 0
            return
        variable = tirx.Var(self.fresh(name), "int32")
        self._stack.append([])
        yield variable
        body = self._stack.pop()
        if body and not (isinstance(extent, int) and extent <= 0):
            self.emit(tirx.For(variable, 0, extent, tirx.ForKind.SERIAL, _sequence(body)))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements under a condition."""
        self._stack.append([])
        yield
        body = self._stack.pop()
        if body:
            self.emit(tirx.IfThenElse(condition, _sequence(body), None))

    def finish(self) -> Any:
        """The PrimFunc; it returns 0."""
        self.emit(tirx.Return(tirx.const(0, "int32")))
        body = _sequence(self._stack[0])
        primfunc = tirx.PrimFunc(self._params, body, ret_type=PrimType("int32"))
        return primfunc.with_attr("global_symbol", self.function.symbol)


class Registers:
    """A small local buffer of vectors; constant indices let LLVM promote each to a register."""

    def __init__(self, builder: Builder, count: int, name: str, lanes: int) -> None:
        self._builder = builder
        self._lanes = lanes
        self._buffer = tirx.decl_buffer(
            (count * lanes,), name, name=builder.fresh("r"), scope="local"
        )
        builder.emit(tirx.AllocBuffer(self._buffer))

    def __getitem__(self, index: int) -> Expr:
        return self._builder.load(self._buffer, index * self._lanes, self._lanes)

    def __setitem__(self, index: int, value: Expr) -> None:
        self._builder.store(self._buffer, index * self._lanes, value)

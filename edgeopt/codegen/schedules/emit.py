"""A thin builder of raw-pointer PrimFuncs: loops, vector loads and stores, named registers.

Templates write their loops down directly instead of scheduling them: tiles are unrolled by the
Python that emits them, so every register has a constant index and LLVM keeps it in one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tvm import tirx as tirx  # re-exported: the templates write expressions with it
from tvm.ir import PointerType, PrimType

from edgeopt.codegen.abi import ROLLED, Arg

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


def in_order(total: Expr) -> Expr:
    """An int32 sum that what is added to it later is not moved into.

    Left alone, LLVM sums the later terms first and keeps all of them in registers.
    """
    _, lanes = dtype_of(total)
    kind = vector_type("float32", lanes)
    name = f"llvm.arithmetic.fence.v{lanes}f32"
    return reinterpret(intrinsic(name, kind, reinterpret(total, "float32", lanes)), "int32", lanes)


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


@dataclass(frozen=True, slots=True)
class View:
    """A buffer from some element on."""

    buffer: Buffer
    start: Expr

    @property
    def ty(self) -> Any:
        """Type of the elements."""
        return self.buffer.ty


class Function(Protocol):
    """What a builder must know of the function it builds."""

    @property
    def symbol(self) -> str:
        """Its name."""

    @property
    def args(self) -> tuple[Arg, ...]:
        """Its parameters."""

    @property
    def scratch_bytes(self) -> int:
        """Working memory of all parts."""

    @property
    def parts(self) -> int:
        """How many it is divided into."""


class Builder:
    """Statements of one function under construction."""

    def __init__(self, function: Function, sizes: Mapping[str, int]) -> None:
        """Declare the parameters; ``sizes`` are their elements by name."""
        self.function = function
        self._stack: list[list[Any]] = [[]]
        self._params = []
        self._pointers: dict[str, Any] = {}
        self._buffers: dict[str, Buffer] = {}
        self.extents: dict[str, Expr] = {}
        self._count = 0
        self._part: Expr = None
        self._rolled = False
        for arg in function.args:
            name = NAMES[arg.dtype]
            if arg.kind == "part":
                self._part = tirx.Var(arg.name, name)
                self._params.append(self._part)
                continue
            if arg.kind == "extent":
                self.extents[arg.name] = tirx.Var(arg.name, name)
                self._params.append(self.extents[arg.name])
                continue
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

    def elements(self, name: str) -> int:
        """How many a buffer has."""
        return int(self._buffers[name].shape[0])

    def name(self, name: str, buffer: Buffer) -> None:
        """What a name means from here on."""
        self._buffers[name] = buffer

    @contextmanager
    def naming(self, **buffers: Buffer | View) -> Iterator[None]:
        """Statements for which these names mean other buffers, or parts of them."""
        before = self._buffers
        self._buffers = {**before, **buffers}
        yield
        self._buffers = before

    def scratch_view(self, dtype: str, offset_bytes: int, elements: int) -> Buffer:
        """Some of the scratch parameter as a buffer of ``dtype``; each part has its own."""
        name = NAMES[dtype]
        pointer = self._pointers["scratch"]
        if self.function.parts > 1:
            own_bytes = self.function.scratch_bytes // self.function.parts
            pointer = tirx.handle_add_byte_offset(pointer, self._part * own_bytes + offset_bytes)
        elif offset_bytes:
            pointer = tirx.handle_add_byte_offset(pointer, offset_bytes)
        label = f"scratch{offset_bytes}"
        typed = tirx.Var(label, PointerType(PrimType(name)))
        self.emit(tirx.Bind(typed, tirx.reinterpret(PointerType(PrimType(name)), pointer)))
        return self._declare(typed, name, elements, label)

    def either(
        self, condition: Expr, buffer: Buffer, at: Expr, other: Buffer, elements: int, name: str
    ) -> Buffer:
        """``elements`` of ``buffer`` from ``at`` where the condition holds, else of ``other``."""
        name_of = str(buffer.ty.dtype)
        kind = PointerType(PrimType(name_of))

        def address(of: Buffer, start: Expr) -> Expr:
            # pointers themselves cannot be selected
            return tirx.reinterpret("int64", tirx.address_of(tirx.BufferLoad(of, [start])))

        chosen = tirx.Var(self.fresh(name), kind)
        either = tirx.Select(condition, address(buffer, at), address(other, 0))
        self.emit(tirx.Bind(chosen, tirx.reinterpret(kind, either)))
        return self._declare(chosen, name_of, elements, chosen.name)

    def emit(self, statement: Any) -> None:
        """Append a statement."""
        self._stack[-1].append(statement)

    def fresh(self, name: str) -> str:
        """A unique variable name."""
        self._count += 1
        return f"{name}{self._count}"

    def load(self, buffer: Buffer, index: Expr, lanes: int = 1) -> Expr:
        """``lanes`` neighbouring elements."""
        if isinstance(buffer, View):
            buffer, index = buffer.buffer, buffer.start + index
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
        if isinstance(buffer, View):
            buffer, index = buffer.buffer, buffer.start + index
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

    def prefetch(self, buffer: Buffer, index: Expr) -> None:
        """Ask for the cache line of an element, which may lie past the end of the buffer."""
        address = tirx.address_of(self.load(buffer, index))
        read, keep, data = (tirx.const(number, "int32") for number in (0, 3, 1))
        call = tirx.call_llvm_intrin("void", "llvm.prefetch", address, read, keep, data)
        self.emit(tirx.Evaluate(call))

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
    def steps(self, start: Expr, end: Expr, step: Expr) -> Iterator[Expr]:
        """Counts from ``start`` to below ``end`` (of 64 bits) by a step known as it runs.

        Since nobody knows how often such a loop goes round, LLVM does not unroll it; what turns
        that off otherwise cannot be reached through TVM.
        """
        at = self.registers(1, "int64", 1)
        at[0] = start
        self._stack.append([])
        yield self.bind(at[0], "at")
        at[0] = at[0] + step
        self.emit(tirx.While(at[0] < end, _sequence(self._stack.pop())))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements under a condition."""
        self._stack.append([])
        yield
        body = self._stack.pop()
        if body:
            self.emit(tirx.IfThenElse(condition, _sequence(body), None))

    def units(self, count: int, *, divided: bool = True) -> Units:
        """The ``count`` pieces of the kernel's work, of which each part computes a run.

        A piece must be computed alike for any number of parts. Not ``divided``, every part
        computes all of them: something else is divided.
        """
        return Units(self, count, divided=divided)

    def keep_loops(self) -> None:
        """Have loops of constant length compiled as loops: this kernel gains nothing unrolled."""
        self._rolled = True

    def finish(self) -> Any:
        """The PrimFunc; it returns 0."""
        self.emit(tirx.Return(tirx.const(0, "int32")))
        body = _sequence(self._stack[0])
        primfunc = tirx.PrimFunc(self._params, body, ret_type=PrimType("int32"))
        primfunc = primfunc.with_attr("global_symbol", self.function.symbol)
        return primfunc.with_attr(ROLLED, 1) if self._rolled else primfunc


class Units:
    """Pieces of a kernel's work, numbered; those from ``low`` up to ``high`` are this part's.

    Part p of n has the pieces from p * count // n up to (p + 1) * count // n: every piece belongs
    to one part, and no part has over one piece more than another. Where the kernel is not divided
    they are 0 and ``count``, and loops are ordinary ones.
    """

    def __init__(self, builder: Builder, count: int, *, divided: bool) -> None:
        parts = builder.function.parts
        self._builder, self._whole = builder, parts == 1 or not divided
        self._count = count
        self.low: Expr = 0
        self.high: Expr = count
        if not self._whole:
            at = builder._part
            self.low = builder.bind(tirx.truncdiv(at * count, parts), "low")
            self.high = builder.bind(tirx.truncdiv((at + 1) * count, parts), "high")

    @contextmanager
    def loop(self, times: int, name: str = "i", *, start: int = 0) -> Iterator[Expr]:
        """Counts from 0 to ``times`` - 1, but only this part's of the pieces ``start`` + count."""
        b = self._builder
        if self._whole:
            with b.loop(times, name) as index:
                yield index
            return
        if times == 1:
            with b.when(tirx.And(self.low <= start, start < self.high)):
                yield 0
            return
        first = b.bind(tirx.max(self.low - start, tirx.IntImm("int32", 0)), "first")
        last = tirx.min(self.high - start, tirx.IntImm("int32", times))
        with b.loop(b.bind(last - first, "count"), name) as index:
            yield b.bind(first + index, name)

    @contextmanager
    def runs(self, length: int, name: str = "run") -> Iterator[tuple[Expr, Expr]]:
        """This part's pieces, ``length`` at a time: (first, how many)."""
        b = self._builder
        at_most = tirx.IntImm("int32", length)
        if self._whole:
            with b.loop(-(-self._count // length), name) as run:
                first = run * length
                count: Expr = length
                if self._count % length:
                    count = b.bind(tirx.min(at_most, self._count - first), "count")
                yield first, count
            return
        runs = tirx.truncdiv(self.high - self.low + (length - 1), length)
        with b.loop(b.bind(runs, "runs"), name) as run:
            first = b.bind(self.low + run * length, "first")
            yield first, 1 if length == 1 else b.bind(tirx.min(at_most, self.high - first), "count")


class Registers:
    """A small local buffer of vectors; constant indices let LLVM promote each to a register."""

    def __init__(self, builder: Builder, count: int, name: str, lanes: int) -> None:
        self._builder = builder
        self._lanes = lanes
        self._buffer = tirx.decl_buffer(
            (count * lanes,), name, name=builder.fresh("r"), scope="local"
        )
        builder.emit(tirx.AllocBuffer(self._buffer))
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Expr:
        return self._builder.load(self._buffer, index * self._lanes, self._lanes)

    def __setitem__(self, index: int, value: Expr) -> None:
        self._builder.store(self._buffer, index * self._lanes, value)

"""What the runner's templates need, decided here: names, offsets, arguments, constants.

The templates only lay out text; anything that could be wrong is checked while this is built.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.codegen import names
from edgeopt.codegen.abi import Arg, KernelFunction
from edgeopt.codegen.carrays import BYTES, Pool, c_type, little_endian, words
from edgeopt.codegen.cstorage import ACTIVATION_ALIGNMENT_BYTES, Copy, CStorage
from edgeopt.codegen.storage import scratch_name
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.core.kernels import Kernel, KernelGraph, MemoryPlan
from edgeopt.core.network import Array, Tensor
from edgeopt.core.target import TargetSpec

#: Status codes and their texts: the enumeration, the texts and the documentation come from here.
STATUSES = (
    ("OK", "success"),
    ("ERROR_NULL", "a pointer is null"),
    ("ERROR_ARENA_SIZE", "the arena is too small"),
    ("ERROR_ALIGNMENT", "the arena, an input or an output is not aligned"),
    ("ERROR_NOT_READY", "the context is not initialised"),
    ("ERROR_KERNEL", "a kernel failed"),
    ("ERROR_SELF_TEST", "the outputs differ from the reference"),
    ("ERROR_WEIGHTS", "the constants differ from those that were generated"),
)

#: Threads of a pool at most: EDGEOPT_POOL_MAX_THREADS of runtime/edgeopt_pool.h.
MAX_THREADS = 16

#: Alignment that plans should give buffers: a cache line, so that no vector access is split.
#: Kernels rely on less (`ACTIVATION_ALIGNMENT_BYTES`).
BUFFER_ALIGNMENT_BYTES = 64

#: The same for microcontrollers: no cache lines, and every padding byte counts.
FIRMWARE_BUFFER_ALIGNMENT_BYTES = 16
#: Alignment of constants: of processors with wide vectors, and of microcontrollers.
CONSTANT_ALIGNMENT_BYTES, FIRMWARE_CONSTANT_ALIGNMENT_BYTES = 64, 4

#: Architectures whose programs are firmware.
FIRMWARE_ARCHES = frozenset({"armv6m", "armv7em", "armv8m", "riscv32"})

#: Constants beyond this are not written as C text: 20 MB of them cost gcc 25 s and 1 GB.
TEXT_WEIGHT_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Status:
    """A status code."""

    name: str
    value: int
    text: str


@dataclass(frozen=True, slots=True)
class TensorView:
    """A network input or output in C."""

    index: int
    id: str
    macro: str
    literal: str
    comment: str
    dtype: str
    c_type: str
    shape: tuple[int, ...]
    layout: str
    elements: int
    bytes: int
    scale: str | None  # C hexadecimal float
    zero_point: int
    meaning: str


@dataclass(frozen=True, slots=True)
class FunctionView:
    """A kernel's prototype."""

    symbol: str
    prototype: str


@dataclass(frozen=True, slots=True)
class CallView:
    """One kernel call."""

    index: int
    symbol: str
    comment: str
    key: str
    digest: str
    arguments: tuple[str, ...]
    parts: int


@dataclass(frozen=True, slots=True)
class VectorView:
    """One tensor's embedded vectors."""

    id: str
    c_type: str
    elements: int
    padded_elements: int
    word_count: int
    bytes: int
    offset: int  # of an output, behind the arena
    words: tuple[str, ...]
    bounds: tuple[str, ...]  # empty: compared byte by byte


@dataclass(frozen=True, slots=True)
class VectorsView:
    """The embedded vectors."""

    count: int
    tolerance: str
    inputs: tuple[VectorView, ...]
    outputs: tuple[VectorView, ...]

    @property
    def any_float(self) -> bool:
        """Whether any output is compared with a tolerance."""
        return any(v.bounds for v in self.outputs)

    @property
    def any_exact(self) -> bool:
        """Whether any output is compared byte by byte."""
        return any(not v.bounds for v in self.outputs)


@dataclass(frozen=True, slots=True)
class ConstantView:
    """A constant and what uses it."""

    symbol: str
    c_type: str
    elements: int
    word_count: int
    words: str  # C text; none where the constants are in a file of their own
    offset: int  # in that file
    use: str


@dataclass(frozen=True, slots=True)
class RunnerModel:
    """Everything about one generated network."""

    id: str
    macro: str
    title: str
    string: str
    tag: str
    arena_bytes: int
    arena_alignment: int
    io_alignment: int
    self_test_arena_bytes: int  # the arena, and behind it room for the outputs
    weight_bytes: int
    weight_alignment: int
    weight_crc: str  # CRC-32 (IEEE) of the constants back to back
    inputs: tuple[TensorView, ...]
    outputs: tuple[TensorView, ...]
    functions: tuple[FunctionView, ...]
    calls: tuple[CallView, ...]
    copies: tuple[Copy, ...]
    constants: tuple[ConstantView, ...]
    weights_file: bytes  # the constants, where they are too many for C text
    vectors: VectorsView | None

    @property
    def kernels(self) -> int:
        """How many kernels run."""
        return len(self.calls)

    @property
    def embedded(self) -> int:
        """How many test vectors the self-test has; 0 without one."""
        return 0 if self.vectors is None else self.vectors.count

    @property
    def threads(self) -> int:
        """How many threads the network can use; with 1 there is nothing of threads in its code."""
        return max((call.parts for call in self.calls), default=1)


def buffer_alignment(target: TargetSpec) -> int:
    """What plans for a processor should align buffers to."""
    if target.arch in FIRMWARE_ARCHES:
        return FIRMWARE_BUFFER_ALIGNMENT_BYTES
    return BUFFER_ALIGNMENT_BYTES


def constant_alignment(target: TargetSpec) -> int:
    """What the constants of a processor's kernels are aligned to."""
    if target.arch in FIRMWARE_ARCHES:
        return FIRMWARE_CONSTANT_ALIGNMENT_BYTES
    return CONSTANT_ALIGNMENT_BYTES


def statuses() -> tuple[Status, ...]:
    """The status codes in order."""
    return tuple(Status(name, value, text) for value, (name, text) in enumerate(STATUSES))


def kernel_prefix(name: str) -> str:
    """What a bundle puts before `abi.symbol_of`, so that several bundles link into one image.

    >>> kernel_prefix("cifar net")
    'cifar_x20_net_'
    """
    return f"{names.identifier(name)}_"


def build(
    graph: KernelGraph,
    plan: MemoryPlan,
    functions: Sequence[KernelFunction],
    constants: Sequence[Mapping[str, Array]],
    *,
    name: str,
    symbol_prefix: str,
    vectors: TestVectors | None,
    text_weight_bytes: int = TEXT_WEIGHT_BYTES,
    constant_alignment_bytes: int = CONSTANT_ALIGNMENT_BYTES,
) -> RunnerModel:
    """Check the parts against each other and bring them into the form of the templates.

    Args:
        graph: the lowered network.
        plan: where its buffers lie.
        functions: the function of each kernel of the graph, in order.
        constants: its packed constants, in the same order.
        name: of the network; any text.
        symbol_prefix: in front of every function's symbol in the objects.
        vectors: to embed for the self-test.
        text_weight_bytes: constants beyond this go into a file that the assembler includes.
        constant_alignment_bytes: what the kernels need.

    Raises:
        ValueError: the parts contradict each other, which is a bug of what made them.
    """
    if not len(graph.kernels) == len(functions) == len(constants):
        raise ValueError("one function and one set of constants a kernel are needed")
    if not graph.inputs or not graph.outputs:
        raise ValueError("a network without inputs or outputs")
    storage = CStorage(graph, plan)
    pool = Pool(f"{names.identifier(name)}_w")
    uses: dict[str, list[str]] = {}
    calls = []
    for index, (kernel, function, values) in enumerate(
        zip(graph.kernels, functions, constants, strict=True)
    ):
        calls.append(
            CallView(
                index=index,
                symbol=symbol_prefix + function.symbol,
                comment=names.comment(kernel.name),
                key=names.comment(str(kernel.key), 1000),
                digest=kernel.key.digest,
                arguments=_arguments(storage, index, kernel, function, values, pool, uses),
                parts=function.parts,
            )
        )
    if vectors is not None:
        vectors.check(graph)
    code = hashlib.sha256(repr((name, [str(k) for k in graph.keys])).encode()).hexdigest()
    outputs = [graph.tensors[n] for n in graph.outputs]
    arena_bytes = max(plan.arena_bytes, 1)
    offsets = _behind(arena_bytes, outputs)
    binary = pool.size_bytes > text_weight_bytes
    return RunnerModel(
        id=names.identifier(name),
        macro=names.macro(name),
        title=names.comment(name, 80),
        string=names.string(names.comment(name, 80).replace('"', "'")),
        tag=f"0x{int(code[:8], 16) | 1:08x}",
        arena_bytes=arena_bytes,
        arena_alignment=plan.alignment_bytes,
        io_alignment=ACTIVATION_ALIGNMENT_BYTES,
        self_test_arena_bytes=offsets[-1],
        weight_bytes=pool.size_bytes,
        weight_alignment=constant_alignment_bytes,
        weight_crc=f"{zlib.crc32(weights_file(pool)):#010x}",
        inputs=_tensors([graph.tensors[n] for n in graph.inputs]),
        outputs=_tensors(outputs),
        functions=_prototypes(functions, symbol_prefix),
        calls=tuple(calls),
        copies=storage.copies,
        constants=tuple(constant_views(pool, uses, as_text=not binary)),
        weights_file=weights_file(pool) if binary else b"",
        vectors=None if vectors is None else _vectors(graph, vectors, offsets),
    )


def _behind(start: int, tensors: Sequence[Tensor]) -> list[int]:
    """Offsets of tensors laid out from ``start`` on, and the end."""
    offsets = []
    for tensor in tensors:
        start = -(-start // ACTIVATION_ALIGNMENT_BYTES) * ACTIVATION_ALIGNMENT_BYTES
        offsets.append(start)
        start += tensor.size_bytes
    return [*offsets, start]


def _arguments(
    storage: CStorage,
    index: int,
    kernel: Kernel,
    function: KernelFunction,
    values: Mapping[str, Array],
    pool: Pool,
    uses: dict[str, list[str]],
) -> tuple[str, ...]:
    if function.key != kernel.key:
        raise ValueError(f"kernel {kernel.name!r} was given the function of another key")
    activations = iter(kernel.inputs)
    arguments = []
    for arg in function.args:
        if arg.kind in ("input", "residual"):
            tensor = next(activations, None)
            if tensor is None:
                raise ValueError(f"kernel {kernel.name!r} has too few inputs")
            arguments.append(storage.pointer(tensor, arg))
        elif arg.kind == "output":
            arguments.append(storage.pointer(kernel.output, arg))
        elif arg.kind == "const":
            if arg.name not in values:
                raise ValueError(f"kernel {kernel.name!r} lacks constant {arg.name!r}")
            array = pool.add(values[arg.name], arg.dtype)
            uses.setdefault(array.symbol, []).append(f"{arg.name} of kernel {index}")
            arguments.append(f"{array.symbol}.values")
        elif arg.kind == "part":
            arguments.append("part")
        else:
            scratch_bytes = function.scratch_bytes
            if scratch_bytes == 0:
                arguments.append("NULL")
            else:
                offset = storage.offset(scratch_name(kernel.name), scratch_bytes)
                arguments.append(f"AT(void, {offset})")
    if next(activations, None) is not None:
        raise ValueError(f"kernel {kernel.name!r} has too many inputs")
    return tuple(arguments)


def prototype(args: Sequence[Arg]) -> str:
    """The parameter list of a kernel function.

    >>> prototype((Arg("input", "x", "f32"), Arg("output", "y", "f32")))
    'const float *, float *'
    """
    parts = []
    for arg in args:
        if arg.kind == "scratch":
            parts.append("void *")
        elif arg.kind == "part":
            parts.append(c_type(arg.dtype))
        else:
            const = "" if arg.kind == "output" else "const "
            parts.append(f"{const}{c_type(arg.dtype)} *")
    return ", ".join(parts) or "void"


def _prototypes(functions: Sequence[KernelFunction], prefix: str) -> tuple[FunctionView, ...]:
    known: dict[str, str] = {}
    for function in functions:
        if names.identifier(function.symbol) != function.symbol:
            raise ValueError(f"{function.symbol!r} is not a plain C identifier")
        text = prototype(function.args)
        if known.setdefault(function.symbol, text) != text:
            raise ValueError(f"{function.symbol} has two different parameter lists")
    return tuple(FunctionView(prefix + symbol, text) for symbol, text in sorted(known.items()))


def _tensors(tensors: Sequence[Tensor]) -> tuple[TensorView, ...]:
    identifiers = [names.identifier(tensor.name) for tensor in tensors]
    macros = [text.upper() for text in identifiers]
    if len(set(macros)) != len(macros):
        macros = identifiers  # two names differ in case only: capitals would make them one
    return tuple(
        _tensor(index, macro, tensor)
        for index, (macro, tensor) in enumerate(zip(macros, tensors, strict=True))
    )


def _tensor(index: int, macro: str, tensor: Tensor) -> TensorView:
    quant = tensor.quant
    return TensorView(
        index=index,
        id=names.identifier(tensor.name),
        macro=macro,
        literal=names.string(tensor.name[:80]),
        comment=names.comment(tensor.name, 80),
        dtype=tensor.dtype,
        c_type=c_type(tensor.dtype),
        shape=tensor.shape,
        layout=", NHWC" if len(tensor.shape) == 4 else "",
        elements=tensor.elements,
        bytes=tensor.size_bytes,
        scale=None if quant is None else hex_float(quant.scale),
        zero_point=0 if quant is None else quant.zero_point,
        meaning="" if quant is None else f", scale {quant.scale:.9g}, zero {quant.zero_point}",
    )


def hex_float(value: float) -> str:
    """A C99 float literal that is exactly the float32 value.

    >>> hex_float(0.1)
    '0x1.99999a0000000p-4f'
    """
    rounded = float(np.float32(value))
    if not math.isfinite(rounded):
        raise ValueError(f"{value!r} has no C literal")
    return f"{rounded.hex()}f"


def constant_views(
    pool: Pool, uses: Mapping[str, list[str]], *, as_text: bool
) -> Iterator[ConstantView]:
    """The constants as the templates see them; ``uses`` says by symbol what reads each."""
    offset = 0
    for constant in pool.arrays:
        users = uses[constant.symbol]
        shown = ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
        yield ConstantView(
            symbol=constant.symbol,
            c_type=constant.c_type,
            elements=constant.elements,
            word_count=constant.word_count,
            words=words(constant.data) if as_text else "",
            offset=offset,
            use=names.comment(shown),
        )
        offset += 4 * constant.word_count


def weights_file(pool: Pool) -> bytes:
    """All constants back to back, each padded to whole words."""
    return b"".join(c.data + b"\0" * (-len(c.data) % 4) for c in pool.arrays)


def _vectors(graph: KernelGraph, vectors: TestVectors, offsets: Sequence[int]) -> VectorsView:
    tensors = graph.tensors
    return VectorsView(
        count=vectors.count,
        tolerance=f"{vectors.tolerance:.3g}",
        inputs=tuple(_vector(tensors[n], a, None, 0) for n, a in vectors.inputs.items()),
        outputs=tuple(
            _vector(tensors[n], a, vectors.tolerance, offset)
            for (n, a), offset in zip(vectors.outputs.items(), offsets, strict=False)
        ),
    )


def _vector(tensor: Tensor, array: Array, tolerance: float | None, offset: int) -> VectorView:
    # Rows start at multiples of the alignment the kernels need.
    padding = -tensor.size_bytes % ACTIVATION_ALIGNMENT_BYTES
    padded_bytes = tensor.size_bytes + padding
    bounds: tuple[str, ...] = ()
    if tolerance is not None and tensor.dtype == "f32":
        largest = np.abs(array.reshape(len(array), -1).astype(np.float64)).max(axis=1)
        bounds = tuple(hex_float(tolerance * float(value)) for value in largest)
    return VectorView(
        id=names.identifier(tensor.name),
        c_type=c_type(tensor.dtype),
        elements=tensor.elements,
        padded_elements=padded_bytes // BYTES[tensor.dtype],
        word_count=padded_bytes // 4,
        bytes=tensor.size_bytes,
        offset=offset,
        words=tuple(words(little_endian(row, tensor.dtype) + b"\0" * padding) for row in array),
        bounds=bounds,
    )

"""One program that times many kernels: what tables of latencies are measured with.

It is the same kernels, linked by the same compiler, as a deployment. The program's arguments and
the lines it prints are described in ``runtime/kernel_bench.c``. The latency package never imports
this one: the pipeline hands it a function made of `build_kernel_bench`.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.codegen import names, toolchain
from edgeopt.codegen.abi import Arg, KernelFunction
from edgeopt.codegen.carrays import BYTES, Pool, c_type, words
from edgeopt.codegen.emit import render_template, runtime_file
from edgeopt.codegen.runner import prototype
from edgeopt.codegen.toolchain import STRICT_FLAGS, Compiler
from edgeopt.core.choice import Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array

#: Constants up to this size keep their values (tables, clamps, multipliers decide what a kernel
#: does); larger ones are weights, whose values do not change its time: filled at random.
EMBED_BYTES = 16 * 1024

_FILES = ("edgeopt_program.h", "support.c", "kernel_bench.h", "kernel_bench.c")


@dataclass(frozen=True, slots=True)
class ArgView:
    """A pointer a kernel is called with."""

    dtype: str
    bytes: int
    data: str  # C expression, NULL for pseudo-random content
    role: str  # CONSTANT, READ or WRITTEN


@dataclass(frozen=True, slots=True)
class KernelView:
    """A kernel in the table."""

    digest: str
    comment: str
    symbol: str
    prototype: str
    arguments: tuple[str, ...]
    args: tuple[ArgView, ...]
    parts: int  # computed one after another


@dataclass(frozen=True, slots=True)
class ArrayView:
    """An embedded constant."""

    symbol: str
    c_type: str
    elements: int
    word_count: int
    words: str


def render_kernel_bench(
    functions: Sequence[KernelFunction],
    constants: Sequence[Mapping[str, Array]],
    *,
    symbol_prefix: str = "",
    input_bytes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, bytes]:
    """The C of a bench program.

    Args:
        functions: of different keys or tilings. A program's arguments name a kernel by its key's
            digest, or by its `identity` where several tilings of it are there.
        constants: packed constants of each, in order; shapes and types matter, values of large
            ones do not.
        symbol_prefix: in front of each function's symbol.
        input_bytes: sizes of the inputs by key digest, where the key does not bound them.

    Raises:
        ValueError: a constant is missing, or two functions have the same key and tiling.
    """
    kernels, pool = kernel_views(functions, constants, symbol_prefix, input_bytes)
    arrays = [
        ArrayView(a.symbol, a.c_type, a.elements, a.word_count, words(a.data)) for a in pool.arrays
    ]
    table = render_template("kernel_table.c.j2", kernels=kernels, arrays=arrays)
    return {"kernel_table.c": table, **{name: runtime_file(name) for name in _FILES}}


def kernel_views(
    functions: Sequence[KernelFunction],
    constants: Sequence[Mapping[str, Array]],
    symbol_prefix: str = "",
    input_bytes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[list[KernelView], Pool]:
    """The kernels as the table has them, and the constants it embeds; see `render_kernel_bench`.

    Raises:
        ValueError: a constant is missing, or two functions have the same key and tiling.
    """
    if len({f.symbol for f in functions}) != len(functions):
        raise ValueError("two functions have the same key and tiling")
    keys = Counter(function.key for function in functions)
    pool = Pool("constant_")
    sizes = input_bytes or {}
    kernels = [
        _kernel(
            function,
            values,
            pool,
            symbol_prefix,
            sizes.get(function.key.digest),
            identity(function.key, function.choice)
            if keys[function.key] > 1
            else function.key.digest,
        )
        for function, values in zip(functions, constants, strict=True)
    ]
    return kernels, pool


def identity(key: OpKey, choice: Choice) -> str:
    """What a program of several tilings of a kernel calls one of them."""
    return f"{key.digest}_{choice}"


def _kernel(
    function: KernelFunction,
    values: Mapping[str, Array],
    pool: Pool,
    prefix: str,
    input_bytes: Sequence[int] | None,
    name: str,
) -> KernelView:
    remaining = list(input_bytes or ())
    views = []
    arguments = []
    for index, arg in enumerate(function.args):
        if arg.kind == "part":
            arguments.append("part")
            continue
        expression = f"p[{index}]"
        if arg.kind == "const":
            if arg.name not in values:
                raise ValueError(f"{function.key}: constant {arg.name!r} is missing")
            array = values[arg.name]
            data = "NULL"
            if array.nbytes <= EMBED_BYTES:
                data = f"&{pool.add(array, arg.dtype).symbol}"
            views.append(ArgView(arg.dtype, array.nbytes, data, "CONSTANT"))
        elif arg.kind == "scratch":
            views.append(ArgView("u8", function.scratch_bytes, "NULL", "WRITTEN"))
        elif arg.kind in ("input", "residual") and remaining:
            views.append(ArgView(arg.dtype, remaining.pop(0), "NULL", "READ"))
        else:
            role = "WRITTEN" if arg.kind == "output" else "READ"
            views.append(ArgView(arg.dtype, _bound_bytes(function.key, arg), "NULL", role))
        if arg.kind == "scratch":
            arguments.append(expression)
        else:
            const = "" if arg.kind == "output" else "const "
            arguments.append(f"({const}{c_type(arg.dtype)} *){expression}")
    return KernelView(
        digest=name,
        comment=names.comment(str(function.key), 1000),
        symbol=prefix + function.symbol,
        prototype=prototype(function.args),
        arguments=tuple(arguments),
        args=tuple(views),
        parts=function.parts,
    )


def _bound_bytes(key: OpKey, arg: Arg) -> int:
    """Bytes no activation of the kernel exceeds (one input of a concat is less than all)."""
    return max(math.prod(key.in_shape), math.prod(key.out_shape)) * BYTES[arg.dtype]


def build_kernel_bench(
    functions: Sequence[KernelFunction],
    constants: Sequence[Mapping[str, Array]],
    object_bytes: bytes,
    compiler: Compiler,
    out_path: Path,
    *,
    symbol_prefix: str = "",
    input_bytes: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Build the bench program; it needs nothing on the device but a way to run it.

    Args:
        functions: of different keys.
        constants: packed constants of each, in order.
        object_bytes: the relocatable object that defines them.
        compiler: from `toolchain.find`.
        out_path: the program to write.
        symbol_prefix: in front of each function's symbol.
        input_bytes: sizes of the inputs by key digest, where the key does not bound them.

    Returns:
        ``out_path``.

    Raises:
        ToolError: compiler or linker fails.
    """
    files = render_kernel_bench(
        functions, constants, symbol_prefix=symbol_prefix, input_bytes=input_bytes
    )
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        work = Path(folder)
        for name, content in {**files, "kernels.o": object_bytes}.items():
            (work / name).write_bytes(content)
        program = work / "kernel_bench_program"
        toolchain.compile_and_link(
            compiler,
            [work / name for name in sorted(files) if name.endswith(".c")],
            program,
            includes=(work,),
            flags=("-O2", *STRICT_FLAGS),
            objects=(work / "kernels.o",),
            work=work,
        )
        out_path.parent.mkdir(parents=True, exist_ok=True)
        out_path.write_bytes(program.read_bytes())
        out_path.chmod(0o755)
    return out_path

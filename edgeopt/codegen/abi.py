"""The C interface of a compiled kernel: raw pointers in a fixed order, no runtime behind it.

One function serves every kernel call with the same `OpKey`; weights, scales and zero points come
in through pointers to constants. It returns 0.

    int32_t edgeopt_k_<digest>(const T0 *input, ..., const T *residual, const C0 *const0, ...,
                               T *output, void *scratch, int32_t part);

A kernel that is divided takes the part to compute, 0 to `KernelFunction.parts` - 1, as its last
parameter. Parts write disjoint outputs and have scratch of their own, so they may run in any order
or at the same time; a kernel that is not divided has no such parameter.

Pointers of activations and scratch are aligned to 16 bytes, constants to 64.

A kernel that works through its output in order can have its output written over its input while it
reads it, and takes no second map (see `KernelFunction.ordered_pixels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey

#: An `ordered_pixels` of kernels that may overwrite their input in place, but not run into it.
SAME_PLACE = -1

#: Attribute of PrimFuncs whose loops are not to be unrolled.
ROLLED = "edgeopt.rolled"

#: How the names of functions begin that kernels share: local to the object they are joined into.
SHARED = "edgeopt_s_"

ArgKind = Literal["input", "residual", "const", "output", "scratch", "part", "extent"]


@dataclass(frozen=True, slots=True)
class Arg:
    """One parameter: a pointer, or the number of a part. A constant's name is its packed key.

    Functions that kernels share have numbers besides, of kind ``extent``.
    """

    kind: ArgKind
    name: str
    dtype: str  # "f32", "i8", "u8", "i32", "i16"


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """A kernel's symbol, parameters and working memory (of all parts together).

    ``ordered_pixels`` is a promise about input 0, made by kernels with a window (1x1 included) and
    one part: cut the output's pixels, row by row, into blocks of so many; once any element of a
    block is written, what is still read of the input lies in memory at or behind the start of the
    windows (padding left out) of that block's and later pixels. So a kernel that finishes whole
    output rows, in whatever order inside a row, states the row's width; one that finishes two rows
    at a time, twice that; one that handles two pixels at a time with all their channels, 2. Reading
    earlier, into registers or scratch, is always allowed; so is reading bytes that are not used.
    0 promises nothing; `SAME_PLACE` that the output may lie exactly where input 0 of as many bytes
    lies, as with kernels that finish some channels of all pixels before others. The C of such a
    kernel has no ``restrict`` on input 0 or the output.
    """

    key: OpKey
    symbol: str
    args: tuple[Arg, ...]
    scratch_bytes: int
    template: str  # the template that emits it, or "fallback"
    choice: Choice = MODEL  # how it is tiled
    parts: int = 1  # it is divided into; each call computes one
    saved_cycles: float = 0.0  # by dividing it, estimated
    ordered_pixels: int = 0  # output pixels it finishes at a time, in order; 0: in any order


def symbol_of(key: OpKey, choice: Choice = MODEL) -> str:
    """The C name of a key's function, before the bundle's prefix is put in front.

    Several tilings of one kernel can stand in one program.
    """
    return f"edgeopt_k_{key.digest}" + ("" if choice == MODEL else f"_{choice}")

"""The C interface of a compiled kernel: raw pointers in a fixed order, no runtime behind it.

One function serves every kernel call with the same `OpKey`; weights, scales and zero points come
in through pointers to constants. It returns 0.

    int32_t edgeopt_k_<digest>(const T0 *input, ..., const T *residual, const C0 *const0, ...,
                               T *output, void *scratch);

Pointers of activations and scratch are aligned to 16 bytes, constants to 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey

ArgKind = Literal["input", "residual", "const", "output", "scratch"]


@dataclass(frozen=True, slots=True)
class Arg:
    """One pointer parameter. ``name`` of a constant is its key in the packed constants."""

    kind: ArgKind
    name: str
    dtype: str  # "f32", "i8", "u8", "i32", "i16"


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """A kernel's symbol, parameters and working memory."""

    key: OpKey
    symbol: str
    args: tuple[Arg, ...]
    scratch_bytes: int
    template: str  # the template that emits it, or "fallback"
    choice: Choice = MODEL  # how it is tiled


def symbol_of(key: OpKey, choice: Choice = MODEL) -> str:
    """The C name of a key's function, before the bundle's prefix is put in front.

    Several tilings of one kernel can stand in one program.
    """
    return f"edgeopt_k_{key.digest}" + ("" if choice == MODEL else f"_{choice}")

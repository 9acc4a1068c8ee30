"""Kernels for microcontrollers: readable C, one function a kernel, nothing behind it.

`select(key, target)` walks ordered rules like those of `codegen.schedules`, and its templates are
of the same kind but for one thing: instead of a PrimFunc they have C, which the device's own
toolchain compiles and the bundle ships. `source` writes the file of some kernels.

What differs between cores is asked of the target's features: multiply-accumulates of pairs
(``dsp``), vectors (``mve``), binary32 in hardware. Where there is none, sums are requantized in
fixed point, with `core.affine.requantize_fixed` as their reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.ckernels import (
    accumulating,
    depthwise,
    elementwise,
    gemm,
    moving,
    mve,
    mve_maps,
    narrow,
    packed,
    pooling,
)
from edgeopt.codegen.ckernels.isa import applies, isa_of
from edgeopt.codegen.ckernels.template import CTemplate, section
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

__all__ = ["CKernel", "CTemplate", "applies", "emit", "isa_of", "select", "source"]

#: Tried in order; the first that answers is used.
RULES: tuple[Callable[[OpKey, TargetSpec], CTemplate | None], ...] = (
    mve.rule,
    mve_maps.rule,
    gemm.rule,
    depthwise.rule,
    accumulating.rule,
    pooling.rule,
    elementwise.rule,
    moving.rule,
)

#: Order of the library's sections in a source file; each needs only what stands before it.
SECTIONS = (
    "base", "narrow", "round", "float", "fixed", "placed", "accumulate",
    "dsp", "gather_dsp", "gemm_dsp", "pointwise_dsp", "conv_dsp", "conv_dsp_aligned",
    "packed_dsp", "conv_packed",
    "gemm_w4", "block_wBITS:4", "pointwise_wBITS:4", "conv_wBITS:4",
    "gemm_w2", "block_wBITS:2", "pointwise_wBITS:2", "conv_wBITS:2",
    "depthwise_dsp", "depthwise_any", "depthwise_nine", "depthwise_square",
    "depthwise_5_1", "depthwise_5_2", "depthwise_7_1", "depthwise_7_2",
    "plain_conv", "plain_rows", "plain_pointwise", "plain_patches", "plain_depthwise",
    "plain_depthwise_3", "plain_depthwise_5", "plain_depthwise_7",
    "plain_packed", "plain_pointwise_wBITS:4", "plain_pointwise_wBITS:2", "plain_groups_packed",
    "mve", "mve_narrow", "mve_rows", "mve_pointwise", "mve_patch", "mve_conv", "mve_depthwise",
    "mve_depthwise_3_1", "mve_depthwise_3_2", "mve_depthwise_5_1", "mve_depthwise_5_2",
    "mve_depthwise_7_1", "mve_depthwise_7_2",
    "mve_packed", "mve_pointwise_wBITS:4", "mve_pointwise_wBITS:2", "mve_conv_packed",
    "mve_table", "mve_mean", "mve_maxpool", "mve_add", "mve_mul",
    "maxpool", "avgpool", "mean", "extreme",
    "add_float", "add_fixed", "mul_float", "mul_fixed", "activation", "convert", "softmax",
    "pair", "pair_tensor", "pair_constant",
    "move", "gather", "resize", "resize_linear", "concat",
)  # fmt: skip

#: What a file begins with whose kernels share what they do: see ``base.h``.
FEW_BYTES = "#define EDGEOPT_FEW_BYTES\n"


@dataclass(frozen=True, slots=True)
class CKernel:
    """A kernel in C.

    Attributes:
        function: its interface.
        source: a whole source file with it alone.
        constants: packed, by the names of its parameters; empty if none were given.
    """

    function: KernelFunction
    source: str
    constants: Mapping[str, Array]


def find(key: OpKey, target: TargetSpec) -> CTemplate | None:
    """The template that implements a key on a microcontroller, or None."""
    for rule in (packed.rule,) if key.weight_bits else RULES:
        template = rule(key, target)
        if template is not None:
            return narrow.narrowed(template, key, target)
    return None


def select(key: OpKey, target: TargetSpec) -> CTemplate:
    """The template that implements a key on a microcontroller.

    Raises:
        InputError: there is none; nothing else can compile a kernel for such a target.
    """
    template = find(key, target)
    if template is None:
        kind = "" if key.dtype == key.out_dtype == "i8" else f" of {key.dtype}"
        raise InputError(
            f"{target.mcpu} ({target.arch}) has no kernel for {key.op}{kind}", where=str(key),
            hint="quantize the network to int8" if key.precision == "f32" else
            "replace the operator, or keep it out of the network",
        )  # fmt: skip
    return template


def emit(
    key: OpKey, target: TargetSpec, constants: Mapping[str, Array] | None = None, prefix: str = ""
) -> CKernel:
    """One kernel in C.

    Args:
        key: what it computes.
        target: the microcontroller.
        constants: of `core.kernels.Kernel`, to be packed.
        prefix: in front of the function's symbol.

    Raises:
        InputError: no template implements the key.
    """
    template = select(key, target)
    packed = {} if constants is None else template.pack(key, target, constants)
    return CKernel(template.function(key, target), source([key], target, prefix), packed)


def source(keys: Iterable[OpKey], target: TargetSpec, prefix: str = "") -> str:
    """A source file that defines the kernels of some keys, each once.

    Args:
        keys: in any order; the file's functions are sorted.
        target: the microcontroller.
        prefix: in front of the functions' symbols.

    Raises:
        InputError: no template implements a key.
    """
    templates = {key: select(key, target) for key in keys}
    wanted = {part for key, found in templates.items() for part in found.sections(key, target)}
    unknown = wanted - set(SECTIONS)
    if unknown:
        raise ValueError(f"sections {sorted(unknown)} have no place in the order")
    parts = [FEW_BYTES] if target.compact else []
    parts += [section(name) for name in SECTIONS if name in wanted]
    parts += [templates[key].definition(key, target, prefix) for key in sorted(templates)]
    return "\n".join(parts)

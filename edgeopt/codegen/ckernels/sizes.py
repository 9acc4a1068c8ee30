"""About how many bytes C kernels take, before a compiler has seen them.

A kernel is a function that calls into sections of the library (``codegen/ckernels/c``), which a
network has once. What kernels do not share is inlined, and part of their own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.ckernels.isa import isa_of
from edgeopt.codegen.ckernels.template import CTemplate
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

_Row = tuple[int | None, int | None, int | None, int | None]

#: Mean bytes of a section's functions on Arm cores with pairs (Cortex-M4), with vectors (M55),
#: with neither (M0+), and on RISC-V: what benchmarks/code_sizes.py prints for subnets. None: they
#: have no such section. What is `compact` differs where kernels share all that they do.
SECTION_BYTES: Mapping[str, _Row] = MappingProxyType(
    {
        "base": (24, 0, 24, 24),
        "narrow": (100, None, 180, 160),
        "fixed": (None, None, 130, 140),
        "dsp": (130, None, None, None),
        "gemm_dsp": (1180, None, None, None),
        "pointwise_dsp": (130, None, None, None),
        "conv_dsp.compact": (390, None, None, None),
        "gemm_w4": (620, None, None, None),
        "block_wBITS:4": (550, None, None, None),
        "pointwise_wBITS:4": (140, None, None, None),
        "gemm_w2": (610, None, None, None),
        "block_wBITS:2": (600, None, None, None),
        "pointwise_wBITS:2": (150, None, None, None),
        "depthwise_dsp": (490, None, None, None),
        "depthwise_nine": (1030, None, None, None),
        "depthwise_square": (48, None, None, None),
        "depthwise_5_1": (1120, None, None, None),
        "depthwise_5_2": (1030, None, None, None),
        "plain_pointwise.compact": (None, None, 860, 910),
        "plain_patches": (None, None, 140, 300),
        "plain_patches.compact": (None, None, 980, 1270),
        "plain_depthwise": (None, None, 420, 400),
        "plain_depthwise_3": (None, None, 610, 680),
        "plain_depthwise_5": (None, None, 910, 930),
        "plain_packed": (None, None, 400, 360),
        "plain_pointwise_wBITS:4.compact": (None, None, 940, 1020),
        "plain_pointwise_wBITS:2.compact": (None, None, 520, 840),
        "mve": (None, 88, None, None),
        "mve_narrow": (None, 210, None, None),
        "mve_pointwise.compact": (None, 1310, None, None),
        "mve_patch": (None, 280, None, None),
        "mve_conv.compact": (None, 560, None, None),
        "mve_depthwise_3_1": (None, 1340, None, None),
        "mve_depthwise_3_2": (None, 1270, None, None),
        "mve_depthwise_5_1": (None, 1620, None, None),
        "mve_depthwise_5_2": (None, 1170, None, None),
        "mve_pointwise_wBITS:4.compact": (None, 1020, None, None),
        "mve_pointwise_wBITS:2.compact": (None, 1540, None, None),
        "mve_table": (None, 92, None, None),
        "mve_mean.compact": (None, 220, None, None),
        "mve_add.compact": (None, 230, None, None),
        "mve_mul.compact": (None, 300, None, None),
        "mean.compact": (110, None, 220, 230),
        "add_float.compact": (110, None, None, None),
        "add_fixed.compact": (None, None, 92, 86),
        "mul_float.compact": (180, None, None, None),
        "mul_fixed.compact": (None, None, 240, 270),
        "convert.compact": (120, 120, 270, 350),
    }
)
#: Sections that are inlined where there is no row for them.
INLINED = frozenset((
    "round", "float", "placed", "accumulate", "gather_dsp", "conv_dsp", "packed_dsp",
    "depthwise_any", "plain_rows", "plain_pointwise", "plain_pointwise_wBITS:4",
    "plain_pointwise_wBITS:2", "mve_rows", "mve_pointwise", "mve_conv", "mve_depthwise",
    "mve_packed", "mve_pointwise_wBITS:4", "mve_pointwise_wBITS:2", "mve_mean", "mve_add",
    "mve_mul", "mean", "add_float", "add_fixed", "mul_float", "mul_fixed", "convert",
))  # fmt: skip
#: Mean bytes of a kernel without its sections; those with packed weights end in w.
KERNEL_BYTES: Mapping[str, _Row] = MappingProxyType(
    {
        "add": (110, 140, 96, 92),
        "add.compact": (24, 24, 24, 30),
        "conv2d": (460, 630, 920, 1040),
        "conv2d.compact": (120, 130, 120, 150),
        "depthwise": (100, 850, 370, 590),
        "depthwise.compact": (120, 120, 110, 140),
        "dequantize": (48, 48, 60, 86),
        "dequantize.compact": (12, 12, 12, 20),
        "global_avgpool": (100, 200, 220, 230),
        "global_avgpool.compact": (28, 28, 24, 32),
        "linear": (32, 720, 680, 750),
        "linear.compact": (52, 44, 44, 68),
        "linear.w": (36, 830, 540, 750),
        "linear.w.compact": (52, 44, 44, 68),
        "pointwise": (38, 570, 740, 820),
        "pointwise.compact": (58, 50, 50, 80),
        "pointwise.w": (40, 690, 580, 800),
        "pointwise.w.compact": (60, 48, 50, 80),
        "quantize": (72, 72, 220, 270),
        "quantize.compact": (12, 12, 12, 20),
        "scale": (140, 150, 240, 260),
        "scale.compact": (28, 28, 28, 34),
    }
)
#: Where nothing was measured.
OTHER_SECTION_BYTES, OTHER_KERNEL_BYTES = 400, 600
#: The runner and what is linked from the compiler's library, without calls; each call.
RUNNER_BYTES, CALL_BYTES = (300, 160, 2190, 2720), (29, 33, 27, 21)


def column(target: TargetSpec) -> int:
    """Where the tables have a target's sizes."""
    isa = isa_of(target)
    return 1 if isa.mve else 0 if isa.dsp else 3 if target.arch.startswith("riscv") else 2


def kernel_class(key: OpKey) -> str:
    """The class of kernels that a kernel's own code is estimated by."""
    return f"{key.op}.w" if key.weight_bits else key.op


def code_bytes(template: CTemplate, key: OpKey, target: TargetSpec) -> dict[str, int]:
    """Estimated bytes of a kernel, by its symbol, and of the sections it needs, by their names."""
    sections = {name: section_bytes(name, target) for name in template.sections(key, target)}
    return {symbol_of(key, template.choice): own_bytes(kernel_class(key), target), **sections}


def section_bytes(name: str, target: TargetSpec) -> int:
    """Estimated bytes of a section's functions."""
    return _stated(SECTION_BYTES, name, target, 0 if name in INLINED else OTHER_SECTION_BYTES)


def own_bytes(kernel: str, target: TargetSpec) -> int:
    """Estimated bytes of a class of kernels without their sections."""
    return _stated(KERNEL_BYTES, kernel, target, OTHER_KERNEL_BYTES)


def call_bytes(target: TargetSpec) -> int:
    """Estimated bytes of a call of a kernel."""
    return CALL_BYTES[column(target)]


def runner_bytes(target: TargetSpec, calls: int) -> int:
    """Estimated bytes of what calls a network's kernels, and of the compiler's library."""
    return RUNNER_BYTES[column(target)] + call_bytes(target) * calls


def _stated(table: Mapping[str, _Row], name: str, target: TargetSpec, other: int) -> int:
    row = table.get(f"{name}.compact") if target.compact else None
    row = row or table.get(name)
    found = None if row is None else row[column(target)]
    return other if found is None else found

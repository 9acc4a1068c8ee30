"""Kernel templates: from an `OpKey` and a `TargetSpec` to code and packed constants.

`select(key, target)` walks an ordered list of rules and returns the first `Template` that
answers, or None: the key then goes to the fallback path. A template is parameterised by what the
target says of itself (vector width, registers, instruction features), never by its name.

What lowering hands over
------------------------

Shapes are physical without the batch of 1 (``16x16x24`` or ``1000``). ``inputs`` of the key counts
activation inputs, the residual not among them. Names on the left are kernel operators; constants
are those of `core.kernels.Kernel` (what `Template.pack` reads), unpacked, with exactly these names.

=================  ======  ==================================================================
operator           type    constants read by ``pack``
=================  ======  ==================================================================
pointwise,         f32     ``w`` f32[O,kh,kw,I/groups], ``b`` f32[O] (absent: zero)
depthwise, conv2d
irb                f32     ``w1``, ``b1``, ``wd``, ``bd``, ``w2``, ``b2``: ``w`` and ``b`` of its
                           three parts (`OpKey.parts`)
linear             f32     ``w`` f32[O,I], ``b`` f32[O] (absent: zero)
conv-like, linear  i8      ``w`` i8, ``b`` i32[O] as in the model (zero point NOT folded),
                           ``multiplier`` f32[O], ``qparams`` i32[4] zero_x, zero_y, lo, hi;
                           ``lut`` i8[256] for a table activation
add, mul (2 in)    f32     none
add, mul (1 in)    f32     ``c`` f32, broadcast to [C] (variant ``channel``) or to the whole map
                           (variant ``full``); a scalar is variant ``channel``
add (2 in)         i8      ``factors`` f32[2], ``qparams`` i32[5] zero_a, zero_b, zero_y, lo, hi
add (1 in)         i8      the same and ``c`` i8, variants as above
mul, scale         i8      ``multiplier`` f32[1], ``qparams`` i32[5] as add (and ``c`` i8, 1 in)
scale              f32     none; inputs are the map [H,W,C] and the gate [C], in this order
global_avgpool,    i8      ``multiplier`` f32[1] = float32(float32(s_x / n) / s_y),
avgpool                    ``qparams`` i32[4] zero_x, zero_y, lo, hi
maxpool            i8      none: input and output share their quantization
activation         i8      ``lut`` i8[256]
concat             i8      ``factors`` f32[n] = float32(s_i / s_y), ``qparams`` i32[n+1] zero
                           points of the inputs, then of the output; with variant suffix
                           ``.same`` (all quantizations equal) none
quantize           f32→i8  ``scale`` f32[1], ``qparams`` i32[1] zero
dequantize         i8→f32  ``scale`` f32[1], ``qparams`` i32[1] zero
sub, div, max,     f32     ``c`` f32 with one input; variants as add
min, prelu         i8      the same, ``scales`` f32 and ``qparams`` i32 zero points: of the
                           inputs, then of the output
softmax            i8      ``table`` i32[256] (`core.affine.exponentials`), ``scale`` f32[1],
                           ``qparams`` i32[1] of the output
reduce (sum)       i8      ``multiplier`` f32[1], ``qparams`` i32[4] as averages
pad                all     ``value`` [1], as it is stored
gather             all     ``index`` i32[n]
resize             all     variant ``index``: ``index`` i32[OH+OW]; variant ``linear``: ``index``
                           i32[2*(OH+OW)], ``share`` f32[2*(OH+OW)], in i8 ``scales`` f32[2] and
                           ``qparams`` i32[2]
everything else            none
=================  ======  ==================================================================

Activations are written in the key as ``name`` or ``name_parameter_parameter``, see
`core.activations.text_of`: ``relu``, ``relu6``, ``hardswish``, ``hardsigmoid`` (alpha 1/6,
beta 0.5; others ``hardsigmoid_0.2_0.5``), ``clip_-1.0_1.0``, ``leakyrelu_0.01``, ``elu_1.0``,
``gelu``, ``gelu_tanh``. In f32 every one can be fused into conv-like kernels, linear, add, mul and
scale (``activation``, then the residual is added, then ``residual_activation``). In i8 conv-like
kernels and linear take a clamping activation (``relu``, ``relu6``, ``clip_…``) through lo and hi
of ``qparams``, and any other through ``lut``; add, mul and scale take clamping ones only. The
residual is fused in f32 only.

Variants of the other operators: concat ``axis2.32-64`` (axis of the key's shape, sizes of
the inputs along it, in order); transpose ``perm1-0-2`` (of the key's shape); softmax ``axis0``
(absent: the last); avgpool ``include`` (padding is counted; absent: it is not); resize has none
for nearest neighbours by whole factors. Averages in i8 whose windows differ in size have a
``multiplier`` for each number of elements from one up. Two-input operators take ``channel`` (one
number a channel on the right) and ``pixel`` (one a pixel); slice ``start0-0-4.step1-1-2``, pad
``pad1-0-0.2-0-0`` (before, after), gather ``axis2``, reduce ``sum``, ``max``, ``min``; softmax
``log`` and ``axis0.log`` give the logarithm.

A kernel whose template takes them has its parameters in this order: inputs, residual, constants,
output, scratch; ``Template.function(key, target).args`` says so exactly, and names the packed
constants, which are other than those above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgeopt.codegen import ckernels
from edgeopt.codegen.schedules import (
    depthwise,
    elementwise,
    gemm,
    irb,
    layout,
    narrow,
    pooling,
    softmax,
    winograd,
    winograd_i8,
    winograd_i8_plan,
    winograd_plan,
)
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.codegen.schedules.shared import Shared
from edgeopt.codegen.schedules.template import Template
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

__all__ = ["Template", "select"]

#: Tried in order; the first that answers is used.
RULES: tuple[Callable[[OpKey, TargetSpec], Template | None], ...] = (
    depthwise.rule,
    irb.rule,
    winograd.rule,
    winograd_i8.rule,
    gemm.rule,
    elementwise.rule,
    pooling.rule,
    layout.rule,
    softmax.rule,
)


def select(key: OpKey, target: TargetSpec, choice: Choice = MODEL) -> Template | None:
    """The template that implements a key on a target, tiled as ``choice`` says, or None.

    Kernels for microcontrollers are C (`codegen.ckernels`).

    Raises:
        InputError: a microcontroller has no kernel for it, and no fallback either.
    """
    if ckernels.applies(target):
        return ckernels.select(key, target)
    if choice.form and winograd_plan.applies(key):
        return (gemm.GEMM if choice.form == "d" else winograd.WINOGRAD).with_choice(choice)
    isa = isa_of(target)
    if choice.form and isa is not None and winograd_i8_plan.applies(key, isa):
        found = (gemm.GEMM if choice.form == "d" else winograd_i8.WINOGRAD_I8).with_choice(choice)
        return narrow.narrowed(found, key, target)
    for rule in RULES:
        template = rule(key, target)
        if template is not None:
            chosen = template if choice == MODEL else template.with_choice(choice)
            return narrow.narrowed(chosen, key, target)
    return None


def shared_by(key: OpKey, target: TargetSpec) -> tuple[Shared, ...]:
    """The functions that a key's kernel calls, tiled by its template's model; none without one."""
    template = select(key, target)
    return () if template is None else template.shared(key, target)


def is_compact(key: OpKey, target: TargetSpec) -> bool:
    """Whether a target that asks for few bytes gets another kernel for that."""
    wide = replace(target, narrow=False)
    usual = replace(wide, compact=False)
    return target.compact and shared_by(key, wide) != shared_by(key, usual)

"""What every C kernel template is: sections of the library it needs, and one call into them.

The library, `codegen/ckernels/c`, holds routines written once; a kernel is a function of the
bundle that calls one of them with its shapes as constants. A source file is the sections its
kernels need, in the library's order, and then the kernels: it includes nothing but C's own headers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from edgeopt.codegen.abi import Arg, KernelFunction, symbol_of
from edgeopt.codegen.carrays import c_type
from edgeopt.codegen.schedules.template import BaseTemplate, Const, flat, is_table, round_up
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

#: Working memory is given out in multiples of this.
SCRATCH_ALIGNMENT_BYTES = 16


class CTemplate(BaseTemplate):
    """One way to implement some kernel keys in C."""

    #: Channels whose biases stand together, and then their multipliers, in an accumulating kernel.
    channel_block = 1

    def sections(self, key: OpKey, target: TargetSpec) -> tuple[str, ...]:
        """Files of the library it calls, without their extension."""
        raise NotImplementedError

    def body(self, key: OpKey, target: TargetSpec) -> str:
        """Statements of the function; parameters have the names of `function`'s arguments."""
        raise NotImplementedError

    def ordered_pixels(self, key: OpKey, target: TargetSpec) -> int:
        """What the kernel promises of the order it works in: `KernelFunction.ordered_pixels`."""
        return 0

    def function(self, key: OpKey, target: TargetSpec) -> KernelFunction:
        """Symbol, parameters and scratch of the kernel; a kernel in C is not divided."""
        args = [Arg("input", f"x{i}", key.dtype) for i in range(key.inputs)]
        args += [Arg("const", const.name, const.dtype) for const in self.consts(key, target)]
        args.append(Arg("output", "y", key.out_dtype))
        scratch = round_up(self.scratch_bytes(key, target), SCRATCH_ALIGNMENT_BYTES)
        if scratch:
            args.append(Arg("scratch", "scratch", "u8"))
        return KernelFunction(
            key, symbol_of(key, self.choice), tuple(args), scratch, self.name,
            ordered_pixels=self.ordered_pixels(key, target),
        )  # fmt: skip

    def primfunc(self, key: OpKey, target: TargetSpec) -> Any:
        """Refused: this kernel is C."""
        raise TypeError(f"{key.op} for {target.mcpu} is C: it has no PrimFunc")

    def definition(self, key: OpKey, target: TargetSpec, prefix: str = "") -> str:
        """The function in C."""
        function = self.function(key, target)
        lines = "\n".join(f"    {line}" for line in self.body(key, target).splitlines())
        return (
            f"/* {key} */\n"
            f"int32_t {prefix}{function.symbol}({_parameters(function.args)});\n"
            f"int32_t {prefix}{function.symbol}({_parameters(function.args)}) {{\n"
            f"{lines}\n    return 0;\n}}\n"
        )


def _parameters(args: tuple[Arg, ...]) -> str:
    parts = []
    for arg in args:
        const = "" if arg.kind in ("output", "scratch") else "const "
        kind = "void" if arg.kind == "scratch" else c_type(arg.dtype)
        parts.append(f"{const}{kind} *{arg.name}")
    return ", ".join(parts)


@functools.cache
def section(name: str) -> str:
    """A part of the library; ``name:4`` is one that is written once for some widths (BITS)."""
    stem, _, bits = name.partition(":")
    file = resources.files("edgeopt.codegen.ckernels").joinpath("c", f"{stem}.h")
    return file.read_text("utf-8").replace("BITS", bits or "BITS")


def window(key: OpKey) -> str:
    """A declaration of the key's window, ``g``."""
    (ih, iw, ic), (oh, ow, oc) = key.in_shape, key.out_shape
    top, left = key.pads[:2]
    values = (ih, iw, ic, oh, ow, oc, *key.kernel, *key.strides, *key.dilations, top, left)
    text = ", ".join(map(str, (*values, key.groups)))
    return f"static const edgeopt_window g = {{{text}}};"


def shared_window(key: OpKey, target: TargetSpec) -> tuple[int, int] | None:
    """Size and stride of a depthwise window that kernels share a copy for, or None.

    They do where flash is short, for the sizes that networks have.
    """
    (height, width), stride = key.kernel, key.strides[0]
    usual = height == width and height in (3, 5, 7) and key.strides in ((1, 1), (2, 2))
    return (height, stride) if target.compact and usual and key.dilations == (1, 1) else None


#: The constant that every accumulating kernel has: see ``base.h``.
HEADER = 4


def params_const(channels: int) -> Const:
    """Zero points, clamps, and bias and multiplier of each channel."""
    return Const("p", "i32", HEADER + 2 * channels)


def bits(values: Array) -> Array:
    """Binary32 numbers as int32 of the same bits."""
    return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.int32)


def accumulating_consts(key: OpKey, weights: Const) -> tuple[Const, ...]:
    """The constants of a convolution or linear layer."""
    found = [weights, params_const(key.out_shape[-1])]
    if is_table(key.activation):
        found.append(Const("lut", "i8", 256))
    return tuple(found)


def folded(constants: Mapping[str, Array]) -> Array:
    """Zero points, clamps and channels, the input's zero point folded into the biases."""
    w = np.asarray(constants["w"], np.int64)
    header = np.asarray(constants["qparams"], np.int32)
    bias = np.asarray(constants["b"], np.int64) - int(header[0]) * w.reshape(len(w), -1).sum(1)
    # sums are taken modulo 2^32, so a bias that leaves int32 comes back with them
    wrapped = bias.astype(np.int64).astype(np.int32)
    channels = np.stack([wrapped, bits(constants["multiplier"])], axis=1)
    return np.concatenate([header, channels.reshape(-1)])


def accumulating_pack(
    consts: tuple[Const, ...], constants: Mapping[str, Array], weights: Array
) -> dict[str, Array]:
    """All constants of a convolution or linear layer."""
    values = {"w": weights, "p": folded(constants), "lut": constants.get("lut")}
    return {const.name: flat(np.asarray(values[const.name]), const) for const in consts}


def looked_up(key: OpKey, count: int) -> str:
    """The statement that evaluates a table activation of the whole output, if there is one."""
    return f"\nedgeopt_look_up(y, {count}, lut);" if is_table(key.activation) else ""


def requantization(fpu: bool) -> tuple[str, ...]:
    """Sections that bring sums to int8."""
    return ("base", "round", "float" if fpu else "fixed", "placed", "accumulate")

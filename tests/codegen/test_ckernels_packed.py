"""Packed weights in C: on every core, at their limits, and how many bytes and instructions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import c_harness
import micro
import numpy as np
import pytest

from edgeopt.codegen import ckernels
from edgeopt.codegen.ckernels.packed import holds
from edgeopt.codegen.machines import MACHINES, Machine
from edgeopt.core import lowbits
from edgeopt.core.kernels import OpKey

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import shapes

#: Rests of channels, inputs and pixels: of words, vectors, pairs, fours; windows of every kind.
SHAPES = (
    shapes.pointwise((5, 3), 7, 13), shapes.pointwise((1, 1), 33, 40),
    shapes.pointwise((4, 3), 8, 6), shapes.pointwise((2, 1), 1, 1),
    shapes.pointwise((3, 3), 20, 7, activation="hardswish"), shapes.pointwise((3, 3), 12, 9),
    shapes.pointwise((3, 3), 48, 61), shapes.linear(101, 5), shapes.linear(300, 30),
    shapes.conv((9, 8), (3, 5), stride=(2, 2)), shapes.conv((6, 5), (4, 7), (5, 3)),
    shapes.conv((5, 9), (8, 2), (1, 1), stride=(2, 2)), shapes.conv((8, 8), (5, 9), (7, 7)),
    shapes.conv((9, 8), (5, 9), dilation=(2, 2)), shapes.conv((5, 4), (20, 15), groups=5),
)  # fmt: skip
I8 = {"dtype": "i8", "out_dtype": "i8"}


def packed(key: OpKey, bits: int) -> OpKey:
    return replace(c_harness.integer(key), weight_bits=bits)


KEYS = [packed(key, bits) for key in SHAPES for bits in (4, 2)]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=str)
def test_kernels_equal_the_reference(
    machine: Machine, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    micro.need_machine(machine, needs_tool)
    assert all("packed" in ckernels.select(key, machine.target).name for key in KEYS)
    micro.check(KEYS, machine, tmp_path)


def extreme(key: OpKey, largest: int, inputs: int) -> c_harness.Case:
    """The largest sums of either sign, beside biases that take them to the ends of int32."""
    fan = key.weight_count // key.out_shape[-1]
    w = np.full((key.out_shape[-1], fan), largest, np.int8)
    w[1::2] = -largest
    reach = 128 * largest * fan
    bias = np.array([2**31 - 1 - reach, -(2**31) + reach, 0, 5], np.int32)
    constants = {
        "w": w.reshape(key.out_shape[-1], *((1, 1) if key.op != "linear" else ()), fan),
        "b": np.resize(bias, key.out_shape[-1]),
        "multiplier": np.resize(
            np.array([2.0**-26, 2.0**-26, 1e-4, 0.7], np.float32), key.out_shape[-1]
        ),
        "qparams": np.array([0, 3, -128, 127], np.int32),
    }
    return [np.full(key.in_shape, inputs, np.int8)], constants


@pytest.mark.parametrize("name", ["m4", "m55", "m0"])
def test_sums_at_the_limits(name: str, tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    """Every field at its largest, sums and biases at the ends of int32."""
    machine = micro.need_machine(MACHINES[name], needs_tool)
    cases = {}
    for bits in (4, 2):
        for key in (shapes.pointwise((2, 4), 16, 8), shapes.linear(5000, 4)):
            for inputs, width in ((-128, 0), (127, 1)):
                small = packed(key, bits)
                small = replace(small, out_shape=(*small.out_shape[:-1], 8 + 4 * width))
                cases[small] = extreme(small, lowbits.largest(bits), inputs)
    micro.check(list(cases), machine, tmp_path, cases=cases)


@pytest.mark.parametrize("name", ["m0", "m4", "m55", "rv32"])
@pytest.mark.parametrize("bits", [4, 2])
def test_weights_take_their_bits(name: str, bits: int) -> None:
    """And no memory to unpack into, but what sums of inputs take."""
    target = MACHINES[name].target
    for key in (shapes.pointwise((6, 6), 64, 64), shapes.linear(256, 32)):
        whole, small = c_harness.integer(key), packed(key, bits)
        weights = {
            k: ckernels.select(k, target).consts(k, target)[0].size_bytes for k in (whole, small)
        }
        assert weights[small] * 8 == weights[whole] * bits
        scratch = [
            ckernels.select(k, target).function(k, target).scratch_bytes for k in (whole, small)
        ]
        assert scratch[1] - scratch[0] in (0, 32)


@pytest.mark.parametrize(("bits", "weight"), [(4, 9), (2, 5), (2, 0), (2, -2)])
def test_a_weight_that_does_not_fit_is_an_error(bits: int, weight: int) -> None:
    key = OpKey("pointwise", (1, 1, 4), (1, 1, 2), weight_bits=bits, **I8)  # type: ignore[arg-type]
    _, constants = c_harness.case(key, 0)
    constants["w"][0, 0, 0, 0] = weight
    for machine in MACHINES.values():
        with pytest.raises(ValueError, match=f"a weight does not fit {bits} bits"):
            ckernels.select(key, machine.target).pack(key, machine.target, constants)


def test_vectors_take_symmetric_weights() -> None:
    """The smallest weight of all has no opposite, and no room where fields have no bias."""
    w = np.array([[[[-8, 7]]]], np.int8)
    for machine in MACHINES.values():
        assert holds(w, 4, machine.target) == (machine.name != "m55")
        assert holds(w + np.int8([1, 0]), 4, machine.target)
    key = OpKey("pointwise", (1, 1, 2), (1, 1, 1), weight_bits=4, **I8)  # type: ignore[arg-type]
    _, constants = c_harness.case(key, 0)
    target = MACHINES["m55"].target
    with pytest.raises(ValueError, match="does not fit 4 bits, symmetric"):
        ckernels.select(key, target).pack(key, target, {**constants, "w": w})


@pytest.mark.parametrize("name", ["m0", "m4"])
def test_the_smallest_weight(name: str, tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    """Other fields are biased, and hold it."""
    machine = micro.need_machine(MACHINES[name], needs_tool)
    cases = {}
    key = packed(shapes.pointwise((3, 2), 10, 5), 4)
    inputs, constants = c_harness.case(key, 4)
    constants["w"].reshape(-1)[::3] = -8
    cases[key] = inputs, constants
    micro.check(list(cases), machine, tmp_path, cases=cases)


def test_more_inputs_than_fields_allow_are_added_up_in_plain_c() -> None:
    key = OpKey("linear", (ckernels.packed.MOST_INPUTS + 1,), (2,), weight_bits=2, **I8)  # type: ignore[arg-type]
    fewer = replace(key, in_shape=(ckernels.packed.MOST_INPUTS,))
    target = MACHINES["m4"].target
    assert ckernels.select(key, target).name == "c_pointwise_packed"
    assert ckernels.select(fewer, target).name == "c_pointwise_packed_dsp"


#: Instructions of packed weights over those of int8, for 4 and 2 bits.
MOST = {"m4": (1.08, 1.1), "m55": (1.12, 1.3), "m0": (1.08, 1.22), "rv32": (1.05, 1.25)}


@pytest.mark.parametrize("name", list(MOST))
def test_no_more_instructions_than_int8_has(
    name: str, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    machine = micro.need_machine(MACHINES[name], needs_tool)
    key = shapes.pointwise((12, 12), 32, 32)
    keys = [c_harness.integer(key), packed(key, 4), packed(key, 2)]
    cases = {key: c_harness.case(key, 0) for key in keys}  # clamps would be another loop
    flags = ("-O2", "-fno-schedule-insns")
    found = micro.check(keys, machine, tmp_path, flags=flags, cases=cases)
    whole, *small = (found[key] for key in keys)
    for count, most in zip(small, MOST[name], strict=True):
        assert count < most * whole, f"{count / whole:.3f}"

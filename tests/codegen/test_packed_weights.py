"""Kernels whose weights are packed: who has them, how many bytes they take, what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kernel_harness as harness
import numpy as np
import pytest
from test_schedules import conv

from edgeopt.codegen import build, lowbits, schedules
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from tests.emulated import machines

INT8 = {"dtype": "i8", "out_dtype": "i8"}
KEYS = (
    OpKey("pointwise", (7, 7, 96), (7, 7, 40), **INT8),  # type: ignore[arg-type]
    conv("conv2d", 9, 16, 24, 3, **INT8),
    OpKey("linear", (256,), (100,), activation="relu6", **INT8),  # type: ignore[arg-type]
)


def few(key: OpKey, bits: int) -> OpKey:
    return replace(key, weight_bits=bits)


@pytest.mark.parametrize("machine", machines.MACHINES, ids=str)
def test_every_machine_has_kernels_of_both_widths(machine: machines.Machine) -> None:
    for op in ("pointwise", "conv2d", "linear"):
        assert lowbits.widths(op, machine.target) == (2, 4)
    assert lowbits.supported("pointwise", 4, machine.target)
    assert not lowbits.supported("pointwise", 3, machine.target)
    assert not lowbits.supported("depthwise", 4, machine.target)


def test_a_target_without_vectors_has_none() -> None:
    scalar = replace(harness.HOST, vector_bits=32)
    assert lowbits.widths("pointwise", scalar) == ()


def test_what_is_not_supported_has_no_template() -> None:
    key = conv("depthwise", 8, 16, 16, 3, groups=16, weight_bits=4, **INT8)
    assert schedules.select(key, harness.HOST) is None


@pytest.mark.parametrize("target", [harness.HOST, harness.NEON, harness.I8MM], ids=lambda t: t.mcpu)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.op)
def test_weights_take_their_share_of_the_bytes(key: OpKey, target: TargetSpec) -> None:
    def size(bits: int) -> int:
        template = schedules.select(few(key, bits), target)
        assert template is not None
        wanted = template.function(few(key, bits), target).args
        consts = {c.name: c for c in template.consts(few(key, bits), target)}  # type: ignore[attr-defined]
        assert {arg.name for arg in wanted if arg.kind == "const"} == set(consts)
        return int(consts["weights"].size_bytes)

    whole = size(0)
    # blocks are filled up at the end of each run, and tiles differ in how they pad channels
    for bits in (2, 4):
        assert size(bits) <= whole * bits / 8 * 1.05 + 256


@pytest.mark.parametrize("bits", [2, 4])
def test_all_values_a_width_has_are_weights(bits: int, tmp_path: Path) -> None:
    """The most negative one too, which symmetric weights do not have, next to large activations."""
    keys = [few(key, bits) for key in KEYS]
    library = harness.link(build.compile_kernels(keys, harness.HOST), tmp_path)
    for key in keys:
        inputs, constants = harness.case(key, 1)
        least, most = (-3, 3) if bits == 2 else (-8, 7)
        constants["w"][...] = np.where(constants["w"] < 0, least, most)
        inputs[0][...] = np.where(inputs[0] < 0, -128, 127)
        got = harness.run(library, key, harness.HOST, inputs, constants)
        harness.check(key, got, harness.reference(key, inputs, constants))


@pytest.mark.parametrize("machine", machines.MACHINES, ids=str)
def test_two_bits_have_no_zero_to_fill_up_with(machine: machines.Machine) -> None:
    """Sums that end within a product's inputs are of weights of four bits."""
    target = machine.target
    for inputs, bits in ((96, 2), (15, 4)):
        key = OpKey("pointwise", (7, 7, inputs), (7, 7, 40), **INT8)  # type: ignore[arg-type]
        assert lowbits.stored_bits(key, 2, target) == bits
        assert (schedules.select(few(key, 2), target) is None) == (bits == 4)
        assert schedules.select(few(key, bits), target) is not None


def test_weights_take_the_fewest_bits_that_hold_them() -> None:
    w = np.array([[[[-3, 1, 3, -1]]]], np.int8)
    key = OpKey("pointwise", (7, 7, 4), (7, 7, 1), **INT8)  # type: ignore[arg-type]
    assert lowbits.stored_bits(key, 2, harness.HOST, w) == 2
    assert lowbits.stored_bits(key, 4, harness.HOST, w) == 4
    assert lowbits.stored_bits(key, 2, harness.HOST, w - np.int8(1)) == 4
    assert lowbits.stored_bits(key, 2, harness.HOST, 3 * w) == 8
    assert lowbits.stored_bits(key, 8, harness.HOST, w) == 8
    assert lowbits.stored_bits(replace(key, dtype="f32", out_dtype="f32"), 2, harness.HOST) == 8


@pytest.mark.parametrize(("bits", "weight"), [(4, 8), (2, 0), (2, 5)])
@pytest.mark.parametrize("target", [harness.HOST, harness.AVX512], ids=lambda t: t.mcpu)
def test_a_weight_that_does_not_fit_is_refused(target: TargetSpec, bits: int, weight: int) -> None:
    key = few(KEYS[0], bits)
    _, constants = harness.case(key, 1)
    constants["w"][3, 0, 0, 2] = weight
    template = schedules.select(key, target)
    assert template is not None
    with pytest.raises(ValueError, match=f"does not fit {bits} bits"):
        template.pack(key, target, constants)

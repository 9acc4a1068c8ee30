"""Kernels in C keep what they promise of their order: their output may run into their input.

Each is run with its output as near below its input as the planner may put it.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from pathlib import Path

import c_harness as harness
import numpy as np
import pytest
from kernel_harness import DTYPES, aligned

from edgeopt.codegen import ckernels
from edgeopt.codegen.abi import SAME_PLACE
from edgeopt.codegen.storage import overlap_distance
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import shapes

TARGETS = {"m0": harness.CORTEX_M0, "m4": harness.CORTEX_M4F}


def promising(target: TargetSpec) -> dict[OpKey, int]:
    """Kernels that promise an order, and how near their output may come to their input."""
    found = {}
    keys = dict.fromkeys(key for keys in shapes.CLASSES.values() for key in keys)
    plain = (key for key in keys if key.op != "irb" and "log" not in key.variant)
    for whole in harness.with_packed(harness.integer(key) for key in plain):
        template = ckernels.find(whole, target)
        if template is not None:
            ordered = template.function(whole, target).ordered_pixels
            distance = 0 if ordered == SAME_PLACE else overlap_distance(whole, ordered)
            if distance is not None:
                found[whole] = distance
    return found


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_outputs_run_into_inputs(
    target: TargetSpec, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    keys = promising(target)
    assert {key.op for key in keys} >= {"pointwise", "depthwise", "conv2d"}
    library = harness.build(list(keys), target, tmp_path, compiler=needs_tool("gcc"))
    for seed, (key, distance) in enumerate(keys.items()):
        distance = -(-distance // 16) * 16
        given = harness.case(key, seed)
        template = ckernels.select(key, target)
        function = template.function(key, target)
        packed = template.pack(key, target, given[1])
        size = math.prod(key.out_shape)
        arena = aligned(np.zeros(max(distance + given[0][0].nbytes, size), np.uint8))
        arena[distance : distance + given[0][0].nbytes] = given[0][0].reshape(-1).view(np.uint8)
        call: list[np.ndarray] = []
        for arg in function.args:
            if arg.kind == "const":
                call.append(aligned(packed[arg.name]))
            elif arg.kind == "scratch":
                call.append(aligned(np.full(function.scratch_bytes, 0xA5, np.uint8)))
            else:
                call.append(arena[distance:] if arg.kind == "input" else arena)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in call]
        assert getattr(library, function.symbol)(*pointers) == 0
        found = arena[:size].view(DTYPES[key.out_dtype]).reshape(key.out_shape)
        wanted = harness.expected(key, given, target)
        assert (found == wanted).all(), f"{key}: its output ran into its input"

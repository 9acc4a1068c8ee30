"""Compiled kernels may write over the inputs that the planner thinks they may write over.

Sizes are awkward on purpose: a kernel that handled its tail by computing some elements twice would
read what it has just written.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from kernel_harness import HOST, arguments, case, link, run

from edgeopt.codegen import build, schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.plan import overwritable
from edgeopt.core.kernels import Kernel, OpKey

I8 = {"dtype": "i8", "out_dtype": "i8"}
MAP, SMALL = (5, 7, 13), (1, 1, 3)
KEYS = [
    OpKey("activation", MAP, MAP, activation="hardswish"),
    OpKey("activation", (9,), (9,), activation="sigmoid"),
    OpKey("activation", MAP, MAP, activation="lut", **I8),
    OpKey("add", MAP, MAP, inputs=2, activation="relu"),
    OpKey("add", SMALL, SMALL, inputs=2),
    OpKey("add", MAP, MAP, inputs=2, **I8),
    OpKey("add", (4, 4, 37), (4, 4, 37), inputs=2, **I8),
    OpKey("add", MAP, MAP, variant="channel"),
    OpKey("mul", MAP, MAP, inputs=2),
    OpKey("mul", MAP, MAP, inputs=2, **I8),
    OpKey("mul", MAP, MAP, variant="full", **I8),
    OpKey("scale", MAP, MAP, inputs=2),
    OpKey("scale", MAP, MAP, inputs=2, **I8),
    OpKey("scale", (7, 7, 40), (7, 7, 40), inputs=2, activation="relu"),
    OpKey("copy", MAP, MAP),
    OpKey("pointwise", (5, 7, 9), (5, 7, 13), residual=True),
    OpKey("pointwise", (5, 5, 16), (5, 5, 24), residual=True, residual_activation="relu"),
    OpKey("pointwise", (1, 1, 9), (1, 1, 11), activation="hardswish", residual=True),
    OpKey("conv2d", (6, 6, 5), (6, 6, 13), kernel=(3, 3), pads=(1, 1, 1, 1), residual=True),
    OpKey("depthwise", MAP, MAP, kernel=(3, 3), pads=(1, 1, 1, 1), groups=13, residual=True),
    OpKey("depthwise", (8, 8, 19), (8, 8, 19), kernel=(5, 5), pads=(2, 2, 2, 2), groups=19,
          residual=True),
    OpKey("linear", (21,), (19,), residual=True),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_writing_over_an_operand_changes_nothing(key: OpKey, tmp_path: Path) -> None:
    template = schedules.select(key, HOST)
    if template is None:
        pytest.skip("no template implements this key: the fallback gets its own buffers")
    inputs, constants = case(key, 3)
    library = link(build.compile_kernels([key], HOST), tmp_path)
    expected = run(library, key, HOST, inputs, constants)
    kinds = [arg.kind for arg in template.function(key, HOST).args]
    operands = [index for index, kind in enumerate(kinds) if kind in ("input", "residual")]
    names = tuple(f"x{index}" for index in range(len(operands)))
    places = overwritable(Kernel("k", key, names, "y"))
    assert places
    for place in places:
        call = arguments(key, HOST, inputs, constants)
        target = call[operands[place]]
        call[kinds.index("output")] = target
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in call]
        assert getattr(library, symbol_of(key))(*pointers) == 0
        np.testing.assert_array_equal(target.reshape(-1), expected.reshape(-1))

"""Processors that multiply unsigned by signed bytes: offset activations give the same sums.

The instruction itself (vpdpbusd) is written out in portable operations, so that staging, padding,
packing and the folded bias are checked on any processor.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import kernel_harness as harness
import pytest
from test_schedules import CONVS, as_int8, parity

from edgeopt.codegen.schedules import dot, gemm
from edgeopt.codegen.schedules.isa import Isa, isa_of
from edgeopt.core.target import TargetSpec


def _written_out(
    isa: Isa, integer: bool, acc: Any, w: Any, spreads: list[Any], *, together: bool = True
) -> Any:
    from edgeopt.codegen.schedules.emit import cast, reinterpret, shuffle

    assert integer and isa.unsigned and isa.pack == 4
    count = 4 * isa.lanes
    products = cast(reinterpret(spreads[0], "uint8", count), "int32") * cast(w, "int32")
    for j in range(4):
        acc = acc + shuffle([products], list(range(j, count, 4)))
    return acc


@pytest.mark.usefixtures("host_is_x86_64_v3")
def test_offset_activations_are_bit_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsigned_isa(target: TargetSpec) -> Isa | None:
        isa = isa_of(target)
        return None if isa is None else replace(isa, dot="quad", unsigned=True)

    monkeypatch.setattr(gemm, "isa_of", unsigned_isa)
    monkeypatch.setattr(dot, "accumulate", _written_out)
    keys = [as_int8(key) for key in CONVS if key.op != "depthwise"][1::3]
    parity(keys, tmp_path, target=harness.HOST)

"""Packed weights from a search space to a profile's kernels, and what has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.core.errors import InputError
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline import enumerate as kernels
from edgeopt.pipeline.profile import ProfileRequest, parse_precisions, profile
from edgeopt.pipeline.space_kernels import space_kernels

LOCAL = devices.load("local")
SPACE = load_space("cifar")


def test_a_space_has_kernels_of_each_width() -> None:
    """The same layers; those that a plan may change have another key."""
    found = {p: kernels.lowered(SPACE, SPACE.max_config(), p, LOCAL.target) for p in ("i8", "w4")}
    pairs = list(zip(found["i8"].kernels, found["w4"].kernels, strict=True))
    assert [replace(four.key, weight_bits=0) for _, four in pairs] == [w.key for w, _ in pairs]
    packed = {kernel.name for _, kernel in pairs if kernel.key.weight_bits == 4}
    assert {"block3.expand.conv", "block3.project.conv", "head.classifier"} <= packed
    ops = {four.key.op for _, four in pairs if not four.key.weight_bits}
    assert {"depthwise", "conv2d"} <= ops
    whole = space_kernels(SPACE, "w2", LOCAL.target)
    assert {key.weight_bits for key in whole.keys if key.op == "linear"} == {2}


def test_without_a_target_there_are_no_packed_kernels() -> None:
    graph = kernels.lowered(SPACE, SPACE.min_config(), "w4")
    assert not any(key.weight_bits for key in graph.keys)


def test_precisions_of_a_profile() -> None:
    assert parse_precisions("mixed") == ("i8", "w4", "w2")
    assert kernels.available(LOCAL) == ("f32", "i8", "w4", "w2")
    with pytest.raises(InputError, match="unknown precision 'w3'"):
        parse_precisions("w3")


def test_onnxruntime_has_no_packed_kernels(tmp_path: Path) -> None:
    request = ProfileRequest(
        runtime="onnxruntime", precisions=("i8", "w4"), out=tmp_path / "t.latency.jsonl", networks=0
    )
    with pytest.raises(InputError, match="no kernels of packed weights") as caught:
        profile(request)
    assert "--meter tvm" in caught.value.hint

"""What candidates cost: tables agree with lowering them, and packed weights with their bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgeopt import devices
from edgeopt.codegen import cost
from edgeopt.codegen.lowbits import supported
from edgeopt.core.kernels import OpKey
from edgeopt.core.space import SearchSpace, parse_space
from edgeopt.latency import load_model
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plans import layer_bits, sample, uniform
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.planned import PlanCosts, deployable_bits, describe_planned
from tests.ofa.conftest import TINY

BOARDS = ("rpi4", "nucleo-l4r5zi")


@pytest.fixture
def space() -> SearchSpace:
    return parse_space(TINY)


@pytest.mark.parametrize("board", BOARDS)
def test_tables_agree_with_lowering(space: SearchSpace, board: str) -> None:
    profile = devices.load(board)
    domain = PlanDomain(space, deployable_bits(profile.target))
    costs = PlanCosts(domain, profile, load_model(profile))
    rng = random.Random(1)
    drawn = [Planned(c, sample(space, c, rng, domain.bits))
             for c in (space.sample(rng) for _ in range(20))]  # fmt: skip
    exact = [costs(candidate) for candidate in drawn]
    expected, least = costs.screen([domain.encode(candidate) for candidate in drawn])
    latency = np.array([c.latency.value for c in exact])
    flash = np.array([c.flash_bytes for c in exact])
    assert expected[:, 0] == pytest.approx(latency, rel=0.02)
    assert np.isnan(expected[:, 1]).all()
    # Kernels that a network has twice are stored once.
    assert expected[:, 2] == pytest.approx(flash, rel=1e-9)
    assert (least[:, 2] <= flash + 1e-6).all()
    whole = PlanCosts(domain, profile, load_model(profile), place=False)(drawn[0])
    assert whole.ram_bytes <= exact[0].ram_bytes


@pytest.mark.parametrize("board", BOARDS)
def test_fewer_bits_take_less_flash(board: str) -> None:
    space = load_space("cifar")  # channels enough to fill vectors
    profile = devices.load(board)
    bits = deployable_bits(profile.target)
    if len(bits) < 2:
        pytest.skip(f"{board} has no kernels for packed weights")
    config = space.max_config()
    taken = []
    for width in bits:
        candidate = Planned(config, uniform(space, width))
        found = cost.evaluate(describe_planned(space, candidate), "i8", profile.target)
        packed = {key for key in found.keys if key.weight_bits}
        assert {key.weight_bits for key in packed} == ({width} if width < 8 else set())
        assert not any(key.op == "depthwise" for key in packed)
        taken.append(found.weight_bytes)
    assert taken == sorted(taken) and taken[0] < 0.75 * taken[-1]


def test_only_layers_that_a_plan_decides_are_packed(space: SearchSpace) -> None:
    config = space.min_config()
    plan = uniform(space, 4)
    named = layer_bits(space, config, plan)
    ops = describe_planned(space, Planned(config, plan)).ops
    assert {op.name for op in ops if "weight_bits" in op.attrs} == set(named)
    key = OpKey("depthwise", (8, 8, 8), (8, 8, 8), "i8", "i8", (3, 3), groups=8)
    assert not any(supported(key.op, b, devices.load("rpi4").target) for b in (2, 4))

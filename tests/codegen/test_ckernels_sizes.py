"""What kernels for microcontrollers take: what they share, and what searches reckon with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import micro
import pytest

from edgeopt import devices
from edgeopt.codegen import ckernels, cost
from edgeopt.codegen import firmware as images
from edgeopt.codegen.machines import machine_for
from edgeopt.codegen.objects import object_size
from edgeopt.core.device import DeviceProfile
from edgeopt.core.kernels import OpKey
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plans import sample, uniform
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline import firmware
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.planned import deployable_bits, describe_planned

#: Boards of the four kinds of cores, and how much of the usual code is left of a large network's.
BOARDS = {"nucleo-l4r5zi": 1.01, "mps3-an547": 0.6, "rpi-pico": 0.5, "esp32c3": 0.5}


def networks(board: DeviceProfile, count: int) -> list[cost.NetworkCost]:
    """Random subnets, of eight bits and of random ones in turn; the first is the largest."""
    space, rng = load_space("cifar"), random.Random(11)
    widths = PlanDomain(space, deployable_bits(board.target)).bits
    found = []
    for number in range(count):
        subnet = space.sample(rng) if number else space.max_config()
        plan = sample(space, subnet, rng, widths) if number % 2 else uniform(space, 8)
        network = describe_planned(space, Planned(subnet, plan))
        found.append(cost.evaluate(network, "i8", board.target, place=False))
    return found


def compiled(board: DeviceProfile, keys: Sequence[OpKey]) -> int:
    """Bytes of code of some kernels."""
    source = ckernels.source(keys, board.target)
    return object_size(images.compiled(source, images.compiler_for(board))).code_bytes


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest, needs_tool: Callable[[str], str]) -> DeviceProfile:
    """A board whose compiler is there."""
    profile = devices.load(request.param)
    micro.need_machine(machine_for(profile), needs_tool)
    return profile


def test_estimates_are_near_what_is_compiled(board: DeviceProfile) -> None:
    few = board.compacted()
    for found in networks(few, 4):
        exact = compiled(few, found.keys)
        assert 0.85 < found.code_bytes_estimate / exact < 1.2, (found.code_bytes_estimate, exact)


def test_kernels_share_what_they_do_where_flash_is_short(board: DeviceProfile) -> None:
    (usual,) = networks(board, 1)
    few = compiled(board.compacted(), usual.keys)
    assert few < BOARDS[board.name] * compiled(board, usual.keys)


def test_a_section_that_was_not_measured_does_not_count_as_nothing(board: DeviceProfile) -> None:
    key = OpKey("softmax", (8,), (8,), dtype="i8", out_dtype="i8")
    template = ckernels.find(key, board.target)
    assert template is not None
    found = cost.code_bytes(key, board.target)
    assert set(template.sections(key, board.target)) <= set(found)
    assert found["softmax"] > 0


def test_the_code_of_a_network_is_compiled_once(
    board: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StageCache(tmp_path)
    (found,) = networks(board, 1)
    sizes = {firmware.kernel_bytes(board, found.keys, store)}
    monkeypatch.setattr(images, "compiled", lambda *_: pytest.fail("compiled again"))
    sizes.add(firmware.kernel_bytes(board, found.keys, store))
    monkeypatch.undo()
    assert sizes == {compiled(board, found.keys)}

"""Kernels in C on every microcontroller core: the shape classes of the conformance suite."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import c_harness
import micro
import pytest

from edgeopt.codegen import ckernels
from edgeopt.codegen.ckernels.narrow import Narrow
from edgeopt.codegen.ckernels.template import CTemplate
from edgeopt.codegen.machines import MACHINES, Machine
from edgeopt.core.kernels import WITH_WEIGHTS, OpKey

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import shapes

_TURNS = {name: turn for turn, name in enumerate(MACHINES)}


def keys_of(name: str) -> list[OpKey]:
    """The int8 kernels of a class."""
    plain = (key for key in shapes.CLASSES[name] if key.op != "irb" and "log" not in key.variant)
    plain = (key for key in plain if not (key.op == "activation" and key.residual))
    return c_harness.with_packed(c_harness.integer(key) for key in plain)


def sample(machine: Machine) -> list[OpKey]:
    """Of each class a key of each operator and template, another one on each machine."""
    found: dict[OpKey, None] = {}
    for number, name in enumerate(shapes.CLASSES):
        kinds: dict[tuple[str, str], list[OpKey]] = {}
        for key in keys_of(name):
            template = ckernels.select(key, machine.target)
            kinds.setdefault((key.op, template.name), []).append(key)
        for of_kind in kinds.values():
            found[of_kind[(_TURNS[machine.name] + number) % len(of_kind)]] = None
    return list(found)


def templates(base: type[CTemplate] = CTemplate) -> Iterator[str]:
    for kind in base.__subclasses__():
        own = kind.__module__.startswith("edgeopt.") and kind is not Narrow  # goes round others
        if own and not kind.__subclasses__():
            yield kind.name
        yield from templates(kind)


def test_every_template_in_c_runs_on_some_core() -> None:
    found = {
        ckernels.select(key, machine.target).name
        for machine in MACHINES.values()
        for key in sample(machine)
    }
    missing = set(templates()) - found
    assert not missing, f"add keys of template {sorted(missing)} to tests/emulated/shapes.py"


@pytest.mark.parametrize("machine", MACHINES.values(), ids=str)
def test_kernels_equal_the_reference(
    machine: Machine, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    micro.need_machine(machine, needs_tool)
    micro.check(sample(machine), machine, tmp_path)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=str)
def test_kernels_for_little_flash_equal_the_reference(
    machine: Machine, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    """What kernels share, and biases and multipliers of all sizes that words hold."""
    micro.need_machine(machine, needs_tool)
    short = replace(machine, target=replace(machine.target, compact=True, narrow=True))
    keys = sample(machine)
    narrow = [isinstance(ckernels.select(key, short.target), Narrow) for key in keys]
    assert narrow == [key.op in WITH_WEIGHTS for key in keys]
    micro.check(keys, short, tmp_path)


@pytest.mark.parametrize("flags", ["-O1", "-Os", "-O3"])
def test_kernels_for_little_flash_under_sanitizers(
    tmp_path: Path, needs_tool: Callable[[str], str], flags: str
) -> None:
    needs_tool("gcc")
    target = replace(c_harness.CORTEX_M4F, compact=True, narrow=True)
    keys = sample(MACHINES["m4"])
    sanitizers = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
    c_harness.check(keys, target, tmp_path, flags, *sanitizers)

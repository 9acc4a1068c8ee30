"""Whole networks through lowering, planning, TVM, the generated C and real compilers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networks
import numpy as np
import pytest

from edgeopt import devices
from edgeopt.codegen import emit, runner, schedules, toolchain, verify
from edgeopt.codegen.build import compile_kernels
from edgeopt.codegen.lower import lower
from edgeopt.codegen.plan import plan
from edgeopt.codegen.reference import run_network
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.core.device import DeviceProfile
from edgeopt.core.network import Array, Network

NAME = "tiny"


def make_vectors(network: Network, count: int = 2) -> TestVectors:
    sets = [networks.random_inputs(network, seed) for seed in range(count)]
    results = [run_network(network, values) for values in sets]
    return TestVectors(
        {name: np.stack([values[name] for values in sets]) for name in network.inputs},
        {name: np.stack([values[name] for values in results]) for name in network.outputs},
    )


@dataclass(frozen=True)
class Made:
    code: emit.Code
    vectors: TestVectors


def make(network: Network, profile: DeviceProfile) -> Made:
    graph = lower(network)
    target = profile.target
    functions, constants = [], []
    for kernel in graph.kernels:
        template = schedules.select(kernel.key, target)
        assert template is not None, str(kernel.key)
        functions.append(template.function(kernel.key, target))
        constants.append(template.pack(kernel.key, target, kernel.constants))
    scratch = [f.scratch_bytes for f in functions]
    prefix = runner.kernel_prefix(NAME)
    kernels = compile_kernels(graph.keys, target, prefix=prefix)
    vectors = make_vectors(network)
    code = emit.render(
        graph, plan(graph, scratch, runner.BUFFER_ALIGNMENT_BYTES), functions, constants,
        {"kernels.o": kernels}, name=NAME, origin=emit.Origin("test"), vectors=vectors,
    )  # fmt: skip
    return Made(code, vectors)


def check(made: Made, profile: DeviceProfile) -> Mapping[str, Array]:
    engine = verify.engine_for(profile)
    if isinstance(engine, verify.Missing):
        pytest.skip(f"{engine.reason}: {engine.hint}")
    compiler = toolchain.find(profile)
    run = verify.run_artifact(made.code.files, NAME, compiler, engine, made.vectors)
    assert run.self_test.result == "passed", run.self_test.detail
    compared = verify.compare(
        made.vectors.outputs, run.outputs, what="reference = artifact", where=engine.where,
        tolerance=made.vectors.tolerance,
    )  # fmt: skip
    assert compared.result == "passed", compared.detail
    return run.outputs


@pytest.mark.parametrize("integer", [False, True], ids=["f32", "i8"])
def test_a_network_on_this_machine_and_under_emulation(integer: bool) -> None:
    network = networks.mobilenet(3, size=16, blocks=3, integer=integer)
    outputs = {}
    for device in ("local", "rpi4"):
        profile = devices.load(device)
        outputs[device] = check(make(network, profile), profile)
    if integer:
        for name, left in outputs["local"].items():
            np.testing.assert_array_equal(left, outputs["rpi4"][name])

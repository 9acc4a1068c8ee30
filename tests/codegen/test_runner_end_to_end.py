"""Whole networks through lowering, planning, TVM, the generated C and real compilers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import networks
import numpy as np
import onnx_nodes
import pytest

from edgeopt import devices
from edgeopt.codegen import emit, fallback, runner, schedules, toolchain, verify
from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.blocks import fused
from edgeopt.codegen.build import compile_object
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


def make(network: Network, profile: DeviceProfile, l2_bytes: int = 0) -> Made:
    """The code; with ``l2_bytes``, blocks are fused as for such a cache."""
    target = profile.target
    graph = fused(lower(network), replace(target, l2_bytes=l2_bytes or target.l2_bytes))
    functions, constants, primfuncs, shared = [], [], {}, []
    prefix = runner.kernel_prefix(NAME)
    for kernel in graph.kernels:
        symbol = prefix + symbol_of(kernel.key)
        template = schedules.select(kernel.key, target)
        if template is None:
            functions.append(fallback.function(kernel, target))
            constants.append(fallback.pack(kernel, target))
            primfuncs[symbol] = fallback.primfunc(kernel, target)
        else:
            functions.append(template.function(kernel.key, target))
            constants.append(template.pack(kernel.key, target, kernel.constants))
            primfuncs[symbol] = template.primfunc(kernel.key, target)
            shared += template.shared(kernel.key, target)
    scratch = [f.scratch_bytes for f in functions]
    kernels = compile_object(primfuncs, target, shared)
    vectors = make_vectors(network)
    code = emit.render(
        graph, plan(graph, scratch, runner.buffer_alignment(target)), functions, constants,
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


def test_blocks_in_one_kernel_on_this_machine_and_under_emulation() -> None:
    b = networks.Builder(4)
    x = b.act(b.conv(b.input(1, 32, 32, 3), 8, 3, 2), "relu6")
    x = b.bottleneck(x, 24, 12, 3, 2, "relu6", False)
    x = b.bottleneck(x, 48, 12, 5, 1, "relu6", False)
    network = b.network(b.linear(b.reshape(b.gap(x), 1, 12), 5))
    for device in ("local", "rpi4"):
        profile = devices.load(device)
        made = make(network, profile, l2_bytes=12_000)
        assert made.code.files[f"src/{NAME}.c"].decode().count("irb") >= 2
        check(made, profile)


def test_an_operator_without_a_template() -> None:
    """TVM's own legalization, between kernels of templates, on both processors."""
    b = networks.Builder(1)
    x = b.linear(b.input(1, 24), 30)
    payload = onnx_nodes.node("Softplus", (1, 30)).SerializeToString()
    y = b.op("onnx", (x,), (1, 30), {"node": payload})
    network = b.network(b.linear(y, 7))
    for device in ("local", "rpi4"):
        profile = devices.load(device)
        made = make(network, profile)
        assert "fallback" in made.code.files[f"src/{NAME}.c"].decode()
        check(made, profile)

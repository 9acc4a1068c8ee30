"""A small int8 network as a library of C sources for a microcontroller."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from networks import Builder, random_inputs

from edgeopt import devices
from edgeopt.codegen import ckernels, emit, runner
from edgeopt.codegen.packagings import Library, library_files
from edgeopt.codegen.reference import run_kernels
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.core.network import Network
from edgeopt.pipeline.artifact import make_artifact


def network() -> Network:
    """Convolution, depthwise in place, pointwise, pooling and a linear layer."""
    b = Builder(5, integer=True)
    x = b.conv(b.input(1, 8, 8, 3), 8, 3, 2)
    x = b.conv(b.depthwise(x), 16)
    return b.network(b.linear(b.reshape(b.gap(x), 1, 16), 4))


@functools.cache
def generated(board: str, name: str = "net", embed: int = 2) -> emit.Code:
    """The network's C for a board."""
    target = devices.load(board).target
    artifact = make_artifact(network(), target)
    graph = artifact.graph
    runs = [random_inputs(graph, seed) for seed in range(2)]
    fixed = not ckernels.isa_of(target).fpu
    results = [run_kernels(graph, inputs, fixed=fixed) for inputs in runs]
    vectors = TestVectors(
        {n: np.stack([inputs[n] for inputs in runs]) for n in graph.inputs},
        {n: np.stack([result[n] for result in results]) for n in graph.outputs},
    )
    kernels = ckernels.source(graph.keys, target, runner.kernel_prefix(name)).encode()
    return emit.render(
        graph, artifact.plan, artifact.functions, artifact.constants, {"kernels.c": kernels},
        name=name, origin=emit.Origin("test"), vectors=vectors, embed_vectors=embed,
    )  # fmt: skip


def library(board: str = "rpi-pico", name: str = "net", embed: int = 2, **more: str) -> Library:
    """The same as what packagings start from."""
    target = devices.load(board).target
    return Library(
        name=name, device=board, arch=target.arch, features=target.features,
        files=library_files(generated(board, name, embed).files, "test"),
        facts=(("RAM", "1 kB"),), **more,
    )  # fmt: skip


def main_program(name: str = "net") -> str:
    """A program that runs the self-test."""
    macro = name.upper()
    return f"""#include "{name}.h"
static {macro}_ALIGNED unsigned char arena[{macro}_SELF_TEST_ARENA_BYTES];
int main(void) {{
    {name}_ctx ctx = {{0}};
    if ({name}_init(&ctx, arena, sizeof arena) != {macro}_OK) return 1;
    return {name}_self_test(&ctx) == {macro}_OK ? 0 : 2;
}}
"""


def files_of(tree: Mapping[str, bytes], *endings: str) -> list[str]:
    """Paths of a package that end so."""
    return sorted(path for path in tree if path.endswith(endings))

"""Inverted residual blocks as one kernel: what the widened map costs is saved.

A pointwise layer that widens a map, a depthwise one and a pointwise one that narrows it become one
kernel of operator ``irb`` (`OpKey.parts`). Row by row it widens what the next depthwise row needs
into a ring of as many rows as the depthwise kernel is high, and narrows that row at once: the
widened maps, the largest of such a network, never exist.

What suits depends on the processor, so this is a pass of its own after lowering, which knows none.
Everything that enumerates, predicts or builds kernels for a processor applies it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from edgeopt.codegen.lower_parts import make_key
from edgeopt.codegen.schedules.irb import scratch_bytes
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.core.kernels import Kernel, KernelGraph, OpKey
from edgeopt.core.target import TargetSpec


def fused(graph: KernelGraph, target: TargetSpec) -> KernelGraph:
    """The graph with the blocks in one kernel that are faster so on the target.

    Those are blocks whose widened map leaves the second-level cache while the rows that are in
    work stay in it. A smaller map is as fast to read back, and rows apart make more small tiles.
    Several threads divide no such kernel: for them nothing is fused.
    """
    isa = isa_of(target)
    if isa is None or target.threads > 1:
        return graph
    middles = [
        index
        for index, kernel in enumerate(graph.kernels)
        if kernel.key.op == "depthwise"
        and kernel.key.dtype == "f32"
        and 4 * kernel.key.in_shape[0] * kernel.key.in_shape[1] * kernel.key.groups > isa.l2_bytes
    ]
    if not middles:
        return graph
    aliases = graph.aliases
    readers = Counter(aliases.get(n, n) for kernel in graph.kernels for n in kernel.inputs)
    # An output is read by the caller.
    readers.update(aliases.get(name, name) for name in graph.outputs)
    writer = {kernel.output: index for index, kernel in enumerate(graph.kernels)}
    reader = {kernel.inputs[0]: index for index, kernel in enumerate(graph.kernels)}
    kernels: list[Kernel | None] = list(graph.kernels)
    for index in middles:
        middle = graph.kernels[index]
        first, last = writer.get(middle.inputs[0]), reader.get(middle.output)
        if first is None or last is None:
            continue
        if readers[middle.inputs[0]] != 1 or readers[middle.output] != 1:
            continue
        block = graph.kernels[first], middle, graph.kernels[last]
        key = _key(block[0].key, middle.key, block[2].key)
        if key is None or scratch_bytes(key) > isa.l2_bytes:
            continue
        kernels[first] = kernels[index] = None
        kernels[last] = _joined(key, block)
    return replace(graph, kernels=tuple(kernel for kernel in kernels if kernel is not None))


def _key(first: OpKey, middle: OpKey, last: OpKey) -> OpKey | None:
    """The key of a block, or None where these do not make one."""
    if (first.op, last.op) != ("pointwise", "pointwise") or first.residual or middle.residual:
        return None
    if middle.in_shape != first.out_shape or last.in_shape != middle.out_shape:
        return None
    if any(len(key.in_shape) != 3 or key.inputs != 1 for key in (first, middle, last)):
        return None
    if any(key.dtype != "f32" or key.out_dtype != "f32" for key in (first, middle, last)):
        return None
    if first.activation != middle.activation or middle.in_shape[2] != middle.out_shape[2]:
        return None
    if middle.dilations != (1, 1) or middle.strides[0] > middle.kernel[0]:
        return None
    if max(middle.pads[0], middle.pads[2]) >= middle.kernel[0]:
        return None
    return make_key(
        "irb", first.in_shape, last.out_shape, kernel=middle.kernel, strides=middle.strides,
        pads=middle.pads, activation=last.activation, residual=last.residual,
        residual_activation=last.residual_activation,
        variant=f"e{middle.groups}.{middle.activation}",
    )  # fmt: skip


def _joined(key: OpKey, block: tuple[Kernel, Kernel, Kernel]) -> Kernel:
    """The kernel of a block, named after its last part."""
    constants = {
        name + suffix: value
        for kernel, suffix in zip(block, ("1", "d", "2"), strict=True)
        for name, value in kernel.constants.items()
    }
    last = block[2]
    sources = tuple(source for kernel in block for source in kernel.sources)
    inputs = (block[0].inputs[0], *last.inputs[1:])
    return Kernel(last.name, key, inputs, last.output, constants, sources)

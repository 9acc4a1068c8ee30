"""Which kernels a search space, or a network, is made of: what a profile has to measure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import Kernel, KernelGraph, OpKey
from edgeopt.core.lowbits import PACKED_BITS
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.core.target import TargetSpec

#: Sampling ends after so many subnets in a row that brought no kernel that was not known.
PATIENCE = 200
MAX_SAMPLES = 20_000
#: int8 networks whose weights have fewer bits wherever a plan of their space may say so.
PACKED = {f"w{bits}": bits for bits in PACKED_BITS}


def subnets(space: SearchSpace, count: int, seed: int) -> list[SubnetConfig]:
    """Distinct random subnets, the smallest and the largest first."""
    source = random.Random(seed)
    found = {str(c): c for c in (space.min_config(), space.max_config())}
    for _ in range(100 * count):
        if len(found) >= count:
            break
        config = space.canonical(space.sample(source))
        found.setdefault(str(config), config)
    return list(found.values())[:count]


def lowered(
    space: SearchSpace, config: SubnetConfig, precision: str, target: TargetSpec | None = None
) -> KernelGraph:
    """A subnet's kernels in one precision; with a target, blocks as they are fused for it.

    In ``w4`` and ``w2`` all layers that a plan may give fewer bits have so many, where the target
    has a kernel for them (`edgeopt.codegen.lowbits`).
    """
    from edgeopt.codegen.blocks import fused
    from edgeopt.codegen.lower import lower_shapes
    from edgeopt.ofa import plans
    from edgeopt.ofa.describe import describe

    network = describe(space, config)
    if precision in PACKED:
        bits = plans.layer_bits(space, config, plans.uniform(space, PACKED[precision]))
        ops = tuple(
            replace(op, attrs={**op.attrs, "weight_bits": bits[op.name]}) if op.name in bits else op
            for op in network.ops
        )
        network, precision = replace(network, ops=ops), "i8"
    graph = lower_shapes(network, precision, target)
    return graph if target is None else fused(graph, target)


def available(device: DeviceProfile) -> tuple[str, ...]:
    """Precisions whose kernels a device has: ``f32``, ``i8``, and of packed weights."""
    from edgeopt.codegen import lowbits

    few = lowbits.widths("pointwise", device.target) if "i8" in device.precisions else ()
    return (*device.precisions, *(f"w{bits}" for bits in sorted(few, reverse=True)))


def kernels_of_space(
    space: SearchSpace,
    precisions: Sequence[str],
    seed: int = 0,
    target: TargetSpec | None = None,
) -> tuple[OpKey, ...]:
    """Every kernel that the space's subnets are made of.

    With a target, blocks are those that are fused for it. Where a space cannot be taken apart
    (see `edgeopt.pipeline.space_kernels`), subnets are sampled until nothing new turns up.
    """
    from edgeopt.pipeline.space_kernels import space_kernels

    found: dict[OpKey, None] = {}
    for precision in precisions:
        try:
            found.update(dict.fromkeys(space_kernels(space, precision, target).keys))
        except InputError:
            found.update(dict.fromkeys(_sampled(space, precision, seed, target)))
    return tuple(found)


def _sampled(
    space: SearchSpace, precision: str, seed: int, target: TargetSpec | None
) -> tuple[OpKey, ...]:
    source = random.Random(seed)
    found: dict[OpKey, None] = {}
    idle = 0
    configs = [space.max_config(), space.min_config()]
    for number in range(MAX_SAMPLES):
        config = configs[number] if number < len(configs) else space.sample(source)
        before = len(found)
        found.update(dict.fromkeys(lowered(space, config, precision, target).keys))
        idle = idle + 1 if len(found) == before else 0
        if idle >= PATIENCE:
            break
    return tuple(found)


def kernels_of_models(
    models: Sequence[Path], precisions: Sequence[str], target: TargetSpec | None = None
) -> dict[OpKey, Kernel]:
    """The kernels of ONNX networks, as they are and (float networks) as int8; by their keys.

    Where no template implements a key, its kernel's payload is what can be built and timed.

    Raises:
        InputError: a model that cannot be used.
    """
    from edgeopt.codegen.blocks import fused
    from edgeopt.codegen.lower import lower, lower_shapes
    from edgeopt.graph.importer import import_network
    from edgeopt.graph.load import load_model

    found: dict[OpKey, Kernel] = {}
    for path in models:
        network = import_network(load_model(path))
        graph = lower(network, target)
        graph = graph if target is None else fused(graph, target)
        integer = any(key.precision == "i8" for key in graph.keys)
        if "f32" in precisions or integer:
            found.update({kernel.key: kernel for kernel in graph.kernels})
        if "i8" in precisions and not integer:
            shapes = lower_shapes(network, "i8", target)
            shapes = shapes if target is None else fused(shapes, target)
            found.update({kernel.key: kernel for kernel in shapes.kernels})
    return found


def spread(keys: Sequence[OpKey], count: int) -> tuple[OpKey, ...]:
    """About ``count`` kernels that represent all: of every kind and precision, small to large."""
    groups: dict[tuple[str, str], list[OpKey]] = {}
    for key in dict.fromkeys(keys):
        groups.setdefault((key.op, key.precision), []).append(key)
    chosen: list[OpKey] = []
    for members in groups.values():
        members.sort(key=lambda key: (key.macs, key.activation_bytes, str(key)))
        share = max(min(2, len(members)), round(count * len(members) / len(keys)))
        share = min(share, len(members))
        step = (len(members) - 1) / max(share - 1, 1)
        chosen += [members[round(index * step)] for index in range(share)]
    return tuple(dict.fromkeys(chosen))

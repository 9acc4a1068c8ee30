"""What a network takes in RAM and flash, from its shapes alone, thousands of times in a search.

RAM is exact: the memory plan, with the scratch that the templates declare. Packed constants are
exact too, but for duplicates that the build stores once. The size of code is an estimate, the mean
of compiled kernels of its class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgeopt.codegen import schedules
from edgeopt.codegen.blocks import fused
from edgeopt.codegen.lower import lower_shapes
from edgeopt.codegen.plan import lower_bound, plan
from edgeopt.codegen.runner import buffer_alignment
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import Kernel, KernelGraph, MemoryPlan, OpKey
from edgeopt.core.network import Network
from edgeopt.core.target import TargetSpec

#: Mean bytes of code of a compiled kernel by precision and class, on (x86_64, aarch64): what
#: benchmarks/code_sizes.py prints for subnets, and for classes that they have one or none of, the
#: mean over the shapes of benchmarks/kernel_shapes.py as well, times the share of it that kernels
#: have in one object. A class ending in 1 has one pixel, one ending in w4 packed weights.
CODE_BYTES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "f32 pointwise": (1000, 1400),
        "i8 pointwise": (1650, 2200),
        "i8 pointwise.w4": (1500, 1800),
        "i8 pointwise.w2": (1700, 1750),
        "f32 pointwise1": (770, 900),
        "i8 pointwise1": (1400, 1800),
        "i8 pointwise1.w4": (1400, 1300),
        "i8 pointwise1.w2": (1450, 1350),
        "f32 linear": (1000, 1400),
        "i8 linear": (1650, 2200),
        "f32 linear1": (600, 440),
        "i8 linear1": (800, 1400),
        "i8 linear1.w4": (600, 780),
        "i8 linear1.w2": (600, 780),
        "f32 conv2d": (2900, 2550),
        "i8 conv2d": (2450, 1900),
        "f32 depthwise3": (2400, 1650),
        "i8 depthwise3": (2950, 2800),
        "f32 depthwise5": (2150, 2550),
        "i8 depthwise5": (3500, 3450),
        "f32 depthwise7": (1550, 1050),
        "i8 depthwise7": (6350, 3350),
        "f32 irb": (4400, 4450),  # the sum of its parts
        "i8 irb": (6250, 7200),  # the sum of its parts
        "f32 global_avgpool": (900, 750),
        "i8 global_avgpool": (800, 700),
        "f32 scale": (850, 650),
        "i8 scale": (950, 700),
        "f32 add": (400, 380),
        "i8 add": (700, 650),
        "f32 mul": (400, 380),
        "i8 mul": (700, 650),
        "f32 quantize": (450, 430),
        "i8 quantize": (450, 430),
        "f32 dequantize": (380, 450),
        "i8 dequantize": (380, 450),
    }
)
#: A kernel of a class that was not measured, and one that TVM legalizes itself.
OTHER_CODE_BYTES, FALLBACK_CODE_BYTES = 1500, 4000


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """What is known of a network before it has weights.

    Attributes:
        keys: its kernels, in execution order.
        arena_bytes: activations and scratch, as planned.
        lower_bound_bytes: the largest set of them live at once.
        weight_bytes: packed constants.
        code_bytes_estimate: code of the distinct kernels, estimated.
    """

    keys: tuple[OpKey, ...]
    arena_bytes: int
    lower_bound_bytes: int
    weight_bytes: int
    code_bytes_estimate: int

    @property
    def flash_bytes_estimate(self) -> int:
        """Constants and code."""
        return self.weight_bytes + self.code_bytes_estimate


@dataclass(frozen=True, slots=True)
class _KernelCost:
    scratch_bytes: int
    weight_bytes: int
    code_bytes: int
    ordered_pixels: int = 0


# One table a target: looking a key up must not hash the target each time.
_KNOWN: dict[TargetSpec, dict[tuple[OpKey, Choice], _KernelCost]] = {}
Choices = Mapping[OpKey, Choice]
_NONE: Choices = MappingProxyType({})


def _table(target: TargetSpec) -> dict[tuple[OpKey, Choice], _KernelCost]:
    return _KNOWN.setdefault(target, {})


def _kernel_cost(key: OpKey, target: TargetSpec, choice: Choice) -> _KernelCost:
    template = schedules.select(key, target, choice)
    if template is None:
        # The fallback packs nothing: weights as they are, and a bias.
        stored = key.weight_bytes
        bias = 4 * key.out_shape[-1] if stored else 0
        return _KernelCost(0, stored + bias, code_bytes(key, target, fallback=True))
    function = template.function(key, target)
    packed = template.packed_bytes(key, target)
    return _KernelCost(
        function.scratch_bytes, packed, code_bytes(key, target), function.ordered_pixels
    )


def _costs(
    keys: Iterable[OpKey], target: TargetSpec, choices: Choices = _NONE
) -> list[_KernelCost]:
    table = _table(target)
    found = []
    for key in keys:
        choice = choices.get(key, MODEL)
        cost = table.get((key, choice))
        if cost is None:
            cost = table[key, choice] = _kernel_cost(key, target, choice)
        found.append(cost)
    return found


def packed_bytes(keys: Iterable[OpKey], target: TargetSpec) -> list[int]:
    """Bytes of each kernel's packed constants."""
    return [cost.weight_bytes for cost in _costs(keys, target)]


def code_class(key: OpKey) -> str:
    """The class of kernels that a kernel's code is estimated by."""
    name = key.op
    if name == "depthwise":
        name += str(max(key.kernel))
    elif name in ("pointwise", "linear") and set(key.out_shape[:-1]) <= {1}:
        name += "1"
    return f"{name}.w{key.weight_bits}" if key.weight_bits else name


def code_bytes(key: OpKey, target: TargetSpec, *, fallback: bool = False) -> int:
    """Estimated bytes of a kernel's code (see `CODE_BYTES`)."""
    if fallback or key.op == "fallback":
        return FALLBACK_CODE_BYTES
    name = f"{key.precision} {code_class(key)}"
    sizes = CODE_BYTES.get(name) or CODE_BYTES.get(name.partition(".")[0])
    if sizes is None:
        return OTHER_CODE_BYTES
    # Microcontrollers have other kernels, whose code is one number for all (pipeline.firmware).
    return sizes[target.arch == "aarch64"]


def scratch_bytes(graph: KernelGraph, target: TargetSpec) -> dict[str, int]:
    """Working memory of each kernel, by name, as the templates declare it."""
    costs = _costs(graph.keys, target)
    return {k.name: c.scratch_bytes for k, c in zip(graph.kernels, costs, strict=True)}


def memory(graph: KernelGraph, target: TargetSpec, *, exact: bool = False) -> MemoryPlan:
    """The memory plan with the templates' scratch."""
    return _plan(graph, _costs(graph.keys, target), target, exact=exact)


def _plan(
    graph: KernelGraph, costs: Iterable[_KernelCost], target: TargetSpec, *, exact: bool = False
) -> MemoryPlan:
    pairs = [(cost.scratch_bytes, cost.ordered_pixels) for cost in costs]
    return plan(
        graph, [scratch for scratch, _ in pairs], buffer_alignment(target),
        ordered_pixels=[ordered for _, ordered in pairs], exact=exact,
    )  # fmt: skip


def flash_bytes(graph: KernelGraph, target: TargetSpec) -> tuple[int, int]:
    """Bytes of packed constants, and the estimated bytes of code; each distinct kernel once."""
    costs = _costs(graph.keys, target)
    return _weights(graph.kernels, costs), _code(graph.kernels, costs)


def _weights(kernels: Iterable[Kernel], costs: Iterable[_KernelCost]) -> int:
    # A fallback kernel's constants are in its one-node model.
    return sum(
        max(cost.weight_bytes, len(kernel.payload))
        for kernel, cost in zip(kernels, costs, strict=True)
    )


def _code(kernels: Iterable[Kernel], costs: Iterable[_KernelCost]) -> int:
    distinct = {kernel.key: cost.code_bytes for kernel, cost in zip(kernels, costs, strict=True)}
    return sum(distinct.values())


def evaluate(
    network: Network,
    precision: str,
    target: TargetSpec,
    choices: Choices = _NONE,
    *,
    place: bool = True,
) -> NetworkCost:
    """Lower a shape-only float network and say what it takes on a target.

    Args:
        network: shapes suffice; constants are ignored for ``i8``.
        precision: ``f32``, or ``i8`` for the network that quantization will make.
        target: the processor, which decides scratch and how constants are packed.
        choices: measured tilings, which decide scratch as well.
        place: plan the memory; without it, which is ten times as fast, the arena is its lower
            bound.

    Raises:
        InputError: an unknown precision, or an operator that no kernel can compute.
    """
    graph = fused(lower_shapes(network, precision, target), target)
    costs = _costs(graph.keys, target, choices)
    if place:
        planned = _plan(graph, costs, target)
        arena_bytes, bound_bytes = planned.arena_bytes, planned.lower_bound_bytes
    else:
        scratch = [cost.scratch_bytes for cost in costs]
        ordered = [cost.ordered_pixels for cost in costs]
        bound_bytes = arena_bytes = lower_bound(
            graph, scratch, buffer_alignment(target), ordered_pixels=ordered
        )
    return NetworkCost(
        keys=graph.keys,
        arena_bytes=arena_bytes,
        lower_bound_bytes=bound_bytes,
        weight_bytes=_weights(graph.kernels, costs),
        code_bytes_estimate=_code(graph.kernels, costs),
    )

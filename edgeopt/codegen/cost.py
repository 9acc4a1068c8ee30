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

_X86_64: Mapping[str, tuple[int, int]] = {
    "pointwise": (1000, 1650),
    "pointwise.w4": (0, 1500),
    "pointwise.w2": (0, 1700),
    "pointwise1": (770, 1400),
    "pointwise1.w4": (0, 1400),
    "pointwise1.w2": (0, 1450),
    "linear": (1000, 1650),
    "linear1": (600, 800),
    "linear1.w4": (0, 600),
    "linear1.w2": (0, 600),
    "conv2d": (2900, 2450),
    "depthwise3": (2400, 2950),
    "depthwise5": (2150, 3500),
    "depthwise7": (1550, 6350),
    "irb": (4400, 6250),  # the sum of its parts
    "global_avgpool": (900, 800),
    "scale": (850, 950),
    "add": (400, 700),
    "mul": (400, 700),
    "quantize": (450, 450),
    "dequantize": (380, 380),
}
_AARCH64: Mapping[str, tuple[int, int]] = {
    "pointwise": (1400, 2200),
    "pointwise.w4": (0, 1800),
    "pointwise.w2": (0, 1750),
    "pointwise1": (900, 1800),
    "pointwise1.w4": (0, 1300),
    "pointwise1.w2": (0, 1350),
    "linear": (1400, 2200),
    "linear1": (440, 1400),
    "linear1.w4": (0, 780),
    "linear1.w2": (0, 780),
    "conv2d": (2550, 1900),
    "depthwise3": (1650, 2800),
    "depthwise5": (2550, 3450),
    "depthwise7": (1050, 3350),
    "irb": (4450, 7200),  # the sum of its parts
    "global_avgpool": (750, 700),
    "scale": (650, 700),
    "add": (380, 650),
    "mul": (380, 650),
    "quantize": (430, 430),
    "dequantize": (450, 450),
}
#: Mean bytes of code of a compiled kernel by processor and class, (f32, i8): what
#: benchmarks/code_sizes.py prints for subnets, and for classes that they have one or none of, the
#: mean over the shapes of benchmarks/kernel_shapes.py as well, times the share of it that kernels
#: have in one object. A class ending in 1 has one pixel, one ending in w4 packed weights.
CODE_BYTES: Mapping[str, Mapping[str, tuple[int, int]]] = MappingProxyType(
    {"x86_64": MappingProxyType(_X86_64), "aarch64": MappingProxyType(_AARCH64)}
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
    table = CODE_BYTES.get(target.arch, _X86_64)
    name = code_class(key)
    pair = table.get(name) or table.get(name.partition(".")[0])
    return OTHER_CODE_BYTES if pair is None else pair[key.precision == "i8"]


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

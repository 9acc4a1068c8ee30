"""What a network takes in RAM and flash, from its shapes alone, thousands of times in a search.

RAM is exact: the memory plan, with the scratch that the templates declare. Packed constants are
exact too, but for duplicates that the build stores once. The size of code is an estimate, the mean
of compiled kernels of its class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgeopt.codegen import ckernels, schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.blocks import fused
from edgeopt.codegen.ckernels import sizes
from edgeopt.codegen.lower import lower_shapes
from edgeopt.codegen.plan import lower_bound, plan
from edgeopt.codegen.runner import buffer_alignment
from edgeopt.codegen.schedules.shared import Shared
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.kernels import Kernel, KernelGraph, MemoryPlan, OpKey
from edgeopt.core.network import Network
from edgeopt.core.target import TargetSpec

#: Mean bytes of a function's code by precision and class, on x86-64 with AVX2, with AVX-512 (and
#: VBMI), and on aarch64: what benchmarks/code_sizes.py prints for subnets, or for the layers of
#: kernel_shapes where they have none. A class ending in 1 has one pixel, one ending in w4 packed
#: weights; kernels of calls call functions that they share, which are classes too. None: there is
#: no such function.
CODE_BYTES: Mapping[str, tuple[int | None, int | None, int | None]] = MappingProxyType(
    {
        "f32 add": (100, 130, 40),
        "i8 add": (390, 510, 340),
        "i8 add of calls": (30, 30, None),
        "f32 avgpool": (830, 500, 1160),
        "i8 avgpool": (650, 990, 530),
        "f32 conv2d": (1540, 2920, 2650),
        "i8 conv2d": (1600, 1990, 1690),
        "i8 conv2d.compact": (980, 1030, None),
        "i8 depthwise of calls": (220, 220, None),
        "f32 depthwise3": (2900, 6120, 1800),
        "i8 depthwise3": (2900, 2840, 3080),
        "f32 depthwise5": (2550, 3860, 3040),
        "i8 depthwise5": (3720, 3160, 3900),
        "f32 depthwise7": (1740, 2070, 980),
        "i8 depthwise7": (8060, 4670, 3740),
        "f32 dequantize": (70, 60, 100),  # as that of i8
        "i8 dequantize": (70, 60, 100),
        "f32 global_avgpool": (830, 800, 560),
        "i8 global_avgpool": (570, 600, 420),
        "i8 global_avgpool of calls": (20, 20, None),
        "f32 irb": (4780, 8420, 4680),  # the sum of its parts
        "f32 linear": (940, 1150, 1440),  # as pointwise
        "i8 linear": (1450, 1700, 2340),  # as pointwise
        "i8 linear of calls": (220, 220, None),
        "f32 linear1": (190, 250, 120),
        "i8 linear1": (430, 320, 740),
        "i8 linear1.w2": (460, 490, 510),
        "i8 linear1.w4": (460, 410, 500),
        "f32 maxpool": (1460, 860, 2140),
        "i8 maxpool": (1400, 860, 2850),
        "f32 mul": (100, 130, 40),  # as add
        "i8 mul": (390, 510, 340),  # as add
        "i8 mul of calls": (30, 30, None),  # as add
        "f32 pointwise": (940, 1150, 1440),
        "i8 pointwise": (1450, 1700, 2340),
        "i8 pointwise of calls": (230, 220, None),
        "i8 pointwise.compact": (None, 1020, None),  # few inputs: nothing to share
        "i8 pointwise.compact.w2": (None, 1090, None),
        "i8 pointwise.compact.w4": (None, 1330, None),
        "i8 pointwise.w2": (1560, 4030, 1760),
        "i8 pointwise.w4": (1240, 3240, 1780),
        "f32 pointwise1": (620, 490, 750),
        "i8 pointwise1": (1240, 1090, 1780),
        "i8 pointwise1.w2": (1330, 1030, 1200),
        "i8 pointwise1.w4": (1220, 890, 1190),
        "f32 quantize": (170, 280, 110),
        "i8 quantize": (170, 280, 110),  # as that of f32
        "f32 scale": (760, 270, 440),
        "i8 scale": (730, 890, 420),
        "i8 scale of calls": (30, 30, None),
        "i8 average": (260, 340, None),
        "i8 panel1x1": (240, 530, None),
        "i8 panel1x1.w2": (370, 430, None),
        "i8 panel1x1.w4": (300, 350, None),
        "i8 panel1x2": (310, 350, None),
        "i8 panel1x2.w2": (410, None, None),
        "i8 panel1x2.w4": (320, None, None),
        "i8 panel4x1": (490, 550, None),
        "i8 panel4x1.w2": (750, 920, None),
        "i8 panel4x1.w4": (600, 680, None),
        "i8 panel4x2": (670, 770, None),
        "i8 panel4x2.w2": (920, None, None),
        "i8 panel4x2.w4": (680, None, None),
        "i8 panel4x3": (None, 1060, None),
        "i8 row3any": (1410, 1350, None),
        "i8 row3any.half": (1040, 910, None),
        "i8 row3of": (2110, 2230, None),
        "i8 row5any": (1730, 1820, None),
        "i8 row5any.half": (1370, 1300, None),
        "i8 row5of": (3620, 3040, None),
        "i8 row7any": (2000, 2140, None),
        "i8 row7any.half": (1570, 1520, None),
        "i8 row7of": (6850, 4200, None),
        "i8 stage": (120, 140, None),
        "i8 sweep": (330, 290, None),
        "i8 table": (1390, 900, None),
        "i8 table.permuted": (None, 200, None),
        "i8 widen": (220, 220, None),
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
    code: Mapping[str, int]  # by symbol, of the functions it is made of
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
        return _KernelCost(0, stored + bias, code_bytes(key, target, choice))
    function = template.function(key, target)
    packed = template.packed_bytes(key, target)
    return _KernelCost(
        function.scratch_bytes, packed, code_bytes(key, target, choice), function.ordered_pixels
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


def code_class(key: OpKey, shared: Collection[Shared] = (), compact: bool = False) -> str:
    """The class of kernels that a kernel's code is estimated by.

    Args:
        key: the kernel.
        shared: what it calls.
        compact: whether it is compiled for few bytes.
    """
    name = key.op
    if any(not one.kind.startswith(("table", "widen")) for one in shared):
        return f"{name} of calls"
    one = name in ("pointwise", "linear") and set(key.out_shape[:-1]) <= {1}
    if compact and key.precision == "i8" and name in ("conv2d", "pointwise") and not one:
        name += ".compact"
    elif name == "depthwise":
        name += str(max(key.kernel))
    elif one:
        name += "1"
    return f"{name}.w{key.weight_bits}" if key.weight_bits else name


def code_bytes(key: OpKey, target: TargetSpec, choice: Choice = MODEL) -> dict[str, int]:
    """Estimated bytes of the functions that a kernel is made of, by symbol (see `CODE_BYTES`).

    Symbols that kernels have in common are functions they share, which a network has once. For
    microcontrollers they are sections of a library (`ckernels.sizes`).
    """
    if ckernels.applies(target):
        return sizes.code_bytes(ckernels.select(key, target), key, target)
    template = schedules.select(key, target, choice)
    symbol = symbol_of(key, choice)
    if template is None:
        return {symbol: FALLBACK_CODE_BYTES}
    shared = template.shared(key, target)
    own = _stated(f"{key.precision} {code_class(key, shared, target.compact)}", target)
    return {symbol: own, **{one.symbol: _stated(f"i8 {one.kind}", target) for one in shared}}


def _stated(name: str, target: TargetSpec) -> int:
    sizes = CODE_BYTES.get(name) or CODE_BYTES.get(name.partition(".")[0])
    column = 2 if target.arch == "aarch64" else int(target.vector_bits >= 512)
    found = None if sizes is None else sizes[column]
    return OTHER_CODE_BYTES if found is None else found


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
    return _weights(graph.kernels, costs), _code(costs)


def _weights(kernels: Iterable[Kernel], costs: Iterable[_KernelCost]) -> int:
    # A fallback kernel's constants are in its one-node model.
    return sum(
        max(cost.weight_bytes, len(kernel.payload))
        for kernel, cost in zip(kernels, costs, strict=True)
    )


def _code(costs: Iterable[_KernelCost]) -> int:
    distinct: dict[str, int] = {}
    for cost in costs:
        distinct.update(cost.code)
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
        code_bytes_estimate=_code(costs),
    )

"""The first stage of a network, patch by patch: a smaller peak for some work done twice.

The first maps of a network are its largest. Instead of one kernel after another over whole maps,
the first kernels run over strips of rows: for each strip of the stage's last map, only the rows of
every map before it that the strip needs. Rows near a border are computed for both its sides, which
is what it costs. In NHWC a strip of rows is one piece of memory, so inputs are read and the last
map is written where they lie, without a copy. The values are the same, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from edgeopt.codegen.plan_check import PART_ALIGNMENT_BYTES
from edgeopt.core.kernels import Kernel, KernelGraph, MemoryPlan, OpKey
from edgeopt.core.network import DTYPE_BYTES, Tensor

#: Operators whose output rows need a window of input rows, and those that need the same rows.
_WINDOWED = frozenset({"pointwise", "depthwise", "conv2d", "maxpool", "irb"})
_ROWWISE = frozenset({"activation", "quantize", "add"})
#: What an automatic choice tries: kernels in the stage, and strips.
_MOST_KERNELS, _MOST_STRIPS = 24, 12
#: The most that it adds to the multiply-accumulates, and what it gives up for doing less twice.
_MOST_EXTRA, _INDIFFERENT = 0.25, 1.01


@dataclass(frozen=True, slots=True)
class Patches:
    """How a network was divided, and what that costs.

    Attributes:
        kernels: how many of the first kernels run strip by strip.
        strips: how many there are.
        extra_macs: multiply-accumulates that are done twice.
        macs: of the network as it was.
        whole_bytes: its arena without.
    """

    kernels: int
    strips: int
    extra_macs: int
    macs: int
    whole_bytes: int

    def __str__(self) -> str:
        share = 100 * self.extra_macs / max(self.macs, 1)
        return (
            f"the first {self.kernels} kernels run in {self.strips} strips of rows: "
            f"{self.extra_macs:,} multiply-accumulates are done twice ({share:.1f} % more), and "
            f"without, the arena is {self.whole_bytes:,} bytes"
        )


class _UnsuitedError(Exception):
    """The stage cannot run in these strips."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a tensor."""

    first: int
    end: int


def stages(graph: KernelGraph) -> Iterator[int]:
    """Lengths of the first stages that can run in strips: up to kernels with one map between."""
    readers: dict[str, int] = {}
    for index, kernel in enumerate(graph.kernels):
        for name in kernel.inputs:
            readers[name] = index
    made: list[str] = []
    for index, kernel in enumerate(graph.kernels[:_MOST_KERNELS]):
        if not _suited(graph, kernel):
            return
        made.append(kernel.output)
        leaving = [name for name in made[:-1] if readers.get(name, index + 1) > index]
        if index and not leaving and len(kernel.key.out_shape) == 3:
            yield index + 1


def _suited(graph: KernelGraph, kernel: Kernel) -> bool:
    key = kernel.key
    if len(key.in_shape) != 3 or len(key.out_shape) != 3:
        return False
    names = (*kernel.inputs, kernel.output)
    if any(name in graph.aliases for name in names) or kernel.output in graph.outputs:
        return False
    if key.op in _ROWWISE:
        same = all(graph.tensors[n].shape == (1, *key.out_shape) for n in kernel.inputs)
        return same and not key.variant
    if graph.tensors[kernel.inputs[0]].shape != (1, *key.in_shape):
        return False
    return key.op in _WINDOWED and len(kernel.inputs) == 1 + key.residual


def _wanted(key: OpKey, rows: _Rows) -> tuple[_Rows, OpKey]:
    """The input rows that output rows need, and the kernel that computes these from those."""
    out_shape = (rows.end - rows.first, *key.out_shape[1:])
    if key.op in _ROWWISE:
        return rows, replace(key, in_shape=(out_shape[0], *key.in_shape[1:]), out_shape=out_shape)
    top, left, _, right = key.pads
    first = rows.first * key.strides[0] - top
    end = (rows.end - 1) * key.strides[0] - top + (key.kernel[0] - 1) * key.dilations[0] + 1
    height = key.in_shape[0]
    need = _Rows(max(first, 0), min(end, height))
    if need.end <= need.first:
        raise _UnsuitedError  # nothing but padding
    found = replace(
        key,
        in_shape=(need.end - need.first, *key.in_shape[1:]),
        out_shape=out_shape,
        pads=(max(-first, 0), left, max(end - height, 0), right),
    )
    return need, found


def divided(graph: KernelGraph, kernels: int, strips: int) -> KernelGraph | None:
    """The network with its first kernels run strip by strip; None where that cannot be.

    Args:
        graph: as lowered, in execution order.
        kernels: one of `stages`.
        strips: of the last map of the stage.
    """
    stage = graph.kernels[:kernels]
    last = stage[-1]
    height, row_bytes = last.key.out_shape[0], _row_bytes(last.key.out_shape, last.key.out_dtype)
    quantum = PART_ALIGNMENT_BYTES // math.gcd(PART_ALIGNMENT_BYTES, row_bytes)
    borders = sorted({round(i * height / strips / quantum) * quantum for i in range(strips)})
    borders = [row for row in borders if row < height]
    if len(borders) != strips or borders[0]:
        return None
    build = _Build(graph, dict(graph.tensors), dict(graph.aliases), dict(graph.offsets), [])
    try:
        for number, (first, end) in enumerate(zip(borders, [*borders[1:], height], strict=True)):
            build.strip(stage, number, _Rows(first, end))
    except _UnsuitedError:
        return None
    return replace(
        graph,
        tensors=build.tensors,
        aliases=build.aliases,
        offsets=build.offsets,
        kernels=(*build.kernels, *graph.kernels[kernels:]),
    )


def _row_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape[1:]) * DTYPE_BYTES[dtype]


@dataclass(slots=True)
class _Build:
    graph: KernelGraph
    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    offsets: dict[str, int]
    kernels: list[Kernel]

    def strip(self, stage: tuple[Kernel, ...], number: int, rows: _Rows) -> None:
        """Add the kernels of one strip of the stage's last map."""
        made = {kernel.output for kernel in stage}
        needed = {stage[-1].output: rows}
        plans: list[tuple[Kernel, OpKey, list[_Rows]]] = []
        for kernel in reversed(stage):
            own = needed.get(kernel.output)
            if own is None:
                raise _UnsuitedError  # nothing reads it
            window, key = _wanted(kernel.key, own)
            wanted = [window for _ in kernel.inputs]
            if kernel.key.residual:
                wanted[-1] = own
            for name, need in zip(kernel.inputs, wanted, strict=True):
                known = needed.get(name, need)
                hull = _Rows(min(known.first, need.first), max(known.end, need.end))
                needed[name] = hull
            plans.append((kernel, key, wanted))
        for kernel, key, wanted in reversed(plans):
            # What another kernel needs more rows of is computed for all of them.
            own = needed[kernel.output]
            if key.out_shape[0] != own.end - own.first:
                raise _UnsuitedError
            inputs = []
            for name, need in zip(kernel.inputs, wanted, strict=True):
                held = needed[name] if name in made else _Rows(0, kernel.key.in_shape[0])
                inputs.append(self._read(name, number, need, held, kernel, name in made))
            final = kernel is stage[-1]
            output = self._write(kernel.output, number, own, key, final)
            self.kernels.append(
                replace(
                    kernel,
                    name=f"{kernel.name}.{number}",
                    key=key,
                    inputs=tuple(inputs),
                    output=output,
                )
            )

    def _read(
        self, name: str, number: int, need: _Rows, held: _Rows, kernel: Kernel, made: bool
    ) -> str:
        """The tensor that a kernel reads rows from: a strip, or a part of one or of an input."""
        whole = f"{name}.{number}" if made else name
        if need == held:
            return whole
        tensor = self.tensors[whole]
        rows = held.end - held.first
        row_elements = tensor.elements // rows
        shape = (need.end - need.first, row_elements)
        part = f"{name}.{number}.{kernel.name}"
        offset = (need.first - held.first) * row_elements * DTYPE_BYTES[tensor.dtype]
        self._part(part, whole, offset, self._shaped(tensor, shape))
        return part

    def _shaped(self, tensor: Tensor, shape: tuple[int, int]) -> Tensor:
        """The tensor with other rows, in its own number of dimensions."""
        if len(tensor.shape) != 4:
            raise _UnsuitedError
        return replace(tensor, shape=(1, shape[0], *tensor.shape[2:]))

    def _write(self, name: str, number: int, rows: _Rows, key: OpKey, final: bool) -> str:
        tensor = self.graph.tensors[name]
        found = f"{name}.{number}"
        made = self._shaped(tensor, (rows.end - rows.first, 0))
        if final:
            self._part(found, name, rows.first * _row_bytes(key.out_shape, key.out_dtype), made)
        else:
            self._add(found, made)
        return found

    def _part(self, name: str, whole: str, offset: int, tensor: Tensor) -> None:
        if offset % PART_ALIGNMENT_BYTES:
            raise _UnsuitedError
        self._add(name, tensor)
        self.aliases[name], self.offsets[name] = whole, offset

    def _add(self, name: str, tensor: Tensor) -> None:
        if name in self.tensors:
            raise _UnsuitedError  # another tensor has that name
        self.tensors[name] = replace(tensor, name=name)


def macs(graph: KernelGraph) -> int:
    """Multiply-accumulates of a network."""
    return sum(key.macs for key in graph.keys)


def best(
    graph: KernelGraph, planned: Callable[[KernelGraph], MemoryPlan], strips: int | None = None
) -> tuple[KernelGraph, Patches] | None:
    """The division with the smallest arena; None where none is smaller than without.

    Args:
        graph: as lowered, in execution order.
        planned: plans the memory of a graph.
        strips: how many there must be; None tries several, and takes of nearly equal arenas the
            one with the least work.
    """
    whole, own = planned(graph).arena_bytes, macs(graph)
    found: list[tuple[int, int, int, int, KernelGraph]] = []
    tried: Mapping[int, range] = {
        length: range(2, _MOST_STRIPS + 1) if strips is None else range(strips, strips + 1)
        for length in stages(graph)
    }
    for length, numbers in tried.items():
        for number in numbers:
            made = divided(graph, length, number)
            if made is None:
                continue
            extra = macs(made) - own
            if strips is None and extra > _MOST_EXTRA * own:
                continue
            found.append((planned(made).arena_bytes, extra, length, number, made))
    found = [item for item in found if item[0] < whole]
    if not found:
        return None
    least = min(item[0] for item in found)
    close = [item for item in found if item[0] <= least * _INDIFFERENT]
    _, extra, length, number, made = min(close, key=lambda item: (*item[1:4], item[0]))
    return made, Patches(length, number, extra, own, whole)

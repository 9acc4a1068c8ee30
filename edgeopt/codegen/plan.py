"""Where every activation and scratch buffer lives: one arena, sizes and lifetimes known.

Network inputs and outputs are the caller's own memory and not in the arena. A kernel may write its
result over an input that dies with it: in the same place, if it reads each element of that input no
later than it writes there (`overwritable`), or from a little below it, if it works through both in
order (`overlap_distance`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeopt.codegen.place import Block, attempts, find_rivals, offsets
from edgeopt.codegen.plan_check import PlanError, check_plan
from edgeopt.codegen.storage import (
    by_kernel,
    overlap_distance,
    overwritable,
    scratch_name,
)
from edgeopt.core.kernels import Buffer, KernelGraph, MemoryPlan
from edgeopt.core.network import DTYPE_BYTES

__all__ = ["PlanError", "check_plan", "overwritable", "plan", "scratch_name"]

#: Outputs that take an input's place, up to which it is worth while to try without.
_FEW = 6


@dataclass(frozen=True, slots=True)
class _Lifetimes:
    """What must be placed, and what may share memory while both are in use."""

    spans: dict[str, tuple[int, int, int]]  # name -> (aligned size, first, last)
    over: dict[str, tuple[str, ...]]  # output -> the inputs any of whose places it may take
    streams: dict[str, tuple[str, int]]  # output -> the input it may run into, from how far below
    sizes: dict[str, int]


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


@functools.lru_cache(maxsize=65536)
def _tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    size = DTYPE_BYTES[dtype]
    for extent in shape:
        size *= extent
    return size


def _lifetimes(
    graph: KernelGraph, scratch: Sequence[int], ordered: Sequence[int], alignment: int
) -> _Lifetimes:
    aliases, tensors = graph.aliases, graph.tensors
    external = {aliases.get(name, name) for name in (*graph.inputs, *graph.outputs)}
    last: dict[str, int] = {}
    for index, kernel in enumerate(graph.kernels):
        for name in kernel.inputs:
            last[aliases.get(name, name)] = index
        output = aliases.get(kernel.output, kernel.output)
        last[output] = max(last.get(output, index), index)
    found = _Lifetimes({}, {}, {}, {})
    for index, kernel in enumerate(graph.kernels):
        if scratch[index]:
            name = scratch_name(kernel.name)
            found.sizes[name] = scratch[index]
            found.spans[name] = (_round_up(scratch[index], alignment), index, index)
        output = aliases.get(kernel.output, kernel.output)
        if output in external or output in found.spans:
            continue  # the caller's, or written part by part
        tensor = tensors[output]
        size = _tensor_bytes(tensor.shape, tensor.dtype)
        found.sizes[output] = size
        found.spans[output] = (_round_up(size, alignment), index, last[output])
        if kernel.output in graph.offsets:
            continue
        roots = [aliases.get(name, name) for name in kernel.inputs]
        dying = [
            root not in external and last[root] == index and name not in graph.offsets
            for name, root in zip(kernel.inputs, roots, strict=True)
        ]
        places = []
        for position in overwritable(kernel, ordered[index]):
            root = roots[position]
            if not dying[position] or found.sizes[root] != size:
                continue
            # Read elsewhere in the same kernel, it may be read after it is overwritten.
            if roots.count(root) == 1 or kernel.key.op in ("add", "mul"):
                places.append(root)
        if places:
            found.over[output] = tuple(dict.fromkeys(places))
        if ordered[index] and dying[0] and roots.count(roots[0]) == 1:
            distance = overlap_distance(kernel.key, ordered[index])
            if distance is not None and distance < size:
                found.streams[output] = roots[0], _round_up(distance, alignment)
    return found


def _lower_bound(found: _Lifetimes, kernels: int) -> int:
    """The largest set of bytes live at once; what an output and an input share counts once."""
    change = [0] * (kernels + 1)
    saved = [0] * kernels
    for name, (size, first, last) in found.spans.items():
        change[first] += size
        change[last + 1] -= size
        if name in found.over:
            saved[first] = size
        if name in found.streams:
            source, distance = found.streams[name]
            under = found.spans[source][0]
            saved[first] = max(saved[first], size + under - max(size, distance + under))
    live = best = 0
    for index in range(kernels):
        live += change[index]
        best = max(best, live - saved[index])
    return best


def _blocks(found: _Lifetimes, merge: bool) -> list[Block]:
    blocks: dict[str, Block] = {}
    distinct: list[Block] = []
    for name, (size, first, last) in found.spans.items():
        under = found.over.get(name) if merge else None
        if under is not None:
            block = blocks[under[0]]
            block.last = last
            block.members.append(name)
        else:
            block = Block(size, first, last, [name])
            distinct.append(block)
        blocks[name] = block
    return distinct


def _pressure(blocks: Sequence[Block], kernels: int) -> list[int]:
    live = [0] * kernels
    for block in blocks:
        for index in range(block.first, block.last + 1):
            live[index] += block.size
    return live


def lower_bound(
    graph: KernelGraph,
    scratch_bytes: Sequence[int],
    alignment: int,
    *,
    ordered_pixels: Sequence[int],
) -> int:
    """The largest set of buffers live at once: no plan takes less. Arguments are `plan`'s."""
    scratch = by_kernel(graph, scratch_bytes, "scratch sizes")
    ordered = by_kernel(graph, ordered_pixels, "promises of order")
    return _lower_bound(_lifetimes(graph, scratch, ordered, alignment), len(graph.kernels))


def plan(
    graph: KernelGraph,
    scratch_bytes: Mapping[str, int] | Sequence[int] = (),
    alignment: int = 16,
    *,
    ordered_pixels: Mapping[str, int] | Sequence[int] = (),
    exact: bool = False,
) -> MemoryPlan:
    """Place every buffer that is not a network input or output.

    Args:
        graph: kernels in execution order; aliased tensors share their root's buffer.
        scratch_bytes: working memory of each kernel, by name or in execution order.
        alignment: of every buffer, a power of two.
        ordered_pixels: what each kernel promises of its order (`KernelFunction.ordered_pixels`).
        exact: where the heuristics miss the lower bound, look for the best placement of all and
            prove it, as far as a fixed effort goes.
    """
    if alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(f"alignment {alignment} is not a power of two")
    count = len(graph.kernels)
    scratch = by_kernel(graph, scratch_bytes, "scratch sizes")
    ordered = by_kernel(graph, ordered_pixels, "promises of order")
    found = _lifetimes(graph, scratch, ordered, alignment)
    bound = proven = _lower_bound(found, count)
    best_bytes, best = -1, {}
    # Without merging, an output may fall on its dying input or not: now and then that is better.
    for merge in (True, False) if found.over and len(found.over) <= _FEW else (True,):
        blocks = _blocks(found, merge)
        find_rivals(blocks, count, found.streams)
        for arena, placed in attempts(blocks, _pressure(blocks, count), bound):
            if best_bytes < 0 or arena < best_bytes:
                best_bytes, best = arena, placed
            if best_bytes == bound:
                break
        if best_bytes == bound:
            break
    if exact and best_bytes > bound:
        from edgeopt.codegen.place_exact import MOST_BLOCKS, improve

        blocks = _blocks(found, merge=False)
        if len(blocks) <= MOST_BLOCKS:
            find_rivals(blocks, count, found.streams)
            arena, proven = improve(blocks, alignment, bound, found.over, best, best_bytes)
            if arena < best_bytes:
                best_bytes, best = arena, offsets(blocks)
    buffers = tuple(
        Buffer(name, best[name], found.sizes[name], first, last)
        for name, (_, first, last) in found.spans.items()
    )
    return MemoryPlan(buffers, max(best_bytes, 0), bound, alignment, proven)

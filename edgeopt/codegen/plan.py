"""Where every activation and scratch buffer lives: one arena, sizes and lifetimes known.

Network inputs and outputs are the caller's own memory and not in the arena. A kernel may write its
result over an input that dies with it, if it reads each element of that input no later than it
writes the same place (`overwritable`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgeopt.codegen.plan_check import PlanError, check_plan
from edgeopt.codegen.storage import overwritable, scratch_list, scratch_name
from edgeopt.core.kernels import Buffer, KernelGraph, MemoryPlan
from edgeopt.core.network import DTYPE_BYTES

__all__ = ["PlanError", "check_plan", "overwritable", "plan", "scratch_name"]

#: How often an order is mended, and how often without gain.
_MENDINGS, _STALE = 24, 5
#: Blocks that an exact search takes on, and nodes it visits before it settles for the best so far.
_EXACT_BLOCKS, _EXACT_NODES = 200, 200_000


@dataclass(slots=True)
class _Block:
    """Buffers that share one place: a tensor and what is written over it in turn."""

    size: int
    first: int
    last: int
    members: list[tuple[str, int, int, int]]  # name, size, first, last
    offset: int = 0
    rivals: list[_Block] = field(default_factory=list)  # live at the same time


@dataclass(frozen=True, slots=True)
class _Lifetimes:
    """What must be placed: name -> (aligned size, first, last), and mergers by kernel."""

    spans: dict[str, tuple[int, int, int]]
    over: dict[str, str]  # output -> the input whose place it may take
    sizes: dict[str, int]


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


@functools.lru_cache(maxsize=65536)
def _tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    size = DTYPE_BYTES[dtype]
    for extent in shape:
        size *= extent
    return size


def _lifetimes(graph: KernelGraph, scratch: Sequence[int], alignment: int) -> _Lifetimes:
    aliases, tensors = graph.aliases, graph.tensors
    external = {aliases.get(name, name) for name in (*graph.inputs, *graph.outputs)}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, kernel in enumerate(graph.kernels):
        for name in kernel.inputs:
            last[aliases.get(name, name)] = index
        output = aliases.get(kernel.output, kernel.output)
        first[output] = index
        last.setdefault(output, index)
    spans: dict[str, tuple[int, int, int]] = {}
    sizes: dict[str, int] = {}
    over: dict[str, str] = {}
    for index, kernel in enumerate(graph.kernels):
        if scratch[index]:
            name = scratch_name(kernel.name)
            sizes[name] = scratch[index]
            spans[name] = (_round_up(scratch[index], alignment), index, index)
        output = aliases.get(kernel.output, kernel.output)
        if output in external:
            continue
        tensor = tensors[output]
        size = _tensor_bytes(tensor.shape, tensor.dtype)
        sizes[output] = size
        spans[output] = (_round_up(size, alignment), index, last[output])
        roots = [aliases.get(name, name) for name in kernel.inputs]
        for position in overwritable(kernel):
            root = roots[position]
            if root in external or last[root] != index or sizes[root] != size:
                continue
            # Read elsewhere in the same kernel, it may be read after it is overwritten.
            others = [r for i, r in enumerate(roots) if r == root and i != position]
            if others and kernel.key.op not in ("add", "mul"):
                continue
            over[output] = root
            break
    return _Lifetimes(spans, over, sizes)


def _lower_bound(found: _Lifetimes, kernels: int) -> int:
    """The largest set of bytes live at once, an overwritten input and its output counted once."""
    change = [0] * (kernels + 1)
    saved = [0] * kernels
    for name, (size, first, last) in found.spans.items():
        change[first] += size
        change[last + 1] -= size
        if name in found.over:
            saved[first] = size
    live = best = 0
    for index in range(kernels):
        live += change[index]
        best = max(best, live - saved[index])
    return best


def _blocks(found: _Lifetimes, merge: bool) -> list[_Block]:
    blocks: dict[str, _Block] = {}
    distinct: list[_Block] = []
    for name, (size, first, last) in found.spans.items():
        member = (name, found.sizes[name], first, last)
        under = found.over.get(name) if merge else None
        if under is not None:
            block = blocks[under]
            block.last = last
            block.members.append(member)
        else:
            block = _Block(size, first, last, [member])
            distinct.append(block)
        blocks[name] = block
    return distinct


def _find_rivals(blocks: Sequence[_Block], kernels: int) -> None:
    """Tell each block which others are live at the same time."""
    starting: list[list[_Block]] = [[] for _ in range(kernels)]
    for block in blocks:
        starting[block.first].append(block)
    live: list[_Block] = []
    for index, new in enumerate(starting):
        live = [block for block in live if block.last >= index]
        for block in new:
            for other in live:
                block.rivals.append(other)
                other.rivals.append(block)
            live.append(block)


def _place(blocks: Sequence[_Block]) -> int:
    """Give every block the lowest offset that is free, in the order given; return the arena."""
    for block in blocks:
        block.offset = -1
    arena = 0
    for block in blocks:
        size, position = block.size, 0
        for start, taken in sorted([(o.offset, o.size) for o in block.rivals if o.offset >= 0]):
            if start - position >= size:
                break
            if start + taken > position:
                position = start + taken
        block.offset = position
        if position + size > arena:
            arena = position + size
    return arena


def _orders(blocks: list[_Block], pressure: Sequence[int]) -> Iterator[list[_Block]]:
    """Orders that greedy placement is tried in, the most often best first."""
    yield sorted(blocks, key=lambda b: (-b.size, b.first))
    yield sorted(blocks, key=lambda b: (-max(pressure[b.first : b.last + 1]), -b.size))
    yield sorted(blocks, key=lambda b: (-b.size * (b.last - b.first + 1), b.first))
    yield sorted(blocks, key=lambda b: (b.first - b.last, -b.size))
    yield sorted(blocks, key=lambda b: (b.first, -b.size))
    yield sorted(blocks, key=lambda b: (-b.last, -b.size))


def _attempts(
    blocks: list[_Block], pressure: Sequence[int], bound: int
) -> Iterator[tuple[int, dict[str, int]]]:
    """Arena sizes and offsets of one plan after another, until one reaches the bound.

    Each order is mended: what ends up at the top of the arena is placed first the next time, until
    that brings nothing more.
    """
    for order in _orders(blocks, pressure):
        least, stale = -1, 0
        for _ in range(_MENDINGS):
            arena = _place(order)
            yield arena, _offsets(blocks)
            if arena == bound:
                return
            stale = 0 if least < 0 or arena < least else stale + 1
            least = arena if least < 0 else min(least, arena)
            if stale > _STALE:
                break
            high = [block for block in order if block.offset + block.size == arena]
            order = high + [block for block in order if block.offset + block.size != arena]


def _pressure(blocks: Sequence[_Block], kernels: int) -> list[int]:
    live = [0] * kernels
    for block in blocks:
        for index in range(block.first, block.last + 1):
            live[index] += block.size
    return live


def plan(
    graph: KernelGraph,
    scratch_bytes: Mapping[str, int] | Sequence[int] = (),
    alignment: int = 16,
    *,
    exact: bool = False,
) -> MemoryPlan:
    """Place every buffer that is not a network input or output.

    Args:
        graph: kernels in execution order; aliased tensors share their root's buffer.
        scratch_bytes: working memory of each kernel, by name or in execution order.
        alignment: of every buffer, a power of two.
        exact: where the heuristics miss the lower bound, search all placements of a network of
            few buffers (and as many as time allows of a larger one).
    """
    if alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(f"alignment {alignment} is not a power of two")
    count = len(graph.kernels)
    found = _lifetimes(graph, scratch_list(graph, scratch_bytes), alignment)
    bound = _lower_bound(found, count)
    best_bytes, best = -1, {}
    # Without merging, an output may fall on its dying input or not: now and then that is better.
    for merge in (True, False) if found.over else (True,):
        blocks = _blocks(found, merge)
        _find_rivals(blocks, count)
        pressure = _pressure(blocks, count)
        for arena, offsets in _attempts(blocks, pressure, bound):
            if best_bytes < 0 or arena < best_bytes:
                best_bytes, best = arena, offsets
        if best_bytes == bound:
            break
        if exact and len(blocks) <= _EXACT_BLOCKS:
            improved = _search(blocks, max(max(pressure), bound), best_bytes)
            if improved is not None:
                best_bytes, best = improved
    buffers = tuple(
        Buffer(name, best[name], found.sizes[name], first, last)
        for name, (_, first, last) in found.spans.items()
    )
    return MemoryPlan(buffers, max(best_bytes, 0), bound, alignment)


def _offsets(blocks: Sequence[_Block]) -> dict[str, int]:
    return {member[0]: block.offset for block in blocks for member in block.members}


def _search(blocks: list[_Block], bound: int, best_bytes: int) -> tuple[int, dict[str, int]] | None:
    """Branch and bound over placement orders; None if nothing better than ``best_bytes`` is found.

    Some order of increasing offsets, each block as low as it goes, is optimal: pushing every
    block of an optimal plan down changes nothing but to lower it.
    """
    found: tuple[int, dict[str, int]] | None = None
    visited = 0
    remaining = sorted(blocks, key=lambda b: (-b.size, b.first))

    def descend(placed: list[_Block], rest: list[_Block], floor: int) -> bool:
        """Whether to stop altogether."""
        nonlocal best_bytes, found, visited
        visited += 1
        if not rest:
            best_bytes = max(b.offset + b.size for b in placed)
            found = best_bytes, _offsets(blocks)
            return best_bytes <= bound
        if visited > _EXACT_NODES:
            return True
        options = []
        for block in rest:
            below = [o for o in placed if o.first <= block.last and o.last >= block.first]
            offset = max((o.offset + o.size for o in below), default=0)
            if offset + block.size >= best_bytes:
                return False  # it cannot go lower later
            options.append((offset, -block.size, block.first, block))
        options.sort(key=lambda item: item[:3])
        for offset, _, _, block in options:
            if offset < floor:
                continue  # the same plan is met in the order of its offsets
            block.offset = offset
            following = [other for other in rest if other is not block]
            if descend([*placed, block], following, offset):
                return True
        return False

    descend([], remaining, 0)
    return found

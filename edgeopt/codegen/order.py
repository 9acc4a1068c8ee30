"""The order kernels of parallel branches run in, chosen so that little is alive at once.

A chain, residual connections and squeeze-and-excite leave no choice. Where branches do, a beam of
partial orders is grown one kernel at a time; of two that have run the same kernels the one with
the lower peak is kept, since what is alive then is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgeopt.codegen.storage import by_kernel, overlap_distance, overwritable
from edgeopt.core.kernels import KernelGraph

#: Partial orders kept at each step, and how far past the first kernel that has not run they look.
BEAM, AHEAD = 48, 64


@dataclass(frozen=True, slots=True)
class _Facts:
    """What running each kernel needs and changes, by kernel index."""

    needs: tuple[int, ...]  # bits of the kernels that must have run
    readers: Mapping[str, int]  # bits of the kernels that read a buffer
    reads: tuple[tuple[str, ...], ...]  # buffers in the arena
    writes: tuple[str | None, ...]  # None: the caller's buffer
    over: tuple[tuple[str, ...], ...]  # buffers that the output may be written over
    streams: tuple[tuple[str, int] | None, ...]  # the input an output may run into, bytes shared
    scratch: Sequence[int]
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _State:
    done: int  # bits of the kernels that have run
    live: int  # bytes alive after them
    peak: int
    order: tuple[int, ...]


def order_for_memory(
    graph: KernelGraph,
    scratch_bytes: Mapping[str, int] | Sequence[int] = (),
    ordered_pixels: Mapping[str, int] | Sequence[int] = (),
) -> KernelGraph:
    """The same kernels in an order whose largest live set is no larger, and smaller if found.

    Args:
        graph: kernels in any valid order.
        scratch_bytes: working memory of each kernel, by name or in the graph's order.
        ordered_pixels: what each kernel promises of its order (`KernelFunction.ordered_pixels`).

    A graph that runs in patches stays as it is: they are in order already.
    """
    if graph.offsets:
        return graph
    scratch = by_kernel(graph, scratch_bytes, "scratch sizes")
    facts = _facts(graph, scratch, by_kernel(graph, ordered_pixels, "promises of order"))
    count = len(graph.kernels)
    given = _State(0, 0, 0, ())
    for index in range(count):
        given = _run(facts, given, index)
    beam = [_State(0, 0, 0, ())]
    for _ in range(count):
        best: dict[int, _State] = {}
        for state in beam:
            first = (~state.done & (state.done + 1)).bit_length() - 1  # the first that has not run
            for index in range(first, min(count, first + AHEAD)):
                if state.done >> index & 1 or facts.needs[index] & ~state.done:
                    continue
                after = _run(facts, state, index)
                if after.peak > given.peak:
                    continue
                known = best.get(after.done)
                if known is None or after.peak < known.peak:
                    best[after.done] = after
        # Low peaks first, then what leaves least alive; the given order breaks ties.
        beam = sorted(best.values(), key=lambda s: (s.peak, s.live, s.order))[:BEAM]
    if not beam or beam[0].peak >= given.peak:
        return graph
    return replace(graph, kernels=tuple(graph.kernels[index] for index in beam[0].order))


def _facts(graph: KernelGraph, scratch: Sequence[int], ordered: Sequence[int]) -> _Facts:
    aliases = graph.aliases
    callers = {aliases.get(name, name) for name in (*graph.inputs, *graph.outputs)}
    producer: dict[str, int] = {}
    readers: dict[str, int] = {}
    needs, reads, writes, over = [], [], [], []
    streams: list[tuple[str, int] | None] = []
    for index, kernel in enumerate(graph.kernels):
        roots = [aliases.get(name, name) for name in kernel.inputs]
        needs.append(sum({1 << producer[root] for root in roots if root in producer}))
        kept = tuple(dict.fromkeys(root for root in roots if root not in callers))
        for root in kept:
            readers[root] = readers.get(root, 0) | 1 << index
        reads.append(kept)
        output = aliases.get(kernel.output, kernel.output)
        producer[output] = index
        writes.append(None if output in callers else output)
        size = graph.tensors[output].size_bytes
        places = overwritable(kernel, ordered[index])
        over.append(
            tuple(
                roots[place]
                for place in places
                if roots[place] not in callers
                and graph.tensors[roots[place]].size_bytes == size
                and all(i in places for i, root in enumerate(roots) if root == roots[place])
            )
        )
        distance = overlap_distance(kernel.key, ordered[index]) if ordered[index] else None
        if distance is None or roots[0] in callers or roots.count(roots[0]) > 1:
            streams.append(None)
        else:
            under = graph.tensors[roots[0]].size_bytes
            streams.append((roots[0], size + under - max(size, distance + under)))
    sizes = {name: graph.tensors[name].size_bytes for name in producer}
    return _Facts(
        tuple(needs), readers, tuple(reads), tuple(writes), tuple(over), tuple(streams), scratch,
        sizes,
    )  # fmt: skip


def _run(facts: _Facts, state: _State, index: int) -> _State:
    done = state.done | 1 << index
    output = facts.writes[index]
    size = 0 if output is None else facts.sizes[output]
    dying = [name for name in facts.reads[index] if not facts.readers[name] & ~done]
    during = state.live + size + facts.scratch[index]
    stream = facts.streams[index]
    if output is not None and any(name in facts.over[index] for name in dying):
        during -= size
    elif output is not None and stream is not None and stream[0] in dying:
        during -= max(stream[1], 0)
    live = state.live + size - sum(facts.sizes[name] for name in dying)
    if output is not None and output not in facts.readers:
        live -= size
    return _State(done, live, max(state.peak, during), (*state.order, index))

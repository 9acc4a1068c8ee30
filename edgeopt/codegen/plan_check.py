"""Proof that a memory plan corrupts nothing, worked out apart from how the plan was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeopt.codegen.storage import overwritable, scratch_list, scratch_name
from edgeopt.core.kernels import Buffer, KernelGraph, MemoryPlan


class PlanError(ValueError):
    """A memory plan that would corrupt data."""


def check_plan(
    graph: KernelGraph, planned: MemoryPlan, scratch_bytes: Mapping[str, int] | Sequence[int] = ()
) -> None:
    """Prove that no kernel writes over what another still needs.

    Lifetimes are worked out again from the graph, one kernel at a time, and not taken from the
    plan.

    Raises:
        PlanError: a buffer is missing, foreign, misplaced, or overlaps another that is live.
    """
    buffers = {buffer.name: buffer for buffer in planned.buffers}
    if len(buffers) != len(planned.buffers):
        raise PlanError("a buffer is placed twice")
    expected = _expected(graph, scratch_list(graph, scratch_bytes))
    if buffers.keys() != expected.keys():
        odd = sorted(buffers.keys() ^ expected.keys())
        raise PlanError(f"buffers {', '.join(odd)} are missing or foreign")
    for name, buffer in buffers.items():
        size, steps = expected[name]
        if buffer.size_bytes != size:
            raise PlanError(f"{name}: {buffer.size_bytes} bytes are planned, {size} needed")
        if (buffer.first, buffer.last) != (min(steps), max(steps)):
            raise PlanError(f"{name}: lives {min(steps)}..{max(steps)}, planned otherwise")
        if buffer.offset_bytes % planned.alignment_bytes:
            raise PlanError(f"{name}: offset {buffer.offset_bytes} is not aligned")
        if buffer.offset_bytes < 0 or buffer.offset_bytes + size > planned.arena_bytes:
            raise PlanError(f"{name}: lies outside the arena")
    ordered = sorted(planned.buffers, key=lambda buffer: buffer.offset_bytes)
    for index, low in enumerate(ordered):
        for high in ordered[index + 1 :]:
            if high.offset_bytes >= low.offset_bytes + low.size_bytes:
                break
            if high.first > low.last or low.first > high.last:
                continue
            if not (_written_over(graph, low, high) or _written_over(graph, high, low)):
                raise PlanError(f"{low.name} and {high.name} overlap while both are live")


def _expected(graph: KernelGraph, scratch: Sequence[int]) -> dict[str, tuple[int, set[int]]]:
    """Every buffer that must be placed: its bytes, and the kernels it is in use at."""
    callers = {graph.aliases.get(name, name) for name in (*graph.inputs, *graph.outputs)}
    found: dict[str, tuple[int, set[int]]] = {}
    for index, kernel in enumerate(graph.kernels):
        if scratch[index]:
            found[scratch_name(kernel.name)] = (scratch[index], {index})
        for name in (*kernel.inputs, kernel.output):
            root = graph.aliases.get(name, name)
            if root not in callers:
                found.setdefault(root, (graph.tensors[root].size_bytes, set()))[1].add(index)
    return found


def _written_over(graph: KernelGraph, dying: Buffer, born: Buffer) -> bool:
    """Whether ``born`` is the output that a kernel may write over its dying input."""
    if dying.last != born.first or dying.offset_bytes != born.offset_bytes:
        return False
    kernel = graph.kernels[born.first]
    root = graph.aliases.get(kernel.output, kernel.output)
    if root != born.name or dying.size_bytes != born.size_bytes:
        return False
    places = [
        position
        for position, name in enumerate(kernel.inputs)
        if graph.aliases.get(name, name) == dying.name
    ]
    return bool(places) and set(places) <= set(overwritable(kernel))

"""Proof that a memory plan corrupts nothing, worked out apart from how the plan was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgeopt.codegen.storage import by_kernel, overwritable, scratch_name
from edgeopt.core.kernels import Buffer, KernelGraph, MemoryPlan, OpKey
from edgeopt.core.network import DTYPE_BYTES

#: What parts of tensors are aligned to: what kernels rely on.
PART_ALIGNMENT_BYTES = 16


class PlanError(ValueError):
    """A memory plan that would corrupt data."""


def check_plan(
    graph: KernelGraph,
    planned: MemoryPlan,
    scratch_bytes: Mapping[str, int] | Sequence[int] = (),
    ordered_pixels: Mapping[str, int] | Sequence[int] = (),
) -> None:
    """Prove that no kernel writes over what another, or itself, still needs.

    Lifetimes are worked out again from the graph, one kernel at a time, and not taken from the
    plan. Where an output runs into its kernel's input, the kernel is followed block by block.

    Raises:
        PlanError: a buffer is missing, foreign, misplaced, or overlaps another that is live.
    """
    buffers = {buffer.name: buffer for buffer in planned.buffers}
    if len(buffers) != len(planned.buffers):
        raise PlanError("a buffer is placed twice")
    ordered = by_kernel(graph, ordered_pixels, "promises of order")
    _check_parts(graph)
    expected = _expected(graph, by_kernel(graph, scratch_bytes, "scratch sizes"))
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
    rising = sorted(planned.buffers, key=lambda buffer: buffer.offset_bytes)
    for index, low in enumerate(rising):
        for high in rising[index + 1 :]:
            if high.offset_bytes >= low.offset_bytes + low.size_bytes:
                break
            if high.first > low.last or low.first > high.last:
                continue
            if (
                _written_over(graph, ordered, low, high)
                or _written_over(graph, ordered, high, low)
                or _runs_into(graph, ordered, low, high)
            ):
                continue
            raise PlanError(f"{low.name} and {high.name} overlap while both are live")
    if planned.arena_bytes < planned.lower_bound_bytes or planned.gap_bytes < 0:
        raise PlanError(f"{planned.arena_bytes} bytes are fewer than were proven to be needed")


def _check_parts(graph: KernelGraph) -> None:
    """Parts lie in what they are parts of, and kernels can be handed them."""
    for name, offset in graph.offsets.items():
        whole = graph.tensors[graph.aliases[name]]
        if offset < 0 or offset + graph.tensors[name].size_bytes > whole.size_bytes:
            raise PlanError(f"{name}: lies outside {whole.name}")
        if offset % PART_ALIGNMENT_BYTES:
            raise PlanError(f"{name}: begins at byte {offset} of {whole.name}, not aligned")
        if whole.name in graph.aliases:
            raise PlanError(f"{name}: is a part of an alias")


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


def _written_over(graph: KernelGraph, ordered: Sequence[int], dying: Buffer, born: Buffer) -> bool:
    """Whether ``born`` is the output that a kernel may write over its dying input."""
    if dying.last != born.first or dying.offset_bytes != born.offset_bytes:
        return False
    kernel = graph.kernels[born.first]
    if kernel.output in graph.offsets:
        return False
    root = graph.aliases.get(kernel.output, kernel.output)
    if root != born.name or dying.size_bytes != born.size_bytes:
        return False
    places = [
        -1 if name in graph.offsets else position  # a part is never written over
        for position, name in enumerate(kernel.inputs)
        if graph.aliases.get(name, name) == dying.name
    ]
    return bool(places) and set(places) <= set(overwritable(kernel, ordered[born.first]))


def _runs_into(graph: KernelGraph, ordered: Sequence[int], out: Buffer, read: Buffer) -> bool:
    """Whether ``out`` lies below an input that its kernel reads ahead of what it writes."""
    if out.first != read.last or out.first == read.first or ordered[out.first] <= 0:
        return False
    kernel = graph.kernels[out.first]
    roots = [graph.aliases.get(name, name) for name in kernel.inputs]
    if graph.aliases.get(kernel.output, kernel.output) != out.name:
        return False
    if roots[0] != read.name or roots.count(read.name) > 1:
        return False
    if kernel.inputs[0] in graph.offsets or kernel.output in graph.offsets:
        return False
    # From the last block to the first: `wanted` is the first byte that is still to be read.
    wanted = read.offset_bytes + read.size_bytes
    pixels = list(_windows(kernel.key))
    pixel_bytes = kernel.key.out_shape[-1] * DTYPE_BYTES[kernel.key.out_dtype]
    blocks = [pixels[i : i + ordered[out.first]] for i in range(0, len(pixels), ordered[out.first])]
    done = len(pixels)
    for block in reversed(blocks):
        wanted = min(wanted, read.offset_bytes + min(block))
        if out.offset_bytes + done * pixel_bytes > wanted:
            return False
        done -= len(block)
    return len(pixels) * pixel_bytes == out.size_bytes


def _windows(key: OpKey) -> Iterator[int]:
    """For each output pixel, the offset of the first element of its window."""
    if len(key.in_shape) != 3 or len(key.out_shape) != 3:
        return
    pixel_bytes = key.in_shape[2] * DTYPE_BYTES[key.dtype]
    for y in range(key.out_shape[0]):
        for x in range(key.out_shape[1]):
            top = max(y * key.strides[0] - key.pads[0], 0)
            left = max(x * key.strides[1] - key.pads[1], 0)
            yield (top * key.in_shape[1] + left) * pixel_bytes

"""A memory plan as a picture: which bytes of the arena each buffer holds, and when."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeopt.codegen.storage import scratch_name
from edgeopt.core.kernels import Buffer, KernelGraph, MemoryPlan

# Colour-blind safe (Okabe and Ito 2008).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#CC79A7")
_SCRATCH, _PEAK = "#999999", "#D55E00"
_LEFT, _TOP, _HEIGHT, _RIGHT, _BOTTOM = 70, 46, 300, 20, 44


def live_bytes(buffers: Sequence[Buffer], kernels: int) -> list[int]:
    """Bytes of the arena that buffers in use hold at each kernel, shared ones once."""
    found = []
    for index in range(kernels):
        total = reach = 0
        live = [b for b in buffers if b.first <= index <= b.last]
        for buffer in sorted(live, key=lambda b: b.offset_bytes):
            end = buffer.offset_bytes + buffer.size_bytes
            total += max(0, end - max(buffer.offset_bytes, reach))
            reach = max(reach, end)
        found.append(total)
    return found


def peak(buffers: Sequence[Buffer], kernels: int) -> int:
    """The first kernel at which the most bytes are in use."""
    live = live_bytes(buffers, kernels)
    return live.index(max(live)) if live else 0


def svg(graph: KernelGraph, planned: MemoryPlan) -> str:
    """The picture: buffers over kernels, the kernel of the peak marked, the bound as a line."""
    count = max(len(graph.kernels), 1)
    step = max(10, min(60, 900 // count))
    width = _LEFT + step * count + _RIGHT
    top_bytes = max(planned.arena_bytes, 1)
    scratch = {scratch_name(kernel.name) for kernel in graph.kernels}
    at = peak(planned.buffers, len(graph.kernels))
    name = graph.kernels[at].name if graph.kernels else "none"

    def y(value: int) -> float:
        return round(_TOP + _HEIGHT * (1 - value / top_bytes), 2)

    gap = planned.gap_bytes
    proof = "proven smallest" if gap == 0 else f"at most {gap:,} bytes above the smallest"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{_TOP + _HEIGHT + _BOTTOM}" font-family="system-ui, sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="18">{planned.arena_bytes:,} bytes of arena, {proof}; '
        f"largest live set {planned.lower_bound_bytes:,}</text>",
        f'<text x="{_LEFT}" y="36" fill="{_PEAK}">peak at kernel {at}: {escape(name[:60])}</text>',
        f'<rect x="{_LEFT + step * at}" y="{_TOP}" width="{step}" height="{_HEIGHT}" '
        f'fill="{_PEAK}" opacity="0.15"/>',
    ]
    for index, buffer in enumerate(planned.buffers):
        first, last = max(buffer.first, 0), min(buffer.last, count - 1)
        colour = _SCRATCH if buffer.name in scratch else _COLOURS[index % len(_COLOURS)]
        height = max(1.0, round(_HEIGHT * buffer.size_bytes / top_bytes, 2))
        low, high = buffer.offset_bytes, buffer.offset_bytes + buffer.size_bytes
        lines.append(
            f'<rect x="{_LEFT + step * first}" y="{y(high)}" width="{step * (last - first + 1)}" '
            f'height="{height}" fill="{colour}" fill-opacity="0.7" stroke="white">'
            f"<title>{escape(buffer.name[:120])}: bytes {low:,} to {high:,}, kernels {first} to "
            f"{last}</title></rect>"
        )
    for value in (0, top_bytes // 2, top_bytes):
        lines.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:,}</text>')
    bound = y(planned.lower_bound_bytes)
    lines += [
        f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{bound}" y2="{bound}" stroke="{_PEAK}" '
        'stroke-dasharray="6 4"/>',
        *(
            f'<text x="{_LEFT + step * index + step / 2}" y="{_TOP + _HEIGHT + 16}" '
            f'text-anchor="middle">{index}</text>'
            for index in range(0, count, max(1, 24 // step))
        ),
        f'<text x="{_LEFT}" y="{_TOP + _HEIGHT + 36}">kernel, in execution order; bytes of the '
        "arena upwards; grey: scratch; dashed: largest live set</text>",
        "</svg>\n",
    ]
    return "\n".join(lines)
